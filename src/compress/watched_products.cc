#include "compress/watched_products.h"

#include <algorithm>
#include <map>
#include <string>
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
  struct Uses {
    WeightSpec rows;  // of the first
    std::vector<size_t> ops;
  };
  std::map<std::string, Uses> uses;
  std::vector<std::string> names;  // as they come
  for (size_t i = 0; i < program.ops.size(); ++i) {
    if (std::holds_alternative<ExpertMatMulOp>(program.ops[i]) && !experts) continue;
    for (const WeightId id : WeightsOf(program.ops[i])) {
      const WeightSpec& weight = program.weights[id];
      const auto [found, is_new] = uses.try_emplace(weight.name, Uses{weight, {}});
      if (is_new) names.push_back(weight.name);
      Uses& of = found->second;
      // Other rows of it read what the first ones did.
      const bool same = of.rows.first == weight.first && of.rows.rows == weight.rows;
      if (same && (of.ops.empty() || of.ops.back() != i)) of.ops.push_back(i);
    }
  }
  std::vector<WatchedProduct> list;
  for (const std::string& name : names) {
    const Uses& of = uses.at(name);
    const auto same = std::find_if(list.begin(), list.end(), [&](const WatchedProduct& product) { return product.ops == of.ops; });
    if (same != list.end()) {
      same->names.push_back(name);
    } else {
      list.push_back({of.ops, of.rows.columns, of.rows.matrices, {name}});
    }
  }
  return list;
}

}  // namespace bantam
