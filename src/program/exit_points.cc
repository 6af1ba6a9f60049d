#include "program/exit_points.h"

#include <algorithm>
#include <set>
#include <variant>

namespace bantam {

ExitPoints FindExitPoints(const Program& program) {
  ExitPoints points;
  if (program.whole_texts || program.state_floats > 0 || program.kv_layers.empty()) return points;
  std::set<BufferId> angles;
  for (size_t i = 0; i < program.ops.size(); ++i) {
    const auto* op = std::get_if<RopeAnglesOp>(&program.ops[i]);
    if (op == nullptr) continue;
    angles.insert(op->out);
    points.angles.push_back({i, i + 1});
  }
  // From the end on: what operations read that none of them wrote before.
  std::set<BufferId> wanted;
  std::vector<std::pair<size_t, BufferId>> cuts;  // operations in front of which a single buffer is wanted, from the last on
  for (size_t i = program.ops.size(); i > 0; --i) {
    const OpBuffers touched = BuffersOf(program.ops[i - 1]);
    for (const BufferId id : touched.writes) wanted.erase(id);
    for (const BufferId id : touched.reads) {
      if (!angles.contains(id)) wanted.insert(id);
    }
    if (wanted.size() == 1) cuts.emplace_back(i - 1, *wanted.begin());
  }
  const auto whole_rows = [&](const auto& cut) { return program.buffers[cut.second].rows == Rows::kTokens; };
  const auto head = std::find_if(cuts.begin(), cuts.end(), whole_rows);
  if (head == cuts.end()) return points;
  points.head = head->first;
  points.stream = head->second;
  // A layer begins with the last cut in front of the operation that keeps its keys and values.
  std::vector<size_t> layers;
  for (size_t i = 0; i < program.ops.size(); ++i) {
    if (!std::holds_alternative<KvAppendOp>(program.ops[i])) continue;
    const auto cut = std::find_if(cuts.begin(), cuts.end(), [&](const auto& one) { return one.first <= i && one.second == points.stream; });
    // Of layers that share keys and values some keep none.
    if (cut != cuts.end() && (layers.empty() || cut->first > layers.back())) layers.push_back(cut->first);
  }
  if (layers.size() != program.kv_layers.size() || layers.size() < 2) return points;
  points.first = layers.front();
  points.layers.assign(layers.begin() + 1, layers.end());
  return points;
}

}  // namespace bantam
