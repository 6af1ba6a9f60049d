#include "compress/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>
#include <utility>

#include "base/bytes.h"
#include "base/memory_budget.h"
#include "compress/error_feedback.h"
#include "compress/ggml_vocabulary.h"
#include "compress/grams_ahead.h"
#include "formats/gguf_writer.h"
#include "formats/tensor_rows.h"
#include "security/sha256.h"
#include "tensor/group_pack.h"

namespace bantam {
namespace {

constexpr uint64_t kPieceFloats = uint64_t{2} << 20;
constexpr std::string_view kFileTypeKey = "general.file_type";
constexpr std::string_view kVersionKey = "general.quantization_version";
constexpr uint64_t kQuantizationVersion = 2;

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
      if (part_->position() + told.bytes <= part_->kept()) {
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
      text += fmt::format("{} {} {} {}\n", tensor.name, Info(tensor.to).name, tensor.group, tensor.feedback);
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

  std::vector<MetadataEntry> MakeMetadata() const {
    std::vector<MetadataEntry> metadata;
    for (const MetadataEntry& entry : file_.metadata.entries()) {
      if (entry.key.starts_with("split.") || entry.key == kVersionKey || (entry.key == kFileTypeKey && !options_.keep_file_type)) continue;
      const bool again = std::any_of(vocabulary_.entries.begin(), vocabulary_.entries.end(),
                                     [&](const MetadataEntry& made) { return made.key == entry.key; });
      if (again || (!vocabulary_.entries.empty() && IsFolderVocabularyKey(entry.key))) continue;
      metadata.push_back(entry);
    }
    metadata.insert(metadata.end(), vocabulary_.entries.begin(), vocabulary_.entries.end());
    metadata.push_back({kVersionKey, kQuantizationVersion, ValueType::kU32});
    if (!options_.keep_file_type || file_.metadata.Find(kFileTypeKey) == nullptr) {
      metadata.push_back({kFileTypeKey, uint64_t{options_.recipe.type().file_type}, ValueType::kU32});
    }
    return metadata;
  }

  std::vector<GgufTensor> MakeDirectory() const {
    std::vector<GgufTensor> tensors;
    for (size_t i = 0; i < report_.tensors.size(); ++i) {
      const TensorInfo& tensor = file_.directory.tensors()[i];
      tensors.push_back({std::string(tensor.name), report_.tensors[i].to, {tensor.dimensions, tensor.dimensions + tensor.n_dimensions}});
    }
    return tensors;
  }

  Status TakeKept(TensorReport& told) {
    told.error.reset();
    std::vector<std::byte> bytes(std::min<uint64_t>(told.bytes, uint64_t{1} << 20));
    for (uint64_t done = 0; done < told.bytes;) {
      const size_t n = static_cast<size_t>(std::min<uint64_t>(bytes.size(), told.bytes - done));
      BANTAM_ASSIGN(const size_t got, part_->Kept(part_->position(), std::span(bytes).first(n)));
      if (got == 0) return Error(Code::kUnavailable, fmt::format("{}.part became shorter; try again", out_));
      BANTAM_TRY(writer_->Append(std::span(bytes).first(got)));
      done += got;
    }
    report_.resumed_bytes += told.bytes;
    return Tell(0);
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
    const auto pack = [&](const TensorRows& rows) -> Status {
      BANTAM_TRY(PackRows(tensor, told, rows, factor.get(), &sums));
      return Tell((rows.matrix * tensor.rows() + rows.first + rows.count) * row_bytes);
    };
    BANTAM_TRY(ForEachRows(tensor, *file_.source, at_once, pack));
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
    return grams_->TakeFactor(told.name, *options_.kernels, pool_, ColumnOrder::kLargestFirst);
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
        Status packed = told.group == 0 ? PackRow(told.to, row, means, blocks) : PackGroups(told.to, told.group, row, means, blocks);
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
        row_sums_[r] = RowError(std::span(values_).subspan(r * columns, columns), back, means);
      }
    });
    if (failed) return Error(failed->second).With(fmt::format("row {}", rows.first + failed->first));
    for (const ErrorSums& row : row_sums_) *sums = {sums->error + row.error, sums->square + row.square};
    return writer_->Append(std::as_bytes(std::span(blocks_)));
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
    report.source_bytes += tensor.size_bytes;
    report.bytes += told.bytes;
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
