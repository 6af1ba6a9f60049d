#include "compress/smooth.h"

#include <algorithm>
#include <cmath>

#include "compress/program_flow.h"
#include "compress/pruned_source.h"
#include "compress/watched_products.h"

namespace bantam {

std::vector<float> SmoothScales(const std::vector<float>& activations, const std::vector<float>& weights, double alpha) {
  std::vector<float> scales(activations.size(), 1.0f);
  for (size_t i = 0; i < scales.size(); ++i) {
    if (!(activations[i] > 0) || !(weights[i] > 0)) continue;
    const double scale = std::pow(static_cast<double>(activations[i]), alpha) / std::pow(static_cast<double>(weights[i]), 1 - alpha);
    scales[i] = static_cast<float>(std::clamp(scale, 1e-5, 1e5));
  }
  return scales;
}

Result<ModelScales> SmoothModel(ModelFile& file, const Program& program, const Calibrator::Ranges& ranges, double alpha) {
  ModelScales scales;
  for (const ScalePoint& point : FindScalePoints(program, file.directory)) {
    std::vector<float> activations(point.scales), weights(point.scales);
    bool known = true;
    for (const std::string& name : point.multiplied) {
      const auto range = ranges.find(name);
      known = known && range != ranges.end();
      if (!known) break;
      const TensorInfo& tensor = *file.directory.Find(name);
      BANTAM_ASSIGN(const std::vector<float> values, ReadValues(tensor, *file.source));
      const size_t columns = tensor.columns();
      for (size_t i = 0; i < values.size(); ++i) {
        float& largest = weights[point.ScaleOf(i % columns)];
        largest = std::max(largest, std::fabs(values[i]));
      }
      for (size_t c = 0; c < columns; ++c) {
        float& largest = activations[point.ScaleOf(c)];
        largest = std::max(largest, range->second[c]);
      }
    }
    if (known) AddScales(point, SmoothScales(activations, weights, alpha), &scales);
  }
  return scales;
}

StaticSteps StepsOf(const Calibrator::Ranges& ranges, const ModelScales& scales) {
  StaticSteps steps;
  for (const auto& [name, columns] : ranges) {
    const auto of = scales.find(name);
    const bool scaled = of != scales.end() && !of->second.column_factors.empty();
    float largest = 0;
    for (size_t c = 0; c < columns.size(); ++c) {
      largest = std::max(largest, scaled ? columns[c] / of->second.column_factors[c] : columns[c]);
    }
    if (largest > 0) steps[name] = largest / 127;
  }
  return steps;
}

size_t CountRounded(const Program& program) {
  const ProgramFlow flow(program);
  size_t count = 0;
  for (const WatchedProduct& product : FindProducts(program, /*experts=*/false)) {
    const Op& op = program.ops[product.ops.front()];
    const auto* gated = std::get_if<GatedMatMulOp>(&op);
    const auto writer = flow.Writer(product.ops.front(), gated != nullptr ? gated->in : std::get<MatMulOp>(op).in);
    if (!writer) continue;
    const auto* quantize = std::get_if<QuantizeOp>(&program.ops[*writer]);
    const auto* norm = std::get_if<NormQuantizeOp>(&program.ops[*writer]);
    const float step = quantize != nullptr ? quantize->step : norm != nullptr ? norm->step : 0;
    if (step != 0) count += product.names.size();
  }
  return count;
}

}  // namespace bantam
