#include "compress/prune.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <optional>

#include "compress/pruned_source.h"
#include "compress/recipe.h"
#include "model/arch/registry.h"
#include "model/load.h"

namespace bantam {
namespace {

// What a tensor of a layer is called, "blk.3.attn_q.weight": its layer, and "attn_q.weight".
struct LayerTensor {
  size_t layer;
  std::string_view name;
};
std::optional<LayerTensor> OfLayer(std::string_view name) {
  if (!name.starts_with("blk.")) return std::nullopt;
  const size_t dot = name.find('.', 4);
  if (dot == std::string_view::npos || dot == 4 || dot > 8) return std::nullopt;
  size_t layer = 0;
  for (const char c : name.substr(4, dot - 4)) {
    if (c < '0' || c > '9') return std::nullopt;
    layer = 10 * layer + static_cast<size_t>(c - '0');
  }
  return LayerTensor{layer, name.substr(dot + 1)};
}

// The elements of these heads.
std::vector<uint32_t> ElementsOf(const std::vector<uint32_t>& heads, size_t head_dim) {
  std::vector<uint32_t> elements;
  for (const uint32_t head : heads) {
    for (size_t i = 0; i < head_dim; ++i) elements.push_back(static_cast<uint32_t>(head * head_dim + i));
  }
  return elements;
}

// The `count` with the largest scores, ascending.
std::vector<uint32_t> Largest(std::span<const double> scores, size_t count) {
  std::vector<uint32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return scores[a] > scores[b]; });
  order.resize(count);
  std::sort(order.begin(), order.end());
  return order;
}

class Pruner {
 public:
  // Without statistics it is only tried: what has the largest scores means nothing then.
  Pruner(ModelFile& file, const PruneOptions& options, bool measured = true) : file_(file), options_(options), measured_(measured) {}

  Result<PrunedModel> Run() {
    BANTAM_ASSIGN(config_, ReadConfig(file_));
    if (config_.whole_texts || config_.predictors > 0) {
      return Refused(config_.predictors > 0 ? "it has blocks that predict further tokens" : "it is an encoder");
    }
    for (const TensorInfo& tensor : file_.directory.tensors()) cuts_.push_back({&tensor, std::string(tensor.name)});
    wanted_ = config_.layers;
    switch (options_.what) {
      case PruneWhat::kLayers:
        BANTAM_TRY(CutLayers());
        break;
      case PruneWhat::kFeedForward:
        BANTAM_TRY(CutFeedForward());
        break;
      case PruneWhat::kHeads:
        BANTAM_TRY(CutHeads());
        break;
      case PruneWhat::kWeights:
        BANTAM_TRY(MakeZeros());
        break;
    }
    BANTAM_TRY(Assemble());
    BANTAM_TRY(CheckModel());
    return std::move(made_);
  }

 private:
  Error Refused(std::string_view why) const {
    return Error(Code::kUnsupported,
                 fmt::format("{}: {} cannot be cut in {}: {}", file_.path, NameOf(options_.what), config_.architecture, why));
  }
  static std::string_view NameOf(PruneWhat what) {
    switch (what) {
      case PruneWhat::kLayers:
        return "layers";
      case PruneWhat::kFeedForward:
        return "feed-forward width";
      case PruneWhat::kHeads:
        return "heads";
      case PruneWhat::kWeights:
        return "weights";
    }
    return "";
  }
  std::string Key(std::string_view key) const { return fmt::format("{}.{}", config_.architecture, key); }

  // ---- Layers ----
  Status CutLayers() {
    std::vector<uint32_t> place(config_.layers.size());  // of each layer in the new model
    uint32_t next = 0;
    wanted_.clear();
    for (size_t layer = 0; layer < place.size(); ++layer) {
      const bool goes = std::find(options_.layers.begin(), options_.layers.end(), layer) != options_.layers.end();
      place[layer] = goes ? UINT32_MAX : next++;
      if (!goes) wanted_.push_back(config_.layers[layer]);
    }
    if (wanted_.empty() || wanted_.size() == place.size()) {
      return Error(Code::kInvalidArgument, fmt::format("{} of {} layers would be left", wanted_.size(), place.size()));
    }
    std::vector<TensorCut> kept;
    for (TensorCut& cut : cuts_) {
      const auto of = OfLayer(cut.from->name);
      if (of && of->layer >= place.size()) return Refused(fmt::format("tensor {} is of no layer", cut.from->name));
      if (of && place[of->layer] == UINT32_MAX) continue;
      if (of) cut.name = fmt::format("blk.{}.{}", place[of->layer], of->name);
      kept.push_back(std::move(cut));
    }
    cuts_ = std::move(kept);
    counts_[Key("block_count")] = {static_cast<uint32_t>(wanted_.size())};
    place_ = std::move(place);
    made_.report = {std::string(NameOf(options_.what)), fmt::format("{}", config_.layers.size()), fmt::format("{}", wanted_.size())};
    made_.report.dropped = options_.layers;
    return Ok();
  }

  // ---- Columns of a product's second matrix, and the rows that make them ----
  const TensorInfo* Find(size_t layer, std::string_view name) const { return file_.directory.Find(fmt::format("blk.{}.{}", layer, name)); }
  TensorCut* CutOf(size_t layer, std::string_view name) {
    const TensorInfo* tensor = Find(layer, name);
    return tensor == nullptr ? nullptr : &cuts_[static_cast<size_t>(tensor - file_.directory.tensors().data())];
  }

  // What each column of a matrix adds to the output: the square of its weights times the mean square of what it is multiplied with.
  Result<std::vector<double>> ColumnScores(const TensorInfo& tensor) {
    if (!measured_) return std::vector<double>(tensor.columns());
    const ColumnImportance* importance = options_.importance->Find(tensor.name);
    if (importance == nullptr || importance->columns != tensor.columns() || importance->matrices() != 1 ||
        (options_.refit && options_.calibrator->GramBytes({std::string(tensor.name)}) == 0)) {
      return Refused(fmt::format("tensor {} is read in a way that calibration does not know", tensor.name));
    }
    BANTAM_ASSIGN(const std::vector<float> values, ReadValues(tensor, *file_.source));
    const std::vector<float> means = importance->Means(/*matrix=*/0);
    std::vector<double> scores(tensor.columns());
    for (size_t i = 0; i < values.size(); ++i) scores[i % scores.size()] += static_cast<double>(values[i]) * static_cast<double>(values[i]);
    for (size_t j = 0; j < scores.size(); ++j) scores[j] *= static_cast<double>(means[j]);
    return scores;
  }

  // Refuses tensors of a layer whose names begin like this, unless they are known.
  Status CheckKnown(size_t layer, std::string_view begin, std::initializer_list<std::string_view> known) const {
    for (const TensorInfo& tensor : file_.directory.tensors()) {
      const auto of = OfLayer(tensor.name);
      if (!of || of->layer != layer || !of->name.starts_with(begin)) continue;
      const std::string_view stem = of->name.substr(0, of->name.find('.'));
      if (std::find(known.begin(), known.end(), stem) == known.end() || !(of->name.ends_with(".weight") || of->name.ends_with(".bias"))) {
        return Refused(fmt::format("tensor {} is not known to go along", tensor.name));
      }
    }
    return Ok();
  }

  // Tensors that have a row (or element) for each of what is cut; false: the first of them is not there.
  bool CutRows(size_t layer, std::initializer_list<const char*> names, const std::vector<uint32_t>& rows) {
    for (const char* name : names) {
      TensorCut* cut = CutOf(layer, name);
      if (cut == nullptr && name == *names.begin()) return false;
      if (cut != nullptr) cut->rows = rows;
    }
    return true;
  }

  Status CutColumns(size_t layer, const char* name, std::vector<uint32_t> columns) {
    TensorCut* cut = CutOf(layer, name);
    cut->columns = std::move(columns);
    cut->refit = options_.refit;
    return Ok();
  }

  // ---- Feed-forward ----
  Status CutFeedForward() {
    std::vector<uint32_t> widths;
    for (size_t layer = 0; layer < config_.layers.size(); ++layer) {
      LayerPlan& plan = wanted_[layer];
      const size_t width = plan.feed_forward_width;
      const bool dense = plan.feed_forward == FeedForward::kGated || plan.feed_forward == FeedForward::kPlain;
      if (!dense || plan.weights != kNone || plan.sparse_gate || config_.inner_norms) {
        return Refused(fmt::format("layer {} has experts, or a feed-forward of another kind", layer));
      }
      BANTAM_TRY(CheckKnown(layer, "ffn_", {"ffn_down", "ffn_up", "ffn_gate", "ffn_norm", "ffn_post_norm"}));
      const TensorInfo* down = Find(layer, "ffn_down.weight");
      if (down == nullptr || down->columns() != width) return Refused(fmt::format("layer {} has no ffn_down of its width", layer));
      const size_t kept = RoundedWidth(width, options_.part);
      if (kept >= width) {
        return Error(Code::kInvalidArgument,
                     fmt::format("{}: a width of {} stays {} when it is rounded; take more away", file_.path, width, kept));
      }
      BANTAM_ASSIGN(const std::vector<double> scores, ColumnScores(*down));
      const std::vector<uint32_t> columns = Largest(scores, kept);
      std::vector<uint32_t> up = columns;
      if (config_.gate_and_up_in_one) {
        for (const uint32_t column : columns) up.push_back(static_cast<uint32_t>(column + width));
      }
      const bool gated = plan.feed_forward == FeedForward::kGated && !config_.gate_and_up_in_one;
      if (!CutRows(layer, {"ffn_up.weight", "ffn_up.bias"}, up) ||
          (gated && !CutRows(layer, {"ffn_gate.weight", "ffn_gate.bias"}, columns))) {
        return Refused(fmt::format("layer {} has no matrix ffn_up, or ffn_gate", layer));
      }
      BANTAM_TRY(CutColumns(layer, "ffn_down.weight", columns));
      plan.feed_forward_width = kept;
      widths.push_back(static_cast<uint32_t>(kept));
    }
    counts_[Key("feed_forward_length")] = widths;
    made_.report = {std::string(NameOf(options_.what)), fmt::format("{}", config_.layers[0].feed_forward_width),
                    fmt::format("{}", widths[0])};
    return Ok();
  }

  // ---- Heads ----
  // Heads that share keys and values stay together: where several do, each group loses as many; else keys and values go with their head.
  Status CutHeads() {
    std::vector<uint32_t> heads, kv_heads;
    if (config_.alibi_max_bias != 0) return Refused("its biases of positions depend on the number of heads");
    for (size_t layer = 0; layer < config_.layers.size(); ++layer) {
      LayerPlan& plan = wanted_[layer];
      const bool plain = plan.mixer == Mixer::kAttention && plan.weights == kNone && plan.kv_of == kNone && !config_.sinks &&
                         !config_.output_gates && !config_.inner_norms && config_.query_key_norm != QueryKeyNorm::kRows &&
                         !config_.keys_as_values && Find(layer, "attn_qkv.weight") == nullptr;
      if (!plain) return Refused(fmt::format("attention of layer {} is of another kind", layer));
      BANTAM_TRY(CheckKnown(layer, "attn_",
                            {"attn_q", "attn_k", "attn_v", "attn_output", "attn_norm", "attn_q_norm", "attn_k_norm", "attn_post_norm"}));
      BANTAM_TRY(CutHeadsOf(layer, &plan));
      heads.push_back(static_cast<uint32_t>(plan.heads));
      kv_heads.push_back(static_cast<uint32_t>(plan.kv_heads));
    }
    const LayerPlan& first = config_.layers[0];
    counts_[Key("attention.head_count")] = heads;
    counts_[Key("attention.head_count_kv")] = kv_heads;
    for (const char* key : {"attention.key_length", "attention.value_length"}) {
      if (file_.metadata.Find(Key(key)) == nullptr) counts_[Key(key)] = {static_cast<uint32_t>(first.head_dim)};
    }
    if (!config_.ropes.empty() && file_.metadata.Find(Key("rope.dimension_count")) == nullptr) {
      counts_[Key("rope.dimension_count")] = {static_cast<uint32_t>(config_.ropes[0].rotated_dimensions)};
    }
    made_.report = {std::string(NameOf(options_.what)), fmt::format("{}", first.heads), fmt::format("{}", heads[0])};
    return Ok();
  }

  // Norms that each head has of its own (StableLM 2) go with it.
  void CutHeadNorms(size_t layer, std::string_view name, size_t heads, const std::vector<uint32_t>& staying) {
    const TensorInfo* norm = Find(layer, name);
    if (norm != nullptr && norm->n_dimensions > 1 && norm->rows() == heads) CutOf(layer, name)->rows = staying;
  }

  Status CutHeadsOf(size_t layer, LayerPlan* plan) {
    const TensorInfo* output = Find(layer, "attn_output.weight");
    if (output == nullptr || output->columns() != plan->heads * plan->head_dim) {
      return Refused(fmt::format("layer {} has no attn_output of its heads", layer));
    }
    const size_t group = plan->heads / plan->kv_heads;
    const size_t in_turn = group > 1 ? group : plan->heads;  // of which as many go
    const auto kept = static_cast<size_t>(std::lround(static_cast<double>(in_turn) * (1 - options_.part)));
    if (kept == 0 || kept == in_turn) {
      return Error(Code::kInvalidArgument, fmt::format("{}: {} of each {} heads would be left; take {} away", file_.path, kept, in_turn,
                                                       kept == 0 ? "less" : "more"));
    }
    BANTAM_ASSIGN(const std::vector<double> scores, ColumnScores(*output));
    std::vector<double> of_heads(plan->heads);
    for (size_t j = 0; j < scores.size(); ++j) of_heads[j / plan->head_dim] += scores[j];
    std::vector<uint32_t> staying;
    for (size_t first = 0; first < plan->heads; first += in_turn) {
      for (const uint32_t head : Largest(std::span(of_heads).subspan(first, in_turn), kept)) {
        staying.push_back(static_cast<uint32_t>(first + head));
      }
    }
    const std::vector<uint32_t> elements = ElementsOf(staying, plan->head_dim);
    bool found = CutRows(layer, {"attn_q.weight", "attn_q.bias"}, elements);
    CutHeadNorms(layer, "attn_q_norm.weight", plan->heads, staying);
    if (group == 1) {
      found =
          found && CutRows(layer, {"attn_k.weight", "attn_k.bias"}, elements) && CutRows(layer, {"attn_v.weight", "attn_v.bias"}, elements);
      CutHeadNorms(layer, "attn_k_norm.weight", plan->kv_heads, staying);
      plan->kv_heads = staying.size();
    }
    if (!found) return Refused(fmt::format("layer {} has no matrices attn_q, attn_k and attn_v", layer));
    plan->heads = staying.size();
    return CutColumns(layer, "attn_output.weight", elements);
  }

  // ---- Weights ----
  Status MakeZeros() {
    size_t count = 0;
    for (TensorCut& cut : cuts_) {
      if (!OfLayer(cut.from->name) || !IsCompressible(*cut.from)) continue;
      const std::string name(cut.from->name);
      if (cut.from->matrices() != 1) return Refused(fmt::format("tensor {} holds experts", name));
      if (Info(cut.from->dtype).decode != nullptr) {
        return Refused(fmt::format("tensor {} is {}, whose blocks may have no zero; prune the model before it is quantised", name,
                                   Info(cut.from->dtype).name));
      }
      const bool known = !measured_ || options_.method == SparseMethod::kMagnitude ||
                         (options_.method == SparseMethod::kWanda ? options_.importance->Find(name) != nullptr
                                                                  : options_.calibrator->GramBytes({name}) > 0);
      if (!known) return Refused(fmt::format("tensor {} is read in a way that calibration does not know", name));
      cut.zeros = true;
      ++count;
    }
    if (count == 0) return Refused("it has no matrices in layers");
    const double part = options_.sparsity.zeros == 0
                            ? options_.sparsity.part
                            : static_cast<double>(options_.sparsity.zeros) / static_cast<double>(options_.sparsity.group);
    made_.report = {"weights that are zero", "0 %", fmt::format("{:.0f} % in {} matrices", 100 * part, count)};
    return Ok();
  }

  // ---- The new file ----
  // One number, or one a layer where the old file has it so.
  MetadataEntry CountEntry(const std::string& key, const std::vector<uint32_t>& counts, bool list, PrunedSource* source) const {
    const std::string_view kept = source->Keep(key);
    const bool same = std::all_of(counts.begin(), counts.end(), [&](uint32_t count) { return count == counts[0]; });
    if (!list && same) return {kept, uint64_t{counts[0]}, ValueType::kU32};
    std::string bytes(counts.size() * sizeof(uint32_t), '\0');
    std::memcpy(bytes.data(), counts.data(), bytes.size());
    const std::string_view view = source->Keep(std::move(bytes));
    return {kept, MetadataArray{ValueType::kU32, counts.size(), std::as_bytes(std::span(view))}, ValueType::kU32};
  }

  // Lists that have a number for each layer lose those of the layers that go.
  MetadataEntry Shortened(const MetadataEntry& entry, PrunedSource* source) const {
    const auto* list = std::get_if<MetadataArray>(&entry.value);
    const size_t size = list == nullptr ? 0 : ElementBytes(list->type);
    if (place_.empty() || size == 0 || list->count != place_.size() || !entry.key.starts_with(config_.architecture + ".")) return entry;
    std::string bytes;
    for (size_t layer = 0; layer < place_.size(); ++layer) {
      if (place_[layer] != UINT32_MAX) bytes.append(reinterpret_cast<const char*>(list->bytes.data()) + layer * size, size);
    }
    const std::string_view view = source->Keep(std::move(bytes));
    return {entry.key, MetadataArray{list->type, view.size() / size, std::as_bytes(std::span(view))}, entry.stored};
  }

  Status Assemble() {
    for (const TensorCut& cut : cuts_) made_.formats.push_back(cut.from->dtype);
    made_.selection = DigestOfCuts();
    auto source = std::make_unique<PrunedSource>(*file_.source, std::move(cuts_), options_);
    std::vector<MetadataEntry> entries;
    for (const MetadataEntry& entry : file_.metadata.entries()) {
      const auto changed = counts_.find(std::string(entry.key));
      if (changed == counts_.end()) {
        entries.push_back(Shortened(entry, source.get()));
        continue;
      }
      entries.push_back(CountEntry(changed->first, changed->second, std::holds_alternative<MetadataArray>(entry.value), source.get()));
      counts_.erase(changed);
    }
    for (const auto& [key, counts] : counts_) entries.push_back(CountEntry(key, counts, /*list=*/false, source.get()));
    ModelFile& made = made_.file;
    made.path = file_.path;
    made.further_paths = file_.further_paths;
    made.format = file_.format;
    BANTAM_ASSIGN(made.metadata, Metadata::Make(std::move(entries)));
    BANTAM_ASSIGN(made.directory, TensorDirectory::Make(source->tensors()));
    for (const TensorInfo& tensor : made.directory.tensors()) made.size_bytes += tensor.size_bytes;
    made.source = std::move(source);
    return Ok();
  }

  Digest DigestOfCuts() const {
    Sha256 hash;
    for (const TensorCut& cut : cuts_) {
      hash.Update(std::as_bytes(std::span(cut.name)));
      for (const auto* kept : {&cut.rows, &cut.columns}) {
        const uint64_t count = kept->size();
        hash.Update(std::as_bytes(std::span(&count, 1)));
        hash.Update(std::as_bytes(std::span(*kept)));
      }
    }
    return hash.Finish();
  }

  // What families take from the number of layers.
  static bool SameBesideLayers(const Config& a, const Config& b) {
    const auto same_rope = [](const RopeSpec& one, const RopeSpec& other) {
      return one.rotated_dimensions == other.rotated_dimensions && one.base == other.base && one.factor == other.factor;
    };
    return a.attention_scale == b.attention_scale && a.alibi_max_bias == b.alibi_max_bias && a.residual_scale == b.residual_scale &&
           a.embedding_scale == b.embedding_scale && a.logit_scale == b.logit_scale && a.attention_softcap == b.attention_softcap &&
           a.logit_softcap == b.logit_softcap && a.parallel == b.parallel && a.query_key_norm == b.query_key_norm &&
           std::equal(a.ropes.begin(), a.ropes.end(), b.ropes.begin(), b.ropes.end(), same_rope);
  }

  static bool SameLayer(const LayerPlan& a, const LayerPlan& b) {
    return a.mixer == b.mixer && a.heads == b.heads && a.kv_heads == b.kv_heads && a.head_dim == b.head_dim && a.window == b.window &&
           a.rope == b.rope && a.attention_norm == b.attention_norm && a.sparse == b.sparse && a.weights == b.weights &&
           a.kv_of == b.kv_of && a.sparse_gate == b.sparse_gate && a.feed_forward == b.feed_forward &&
           a.feed_forward_width == b.feed_forward_width;
  }

  // What the family makes of the new file is what was meant: some families give layers their kind by their place.
  Status CheckModel() {
    BANTAM_ASSIGN(const KernelSet* kernels, ChooseKernels("ref"));
    const Result<ModelOutline> outline = OutlineModel(made_.file, *kernels);
    if (!outline.ok()) return Refused(outline.error().message());
    const std::vector<LayerPlan>& layers = outline->config.layers;
    const bool same = layers.size() == wanted_.size() && std::equal(layers.begin(), layers.end(), wanted_.begin(), SameLayer) &&
                      SameBesideLayers(outline->config, config_);
    if (!same) return Refused("its layers take their kind from their place or number");
    return Ok();
  }

  ModelFile& file_;
  const PruneOptions& options_;
  const bool measured_;
  Config config_;
  std::vector<TensorCut> cuts_;
  std::vector<LayerPlan> wanted_;
  std::vector<uint32_t> place_;                          // of layers that stay; empty: all do
  std::map<std::string, std::vector<uint32_t>> counts_;  // metadata that changes: one, or one a layer
  PrunedModel made_;
};

}  // namespace

Status CheckPrunable(ModelFile& file, const PruneOptions& options) {
  BANTAM_TRY(Pruner(file, options, /*measured=*/false).Run());
  return Ok();
}

WorkMemory PruneWork(const ModelFile& file, const PruneOptions& options) {
  WorkMemory work;
  for (const TensorInfo& tensor : file.directory.tensors()) {
    const auto of = OfLayer(tensor.name);
    if (!of || !IsCompressible(tensor) || tensor.matrices() != 1) continue;
    const WorkShape shape = {tensor.rows(), tensor.columns()};
    uint64_t bytes = 2 * shape.floats_bytes();  // as it is, and as it becomes
    switch (options.what) {
      case PruneWhat::kLayers:
        return work;
      case PruneWhat::kFeedForward:
        if (options.refit && of->name == "ffn_down.weight") bytes = RefittingBytes(shape);
        break;
      case PruneWhat::kHeads:
        if (options.refit && of->name == "attn_output.weight") bytes = RefittingBytes(shape);
        break;
      case PruneWhat::kWeights:
        bytes = options.method == SparseMethod::kSparseGpt ? SparseGptBytes(shape) : ZeroingBytes(shape);
        break;
    }
    work.Take(bytes, tensor.name);
  }
  return work;
}

size_t RoundedWidth(size_t width, double part) {
  size_t unit = 1;
  for (const size_t finer : {4u, 32u, 256u}) {
    if (width % finer == 0 && width >= 8 * finer) unit = finer;
  }
  const double kept = static_cast<double>(width) * (1 - part) / static_cast<double>(unit);
  return std::max<size_t>(1, static_cast<size_t>(std::lround(kept))) * unit;
}

Result<PrunedModel> PruneModel(ModelFile& file, const PruneOptions& options) {
  CHECK(options.what == PruneWhat::kLayers || options.what == PruneWhat::kWeights || (options.part > 0 && options.part < 1));
  return Pruner(file, options).Run();
}

}  // namespace bantam
