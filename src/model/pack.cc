#include "model/pack.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <utility>

#include "base/json.h"
#include "formats/gguf_writer.h"
#include "formats/package_layout.h"
#include "formats/package_writer.h"
#include "formats/tensor_rows.h"
#include "kernels/ref/ref.h"
#include "model/load.h"
#include "model/vocabulary.h"
#include "program/memory_plan.h"

namespace bantam {
namespace {

constexpr uint64_t kPieceBytes = uint64_t{4} << 20;
constexpr int kJsonIndent = 2;
constexpr std::string_view kTemplateKey = "tokenizer.chat_template";
// Pairs that only the vocabulary is made of.
constexpr std::string_view kVocabularyKeys[] = {"tokenizer.ggml.tokens",        "tokenizer.ggml.scores",
                                                "tokenizer.ggml.token_type",    "tokenizer.ggml.merges",
                                                "tokenizer.huggingface.json",   "tokenizer.ggml.precompiled_charsmap",
                                                "tokenizer.huggingface.config", "tokenizer.sentencepiece.model"};
constexpr std::string_view kLicenceNames[] = {"LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING"};

Error Interrupted(const std::string& path) { return Error(Code::kCancelled, fmt::format("{}: interrupted; nothing was written", path)); }

// Panels, for tensors that products read as whole ones and nothing else reads, unless they are much larger than blocks; those are stored
// beside the blocks with `both`.
std::vector<StoredForm> WantedForms(const Program& program, const TensorDirectory& directory, bool both) {
  struct Uses {
    bool as_panels = false;
    bool otherwise = false;
  };
  std::map<std::string_view, Uses> uses;
  for (const WeightSpec& spec : program.weights) {
    const bool fits = spec.storage == WeightStorage::kPanels && ReadsWholePanels(spec, *directory.Find(spec.name));
    Uses& of_tensor = uses[spec.name];
    (fits ? of_tensor.as_panels : of_tensor.otherwise) = true;
  }
  std::vector<StoredForm> list;
  for (const TensorInfo& tensor : directory.tensors()) {
    const auto [as_panels, otherwise] = uses[tensor.name];
    StoredForm form = StoredForm::kBlocks;
    if (as_panels && both && PanelsAreLarge(tensor.dtype)) form = StoredForm::kBlocksAndPanels;
    if (as_panels && !otherwise && !PanelsAreLarge(tensor.dtype)) form = StoredForm::kPanels;
    list.push_back(form);
  }
  return list;
}

// Whole panels, a few MiB at once.
template <typename Visit>
Status ForEachPiece(const TensorInfo& tensor, TensorSource& source, const Visit& visit) {
  const uint64_t row_bytes = RowBytes(tensor.dtype, tensor.columns());
  return ForEachRows(tensor, source, std::max<uint64_t>(1, kPieceBytes / (row_bytes * kPanelRows)) * kPanelRows, visit);
}

// What is told of a format's weights.
struct FormatSum {
  size_t tensors = 0;
  uint64_t weights = 0;
  uint64_t bytes = 0;  // in the package
  uint64_t zeros = 0;
};

class Packer {
 public:
  Packer(ModelFile& file, const std::string& out, ThreadPool& pool, const Progress& progress)
      : file_(file), out_(out), pool_(pool), progress_(progress) {
    for (const TensorInfo& tensor : file.directory.tensors()) total_ += 2 * tensor.size_bytes;
  }

  // Which tensors become panels, where all of them stand, and how many zeros they have.
  Status Survey(const Program& program, bool both, PackReport* report) {
    const std::vector<StoredForm> wanted = WantedForms(program, file_.directory, both);
    const auto& tensors = file_.directory.tensors();
    for (size_t i = 0; i < tensors.size(); ++i) {
      bool panels = wanted[i] == StoredForm::kPanels;
      uint64_t zeros = 0;
      BANTAM_TRY(ForEachPiece(tensors[i], *file_.source,
                              [&](const TensorRows& piece) { return SurveyPiece(tensors[i], piece, &panels, &zeros); }));
      const bool otherwise = wanted[i] == StoredForm::kPanels && !panels;
      if (otherwise) report->spelled_otherwise.emplace_back(tensors[i].name);
      packed_.push_back({tensors[i], otherwise ? StoredForm::kBlocks : wanted[i], RoundUp(weights_bytes_, kPackageTensorAlignment)});
      const PackedTensor& tensor = packed_.back();
      weights_bytes_ = tensor.end();
      FormatSum& sum = sums_[Info(tensors[i].dtype).name];
      sum = {sum.tensors + 1, sum.weights + tensors[i].elements(), sum.bytes + tensor.end() - tensor.offset_bytes, sum.zeros + zeros};
      report->tensors_in_panels += tensor.has_panels() ? 1 : 0;
      if (tensor.has_panels() && tensor.has_blocks()) total_ += tensors[i].size_bytes;
    }
    report->tensors = tensors.size();
    return Ok();
  }

  const std::vector<PackedTensor>& packed() const { return packed_; }
  uint64_t weights_bytes() const { return weights_bytes_; }
  const std::map<std::string_view, FormatSum>& sums() const { return sums_; }

  Status WriteWeights(PackageWriter& writer) {
    uint64_t end = 0;
    const auto pad_to = [&](uint64_t offset) { return writer.Append(AsBytes(std::string(offset - end, '\0'))); };
    for (const PackedTensor& tensor : packed_) {
      const auto write = [&](bool panels) {
        return ForEachPiece(tensor.info, *file_.source,
                            [&](const TensorRows& piece) { return WritePiece(tensor.info, panels, piece, writer); });
      };
      if (tensor.has_blocks()) {
        BANTAM_TRY(pad_to(tensor.offset_bytes));
        BANTAM_TRY(write(/*panels=*/false));
        end = tensor.offset_bytes + tensor.info.size_bytes;
      }
      if (tensor.has_panels()) {
        BANTAM_TRY(pad_to(tensor.panels_offset()));
        BANTAM_TRY(write(/*panels=*/true));
        end = tensor.end();
      }
    }
    return Ok();
  }

 private:
  Status Report(uint64_t size_bytes) {
    done_ += size_bytes;
    return !progress_ || progress_("packing", done_, total_) ? Ok() : Interrupted(out_);
  }

  Status SurveyPiece(const TensorInfo& tensor, const TensorRows& piece, bool* panels, uint64_t* zeros) {
    const DType dtype = tensor.dtype;
    const size_t columns = tensor.columns();
    const size_t row_bytes = RowBytes(dtype, columns);
    std::atomic<uint64_t> zeros_found = 0;
    std::atomic<bool> equal = true;
    const bool try_panels = *panels;
    pool_.Run([&](int thread) {
      const auto [begin, end] = Share(PanelCount(piece.count), thread, pool_.size());
      std::vector<float> values(columns);
      std::vector<uint8_t> panel(try_panels ? PanelBytes(Info(dtype).panel, columns) : 0);
      std::vector<uint8_t> row(row_bytes);
      for (size_t p = begin; p < end; ++p) {
        const uint8_t* rows[kPanelRows] = {};
        const size_t count = std::min(kPanelRows, piece.count - p * kPanelRows);
        uint64_t zeros_here = 0;
        for (size_t r = 0; r < count; ++r) {
          rows[r] = piece.bytes + (p * kPanelRows + r) * row_bytes;
          Unpack(dtype, rows[r], columns, values.data());
          zeros_here += static_cast<uint64_t>(std::count(values.begin(), values.end(), 0.0f));
        }
        zeros_found += zeros_here;
        if (!try_panels) continue;
        PackPanel(dtype, rows, columns, panel.data());
        for (size_t r = 0; r < count; ++r) {
          UnpackPanelBlocks(dtype, panel.data(), r, columns, row.data());
          if (std::memcmp(row.data(), rows[r], row_bytes) != 0) equal = false;
        }
      }
    });
    *zeros += zeros_found;
    *panels = *panels && equal;
    return Report(piece.count * row_bytes);
  }

  Status WritePiece(const TensorInfo& tensor, bool panels, const TensorRows& piece, PackageWriter& writer) {
    const DType dtype = tensor.dtype;
    const size_t columns = tensor.columns();
    const size_t row_bytes = RowBytes(dtype, columns);
    std::span<const std::byte> bytes = std::as_bytes(std::span(piece.bytes, piece.count * row_bytes));
    if (panels) {
      panels_.resize(MatrixBytes(Info(dtype).panel, piece.count, columns));
      PackPanels({dtype, columns, piece.bytes, piece.count}, panels_.data(), pool_);
      bytes = std::as_bytes(std::span(panels_));
    }
    BANTAM_TRY(writer.Append(bytes));
    return Report(piece.count * row_bytes);
  }

  ModelFile& file_;
  const std::string& out_;
  ThreadPool& pool_;
  const Progress& progress_;
  std::vector<PackedTensor> packed_;
  uint64_t weights_bytes_ = 0;
  std::map<std::string_view, FormatSum> sums_;
  std::vector<uint8_t> panels_;
  uint64_t done_ = 0;
  uint64_t total_ = 0;
};

// Memory for contexts of powers of two, in the KV types that are usual.
Json MemoryHints(const Program& program) {
  constexpr size_t kContextsMax = 32768;
  Json list = Json::array();
  const size_t last = std::min(program.context_max, kContextsMax);
  for (size_t context = 512; context < 2 * last; context *= 2) {
    for (const KvType type : {KvType::kF16, KvType::kInt8}) {
      PlanOptions options;
      options.context = std::min(context, last);
      options.kv_type = type;
      options.threads = 2;
      const MemoryPlan plan = PlanMemory(program, options, {});
      list.push_back({{"context", options.context},
                      {"kv_type", KvTypeName(type)},
                      {"weights_bytes", plan.weights_bytes},
                      {"kv_bytes", plan.kv_bytes},
                      {"state_bytes", plan.state_bytes},
                      {"activations_bytes", plan.activations_bytes}});
    }
  }
  return list;
}

std::string Hints(const Packer& packer, const Program& program) {
  Json formats = Json::object();
  for (const auto& [name, sum] : packer.sums()) {
    formats[std::string(name)] = {{"tensors", sum.tensors}, {"weights", sum.weights}, {"bytes", sum.bytes}, {"zeros", sum.zeros}};
  }
  const Json hints = {{"version", 1}, {"formats", formats}, {"memory_of_2_threads", MemoryHints(program)}};
  return DumpJson(hints, kJsonIndent);
}

Result<std::string> Provenance(const ModelFile& file, const PackOptions& options) {
  Json sources = Json::array();
  for (const SourceFile& source : options.sources) {
    sources.push_back({{"name", source.name}, {"bytes", source.size_bytes}, {"sha256", HexOf(source.digest)}});
  }
  BANTAM_ASSIGN(const auto name, file.metadata.Text("general.name"));
  BANTAM_ASSIGN(const auto architecture, file.metadata.Text("general.architecture"));
  Json reports = Json::array();
  if (!options.report.empty()) {
    BANTAM_ASSIGN(Json report, ParseJson(options.report));
    reports.push_back(std::move(report));
  }
  const Json provenance = {{"version", 1},
                           {"model", {{"name", std::string(name.value_or(""))}, {"architecture", std::string(architecture.value_or(""))}}},
                           {"source", {{"format", file.format}, {"files", sources}}},
                           {"tool", {{"name", "bantam"}, {"version", options.tool_version}}},
                           {"options", {{"source_vocabulary", options.source_vocabulary}, {"fast_start", options.fast_start}}},
                           {"reports", reports}};
  return DumpJson(provenance, kJsonIndent);
}

// All sections in front of the weights, and behind them.
struct Parts {
  std::vector<std::pair<SectionPlan, std::string>> before;
  std::vector<std::pair<SectionPlan, std::string>> behind;

  static void Add(SectionKind kind, bool critical, std::string bytes, std::vector<std::pair<SectionPlan, std::string>>* list) {
    if (!bytes.empty()) list->push_back({{kind, critical, bytes.size()}, std::move(bytes)});
  }
};

void AddPairs(const ModelFile& file, const PackOptions& options, Parts* parts) {
  std::vector<PlacedPair> config;
  std::vector<PlacedPair> templates;
  std::vector<PlacedPair> vocabulary;
  uint32_t place = 0;
  for (const MetadataEntry& entry : file.metadata.entries()) {
    if (entry.key.starts_with("split.")) continue;  // it is one file now
    const bool of_vocabulary = std::find(std::begin(kVocabularyKeys), std::end(kVocabularyKeys), entry.key) != std::end(kVocabularyKeys);
    const bool of_templates = entry.key == kTemplateKey || entry.key.starts_with(std::string(kTemplateKey) + ".");
    (of_vocabulary ? vocabulary : of_templates ? templates : config).push_back({place++, entry});
  }
  Parts::Add(SectionKind::kConfig, /*critical=*/true, EncodePairs(config), &parts->before);
  if (!templates.empty()) Parts::Add(SectionKind::kTemplates, /*critical=*/true, EncodePairs(templates), &parts->before);
  if (options.source_vocabulary) Parts::Add(SectionKind::kSourceVocabulary, /*critical=*/false, EncodePairs(vocabulary), &parts->behind);
}

// Empty where the file has no vocabulary, or has one of a kind that this build does not know: such a model takes and gives numbers of
// tokens.
Result<std::string> Vocabulary(const ModelFile& file, PackReport* report) {
  Result<StoredTokenizer> stored = ReadStoredTokenizer(file);
  if (!stored.ok() && stored.error().code() == Code::kNotFound) return std::string();
  if (!stored.ok() && stored.error().code() == Code::kUnsupported) {
    report->without_tokenizer = stored.error().message();
    return std::string();
  }
  if (!stored.ok()) return std::move(stored).error();
  std::string bytes = EncodeTokenizer(*stored);
  // What nobody could use is not packed.
  const Result<Tokenizer> made = Tokenizer::Make(std::move(stored->spec));
  if (!made.ok()) return Error(made.error()).With(file.path);
  return bytes;
}

Status WriteParts(const std::vector<std::pair<SectionPlan, std::string>>& parts, PackageWriter& writer) {
  for (const auto& part : parts) BANTAM_TRY(writer.Append(AsBytes(part.second)));
  return Ok();
}

}  // namespace

Result<std::vector<SourceFile>> DigestSources(FileSystem& files, const ModelFile& file, const Progress& progress) {
  const std::string& path = file.path;
  std::vector<std::pair<std::string, std::string>> found;  // path and name
  const auto listed = files.List(path);
  if (!listed.ok()) found.emplace_back(path, path.substr(path.rfind('/') + 1));
  for (const std::string& further : file.further_paths) found.emplace_back(further, further.substr(further.rfind('/') + 1));
  for (const FileSystem::Entry& entry : listed.ok() ? *listed : std::vector<FileSystem::Entry>()) {
    const std::string_view name = entry.name;
    const bool matters = name.ends_with(".safetensors") || name.ends_with(".json") || name.ends_with(".model") ||
                         name.ends_with(".jinja") ||
                         std::find(std::begin(kLicenceNames), std::end(kLicenceNames), name) != std::end(kLicenceNames);
    if (matters && entry.size_bytes != 0) found.emplace_back(fmt::format("{}/{}", path, name), entry.name);
  }
  std::vector<SourceFile> sources;
  for (const auto& [file_path, name] : found) {
    BANTAM_ASSIGN(const auto mapping, files.Map(file_path));
    const auto bytes = mapping->bytes();
    Sha256 hash;
    for (size_t at = 0; at < bytes.size(); at += kPieceBytes) {
      const size_t count = std::min<size_t>(kPieceBytes, bytes.size() - at);
      hash.Update(bytes.subspan(at, count));
      mapping->Release(at, count);
      if (progress && !progress("reading " + name, at + count, bytes.size())) return Interrupted(path);
    }
    sources.push_back({name, bytes.size(), hash.Finish()});
  }
  return sources;
}

Result<std::string> FindLicence(FileSystem& files, const ModelFile& file) {
  for (const std::string_view name : kLicenceNames) {
    const std::string path = fmt::format("{}/{}", file.path, name);
    if (files.Exists(path)) return files.ReadText(path, kLicenceBytesMax);
  }
  BANTAM_ASSIGN(const auto licence, file.metadata.Text("general.license").With(file.path));
  return std::string(licence.value_or(""));
}

Result<PackReport> PackModel(FileSystem& files, ModelFile& file, const std::string& out, const PackOptions& options, ThreadPool& pool,
                             const Progress& progress) {
  if (file.directory.tensors().empty()) {
    return Error(Code::kInvalidArgument, fmt::format("{}: a vocabulary and no weights; name the file of a model", file.path));
  }
  PackReport report;
  BANTAM_ASSIGN(const ModelOutline outline, OutlineModel(file, kernels::kReference));
  Parts parts;
  AddPairs(file, options, &parts);
  BANTAM_ASSIGN(std::string vocabulary, Vocabulary(file, &report));
  Parts::Add(SectionKind::kTokenizer, /*critical=*/true, std::move(vocabulary), &parts.before);
  Packer packer(file, out, pool, progress);
  BANTAM_TRY(packer.Survey(outline.program, options.fast_start, &report));
  Parts::Add(SectionKind::kTensors, /*critical=*/true, EncodeTensors(packer.packed()), &parts.before);
  Parts::Add(SectionKind::kHints, /*critical=*/false, Hints(packer, outline.program), &parts.behind);
  BANTAM_ASSIGN(std::string provenance, Provenance(file, options));
  Parts::Add(SectionKind::kProvenance, /*critical=*/false, std::move(provenance), &parts.behind);
  Parts::Add(SectionKind::kLicence, /*critical=*/false, options.licence, &parts.behind);

  std::vector<SectionPlan> plan;
  for (const auto& part : parts.before) plan.push_back(part.first);
  plan.push_back({SectionKind::kWeights, /*critical=*/true, packer.weights_bytes()});
  for (const auto& part : parts.behind) plan.push_back(part.first);
  BANTAM_ASSIGN(const auto writer, PackageWriter::Make(files, out, plan));
  BANTAM_TRY(WriteParts(parts.before, *writer));
  BANTAM_TRY(packer.WriteWeights(*writer));
  BANTAM_TRY(WriteParts(parts.behind, *writer));
  if (options.watched != nullptr) BANTAM_TRY(options.watched->CheckUnchanged());
  BANTAM_ASSIGN(report.manifest, writer->Commit());
  return report;
}

Status UnpackModel(FileSystem& files, const std::string& path, const std::string& out, const Progress& progress) {
  BANTAM_ASSIGN(ModelFile file, OpenPackage(files, path, {.source_vocabulary = true}));
  const bool has_vocabulary = std::any_of(std::begin(kVocabularyKeys), std::end(kVocabularyKeys),
                                          [&](std::string_view key) { return file.metadata.Find(key) != nullptr; });
  if (!file.tokenizer.empty() && !has_vocabulary) {
    return Error(
        Code::kNotFound,
        fmt::format("{}: made without the source's vocabulary, which a GGUF file needs; unpack the package's source instead", path));
  }
  uint64_t total = 0;
  std::vector<GgufTensor> tensors;
  for (const TensorInfo& tensor : file.directory.tensors()) {
    tensors.push_back({std::string(tensor.name), tensor.dtype, {tensor.dimensions, tensor.dimensions + tensor.n_dimensions}});
    total += tensor.size_bytes;
  }
  BANTAM_ASSIGN(const auto writer, GgufWriter::Make(files, out, file.metadata.entries(), tensors));
  uint64_t done = 0;
  for (const TensorInfo& tensor : file.directory.tensors()) {
    const uint64_t row_bytes = RowBytes(tensor.dtype, tensor.columns());
    const auto append = [&](const TensorRows& piece) -> Status {
      BANTAM_TRY(writer->Append(std::as_bytes(std::span(piece.bytes, piece.count * row_bytes))));
      done += piece.count * row_bytes;
      return !progress || progress("unpacking", done, total) ? Ok() : Interrupted(out);
    };
    BANTAM_TRY(ForEachPiece(tensor, *file.source, append).With(path));
  }
  return writer->Commit();
}

}  // namespace bantam
