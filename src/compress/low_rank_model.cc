#include "compress/low_rank_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include "compress/grams_ahead.h"
#include "compress/made_source.h"
#include "compress/rank_choice.h"
#include "compress/recipe.h"
#include "compress/whitened_svd.h"
#include "model/load.h"
#include "model/low_rank_names.h"

namespace bantam {
namespace {

// Little of it: what hardly occurs in the text counts little, as it should.
constexpr double kWhiteningDamping = 1e-4;
constexpr std::string_view kEnding = ".weight";

std::string FactorName(std::string_view matrix, std::string_view factor) {
  return fmt::format("{}{}{}", matrix.substr(0, matrix.size() - kEnding.size()), factor, kEnding);
}

// Matrices, and what whitens them, in the order of the file.
class WhitenedMatrices {
 public:
  WhitenedMatrices(ModelFile& file, const LowRankOptions& options, std::vector<std::string> names)
      : file_(file), options_(options), grams_(*options.calibrator, std::move(names), options.gram_bytes_max) {}

  // Calls use(WhitenedRows) with one of them, which is in memory meanwhile.
  template <typename Use>
  auto With(const std::string& name, const Use& use) -> decltype(use(std::declval<const WhitenedRows&>())) {
    const TensorInfo& tensor = *file_.directory.Find(name);
    BANTAM_ASSIGN(const auto factor, grams_.TakeFactor(name, *options_.kernels, *options_.pool,
                                                       {.order = ColumnOrder::kAsTheyStand, .damping = kWhiteningDamping}));
    BANTAM_ASSIGN(const std::vector<float> values, ReadValues(tensor, *file_.source));
    return use(WhitenedRows{values, tensor.rows(), factor->r});
  }

 private:
  ModelFile& file_;
  const LowRankOptions options_;
  GramsAhead grams_;
};

class LowRankSource : public MadeSource {
 public:
  LowRankSource(ModelFile& file, const LowRankOptions& options, const std::vector<LowRankMatrix>& matrices)
      : MadeSource(*file.source), options_(options) {
    std::vector<std::string> names;
    size_t next = 0;
    for (const TensorInfo& tensor : file.directory.tensors()) {
      const LowRankMatrix* matrix = next < matrices.size() && matrices[next].name == tensor.name ? &matrices[next++] : nullptr;
      if (matrix == nullptr || matrix->rank == 0) {
        Append(tensor, std::string(tensor.name), &tensor, {});
        continue;
      }
      TensorInfo factor = tensor;
      factor.dtype = Info(tensor.dtype).decode != nullptr ? DType::kF32 : tensor.dtype;
      factor.dimensions[1] = matrix->rank;
      const size_t index = names.size();
      names.push_back(matrix->name);
      Append(factor, FactorName(tensor.name, kLowRankA), nullptr, {index, matrix->rank, /*second=*/false});
      factor.dimensions[0] = matrix->rank;
      factor.dimensions[1] = matrix->rows;
      Append(factor, FactorName(tensor.name, kLowRankB), nullptr, {index, matrix->rank, /*second=*/true});
      formats_[formats_.size() - 2] = formats_.back() = tensor.dtype;
    }
    names_ = names;
    matrices_.emplace(file, options_, std::move(names));
  }

  const std::vector<DType>& formats() const { return formats_; }

 private:
  struct Place {
    size_t matrix = 0;
    size_t rank = 0;
    bool second = false;
  };

  void Append(TensorInfo info, std::string name, const TensorInfo* copied, const Place& place) {
    info.name = Keep(std::move(name));
    Add(info, copied);
    formats_.push_back(info.dtype);
    places_.push_back(place);
  }

  // Both factors are made together, and the second is read behind the first.
  Status Make(size_t index, std::span<std::byte> bytes) override {
    const Place& place = places_[index];
    if (!made_ || made_->first != place.matrix) {
      made_.reset();
      BANTAM_ASSIGN(Factors factors, matrices_->With(names_[place.matrix], [&](const WhitenedRows& matrix) {
        return FactorMatrix(matrix, place.rank, *options_.kernels, *options_.pool);
      }));
      made_.emplace(place.matrix, std::move(factors));
    }
    std::vector<float>& values = place.second ? made_->second.b : made_->second.a;
    BANTAM_TRY(PackRow(tensors()[index].dtype, values, /*importance=*/{}, reinterpret_cast<uint8_t*>(bytes.data())));
    return Ok();
  }

  const LowRankOptions options_;
  std::vector<DType> formats_;
  std::vector<Place> places_;       // of each tensor
  std::vector<std::string> names_;  // of matrices that become two
  std::optional<WhitenedMatrices> matrices_;
  std::optional<std::pair<size_t, Factors>> made_;
};

// Matrices in layers that a product reads, and nothing else.
std::vector<std::string> Candidates(const ModelFile& file, const Calibrator& calibrator) {
  std::vector<std::string> names;
  for (const TensorInfo& tensor : file.directory.tensors()) {
    if (!tensor.name.starts_with("blk.") || !IsCompressible(tensor) || tensor.matrices() != 1 || !LowRankPart(tensor.name).empty())
      continue;
    const std::string name(tensor.name);
    if (file.directory.Find(FactorName(name, kLowRankB)) == nullptr && calibrator.GramBytes({name}) > 0) names.push_back(name);
  }
  return names;
}

// What each of them would lose, by rank.
Result<std::vector<RankedMatrix>> MeasureLosses(ModelFile& file, const LowRankOptions& options, const std::vector<std::string>& names) {
  std::vector<RankedMatrix> ranked;
  WhitenedMatrices matrices(file, options, names);
  for (const std::string& name : names) {
    if (options.progress && !options.progress("finding what matrices lose", ranked.size(), names.size())) {
      return Error(Code::kCancelled, "the measurement was interrupted");
    }
    const TensorInfo& tensor = *file.directory.Find(name);
    BANTAM_ASSIGN(const std::vector<double> spectrum, matrices.With(name, [&](const WhitenedRows& matrix) {
      return WhitenedSpectrum(matrix, *options.kernels, *options.pool);
    }));
    ranked.push_back({tensor.rows(), tensor.columns(), LossesOf(spectrum)});
  }
  return ranked;
}

Digest DigestOf(const std::vector<LowRankMatrix>& matrices) {
  std::string text;
  for (const LowRankMatrix& matrix : matrices) text += fmt::format("{} {}\n", matrix.name, matrix.rank);
  return Sha256Of(std::as_bytes(std::span(text)));
}

}  // namespace

Result<LowRankModel> MakeLowRank(ModelFile& file, const LowRankOptions& options) {
  const std::vector<std::string> names = Candidates(file, *options.calibrator);
  if (names.empty()) return Error(Code::kUnsupported, fmt::format("{}: no layer has a matrix that calibration knows", file.path));
  BANTAM_ASSIGN(const std::vector<RankedMatrix> ranked, MeasureLosses(file, options, names));
  std::vector<size_t> ranks;
  if (options.keep > 0) {
    BANTAM_ASSIGN(ranks, ChooseRanks(ranked, options.keep).With(file.path));
  } else {
    for (const RankedMatrix& matrix : ranked) ranks.push_back(RankOfLoss(matrix, options.loss_max));
  }
  if (std::all_of(ranks.begin(), ranks.end(), [](size_t rank) { return rank == 0; })) {
    return Error(Code::kInvalidArgument,
                 fmt::format("{}: no matrix has factors that are smaller and lose so little; let them lose more, or quantize", file.path));
  }
  LowRankModel made;
  for (size_t i = 0; i < names.size(); ++i) {
    made.matrices.push_back({names[i], ranked[i].rows, ranked[i].columns, ranks[i], ranks[i] == 0 ? 0 : ranked[i].losses[ranks[i]]});
  }
  made.selection = DigestOf(made.matrices);
  auto source = std::make_unique<LowRankSource>(file, options, made.matrices);
  made.formats = source->formats();
  made.file.path = file.path;
  made.file.further_paths = file.further_paths;
  made.file.format = file.format;
  BANTAM_ASSIGN(made.file.metadata, Metadata::Make(file.metadata.entries()));
  BANTAM_ASSIGN(made.file.directory, TensorDirectory::Make(source->tensors()));
  for (const TensorInfo& tensor : made.file.directory.tensors()) made.file.size_bytes += tensor.size_bytes;
  made.file.source = std::move(source);
  // The family reads it.
  BANTAM_TRY(OutlineModel(made.file, *options.kernels));
  return made;
}

WorkMemory LowRankWork(const ModelFile& file, const Calibrator& calibrator) {
  WorkMemory work;
  for (const std::string& name : Candidates(file, calibrator)) {
    const TensorInfo& tensor = *file.directory.Find(name);
    work.Take(LowRankBytes({tensor.rows(), tensor.columns()}), name);
  }
  return work;
}

}  // namespace bantam
