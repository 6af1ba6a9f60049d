#include "compress/watched_products.h"

#include <map>
#include <variant>

namespace bantam {
namespace {

// The matrices that an operation multiplies its input with; none where it is no product.
std::vector<WeightId> WeightsOf(const Op& op) {
  if (const auto* plain = std::get_if<MatMulOp>(&op)) {
    std::vector<WeightId> weights;
    for (const MatMulPart& part : plain->parts) weights.push_back(part.weight);
    return weights;
  }
  if (const auto* gated = std::get_if<GatedMatMulOp>(&op)) return {gated->gate.weight, gated->up.weight};
  if (const auto* experts = std::get_if<ExpertMatMulOp>(&op)) return {experts->weight};
  return {};
}

}  // namespace

std::vector<WatchedProduct> FindProducts(const Program& program, bool experts) {
  std::vector<WatchedProduct> list;
  std::map<std::string, bool> seen;
  for (size_t i = 0; i < program.ops.size(); ++i) {
    const bool expert = std::holds_alternative<ExpertMatMulOp>(program.ops[i]);
    if (expert && !experts) continue;
    WatchedProduct watched = {i, 0, 1, {}};
    for (const WeightId id : WeightsOf(program.ops[i])) {
      const WeightSpec& weight = program.weights[id];
      watched.columns = weight.columns;
      watched.matrices = weight.matrices;
      if (seen.try_emplace(weight.name, true).second) watched.names.push_back(weight.name);
    }
    if (!watched.names.empty()) list.push_back(std::move(watched));
  }
  return list;
}

}  // namespace bantam
