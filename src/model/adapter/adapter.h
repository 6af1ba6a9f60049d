// Adapters: what is added to a model's products, loaded beside it and chosen per sequence.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/memory_budget.h"
#include "base/result.h"
#include "model/adapter/adapter_file.h"
#include "model/load.h"
#include "program/low_rank.h"
#include "security/sha256.h"

namespace bantam {

// What is known before any number is read.
struct AdapterOutline {
  AdapterFile file;
  struct Part {
    size_t pair;       // of the file's
    size_t first_row;  // of B
  };
  std::vector<LowRankShape> shapes;  // by weight
  std::vector<Part> parts;           // of each shape
  uint64_t bytes = 0;                // in memory
  size_t rank_max = 0;
};

// Opens an adapter and holds it against a model (of which only the config and the program are looked at); `scale` multiplies that of the
// file. Errors: those of OpenAdapter; Unsupported for weights that the model has not or no product reads, Corrupt for other shapes than
// theirs; they name the tensor.
struct AdapterFor {
  const Config& config;
  const Program& program;
  const KernelSet& kernels;
};
Result<AdapterOutline> OutlineAdapter(FileSystem& files, const std::string& path, const AdapterFor& model, float scale = 1);

// Immutable; whoever runs with it shares it.
struct Adapter {
  const Model* model;  // that it is of, which outlives it
  std::string path;
  std::string format;
  Digest digest{};  // of what it does: weights' names, ranks, scales and numbers
  LowRankUpdates updates;
};

// Errors: Exhausted (budget), Corrupt (numbers that are not finite, or too large for F16), those of the source.
Result<std::shared_ptr<const Adapter>> LoadAdapter(AdapterOutline outline, const Model& model, MemoryBudget& budget);

}  // namespace bantam
