// From a model file to a GGUF file of smaller weights, tensor by tensor (docs/compression.md, ADR 0023).
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/disk.h"
#include "base/file.h"
#include "base/progress.h"
#include "base/result.h"
#include "base/threads.h"
#include "base/watched_files.h"
#include "compress/calibrate.h"
#include "compress/importance.h"
#include "compress/part_writer.h"
#include "compress/recipe.h"
#include "compress/work_memory.h"
#include "formats/model_file.h"

namespace bantam {

// How scales are found.
enum class ScaleRule : uint8_t {
  kUsual,          // weighted by importance where it is known, else by the formats' plain rules
  kSquares,        // the same, but by the search where there is no importance, too: all columns count the same
  kHalfQuadratic,  // of formats with a minimum by that search (half_quadratic.h), which looks at no data; others as usual
};

struct QuantizeOptions {
  const Recipe& recipe;
  const Importance* importance = nullptr;  // null: every column counts the same
  // Of the model that is quantised, where errors are to be fed back; then `importance` is there too. With the kernels of the model.
  Calibrator* feedback = nullptr;
  const KernelSet* kernels = nullptr;
  uint64_t gram_bytes_max = uint64_t{1} << 30;  // Gram matrices that are in memory at once; a larger one is there alone
  uint64_t sync_bytes = kPartSyncBytes;         // an interruption costs at most so much of the result, and the tensor at work
  // What the model was opened through: nothing gets OUT's name that was made of files which changed meanwhile.
  const WatchedFiles* watched = nullptr;
  // What names source, calibration and program beside the recipe: an interrupted call is gone on with where it is the same.
  std::string identity = {};
  bool own_formats = false;  // for a package: formats that no other program knows are written too
  // Rank of the product that is kept beside each quantised matrix of these for what it lost; 0: none. Then kernels are there.
  size_t correct_rank = 0;
  const std::set<std::string, std::less<>>* correctable = nullptr;
  ScaleRule scales = ScaleRule::kUsual;
  bool keep_file_type = false;  // general.file_type stays, where most weights stay in their format
};

// What became of a tensor.
struct TensorReport {
  std::string name;
  DType from = DType::kF32;
  DType to = DType::kF32;
  DType wanted = DType::kF32;  // another than `to` where rows do not divide by its blocks
  uint64_t elements = 0;
  uint64_t bytes = 0;
  size_t group = 0;  // columns that share a scale; 0: those of a block
  // Sum of squared differences over the sum of squares, columns weighed by importance where it is known. Of tensors that were
  // kept, or were done by an earlier call: nothing.
  std::optional<double> error;
  bool weighted = false;  // importance was known
  bool feedback = false;
  // Of the product beside it that makes good for a part of the error; 0: there is none. With it `error` is what is left.
  size_t correction_rank = 0;
  uint64_t correction_bytes = 0;
  uint64_t first_correction_bytes = 0;  // of them, those of the first factor
};

struct QuantizeReport {
  std::vector<TensorReport> tensors;
  uint64_t source_bytes = 0;  // of tensors
  uint64_t bytes = 0;
  uint64_t elements = 0;
  uint64_t resumed_bytes = 0;  // that an earlier call had made
  std::string own_vocabulary;  // why only Bantam reads the vocabulary, of some folders

  double bits_per_weight() const { return elements == 0 ? 0 : 8 * static_cast<double>(bytes) / static_cast<double>(elements); }
};

// For CheckRoom.
inline constexpr std::string_view kRoomRemedy = "or name a file on another disk";
inline constexpr std::string_view kBothRemedy =
    "or name a file on another disk; two models are made to compare them, --no-compare makes one";
// What a result takes of the disk at once: a package stands beside the file that it is made of, and where two models are compared both are
// there before one of them goes. `kept_bytes` of an earlier call are there already, of a single model.
struct ResultSize {
  uint64_t bytes = 0;
  bool package = false;
  bool compared = false;
  uint64_t kept_bytes = 0;
};
inline uint64_t RoomOf(const ResultSize& size) {
  const uint64_t all = size.package || size.compared ? 2 * size.bytes : size.bytes;
  return size.compared ? all : all - (size.kept_bytes < all ? size.kept_bytes : all);
}

// What the tensors would become, and how many bytes they would take: nothing is read or written. Unsupported for a model whose tensors
// mean nothing to other programs (quantised folders whose columns have an order or a factor of their own).
Result<QuantizeReport> PlanQuantize(const ModelFile& file, const QuantizeOptions& options);

// What QuantizeModel holds for the matrix that takes most, of a plan with feedback where that is wanted. `made`: the tensors are made when
// they are read (MadeSource).
WorkMemory QuantizeWork(const ModelFile& file, const QuantizeReport& plan, bool made);

// Nothing is at `out` before it is whole; until then OUT.part grows. Errors: those of PlanQuantize; Corrupt (weights that are no numbers,
// importance of other columns), named by tensor; Unavailable (too little room on the disk, another process at work, a watched file that
// changed); Cancelled: the next call goes on. The same input makes the same bytes, whatever the number of threads.
Result<QuantizeReport> QuantizeModel(FileSystem& files, Disk& disk, ModelFile& file, const std::string& out, const QuantizeOptions& options,
                                     ThreadPool& pool, const Progress& progress);

}  // namespace bantam
