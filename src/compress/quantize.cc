#include "compress/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "base/bytes.h"
#include "base/memory_budget.h"
#include "compress/correction.h"
#include "compress/error_feedback.h"
#include "compress/ggml_vocabulary.h"
#include "compress/grams_ahead.h"
#include "formats/gguf_writer.h"
#include "formats/tensor_rows.h"
#include "model/low_rank_names.h"
#include "security/sha256.h"
#include "tensor/group_pack.h"
#include "tensor/half_quadratic.h"

namespace bantam {
namespace {

constexpr uint64_t kPieceFloats = uint64_t{2} << 20;
constexpr std::string_view kFileTypeKey = "general.file_type";
constexpr std::string_view kVersionKey = "general.quantization_version";
constexpr uint64_t kQuantizationVersion = 2;
constexpr uint64_t kAlignmentMax = 64;  // of tensors in what is written

Error Interrupted(const std::string& out) {
  return Error(Code::kCancelled, fmt::format("{}: interrupted; the same command goes on with {}.part", out, out));
}

// What programs that know nothing of Bantam would get wrong.
Status CheckTensor(const TensorInfo& tensor, DType to, bool own_formats) {
  if (tensor.name.ends_with(".order") || tensor.name.ends_with(".factor")) {
    return Error(Code::kUnsupported, fmt::format("tensor {}: columns of a quantised folder that are in another order, or have factors, "
                                                 "which GGUF cannot say; quantise the model that the folder was made of",
                                                 tensor.name));
  }
  if (Info(to).gguf_id >= kOwnFormats && !own_formats) {
    return Error(Code::kUnsupported,
                 fmt::format("tensor {}: no other program reads {}; make a package (OUT.bantam), or name a recipe that changes it",
                             tensor.name, Info(to).name));
  }
  return Ok();
}

// The sums behind TensorReport::error.
struct ErrorSums {
  double error = 0;
  double square = 0;
};

class Quantizer {
 public:
  Quantizer(ModelFile& file, const std::string& out, const QuantizeOptions& options, ThreadPool& pool, const Progress& progress)
      : file_(file), out_(out), options_(options), pool_(pool), progress_(progress) {}

  Result<QuantizeReport> Run(FileSystem& files, Disk& disk) {
    BANTAM_ASSIGN(report_, PlanQuantize(file_, options_));
    BANTAM_ASSIGN(auto part, PartWriter::Make(files, disk, out_, PlanName()));
    part_ = part.get();
    BANTAM_TRY(CheckRoom(disk, FolderOf(out_), report_.bytes - std::min(report_.bytes, part_->kept()), kRoomRemedy).With(out_));
    BANTAM_TRY(MakeVocabulary());
    BANTAM_ASSIGN(writer_, GgufWriter::Make(std::move(part), out_, MakeMetadata(), MakeDirectory()));
    for (size_t i = 0; i < report_.tensors.size(); ++i) {
      const TensorInfo& tensor = file_.directory.tensors()[i];
      TensorReport& told = report_.tensors[i];
      const uint64_t with_corrections = told.bytes + (told.correction_rank > 0 ? told.correction_bytes + 2 * kAlignmentMax : 0);
      if (part_->position() + with_corrections <= part_->kept()) {
        BANTAM_TRY(TakeKept(told));
      } else {
        Status made = told.to == told.from ? Copy(tensor) : Pack(i);
        if (!made.ok() && made.error().code() == Code::kCancelled) return std::move(made).error();
        BANTAM_TRY(std::move(made).With(fmt::format("{}: tensor {}", file_.path, tensor.name)));
      }
      done_ += tensor.size_bytes;
      BANTAM_TRY(part_->Mark(options_.sync_bytes));
    }
    if (options_.watched != nullptr) BANTAM_TRY(options_.watched->CheckUnchanged());
    BANTAM_TRY(writer_->Commit());
    return std::move(report_);
  }

 private:
  std::string PlanName() const {
    std::string text = fmt::format("{}\n{}\n", options_.identity, options_.recipe.Describe());
    for (const TensorReport& tensor : report_.tensors)
      text += fmt::format("{} {} {} {} {}\n", tensor.name, Info(tensor.to).name, tensor.group, tensor.feedback, tensor.correction_rank);
    return HexOf(Sha256Of(AsBytes(text)));
  }

  // As other programs read it, where the file has it otherwise.
  Status MakeVocabulary() {
    if (!HasFolderVocabulary(file_.metadata)) return Ok();
    Result<GgmlVocabulary> made = MakeGgmlVocabulary(file_);
    if (made.ok()) {
      vocabulary_ = std::move(*made);
    } else if (made.error().code() == Code::kUnsupported) {
      report_.own_vocabulary = made.error().message();
    } else {
      return std::move(made).error();
    }
    return Ok();
  }

  // The format that most of the weights are in.
  DType MostlyIn(DType TensorReport::*format) const {
    std::map<DType, uint64_t> elements;
    for (const TensorReport& tensor : report_.tensors) elements[tensor.*format] += tensor.elements;
    return std::max_element(elements.begin(), elements.end(), [](const auto& a, const auto& b) { return a.second < b.second; })->first;
  }

  std::vector<MetadataEntry> MakeMetadata() const {
    std::vector<MetadataEntry> metadata;
    const DType mostly = MostlyIn(&TensorReport::to);
    const bool keep = options_.keep_file_type && mostly == MostlyIn(&TensorReport::from);
    for (const MetadataEntry& entry : file_.metadata.entries()) {
      if (entry.key.starts_with("split.") || entry.key == kVersionKey || (entry.key == kFileTypeKey && !keep)) continue;
      const bool again = std::any_of(vocabulary_.entries.begin(), vocabulary_.entries.end(),
                                     [&](const MetadataEntry& made) { return made.key == entry.key; });
      if (again || (!vocabulary_.entries.empty() && IsFolderVocabularyKey(entry.key))) continue;
      metadata.push_back(entry);
    }
    metadata.insert(metadata.end(), vocabulary_.entries.begin(), vocabulary_.entries.end());
    metadata.push_back({kVersionKey, kQuantizationVersion, ValueType::kU32});
    // Of a format that no mix is named after nothing is said.
    const std::optional<uint32_t> of_format = options_.keep_file_type ? FileTypeOf(mostly) : options_.recipe.type().file_type;
    if ((!keep || file_.metadata.Find(kFileTypeKey) == nullptr) && of_format) {
      metadata.push_back({kFileTypeKey, uint64_t{*of_format}, ValueType::kU32});
    }
    return metadata;
  }

  std::vector<GgufTensor> MakeDirectory() const {
    std::vector<GgufTensor> tensors;
    for (size_t i = 0; i < report_.tensors.size(); ++i) {
      const TensorInfo& tensor = file_.directory.tensors()[i];
      const TensorReport& told = report_.tensors[i];
      tensors.push_back({told.name, told.to, {tensor.dimensions, tensor.dimensions + tensor.n_dimensions}});
      if (told.correction_rank == 0) continue;
      const std::string prefix = told.name.substr(0, told.name.rfind('.'));
      const auto add = [&](std::string_view factor, uint64_t columns, uint64_t rows) {
        tensors.push_back({fmt::format("{}{}.weight", prefix, factor), CorrectionType(columns), {columns, rows}});
      };
      add(kLowRankA, tensor.columns(), told.correction_rank);
      add(kLowRankB, told.correction_rank, tensor.rows());
    }
    return tensors;
  }

  Status TakeKept(TensorReport& told) {
    told.error.reset();
    BANTAM_TRY(TakeKept(told.bytes));
    if (told.correction_rank > 0) {
      BANTAM_TRY(TakeKept(told.first_correction_bytes));
      BANTAM_TRY(TakeKept(told.correction_bytes - told.first_correction_bytes));
    }
    report_.resumed_bytes += told.bytes + told.correction_bytes;
    return Tell(0);
  }
  Status TakeKept(uint64_t size) {
    std::vector<std::byte> bytes(std::min<uint64_t>(size, uint64_t{1} << 20));
    for (uint64_t done = 0; done < size;) {
      const size_t n = static_cast<size_t>(std::min<uint64_t>(bytes.size(), size - done));
      BANTAM_ASSIGN(const size_t got, part_->Kept(part_->position(), std::span(bytes).first(n)));
      if (got == 0) return Error(Code::kUnavailable, fmt::format("{}.part became shorter; try again", out_));
      BANTAM_TRY(writer_->Append(std::span(bytes).first(got)));
      done += got;
    }
    return Ok();
  }

  // Bytes of the tensor that are done.
  Status Tell(uint64_t bytes) {
    return !progress_ || progress_("quantizing", done_ + bytes, report_.source_bytes) ? Ok() : Interrupted(out_);
  }

  Status Copy(const TensorInfo& tensor) {
    constexpr uint64_t kCopyBytes = uint64_t{4} << 20;
    BANTAM_TRY(CheckFinite(tensor));
    for (uint64_t at = 0; at < tensor.size_bytes; at += kCopyBytes) {
      const uint64_t n = std::min(kCopyBytes, tensor.size_bytes - at);
      BANTAM_ASSIGN(const auto bytes, file_.source->View(tensor.offset_bytes + at, n));
      BANTAM_TRY(writer_->Append(bytes));
      file_.source->Release(tensor.offset_bytes + at, n);
      BANTAM_TRY(Tell(at + n));
    }
    return Ok();
  }

  // What stays as it is may be damaged too.
  Status CheckFinite(const TensorInfo& tensor) {
    const uint64_t row_bytes = RowBytes(tensor.dtype, tensor.columns());
    std::vector<float> values(tensor.columns());
    for (uint64_t row = 0; row < tensor.elements() / tensor.columns(); ++row) {
      BANTAM_ASSIGN(const auto bytes, file_.source->View(tensor.offset_bytes + row * row_bytes, row_bytes));
      Unpack(tensor.dtype, reinterpret_cast<const uint8_t*>(bytes.data()), values.size(), values.data());
      for (size_t i = 0; i < values.size(); ++i) {
        if (std::isfinite(values[i])) continue;
        return Error(Code::kCorrupt, fmt::format("row {}: element {} is {}, expected a finite number; the file is damaged, fetch it again",
                                                 row, i, values[i]));
      }
    }
    return Ok();
  }

  Status Pack(size_t index) {
    const TensorInfo& tensor = file_.directory.tensors()[index];
    TensorReport& told = report_.tensors[index];
    BANTAM_TRY(FindImportance(tensor, &told));
    BANTAM_ASSIGN(const std::shared_ptr<const GramFactor> factor, FactorOf(told));
    const uint64_t row_bytes = RowBytes(tensor.dtype, tensor.columns());
    // Eight rows a thread at least: as many as feedback takes at once.
    const uint64_t groups = 8 * static_cast<uint64_t>(pool_.size());
    const uint64_t at_once = std::max<uint64_t>(1, kPieceFloats / (tensor.columns() * groups)) * groups;
    ErrorSums sums;
    errors_.assign(told.correction_rank > 0 ? tensor.elements() : 0, 0.0f);
    const auto pack = [&](const TensorRows& rows) -> Status {
      BANTAM_TRY(PackRows(tensor, told, rows, factor.get(), &sums));
      return Tell((rows.matrix * tensor.rows() + rows.first + rows.count) * row_bytes);
    };
    BANTAM_TRY(ForEachRows(tensor, *file_.source, at_once, pack));
    if (told.correction_rank > 0) BANTAM_TRY(Correct(tensor, told, factor.get(), &sums));
    told.error = sums.square > 0 ? sums.error / sums.square : 0;
    return Ok();
  }

  // Mean squares of each matrix's columns, into means_; empty where nothing is known.
  Status FindImportance(const TensorInfo& tensor, TensorReport* told) {
    means_.clear();
    const ColumnImportance* found = options_.importance == nullptr ? nullptr : options_.importance->Find(tensor.name);
    if (found == nullptr) return Ok();
    ColumnImportance entry = *found;
    // The older files know no matrices, and write all of them as one row.
    if (entry.matrices() == 1 && entry.columns == tensor.columns() * tensor.matrices()) {
      entry.columns = tensor.columns();
      entry.counts.assign(tensor.matrices(), entry.counts[0]);
    }
    if (entry.columns != tensor.columns() || (entry.matrices() != 1 && entry.matrices() != tensor.matrices())) {
      return Error(Code::kCorrupt, fmt::format("importance of {} x {} columns for {} x {}; it was measured on another model",
                                               entry.matrices(), entry.columns, tensor.matrices(), tensor.columns()));
    }
    for (size_t m = 0; m < entry.matrices(); ++m) means_.push_back(entry.Means(m));
    told->weighted = true;
    return Ok();
  }

  // The factor for error feedback; null where the tensor has none.
  Result<std::shared_ptr<const GramFactor>> FactorOf(const TensorReport& told) {
    if (!told.feedback) return std::shared_ptr<const GramFactor>();
    if (!grams_) {
      std::vector<std::string> names;
      for (const TensorReport& tensor : report_.tensors) {
        if (tensor.feedback) names.push_back(tensor.name);
      }
      grams_.emplace(*options_.feedback, std::move(names), options_.gram_bytes_max);
    }
    BANTAM_TRY(Tell(0));
    return grams_->TakeFactor(told.name, *options_.kernels, pool_, {});
  }

  Status PackRows(const TensorInfo& tensor, const TensorReport& told, const TensorRows& rows, const GramFactor* factor, ErrorSums* sums) {
    const size_t columns = tensor.columns();
    const size_t from_bytes = RowBytes(tensor.dtype, columns);
    const size_t to_bytes = RowBytes(told.to, columns);
    values_.resize(rows.count * columns);
    blocks_.resize(rows.count * to_bytes);
    row_sums_.assign(rows.count, {});
    std::mutex failed_lock;
    std::optional<std::pair<size_t, Error>> failed;  // the first row that cannot be packed
    const std::span<const float> means = means_.empty() ? std::span<const float>() : std::span(means_[rows.matrix % means_.size()]);
    pool_.Run([&](int thread) {
      const auto [begin, end] = Share(rows.count, thread, pool_.size());
      std::vector<float> back(columns);
      for (size_t r = begin; r < end; ++r) {
        const std::span<float> row = std::span(values_).subspan(r * columns, columns);
        Unpack(tensor.dtype, rows.bytes + r * from_bytes, columns, row.data());
        uint8_t* blocks = blocks_.data() + r * to_bytes;
        Status packed = told.group == 0 ? PackOne(told.to, row, means, blocks) : PackGroups(told.to, told.group, row, means, blocks);
        if (!packed.ok()) {
          const std::lock_guard<std::mutex> lock(failed_lock);
          if (!failed || r < failed->first) failed.emplace(r, packed.error());
          return;
        }
      }
      if (factor != nullptr && begin < end) {
        ChooseCodes({told.to, values_.data() + begin * columns, end - begin, blocks_.data() + begin * to_bytes}, *factor,
                    *options_.kernels);
      }
      for (size_t r = begin; r < end; ++r) {
        Unpack(told.to, blocks_.data() + r * to_bytes, columns, back.data());
        const std::span<const float> row = std::span(values_).subspan(r * columns, columns);
        row_sums_[r] = RowError(row, back, means);
        if (errors_.empty()) continue;
        float* errors = errors_.data() + (rows.first + r) * columns;
        for (size_t i = 0; i < columns; ++i) errors[i] = row[i] - back[i];
      }
    });
    if (failed) return Error(failed->second).With(fmt::format("row {}", rows.first + failed->first));
    for (const ErrorSums& row : row_sums_) *sums = {sums->error + row.error, sums->square + row.square};
    return writer_->Append(std::as_bytes(std::span(blocks_)));
  }

  Status PackOne(DType to, std::span<const float> row, std::span<const float> means, uint8_t* blocks) const {
    if (options_.scales == ScaleRule::kHalfQuadratic && HasHalfQuadratic(to)) return PackRowHalfQuadratic(to, row, blocks);
    if (options_.scales == ScaleRule::kSquares && means.empty()) return PackRow(to, row, std::vector<float>(row.size(), 1.0f), blocks);
    return PackRow(to, row, means, blocks);
  }

  // Writes the factors beside a matrix, and makes `sums` those of what is left of its errors.
  Status Correct(const TensorInfo& tensor, const TensorReport& told, const GramFactor* factor, ErrorSums* sums) {
    const size_t m = tensor.rows();
    const size_t n = tensor.columns();
    const size_t rank = told.correction_rank;
    const std::span<const float> means = means_.empty() ? std::span<const float>() : std::span(means_[0]);
    BANTAM_ASSIGN(const Factors factors, CorrectError({errors_, m, n, factor, means}, rank, *options_.kernels, pool_));
    BANTAM_ASSIGN(const std::vector<float> a, WriteFactor(factors.a, n));
    BANTAM_ASSIGN(const std::vector<float> b, WriteFactor(factors.b, rank));
    sums->error = 0;
    std::vector<float> made(n);
    for (size_t i = 0; i < m; ++i) {
      std::fill(made.begin(), made.end(), 0.0f);
      for (size_t k = 0; k < rank; ++k) {
        for (size_t j = 0; j < n; ++j) made[j] += b[i * rank + k] * a[k * n + j];
      }
      sums->error += RowError(std::span(errors_).subspan(i * n, n), made, means).error;
    }
    return Ok();
  }

  // Returns what is read of it again.
  Result<std::vector<float>> WriteFactor(const std::vector<float>& values, size_t columns) {
    const DType type = CorrectionType(columns);
    const size_t row_bytes = RowBytes(type, columns);
    const size_t rows = values.size() / columns;
    std::vector<uint8_t> blocks(rows * row_bytes);
    std::vector<float> back(values.size());
    for (size_t r = 0; r < rows; ++r) {
      BANTAM_TRY(PackRow(type, std::span(values).subspan(r * columns, columns), /*importance=*/{}, blocks.data() + r * row_bytes));
      Unpack(type, blocks.data() + r * row_bytes, columns, back.data() + r * columns);
    }
    BANTAM_TRY(writer_->Append(std::as_bytes(std::span(blocks))));
    return back;
  }

  static ErrorSums RowError(std::span<const float> row, std::span<const float> back, std::span<const float> means) {
    ErrorSums sums;
    for (size_t i = 0; i < row.size(); ++i) {
      const double weight = means.empty() ? 1.0 : static_cast<double>(means[i]);
      const double difference = static_cast<double>(row[i]) - static_cast<double>(back[i]);
      sums.error += weight * difference * difference;
      sums.square += weight * static_cast<double>(row[i]) * static_cast<double>(row[i]);
    }
    return sums;
  }

  ModelFile& file_;
  const std::string& out_;
  const QuantizeOptions& options_;
  ThreadPool& pool_;
  const Progress& progress_;
  QuantizeReport report_;
  GgmlVocabulary vocabulary_;
  PartWriter* part_ = nullptr;  // the writer's
  std::unique_ptr<GgufWriter> writer_;
  uint64_t done_ = 0;  // bytes of the source's tensors
  // Of the tensor at work.
  std::vector<std::vector<float>> means_;
  std::vector<float> values_;
  std::vector<uint8_t> blocks_;
  std::vector<ErrorSums> row_sums_;
  std::vector<float> errors_;        // [rows][columns], where they are to be corrected
  std::optional<GramsAhead> grams_;  // of this one and those to come
};

}  // namespace

Result<QuantizeReport> PlanQuantize(const ModelFile& file, const QuantizeOptions& options) {
  BANTAM_ASSIGN(const MixFacts facts, MixFacts::Of(file, options.importance != nullptr));
  QuantizeReport report;
  std::vector<std::string> with_gram;
  for (const TensorInfo& tensor : file.directory.tensors()) {
    TensorReport told;
    told.name = std::string(tensor.name);
    told.from = tensor.dtype;
    if (IsCompressible(tensor)) {
      told.wanted = options.recipe.Of(tensor, facts);
      told.to = FittingType(told.wanted, tensor.columns());
    } else {
      // Vectors that folders have in two bytes are four in GGUF files, and other programs count on that.
      const bool halves = tensor.dtype == DType::kF16 || tensor.dtype == DType::kBF16;
      told.wanted = told.to = halves ? DType::kF32 : tensor.dtype;
    }
    told.elements = tensor.elements();
    told.bytes = tensor.elements() / tensor.columns() * RowBytes(told.to, tensor.columns());
    if (told.to != told.from) told.group = options.recipe.GroupOf(told.to, tensor.columns());
    BANTAM_TRY(CheckTensor(tensor, told.to, options.own_formats).With(file.path));
    // The table of tokens is looked up too, and there columns are not summed.
    told.feedback = options.feedback != nullptr && told.to != told.from && TakesFeedback(told.to) && tensor.matrices() == 1 &&
                    told.name != "token_embd.weight" && options.feedback->GramBytes({told.name}) > 0;
    const bool corrected = options.correctable != nullptr && options.correctable->contains(told.name) && told.to != told.from &&
                           Info(told.to).decode != nullptr && IsCorrectable(tensor.rows(), tensor.columns(), options.correct_rank);
    if (corrected) {
      told.correction_rank = options.correct_rank;
      told.first_correction_bytes = told.correction_rank * RowBytes(CorrectionType(tensor.columns()), tensor.columns());
      told.correction_bytes =
          told.first_correction_bytes + tensor.rows() * RowBytes(CorrectionType(told.correction_rank), told.correction_rank);
    }
    report.source_bytes += tensor.size_bytes;
    report.bytes += told.bytes + told.correction_bytes;
    report.elements += told.elements;
    report.tensors.push_back(std::move(told));
  }
  if (report.tensors.empty()) {
    return Error(Code::kInvalidArgument, fmt::format("{}: a vocabulary and no weights; name the file of a model", file.path));
  }
  const auto measured = [&](const TensorReport& told) { return options.importance->Find(told.name) != nullptr; };
  if (options.importance != nullptr && std::none_of(report.tensors.begin(), report.tensors.end(), measured)) {
    return Error(Code::kInvalidArgument,
                 fmt::format("{}: the importance is of no tensor that it has; it was measured on another model", file.path));
  }
  return report;
}

WorkMemory QuantizeWork(const ModelFile& file, const QuantizeReport& plan, bool made) {
  WorkMemory work;
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    const TensorReport& told = plan.tensors[i];
    const TensorInfo& tensor = file.directory.tensors()[i];
    const WorkShape shape = {tensor.rows(), tensor.columns()};
    // Floats and blocks of some rows.
    uint64_t bytes = 2 * sizeof(float) * std::min<uint64_t>(kPieceFloats, tensor.elements());
    if (made) bytes += tensor.elements() * sizeof(float);
    if (told.correction_rank > 0) bytes += CorrectingBytes(shape, told.correction_rank, told.feedback);
    if (told.correction_rank == 0 && told.feedback) bytes += FactoringBytes(shape.columns);
    work.Take(bytes, told.name);
  }
  return work;
}

Result<QuantizeReport> QuantizeModel(FileSystem& files, Disk& disk, ModelFile& file, const std::string& out, const QuantizeOptions& options,
                                     ThreadPool& pool, const Progress& progress) {
  Result<QuantizeReport> report = Quantizer(file, out, options, pool, progress).Run(files, disk);
  if (!report.ok() && report.error().code() == Code::kCorrupt) {
    // The same would end here again.
    for (const char* end : {".part", ".part.json"}) BANTAM_TRY(disk.RemoveTree(out + end));
  }
  return report;
}

}  // namespace bantam
