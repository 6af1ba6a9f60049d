// From a model to a smaller one of fewer layers, narrower feed-forwards or fewer heads, or to one with zeros among its weights
// (docs/compression.md, ADR 0025).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/progress.h"
#include "base/result.h"
#include "base/threads.h"
#include "compress/calibrate.h"
#include "compress/importance.h"
#include "compress/sparsify.h"
#include "compress/work_memory.h"
#include "formats/model_file.h"
#include "kernels/kernels.h"
#include "security/sha256.h"

namespace bantam {

enum class PruneWhat : uint8_t { kLayers, kFeedForward, kHeads, kWeights };

struct PruneOptions {
  PruneWhat what = PruneWhat::kLayers;
  std::vector<size_t> layers = {};  // of kLayers: those that go
  double part = 0;                  // of kFeedForward and kHeads: what goes, above 0 and below 1
  SparseMethod method = SparseMethod::kSparseGpt;
  Sparsity sparsity = {};
  bool refit = true;  // what is left makes good for the columns that go
  // Of the model that is pruned; not of kLayers and of magnitudes. All outlive the model that is made.
  const Importance* importance = nullptr;
  Calibrator* calibrator = nullptr;
  const KernelSet* kernels = nullptr;
  ThreadPool* pool = nullptr;
  uint64_t gram_bytes_max = uint64_t{1} << 30;
};

struct PruneReport {
  std::string what;                  // "layers", "feed-forward width", "heads", "weights"
  std::string from, to;              // "6", "5"
  std::vector<size_t> dropped = {};  // layers
};

// The model as it is without them: tensors are made when they are read, one at a time in memory. `file` outlives it. Errors: Unsupported
// for models that the method does not know (experts, layers that differ by their place, products of several things in one tensor), by the
// family and the tensor; InvalidArgument where nothing would go, or nothing stay; Corrupt for weights that are no numbers; those of the
// source.
struct PrunedModel {
  ModelFile file;
  std::vector<DType> formats;  // of each tensor: what the source has it in
  PruneReport report;
  Digest selection{};  // of what stays: pieces of two selections do not go together
};
Result<PrunedModel> PruneModel(ModelFile& file, const PruneOptions& options);
// Whether that can be done, as far as it is known before anything is measured: of the options nothing but what goes is looked at (of
// layers, how many).
Status CheckPrunable(ModelFile& file, const PruneOptions& options);

// What the model's source holds for the matrix that takes most.
WorkMemory PruneWork(const ModelFile& file, const PruneOptions& options);

// Widths that kernels and formats like: as large as this where the old width is a multiple of it and large enough.
size_t RoundedWidth(size_t width, double part);

}  // namespace bantam
