// The executor's operations on rows of several parts, and on whole rows.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "program/executor.h"

namespace bantam {
namespace {

double SumOfSquares(const float* x, size_t n, double mean) {
  double sum = 0;
  for (size_t i = 0; i < n; ++i) sum += (static_cast<double>(x[i]) - mean) * (static_cast<double>(x[i]) - mean);
  return sum;
}

}  // namespace

void Executor::Execute(const PlaceOp& op, int thread) {
  const auto [begin, end] = RowShare(op.out, thread);
  for (size_t t = begin; t < end; ++t) std::memcpy(FloatRow(op.out, t) + op.first, FloatRow(op.in, t), row_bytes_[op.in]);
}

void Executor::Execute(const WeighOp& op, int thread) {
  const size_t width = program_.buffers[op.buffer].width;
  const size_t step = program_.weights[op.weight].columns == 1 ? 0 : 1;
  const float* weights = weights_.Vector(op.weight);
  const auto [begin, end] = RowShare(op.buffer, thread);
  for (size_t t = begin; t < end; ++t) {
    for (size_t i = 0; i < width; ++i) FloatRow(op.buffer, t)[i] *= weights[i * step];
  }
}

void Executor::Execute(const MatchLengthOp& op, int thread) {
  const size_t width = program_.buffers[op.buffer].width;
  const auto [begin, end] = RowShare(op.buffer, thread);
  for (size_t t = begin; t < end; ++t) {
    float* row = FloatRow(op.buffer, t);
    const double own = SumOfSquares(row, width, /*mean=*/0);
    if (own == 0) continue;
    const auto factor = static_cast<float>(std::sqrt(SumOfSquares(FloatRow(op.in, t), width, /*mean=*/0) / own));
    for (size_t i = 0; i < width; ++i) row[i] *= factor;
  }
}

void Executor::Execute(const CutBelowOp& op, int thread) {
  const size_t width = program_.buffers[op.buffer].width;
  const auto [begin, end] = RowShare(op.buffer, thread);
  for (size_t t = begin; t < end; ++t) {
    float* row = FloatRow(op.buffer, t);
    double mean = 0;
    for (size_t i = 0; i < width; ++i) mean += static_cast<double>(row[i]);
    mean /= static_cast<double>(width);
    const double variance = SumOfSquares(row, width, mean) / static_cast<double>(std::max<size_t>(width, 2) - 1);
    const auto cut = static_cast<float>(mean + static_cast<double>(op.deviations) * std::sqrt(variance));
    for (size_t i = 0; i < width; ++i) row[i] = std::max(0.0f, row[i] - cut);
  }
}

void Executor::Execute(const MixPartsOp& op, int thread) {
  const size_t width = program_.buffers[op.out].width / op.parts;
  const auto [begin, end] = Share(RowCount(op.out) * op.parts, thread, pool_.team());
  for (size_t at = begin; at < end; ++at) {
    const float* in = FloatRow(op.in, at / op.parts);
    const float* coefficients = FloatRow(op.coefficients, at / op.parts) + at % op.parts * op.parts;
    float* out = Floats(op.out) + at * width;
    std::memcpy(out, Floats(op.in) + at * width, width * sizeof(float));
    for (size_t part = 0; part < op.parts; ++part) {
      for (size_t i = 0; i < width; ++i) out[i] += coefficients[part] * in[part * width + i];
    }
  }
}

void Executor::Execute(const AddToPartsOp& op, int thread) {
  const size_t width = program_.buffers[op.in].width;
  const auto [begin, end] = Share(RowCount(op.out) * op.parts, thread, pool_.team());
  for (size_t at = begin; at < end; ++at) {
    const size_t part = at % op.parts;
    if (part < op.first) continue;
    const float* in = FloatRow(op.in, at / op.parts);
    const float factor = op.coefficients == kNone ? 1.0f : 1.0f + FloatRow(op.coefficients, at / op.parts)[part];
    float* out = Floats(op.out) + at * width;
    for (size_t i = 0; i < width; ++i) out[i] += factor * in[i];
  }
}

}  // namespace bantam
