// What `bantam tune` found to be fastest for a model on a machine, kept beside the model as MODEL.tune.json.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/file.h"
#include "base/result.h"

namespace bantam {

struct Tuning {
  // Where it holds: on this processor, for a file of this size, with as many cores.
  std::string processor;
  int cores = 1;
  uint64_t model_bytes = 0;
  // What was fastest.
  std::string kernels;
  std::string weights = "auto";  // or "rows"
  int threads = 1;
  size_t prefetch = 0;      // PlanOptions::prefetch.one
  size_t token_tile = 128;  // PlanOptions::token_tile
};

inline constexpr size_t kPrefetchMax = 65536;

std::string TuningPath(const std::string& model_path);

// To what files.Create(TuningPath(...)) opened.
Status WriteTuning(FileWriter& writer, const Tuning& tuning);

// What is kept beside the model; nothing when there is no file. Corrupt, naming file and member, when it is not what WriteTuning writes.
Result<std::optional<Tuning>> ReadTuning(FileSystem& files, const std::string& model_path);

}  // namespace bantam
