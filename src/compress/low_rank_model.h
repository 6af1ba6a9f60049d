// From a model to one whose matrices are products of two smaller ones, where that loses least (docs/compression.md, ADR 0028).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/result.h"
#include "base/threads.h"
#include "compress/calibrate.h"
#include "compress/work_memory.h"
#include "formats/model_file.h"
#include "kernels/kernels.h"
#include "security/sha256.h"

namespace bantam {

struct LowRankOptions {
  // One of the two: the part of the weights of all matrices in layers that is kept, above 0 and below 1; or what each matrix may lose.
  double keep = 0;
  double loss_max = 0;
  // Of the model. All outlive the model that is made.
  Calibrator* calibrator = nullptr;
  const KernelSet* kernels = nullptr;
  ThreadPool* pool = nullptr;
  uint64_t gram_bytes_max = uint64_t{1} << 30;
  Progress progress = nullptr;
};

// What became of a matrix in a layer.
struct LowRankMatrix {
  std::string name;  // "blk.0.attn_q.weight"
  size_t rows = 0;
  size_t columns = 0;
  size_t rank = 0;  // 0: it stays as it is
  double loss = 0;  // predicted: |X (W - B A)^T|^2 / |X W^T|^2
};

// The model with PREFIX.low_rank_a.weight and PREFIX.low_rank_b.weight (docs/formats/gguf.md) in the place of matrices: they are made when
// they are read. `file` outlives it. Matrices that several layers share stay shared; the table of tokens, the output matrix, experts and
// what is of low rank already stay as they are. Errors: InvalidArgument where no matrix would change, or so little cannot be kept;
// Unsupported where no matrix in a layer can be measured; Corrupt for weights that are no numbers; Cancelled; those of the calibrator.
struct LowRankModel {
  ModelFile file;
  std::vector<DType> formats;  // of each tensor: what the source has it in
  std::vector<LowRankMatrix> matrices;
  Digest selection{};  // of names and ranks: pieces of two selections do not go together
};
Result<LowRankModel> MakeLowRank(ModelFile& file, const LowRankOptions& options);

// What that and the model's source hold for the matrix that takes most.
WorkMemory LowRankWork(const ModelFile& file, const Calibrator& calibrator);

}  // namespace bantam
