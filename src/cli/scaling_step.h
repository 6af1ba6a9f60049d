// bantam quantize --awq, --smooth, --static-activations and --even-keys: scales are found, the model is made with and without those of
// activations, and the better one stays.
#pragma once

#include <string>

#include "base/disk.h"
#include "base/json.h"
#include "cli/compressing.h"
#include "compress/quantize.h"

namespace bantam {

enum class Scaling : uint8_t {
  kAbsent,
  kAwq,     // weights that matter most lose least
  kSmooth,  // activations that are rounded by fixed steps
};

struct ScalingOptions {
  Scaling scaling = Scaling::kAbsent;
  bool static_activations = false;  // measure fixed steps, and the divergence with them
  double smooth_alpha = 0.5;
  bool even_keys = false;  // scales of keys (compress/key_scales.h), which change nothing but what few bits make of them
};

struct ScalingStep {
  QuantizeReport report;  // of the file that stays, at places.made
  std::string text;
  Json json;  // of the report, by what was done
};
struct ScalingPlaces {
  FileSystem& files;
  Disk& disk;
  CompressPlaces& places;
  const CompressArguments& arguments;
  CompressReader& reader;
  ThreadPool& pool;
};
// The options have kernels and identity, feedback where it is wanted, and importance, but where nothing but keys is scaled: that needs no
// text. Where nothing is to be compared, what was scaled stays unchecked.
Result<ScalingStep> QuantizeWithScaling(const ScalingPlaces& places, const QuantizeOptions& options, const ScalingOptions& scaling);

}  // namespace bantam
