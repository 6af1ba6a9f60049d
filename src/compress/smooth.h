// Scales that share the difficulty of rounding between activations and weights (Xiao et al., "SmoothQuant", 2023), and the fixed steps by
// which activations are rounded where a processor knows one scale for all that a product reads.
#pragma once

#include "base/progress.h"
#include "base/result.h"
#include "compress/calibrate.h"
#include "compress/scale_points.h"
#include "compress/scaled_source.h"
#include "program/program.h"

namespace bantam {

inline constexpr double kSmoothAlpha = 0.5;

// largest activation^alpha / largest weight^(1 - alpha), column by column; 1 where either is 0.
std::vector<float> SmoothScales(const std::vector<float>& activations, const std::vector<float>& weights, double alpha);

// Of all points whose ranges are known. Errors: those of the source.
Result<ModelScales> SmoothModel(ModelFile& file, const Program& program, const Calibrator::Ranges& ranges, double alpha);

// What int8 activations of each matrix's product are multiples of, once they are divided by the scales.
StaticSteps StepsOf(const Calibrator::Ranges& ranges, const ModelScales& scales);

// Matrices of a fused program whose products read activations that are rounded by fixed steps (SetStaticSteps).
size_t CountRounded(const Program& program);

}  // namespace bantam
