// Scales that make weights which matter most lose least when they are rounded (Lin et al., "AWQ: activation-aware weight quantization",
// 2023): of each point where activations can be scaled, the power of their size that leaves the least error of the outputs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/result.h"
#include "base/threads.h"
#include "compress/calibrate.h"
#include "compress/importance.h"
#include "compress/quantize.h"
#include "compress/scaled_source.h"
#include "kernels/kernels.h"

namespace bantam {

// magnitude^alpha, brought to a middle of 1: divided by the root of the least times the largest.
std::vector<float> AwqScales(const std::vector<float>& magnitudes, double alpha);
inline constexpr size_t kAwqSteps = 20;
// Of step 0 to kAwqSteps - 1.
inline double AwqAlpha(size_t step) { return static_cast<double>(step) / kAwqSteps; }

// How a matrix is to be packed.
struct PackedAs {
  DType dtype = DType::kF32;
  size_t group = 0;  // TensorReport::group
};
// d G d^T of all rows, d being what packing the scaled rows changes of [rows][n], without the scales: the squared error of the products
// with what G = X^T X was summed over. `means` are mean squares of what the columns are multiplied with, before they are scaled; empty:
// packing does not weigh. Errors: those of packing.
struct ScaledRows {
  std::span<const float> values;  // [rows][n]
  std::span<const float> scales;  // [n]
  std::span<const float> means;   // [n] or empty
};
Result<double> OutputError(const ScaledRows& rows, const PackedAs& as, const UpperPanels& gram, const KernelSet& kernels, ThreadPool& pool);

struct AwqSetup {
  ModelFile& file;
  const Program& program;      // plain
  const QuantizeReport& plan;  // what the tensors are to become
  const Importance& importance;
  Calibrator& calibrator;
  const KernelSet& kernels;
  ThreadPool& pool;
  uint64_t gram_bytes_max;
};
struct AwqReport {
  ModelScales scales;
  size_t points = 0;  // where something is scaled
  size_t looked_at = 0;
  double error = 0;  // sums of OutputError over their sums without scales: of all points together
};
// The scales of all points whose matrices are to be packed in few bits. Errors: Cancelled, those of the source and the calibrator.
Result<AwqReport> SearchAwq(const AwqSetup& setup, const Progress& progress);

}  // namespace bantam
