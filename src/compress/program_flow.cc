#include "compress/program_flow.h"

#include <algorithm>
#include <utility>

namespace bantam {
namespace {

bool Contains(const std::vector<BufferId>& list, BufferId buffer) { return std::find(list.begin(), list.end(), buffer) != list.end(); }

std::vector<WeightId> WeightsOf(const Op& op) {
  std::vector<WeightId> weights;
  if (const auto* norm = std::get_if<NormOp>(&op)) {
    weights = {norm->weight, norm->bias};
  } else if (const auto* product = std::get_if<MatMulOp>(&op)) {
    for (const MatMulPart& part : product->parts) weights.insert(weights.end(), {part.weight, part.bias});
  } else if (const auto* expert = std::get_if<ExpertMatMulOp>(&op)) {
    weights = {expert->weight, expert->bias};
  } else if (const auto* embed = std::get_if<EmbedOp>(&op)) {
    weights = {embed->table};
  } else if (const auto* weigh = std::get_if<WeighOp>(&op)) {
    weights = {weigh->weight};
  }
  std::erase(weights, kNone);
  return weights;
}

// First, and one behind the last.
std::pair<size_t, size_t> RowsOf(const WeightSpec& spec) {
  if (spec.storage == WeightStorage::kVector) return {spec.first, spec.first + spec.columns};
  const size_t stride = spec.stride == 0 ? spec.rows : spec.stride;
  return {spec.first, spec.first + (spec.matrices - 1) * stride + spec.rows};
}

}  // namespace

ProgramFlow::ProgramFlow(const Program& program) : program_(program) {
  for (const Op& op : program.ops) {
    for (const WeightId id : WeightsOf(op)) uses_[program.weights[id].name].push_back(id);
  }
}

std::vector<size_t> ProgramFlow::Readers(size_t from, BufferId buffer) const {
  std::vector<size_t> readers;
  for (size_t i = from + 1; i < program_.ops.size(); ++i) {
    const OpBuffers buffers = BuffersOf(program_.ops[i]);
    if (Contains(buffers.reads, buffer)) readers.push_back(i);
    if (Contains(buffers.writes, buffer)) break;
  }
  return readers;
}

std::optional<size_t> ProgramFlow::Writer(size_t before, BufferId buffer) const {
  for (size_t i = before; i-- > 0;) {
    if (Contains(BuffersOf(program_.ops[i]).writes, buffer)) return i;
  }
  return std::nullopt;
}

size_t ProgramFlow::Uses(const std::string& tensor) const {
  const auto uses = uses_.find(tensor);
  return uses == uses_.end() ? 0 : uses->second.size();
}

size_t ProgramFlow::UsesOfRows(const WeightSpec& rows) const {
  const auto uses = uses_.find(rows.name);
  if (uses == uses_.end()) return 0;
  const auto wanted = RowsOf(rows);
  return static_cast<size_t>(std::count_if(uses->second.begin(), uses->second.end(), [&](WeightId id) {
    const auto used = RowsOf(program_.weights[id]);
    return wanted.first < used.second && used.first < wanted.second;
  }));
}

}  // namespace bantam
