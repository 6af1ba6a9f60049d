#include "model/huggingface/folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "formats/assembled_source.h"
#include "formats/metadata_builder.h"
#include "formats/safetensors.h"
#include "model/config.h"
#include "model/huggingface/describe.h"
#include "model/huggingface/encoders.h"
#include "model/huggingface/linear_attention.h"
#include "model/huggingface/quantized_tensors.h"
#include "text/sentencepiece_model.h"
#include "text/tokenizer_json.h"

namespace bantam {
namespace {

std::string In(const std::string& folder, std::string_view name) { return fmt::format("{}/{}", folder, name); }

// A file of the folder itself: an index cannot lead out of it.
bool IsPlainName(std::string_view name) {
  return name.ends_with(".safetensors") && name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos && name[0] != '.';
}

// What the index says: which file holds which tensor.
struct WeightMap {
  std::vector<std::string> files;
  std::vector<std::pair<std::string, uint32_t>> tensors;  // name, and place in `files`
};

// Takes the map as it is read: it has a member for each tensor, and experts have many.
class IndexReader final : public JsonListener {
 public:
  explicit IndexReader(WeightMap* weights) : weights_(weights) {}
  bool Wants(std::string_view path) override {
    const bool wanted = path == "weight_map";
    if (wanted && std::exchange(begun_, true)) problem_ = "weight_map occurs twice; fetch the file again";
    return wanted;
  }
  void Text(std::string_view key, std::string& text) override {
    if (!IsPlainName(text)) return Refuse(key, ShortJson(text));
    if (weights_->tensors.size() == kSafetensorsTensorsMax) {
      too_many_ = true;
      return;
    }
    const auto [place, is_new] = places_.try_emplace(text, static_cast<uint32_t>(weights_->files.size()));
    if (is_new) weights_->files.push_back(std::move(text));
    weights_->tensors.emplace_back(key, place->second);
  }
  void Number(std::string_view key, double number) override { Refuse(key, fmt::format("{}", number)); }
  void Other(std::string_view key) override { Refuse(key, "no text"); }
  void Begin(std::string_view key, JsonContainer) override { Refuse(key, "no text"); }
  void End() override {}

  Status Check() const {
    if (!problem_.empty()) return Error(Code::kCorrupt, problem_);
    if (!too_many_) return Ok();
    return Error(Code::kExhausted, fmt::format("weight_map of more than {} tensors, which no model has", kSafetensorsTensorsMax));
  }

 private:
  void Refuse(std::string_view key, std::string_view found) {
    if (!problem_.empty()) return;
    problem_ = fmt::format("weight_map names {} for tensor {}: expected a .safetensors file of the same folder", found, key);
  }
  WeightMap* weights_;
  std::map<std::string, uint32_t> places_;  // of files
  std::string problem_;
  bool begun_ = false;
  bool too_many_ = false;
};

Result<WeightMap> ReadIndex(FileSystem& files, const std::string& path) {
  BANTAM_ASSIGN(const std::string text, files.ReadText(path, kHfIndexBytesMax));
  WeightMap weights;
  IndexReader reader(&weights);
  BANTAM_ASSIGN(const Json json, ParseJson(text, &reader));
  BANTAM_TRY(reader.Check());
  if (!JsonMember(json, "weight_map").is_object() || weights.tensors.empty()) {
    return Error(Code::kCorrupt, "weight_map is missing; fetch the file again");
  }
  std::sort(weights.tensors.begin(), weights.tensors.end());
  const auto same_name = [](const auto& a, const auto& b) { return a.first == b.first; };
  const auto twice = std::adjacent_find(weights.tensors.begin(), weights.tensors.end(), same_name);
  if (twice != weights.tensors.end()) {
    return Error(Code::kCorrupt, fmt::format("weight_map names tensor {} twice; fetch the file again", twice->first));
  }
  return weights;
}

// model.safetensors.index.json, or the only index there is (older quantisers name their files after the model); empty: none.
std::string FindIndex(FileSystem& files, const std::string& folder, const std::vector<FileSystem::Entry>& entries) {
  const std::string usual = In(folder, "model.safetensors.index.json");
  if (files.Exists(usual)) return usual;
  std::vector<std::string> found;
  for (const FileSystem::Entry& entry : entries) {
    if (entry.name.ends_with(".safetensors.index.json")) found.push_back(In(folder, entry.name));
  }
  return found.size() == 1 ? found[0] : std::string();
}

// The safetensors of a folder: those of the index, model.safetensors, or the only one there is.
Result<std::vector<std::string>> ShardNames(FileSystem& files, const std::string& folder, WeightMap* weights) {
  BANTAM_ASSIGN(auto entries, files.List(folder));
  const std::string index = FindIndex(files, folder, entries);
  if (!index.empty()) {
    BANTAM_ASSIGN(*weights, ReadIndex(files, index).With(index));
    if (weights->files.size() > kHfShardsMax) {
      return Error(Code::kCorrupt, fmt::format("{}: {} files, expected at most {}", index, weights->files.size(), kHfShardsMax));
    }
    return weights->files;
  }
  if (files.Exists(In(folder, "model.safetensors"))) return std::vector<std::string>{"model.safetensors"};
  const bool pickled = std::any_of(entries.begin(), entries.end(), [](const auto& entry) { return entry.name.ends_with(".bin"); });
  std::erase_if(entries, [](const FileSystem::Entry& entry) { return !IsPlainName(entry.name); });
  if (entries.size() == 1) return std::vector<std::string>{entries[0].name};
  if (!entries.empty()) {
    return Error(Code::kNotFound, fmt::format("{}: {} safetensors and no model.safetensors.index.json that says which are the model; fetch "
                                              "it too",
                                              folder, entries.size()));
  }
  return Error(Code::kNotFound, fmt::format("{}: a config.json, but no safetensors{}", folder,
                                            pickled ? "; weights in .bin files are programs, which this build does not run: fetch the "
                                                      "model as safetensors or GGUF"
                                                    : "; fetch the model's weights too"));
}

struct Shards {
  std::vector<std::unique_ptr<FileMapping>> mappings;
  std::vector<HfTensor> tensors;
  uint64_t size_bytes = 0;
};

// Each tensor once, and those of the index where it says.
Status CheckShards(const std::vector<std::string>& names, const WeightMap& weights, const std::vector<HfTensor>& tensors) {
  std::vector<std::pair<std::string_view, uint32_t>> found;
  for (const HfTensor& tensor : tensors) found.emplace_back(tensor.tensor.name, tensor.file);
  std::sort(found.begin(), found.end());
  for (size_t i = 1; i < found.size(); ++i) {
    if (found[i].first != found[i - 1].first) continue;
    return Error(Code::kCorrupt,
                 fmt::format("tensor {} is in {} and in {}", found[i].first, names[found[i - 1].second], names[found[i].second]));
  }
  for (const auto& [tensor, file] : weights.tensors) {
    const auto at = std::lower_bound(found.begin(), found.end(), std::pair<std::string_view, uint32_t>(tensor, 0));
    if (at != found.end() && at->first == tensor && at->second == file) continue;
    return Error(Code::kCorrupt, fmt::format("tensor {} is not in {}, where the index says; fetch the files again", tensor, names[file]));
  }
  return Ok();
}

Result<Shards> OpenShards(FileSystem& files, const std::string& folder) {
  Shards shards;
  WeightMap weights;
  BANTAM_ASSIGN(const std::vector<std::string> names, ShardNames(files, folder, &weights));
  for (uint32_t i = 0; i < names.size(); ++i) {
    const std::string path = In(folder, names[i]);
    BANTAM_ASSIGN(auto mapping, files.Map(path));
    BANTAM_ASSIGN(auto tensors, ReadSafetensors(mapping->bytes()).With(path));
    shards.size_bytes += mapping->bytes().size();
    if (shards.tensors.size() + tensors.size() > kSafetensorsTensorsMax) {
      return Error(Code::kExhausted,
                   fmt::format("{}: more than {} tensors in all files, which no model has", folder, kSafetensorsTensorsMax));
    }
    for (SafetensorsTensor& tensor : tensors) shards.tensors.push_back({std::move(tensor), i});
    shards.mappings.push_back(std::move(mapping));
  }
  BANTAM_TRY(CheckShards(names, weights, shards.tensors).With(folder));
  return shards;
}

// A matrix that stands behind the pooling, under the name that GGUF files have for it.
Status AddDense(FileSystem& files, const DenseModule& module, Shards* shards) {
  BANTAM_ASSIGN(auto mapping, files.Map(module.path));
  BANTAM_ASSIGN(auto tensors, ReadSafetensors(mapping->bytes()).With(module.path));
  shards->size_bytes += mapping->bytes().size();
  for (SafetensorsTensor& tensor : tensors) {
    if (tensor.name != "linear.weight" && tensor.name != "linear.bias") {
      return Error(Code::kUnsupported, fmt::format("{}: tensor {}, expected linear.weight and linear.bias", module.path, tensor.name));
    }
    tensor.name.replace(0, tensor.name.find('.'), module.name);
    shards->tensors.push_back({std::move(tensor), static_cast<uint32_t>(shards->mappings.size())});
  }
  shards->mappings.push_back(std::move(mapping));
  return Ok();
}

// ---- The tokenizer ----

// Keeps a file mapped as long as the model: only who reads the vocabulary copies it.
Result<std::span<const std::byte>> Attach(FileSystem& files, const std::string& path, size_t bytes_max, ModelFile* file) {
  BANTAM_ASSIGN(auto mapping, files.Map(path));
  const auto bytes = mapping->bytes();
  if (bytes.size() > bytes_max) {
    return Error(Code::kExhausted, fmt::format("{}: {} bytes, expected at most {}", path, bytes.size(), bytes_max));
  }
  file->attached.push_back(std::move(mapping));
  return bytes;
}

// A template, or a list of them by name.
void TakeTemplates(const Json& member, MetadataBuilder* metadata) {
  if (member.is_string()) metadata->SetText("tokenizer.chat_template", member.get<std::string>());
  if (!member.is_array()) return;
  for (const Json& entry : member) {
    const auto name = JsonText(entry, "name");
    const auto text = JsonText(entry, "template");
    if (name == "default" && text) metadata->SetText("tokenizer.chat_template", *text);
    if (name == "tool_use" && text) metadata->SetText("tokenizer.chat_template.tool_use", *text);
  }
}

Status TakeTemplateFile(FileSystem& files, const std::string& folder, MetadataBuilder* metadata) {
  const std::string path = In(folder, "chat_template.jinja");
  if (!files.Exists(path)) return Ok();
  BANTAM_ASSIGN(std::string text, files.ReadText(path, kHfConfigBytesMax));
  metadata->SetText("tokenizer.chat_template", std::move(text));
  return Ok();
}

// Ids that end an answer: one number or several.
void TakeEnds(const Json& member, MetadataBuilder* metadata) {
  std::vector<uint32_t> ids;
  const auto take = [&](const Json& id) {
    if (id.is_number_unsigned() && id.get<uint64_t>() < kVocabularyMax && ids.size() < kLayersMax) ids.push_back(id.get<uint32_t>());
  };
  if (member.is_array()) {
    for (const Json& id : member) take(id);
  } else {
    take(member);
  }
  if (!ids.empty()) metadata->SetCounts("tokenizer.huggingface.eos_token_ids", std::move(ids));
}

Status TakeTokenizer(FileSystem& files, const std::string& folder, const HfConfig& config, MetadataBuilder* metadata, ModelFile* file) {
  const std::string json = In(folder, "tokenizer.json");
  const std::string pieces = In(folder, "tokenizer.model");
  const std::string settings = In(folder, "tokenizer_config.json");
  const std::string generation = In(folder, "generation_config.json");
  if (files.Exists(json)) {
    BANTAM_ASSIGN(const auto bytes, Attach(files, json, kTokenizerJsonBytesMax, file));
    metadata->AttachBytes("tokenizer.huggingface.json", bytes);
  } else if (files.Exists(pieces)) {
    BANTAM_ASSIGN(const auto bytes, Attach(files, pieces, kSentencePieceBytesMax, file));
    metadata->AttachBytes("tokenizer.sentencepiece.model", bytes);
  }
  if (files.Exists(settings)) {
    BANTAM_ASSIGN(const auto bytes, Attach(files, settings, kTokenizerConfigBytesMax, file));
    metadata->AttachBytes("tokenizer.huggingface.config", bytes);
    BANTAM_ASSIGN(const Json parsed, ParseJsonOfUniqueNames(AsText(bytes)).With(settings));
    TakeTemplates(JsonMember(parsed, "chat_template"), metadata);
  }
  BANTAM_TRY(TakeTemplateFile(files, folder, metadata));
  TakeEnds(config.Member("eos_token_id"), metadata);
  if (!files.Exists(generation)) return Ok();
  BANTAM_ASSIGN(const std::string text, files.ReadText(generation, kHfConfigBytesMax));
  BANTAM_ASSIGN(const Json parsed, ParseJsonOfUniqueNames(text).With(generation));
  TakeEnds(JsonMember(parsed, "eos_token_id"), metadata);
  return Ok();
}

// ---- Tensors ----

// Whether the output matrix is the embeddings'; nothing where config.json says that it is not, and there is none: publishers of models
// that make vectors or classes leave it out.
Result<std::optional<bool>> ReadTied(const HfConfig& config, const std::vector<HfTensor>& tensors) {
  BANTAM_ASSIGN(const auto said, config.Flag({"tie_word_embeddings"}));
  const auto is_output = [](const HfTensor& tensor) {
    const std::string& name = tensor.tensor.name;
    return name.ends_with("lm_head.weight") || name == "embed_out.weight" || name == "output.weight";
  };
  const bool there = std::any_of(tensors.begin(), tensors.end(), is_output);
  if (said == false && !there) return std::optional<bool>();
  return std::optional(said.value_or(false) || !there);
}

Status CheckVocabularySize(const HfConfig& config, const std::vector<AssembledTensor>& tensors) {
  BANTAM_ASSIGN(const auto said, config.Count({"vocab_size"}));
  for (const AssembledTensor& tensor : tensors) {
    if (tensor.name != "token_embd.weight" || !said || tensor.dimensions.back() == *said) continue;
    return Error(Code::kCorrupt,
                 fmt::format("vocab_size is {}, but the embeddings have {} rows; fetch the files again", *said, tensor.dimensions.back()));
  }
  return Ok();
}

// Biases that config.json speaks of have to be there, and others must not be: whoever reads the folder by its config leaves them out.
Status CheckBiases(const HfFamily& family, const HfConfig& config, bool quantized, const std::vector<AssembledTensor>& tensors) {
  const auto find = [&](std::initializer_list<std::string_view> ends) {
    return std::find_if(tensors.begin(), tensors.end(), [&](const AssembledTensor& tensor) {
      return std::any_of(ends.begin(), ends.end(), [&](std::string_view end) { return tensor.name.ends_with(end); });
    });
  };
  const struct {
    std::initializer_list<const char*> names;
    std::initializer_list<std::string_view> weights;
    std::initializer_list<std::string_view> biases;
    bool whatever_it_says;
  } rules[] = {
      {{"attention_bias", "use_qkv_bias", "qkv_bias"},
       {".attn_q.weight", ".attn_qkv.weight"},
       {".attn_q.bias", ".attn_qkv.bias"},
       family.always_biased},
      {{"mlp_bias"}, {".ffn_up.weight"}, {".ffn_up.bias"}, /*whatever_it_says=*/false},
  };
  for (const auto& rule : rules) {
    BANTAM_ASSIGN(const auto said, config.Flag(rule.names));
    const auto weight = find(rule.weights);
    const auto bias = find(rule.biases);
    if (!said || rule.whatever_it_says || weight == tensors.end() || *said == (bias != tensors.end())) continue;
    // Quantisers wrote biases of zeros to models without.
    if (!*said && quantized) continue;
    return Error(Code::kCorrupt,
                 *said ? fmt::format("{} is true, but {} has no bias; fetch the files again", config.NameOf(rule.names), weight->name)
                       : fmt::format("{} is false, but there is {}; fetch the files again", config.NameOf(rule.names), bias->name));
  }
  return Ok();
}

// The same of members of one family, that say of norms and biases whether they are there.
Status CheckSaid(const HfFamily& family, const HfConfig& config, bool quantized, const std::vector<AssembledTensor>& tensors) {
  for (const TensorsSaid& rule : family.said) {
    const Json& said = config.At(rule.member);
    if (said.is_null() || (!rule.only_without.empty() && config.At(rule.only_without) != false)) continue;
    if (!said.is_boolean()) return Error(Code::kCorrupt, fmt::format("{}: {}, expected true or false", rule.member, ShortJson(said)));
    const auto there =
        std::find_if(tensors.begin(), tensors.end(), [&](const auto& tensor) { return tensor.name.ends_with(rule.tensors); });
    const bool expected = said.get<bool>() != rule.of_absence;
    if (expected == (there != tensors.end())) continue;
    if (!expected && quantized && rule.tensors.ends_with(".bias")) continue;  // zeros, as above
    return Error(Code::kCorrupt, fmt::format("{} is {}, but there is {}; fetch the files again", rule.member, said.get<bool>(),
                                             expected ? fmt::format("no tensor *{}", rule.tensors) : there->name));
  }
  return Ok();
}

void AddTable(std::string_view name, std::vector<float> values, std::vector<AssembledTensor>* tensors) {
  if (values.empty()) return;
  AssembledTensor made;
  made.name = name;
  made.dimensions = {values.size()};
  made.assembly.rows = values.size();
  made.assembly.values = std::move(values);
  tensors->push_back(std::move(made));
}

Status BuildFile(const MetadataBuilder& metadata, std::vector<AssembledTensor> tensors, Shards shards, ModelFile* file) {
  std::vector<MetadataBuilder::Tensor> directory;
  std::vector<Assembly> assemblies;
  for (AssembledTensor& tensor : tensors) {
    TensorInfo info = {};
    info.dtype = tensor.assembly.read_dtype();
    info.n_dimensions = static_cast<uint32_t>(tensor.dimensions.size());
    for (size_t d = 0; d < kTensorDimensionsMax; ++d) info.dimensions[d] = d < tensor.dimensions.size() ? tensor.dimensions[d] : 1;
    info.size_bytes = tensor.assembly.size_bytes();
    assemblies.push_back(std::move(tensor.assembly));
    directory.push_back({std::move(tensor.name), info});
  }
  auto source = std::make_unique<AssembledSource>(std::move(shards.mappings), std::move(assemblies));
  for (size_t i = 0; i < directory.size(); ++i) directory[i].info.offset_bytes = source->offset_bytes(i);
  file->source = std::move(source);
  return metadata.Build(directory, file);
}

struct ConfigOfFamily {
  HfConfig config;
  const HfFamily* family;
};
Result<ConfigOfFamily> ParseConfig(const std::string& text) {
  BANTAM_ASSIGN(HfConfig config, HfConfig::Parse(text));
  BANTAM_ASSIGN(const auto model_type, config.Text({"model_type"}));
  if (!model_type) return Error(Code::kCorrupt, "model_type is missing");
  BANTAM_ASSIGN(const HfFamily* family, FindHfFamily(*model_type));
  BANTAM_TRY(config.AddDefaults(family->defaults));
  return ConfigOfFamily{std::move(config), family};
}

// quantization_config of config.json; older folders have it in a file of its own, and older files another name for it.
Result<HfQuantization> FindQuantization(FileSystem& files, const HfConfig& config, const std::string& folder) {
  for (const char* name : {"quantization_config", "compression_config"}) {
    if (config.Member(name).is_null()) continue;
    return ReadQuantization(config.Member(name)).With(In(folder, "config.json"));
  }
  for (const auto& [name, method] : {std::pair("quantize_config.json", "gptq"), {"quant_config.json", "awq"}}) {
    const std::string own = In(folder, name);
    if (!files.Exists(own)) continue;
    BANTAM_ASSIGN(const std::string text, files.ReadText(own, kHfConfigBytesMax));
    BANTAM_ASSIGN(Json member, ParseJsonOfUniqueNames(text).With(own));
    if (member.is_object() && !member.contains("quant_method")) member["quant_method"] = method;
    return ReadQuantization(member).With(own);
  }
  return HfQuantization();
}

// Says whether the weights are quantised.
Result<bool> JoinShards(FileSystem& files, const HfConfig& config, const std::string& folder, Shards* shards) {
  BANTAM_ASSIGN(const uint32_t layers, config.RequireCount({"num_hidden_layers", "n_layer", "n_layers", "num_layers"}));
  BANTAM_ASSIGN(const auto predictors, config.Count({"num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers"}));
  DropUnread(layers, predictors.value_or(0), &shards->tensors);
  BANTAM_ASSIGN(const HfQuantization quantization, FindQuantization(files, config, folder));
  Result<std::vector<HfTensor>> joined = JoinQuantized(std::move(shards->tensors), quantization, shards->mappings).With(folder);
  BANTAM_ASSIGN(shards->tensors, std::move(joined));
  return quantization.method != QuantMethod::kNothing;
}

struct Described {
  MetadataBuilder metadata;
  RopeTables tables;
  HfLayout layout;
};

Result<Described> DescribeFolder(const ConfigOfFamily& of, const std::vector<HfTensor>& tensors) {
  const HfConfig& config = of.config;
  Described described;
  described.layout.family = of.family;
  BANTAM_TRY(Describe(*of.family, config, &described.metadata, &described.tables));
  BANTAM_ASSIGN(described.layout.heads, of.family->attention ? ReadHeads(config) : HfHeads{});
  BANTAM_ASSIGN(described.layout.layers, config.RequireCount({"num_hidden_layers", "n_layer", "n_layers", "num_layers"}));
  BANTAM_ASSIGN(described.layout.positions_skipped, PositionsSkipped(*of.family, config));
  if (of.family->encoder) return described;
  BANTAM_ASSIGN(const auto groups, config.Count({"mamba_n_groups", "n_groups"}));
  BANTAM_ASSIGN(const auto experts, config.Count({"num_local_experts"}));
  described.layout.state_groups = groups.value_or(1);
  BANTAM_ASSIGN(described.layout.value_heads, ReadValueHeads(config));
  if (of.family->factors != nullptr) {
    BANTAM_TRY(of.family->factors(config, &described.layout.factors));
  }
  described.layout.shared_is_dense = experts == 0;
  BANTAM_ASSIGN(const auto tied, ReadTied(config, tensors));
  described.layout.tied = tied.value_or(true);
  if (!tied) Description(of.family->architecture, &described.metadata).Flag("text.no_output", true);
  return described;
}

}  // namespace

bool IsHuggingFaceFolder(FileSystem& files, const std::string& path) { return files.Exists(In(path, "config.json")); }

Result<ModelFile> OpenHuggingFace(FileSystem& files, const std::string& folder) {
  ModelFile file;
  file.path = folder;
  while (file.path.size() > 1 && file.path.back() == '/') file.path.pop_back();
  const std::string config_path = In(file.path, "config.json");
  BANTAM_ASSIGN(const std::string text, files.ReadText(config_path, kHfConfigBytesMax));
  BANTAM_ASSIGN(const ConfigOfFamily of, ParseConfig(text).With(config_path));
  BANTAM_ASSIGN(Shards shards, OpenShards(files, file.path));
  BANTAM_ASSIGN(const bool quantized, JoinShards(files, of.config, file.path, &shards));
  BANTAM_ASSIGN(Described described, DescribeFolder(of, shards.tensors).With(config_path));
  Description description(of.family->architecture, &described.metadata);
  std::vector<DenseModule> dense;
  BANTAM_TRY(DescribeTextUse(files, file.path, &description, &dense));
  BANTAM_TRY(DescribeDimensions(of.config, &description).With(config_path));
  for (const DenseModule& module : dense) BANTAM_TRY(AddDense(files, module, &shards));
  described.metadata.SetText("general.name", file.path.substr(file.path.rfind('/') + 1));
  BANTAM_ASSIGN(std::vector<AssembledTensor> tensors, MapTensors(shards.tensors, described.layout).With(file.path));
  const auto classes = [](const AssembledTensor& tensor) { return tensor.name == "cls.output.weight"; };
  if (std::any_of(tensors.begin(), tensors.end(), classes)) BANTAM_TRY(DescribeClasses(of.config, &description).With(config_path));
  BANTAM_TRY(CheckVocabularySize(of.config, tensors).With(config_path));
  BANTAM_TRY(CheckBiases(*of.family, of.config, quantized, tensors).With(config_path));
  BANTAM_TRY(CheckSaid(*of.family, of.config, quantized, tensors).With(config_path));
  AddTable("rope_freqs.weight", std::move(described.tables.divisors), &tensors);
  AddTable("rope_factors_short.weight", std::move(described.tables.short_factors), &tensors);
  AddTable("rope_factors_long.weight", std::move(described.tables.long_factors), &tensors);
  BANTAM_TRY(TakeTokenizer(files, file.path, of.config, &described.metadata, &file));
  file.format = fmt::format("Hugging Face folder, {} of safetensors",
                            shards.mappings.size() == 1 ? std::string("1 file") : fmt::format("{} files", shards.mappings.size()));
  file.size_bytes = shards.size_bytes;
  BANTAM_TRY(BuildFile(described.metadata, std::move(tensors), std::move(shards), &file).With(file.path));
  return file;
}

}  // namespace bantam
