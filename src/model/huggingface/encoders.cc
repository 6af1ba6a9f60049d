#include "model/huggingface/encoders.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include "base/json.h"
#include "model/config.h"
#include "model/text_rules.h"

namespace bantam {
namespace {

using enum Arrangement;

constexpr size_t kModulesBytesMax = size_t{1} << 20;

constexpr NameRule kEncoder[] = {
    {"embeddings.word_embeddings", "token_embd"},
    {"embeddings.position_embeddings", "position_embd", kPositions},
    {"embeddings.token_type_embeddings", "token_types"},
    {"embeddings.LayerNorm", "token_embd_norm"},
    {"#.attention.self.query", "attn_q"},
    {"#.attention.self.key", "attn_k"},
    {"#.attention.self.value", "attn_v"},
    {"#.attention.output.dense", "attn_output"},
    {"#.attention.output.LayerNorm", "attn_output_norm"},
    {"#.intermediate.dense", "ffn_up"},
    {"#.output.dense", "ffn_down"},
    {"#.output.LayerNorm", "layer_output_norm"},
    {"embeddings.position_ids", "", kIgnored},
    {"embeddings.token_type_ids", "", kIgnored},
};
// What a classifier reads is made by the pooler's matrix; models without one have it too, and do not use it.
constexpr NameRule kBert[] = {
    {"pooler.dense", "cls"},
    {"classifier", "cls.output"},
    {"cls.predictions", "", kIgnored},
    {"cls.predictions.decoder", "", kIgnored},
    {"cls.predictions.transform.dense", "", kIgnored},
    {"cls.predictions.transform.LayerNorm", "", kIgnored},
    {"cls.seq_relationship", "", kIgnored},
};
constexpr NameRule kRoberta[] = {
    {"classifier.dense", "cls"},     {"classifier.out_proj", "cls.output"}, {"pooler.dense", "", kIgnored},       {"lm_head", "", kIgnored},
    {"lm_head.dense", "", kIgnored}, {"lm_head.decoder", "", kIgnored},     {"lm_head.layer_norm", "", kIgnored},
};
constexpr NameRule kDistilBert[] = {
    {"#.attention.q_lin", "attn_q"},
    {"#.attention.k_lin", "attn_k"},
    {"#.attention.v_lin", "attn_v"},
    {"#.attention.out_lin", "attn_output"},
    {"#.sa_layer_norm", "attn_output_norm"},
    {"#.ffn.lin1", "ffn_up"},
    {"#.ffn.lin2", "ffn_down"},
    {"#.output_layer_norm", "layer_output_norm"},
    {"pre_classifier", "cls"},
    {"classifier", "cls.output"},
    {"vocab_transform", "", kIgnored},
    {"vocab_layer_norm", "", kIgnored},
    {"vocab_projector", "", kIgnored},
};
constexpr NameRule kNomicBert[] = {{"emb_ln", "token_embd_norm"}, {"#.norm1", "attn_output_norm"},  {"#.norm2", "layer_output_norm"},
                                   {"#.mlp.fc11", "ffn_up"},      {"#.mlp.fc12", "ffn_gate"},       {"#.mlp.fc2", "ffn_down"},
                                   {"pooler.dense", "cls"},       {"cls.predictions", "", kIgnored}};
constexpr NameRule kModernBert[] = {
    {"embeddings.tok_embeddings", "token_embd"},
    {"embeddings.norm", "token_embd_norm"},
    {"final_norm", "output_norm"},
    {"#.attn_norm", "attn_norm"},
    {"#.attn.Wo", "attn_output"},
    {"#.mlp_norm", "ffn_norm"},
    {"#.mlp.Wi", "ffn_up"},
    {"#.mlp.Wo", "ffn_down"},
    {"head.dense", "cls"},
    {"head.norm", "cls.norm"},
    {"classifier", "cls.output"},
    {"decoder", "", kIgnored},
};

// Members that have to have one value, where they are there.
struct Fixed {
  const char* member;
  std::string_view value;  // as JSON
};
Status CheckFixed(const HfConfig& config, std::initializer_list<Fixed> all) {
  for (const Fixed& fixed : all) {
    const Json& member = config.Member(fixed.member);
    if (member.is_null()) continue;
    BANTAM_ASSIGN(const Json expected, ParseJson(std::string(fixed.value)));
    if (member != expected) return NotRun(fmt::format("{} {} in this family", fixed.member, ShortJson(member)));
  }
  return Ok();
}

Status CopyActivation(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const auto activation, config.Text({"hidden_activation", "hidden_act"}));
  if (activation) description->Text("hidden_activation", *activation);
  return Ok();
}

Status DescribePooling(FileSystem& files, const std::string& path, Description* description) {
  BANTAM_ASSIGN(const std::string text, files.ReadText(path, kModulesBytesMax));
  BANTAM_ASSIGN(const Json json, ParseJson(text).With(path));
  const std::string mode = JsonText(json, "pooling_mode").value_or("");
  const bool mean = JsonFlag(json, "pooling_mode_mean_tokens", false) || mode == "mean";
  const bool first = JsonFlag(json, "pooling_mode_cls_token", false) || mode == "cls";
  const bool last = JsonFlag(json, "pooling_mode_lasttoken", false) || mode == "lasttoken";
  const bool other = JsonFlag(json, "pooling_mode_max_tokens", false) || JsonFlag(json, "pooling_mode_mean_sqrt_len_tokens", false) ||
                     JsonFlag(json, "pooling_mode_weightedmean_tokens", false);
  if (int{mean} + int{first} + int{last} != 1 || other) {
    return Error(Code::kUnsupported, fmt::format("{}: pooling other than by the mean, the first or the last token", path));
  }
  description->Count("pooling_type", static_cast<uint32_t>(mean ? Pooling::kMean : first ? Pooling::kFirst : Pooling::kLast));
  if (!JsonFlag(json, "include_prompt", true)) description->Flag("text.prompt_pooled", false);
  return Ok();
}

}  // namespace

constinit const std::span<const NameRule> kEncoderNames = kEncoder;
constinit const std::span<const NameRule> kBertNames = kBert;
constinit const std::span<const NameRule> kRobertaNames = kRoberta;
constinit const std::span<const NameRule> kDistilBertNames = kDistilBert;
constinit const std::span<const NameRule> kNomicBertNames = kNomicBert;
constinit const std::span<const NameRule> kModernBertNames = kModernBert;

Status DescribeBert(const HfConfig& config, Description* description) {
  BANTAM_TRY(CheckFixed(config, {{"position_embedding_type", "\"absolute\""}, {"is_decoder", "false"}, {"add_cross_attention", "false"}}));
  return CopyActivation(config, description);
}

Status DescribeRoberta(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const uint32_t rows, config.RequireCount({"max_position_embeddings"}));
  BANTAM_ASSIGN(const uint32_t padding, config.RequireCount({"pad_token_id"}));
  if (rows < 2 || padding > rows - 2) {
    return Error(Code::kCorrupt, fmt::format("pad_token_id {}: expected one below max_position_embeddings ({}) less 1, for positions begin "
                                             "behind it; fetch config.json again",
                                             padding, rows));
  }
  description->Count("context_length", rows - padding - 1);
  return DescribeBert(config, description);
}

Status DescribeDistilBert(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const auto activation, config.Text({"activation"}));
  if (activation) description->Text("hidden_activation", *activation);
  description->Text("classifier.hidden_activation", "relu");
  return Ok();
}

// The published models were trained on fewer tokens than they have positions for; a factor stretches what they know to all of them, by as
// much as each text needs.
Status DescribeNomicBert(const HfConfig& config, Description* description) {
  BANTAM_TRY(CheckFixed(config, {{"prenorm", "false"},
                                 {"rotary_emb_interleaved", "false"},
                                 {"rotary_emb_fraction", "1.0"},
                                 {"rotary_emb_scale_base", "null"},
                                 {"use_rms_norm", "false"},
                                 {"parallel_block", "false"},
                                 {"causal", "false"},
                                 {"moe_every_n_layers", "0"}}));
  constexpr uint32_t kTrained = 2048;
  BANTAM_ASSIGN(const uint32_t positions, config.RequireCount({"n_positions"}));
  BANTAM_ASSIGN(const auto said, config.Count({"max_trained_positions"}));
  BANTAM_ASSIGN(const auto factor, config.Number({"rotary_scaling_factor"}));
  const uint32_t trained = std::min(positions, said.value_or(kTrained));
  description->Count("context_length", trained);
  if (factor.value_or(0) == 0) return Ok();
  if (!(*factor >= 1)) return Error(Code::kCorrupt, fmt::format("rotary_scaling_factor {}: expected 1 or more", *factor));
  description->Count("context_length", positions);
  description->Text("rope.scaling.type", "dynamic");
  description->Number("rope.scaling.factor", *factor);
  description->Count("rope.scaling.original_context_length", trained);
  return Ok();
}

Status DescribeModernBert(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const auto window, config.Count({"local_attention"}));
  BANTAM_ASSIGN(const auto pattern, config.Count({"global_attn_every_n_layers"}));
  BANTAM_ASSIGN(const auto base, config.Number({"global_rope_theta"}));
  BANTAM_ASSIGN(const auto windowed_base, config.Number({"local_rope_theta"}));
  BANTAM_ASSIGN(const auto pooling, config.Text({"classifier_pooling"}));
  const bool new_bases = config.Member("rope_parameters").is_object();
  if (window) description->Count("attention.sliding_window", *window);
  if (pattern) description->Count("attention.sliding_window_pattern", *pattern);
  if (base && !new_bases) description->Number("rope.freq_base", *base);
  if (windowed_base && !new_bases) description->Number("rope.freq_base_swa", *windowed_base);
  if (pooling && *pooling != "cls" && *pooling != "mean") return NotRun(fmt::format("classifier_pooling {} in this family", *pooling));
  if (pooling) description->Count("classifier_pooling_type", static_cast<uint32_t>(*pooling == "mean" ? Pooling::kMean : Pooling::kFirst));
  return CopyActivation(config, description);
}

Result<uint32_t> PositionsSkipped(const HfFamily& family, const HfConfig& config) {
  if (!family.positions_behind_padding) return 0;
  BANTAM_ASSIGN(const uint32_t padding, config.RequireCount({"pad_token_id"}));
  return padding + 1;
}

namespace {

// Null where the folder has no such file.
Result<Json> ReadOptional(FileSystem& files, const std::string& path) {
  if (!files.Exists(path)) return Json();
  BANTAM_ASSIGN(const std::string text, files.ReadText(path, kModulesBytesMax));
  return ParseJson(text).With(path);
}

// How long a text may be unless its user says otherwise, and whether it is put in lower case.
Status DescribeTexts(FileSystem& files, const std::string& folder, Description* description) {
  const std::string path = fmt::format("{}/sentence_bert_config.json", folder);
  BANTAM_ASSIGN(const Json config, ReadOptional(files, path));
  const Json& length = JsonMember(config, "max_seq_length");
  if (!length.is_null()) {
    if (!length.is_number_unsigned() || length.get<uint64_t>() == 0 || length.get<uint64_t>() > kContextLengthMax) {
      return Error(Code::kCorrupt, fmt::format("{}: max_seq_length {}, expected 1 to {}", path, ShortJson(length), kContextLengthMax));
    }
    description->Count("text.tokens_max", length.get<uint32_t>());
  }
  if (JsonFlag(config, "do_lower_case", false)) description->Flag("text.lower_case", true);
  return Ok();
}

// What stands in front of texts, by name; one may be for all that ask for no other.
Status DescribePrompts(FileSystem& files, const std::string& folder, Description* description) {
  const std::string path = fmt::format("{}/config_sentence_transformers.json", folder);
  BANTAM_ASSIGN(const Json config, ReadOptional(files, path));
  const Json& prompts = JsonMember(config, "prompts");
  const Json& chosen = JsonMember(config, "default_prompt_name");
  const bool named = chosen.is_null() || (chosen.is_string() && prompts.is_object() && prompts.contains(chosen.get<std::string>()));
  if (!named) return Error(Code::kCorrupt, fmt::format("{}: default_prompt_name {} is none of the prompts", path, ShortJson(chosen)));
  size_t count = 0;
  for (const auto& [name, prompt] : prompts.items()) {
    const std::string text = prompt.is_string() ? prompt.get<std::string>() : "";
    const bool fits = !name.empty() && name.size() <= kPromptNameBytesMax && text.size() <= kPromptBytesMax && ++count <= kPromptsMax;
    if (!prompts.is_object() || !fits || !(prompt.is_string() || prompt.is_null())) {
      return Error(Code::kCorrupt,
                   fmt::format("{}: prompts {}, expected at most {} texts by name, names of 1 to {} bytes and texts of at most {}", path,
                               ShortJson(prompts), kPromptsMax, kPromptNameBytesMax, kPromptBytesMax));
    }
    description->Text(fmt::format("text.prompt.{}", name), text);
  }
  if (chosen.is_string()) description->Text("text.default_prompt", chosen.get<std::string>());
  return Ok();
}

}  // namespace

namespace {

// The name of a folder within, and no way out of it.
Status CheckPlace(const std::string& path, const std::string& place) {
  const bool plain = !place.empty() && place[0] != '.' && place.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
  return plain ? Ok() : Error(Code::kCorrupt, fmt::format("{}: path \"{}\", expected the name of a folder", path, place));
}

Status CheckDense(FileSystem& files, const std::string& path) {
  BANTAM_ASSIGN(const std::string text, files.ReadText(path, kModulesBytesMax));
  BANTAM_ASSIGN(const Json json, ParseJson(text).With(path));
  const std::string activation = JsonText(json, "activation_function").value_or("none, which means a hyperbolic tangent");
  if (activation.ends_with(".Identity")) return Ok();
  return Error(Code::kUnsupported,
               fmt::format("{}: activation_function {}: only torch.nn.modules.linear.Identity is supported", path, activation));
}

}  // namespace

Status DescribeTextUse(FileSystem& files, const std::string& folder, Description* description, std::vector<DenseModule>* dense) {
  BANTAM_TRY(DescribeTexts(files, folder, description));
  BANTAM_TRY(DescribePrompts(files, folder, description));
  const std::string path = fmt::format("{}/modules.json", folder);
  BANTAM_ASSIGN(const Json modules, ReadOptional(files, path));
  if (modules.is_null()) return Ok();
  bool unit_length = false;
  for (const Json& module : modules) {
    const std::string type = JsonText(module, "type").value_or("");
    const std::string place = JsonText(module, "path").value_or("");
    const std::string settings = fmt::format("{}/{}/config.json", folder, place);
    if (type.ends_with(".Transformer")) continue;
    if (type.ends_with(".Normalize")) {
      unit_length = true;
    } else if (type.ends_with(".Pooling")) {
      BANTAM_TRY(CheckPlace(path, place));
      BANTAM_TRY(DescribePooling(files, settings, description));
    } else if (type.ends_with(".Dense") && (place == "2_Dense" || place == "3_Dense")) {
      BANTAM_TRY(CheckDense(files, settings));
      dense->push_back({fmt::format("dense_{}", place[0]), fmt::format("{}/{}/model.safetensors", folder, place)});
    } else {
      return Error(Code::kUnsupported,
                   fmt::format("{}: a module of type {} in {} behind the model is not supported", path, type, ShortJson(place)));
    }
  }
  description->Flag("pooling_unit_length", unit_length);
  return Ok();
}

namespace {

// "id2label": {"0": "NEGATIVE", "1": "POSITIVE"}; empty where it says nothing.
Result<std::vector<std::string>> ReadLabels(const Json& names) {
  std::vector<std::string> labels;
  if (names.is_null()) return labels;
  if (!names.is_object() || names.size() > kClassesMax) {
    return Error(Code::kCorrupt, fmt::format("id2label: {}, expected at most {} labels by number", ShortJson(names), kClassesMax));
  }
  labels.resize(names.size());
  std::vector<bool> there(names.size());
  for (const auto& [number, label] : names.items()) {
    size_t id = 0;
    const auto [end, problem] = std::from_chars(number.data(), number.data() + number.size(), id);
    const bool numbered = problem == std::errc() && end == number.data() + number.size() && id < names.size() && !there[id];
    std::string text = label.is_string() ? label.get<std::string>() : DumpJson(label, /*indent=*/-1);
    if (!numbered || label.is_null() || label.is_structured() || text.size() > kLabelBytesMax) {
      return Error(Code::kCorrupt, fmt::format("id2label: {} for {}, expected labels of at most {} bytes for 0 to {}", ShortJson(label),
                                               ShortJson(number), kLabelBytesMax, names.size() - 1));
    }
    labels[id] = std::move(text);
    there[id] = true;
  }
  return labels;
}

}  // namespace

Status DescribeClasses(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(std::vector<std::string> labels, ReadLabels(config.Member("id2label")));
  BANTAM_ASSIGN(const auto problem, config.Text({"problem_type"}));
  BANTAM_ASSIGN(const auto older, config.Text({"sbert_ce_default_activation_function"}));
  const std::string behind = JsonText(config.Member("sentence_transformers"), "activation_fn").value_or(older.value_or(""));
  const bool several = labels.size() > 1;
  // What stands behind a reranker's score; several classes are told apart by a softmax, whatever is trained on.
  if (behind.ends_with(".Sigmoid")) {
    description->Text("classifier.activation", "sigmoid");
  } else if (problem == "multi_label_classification") {
    description->Text("classifier.activation", "sigmoid");
  } else if (problem == "regression" || (behind.ends_with(".Identity") && !several)) {
    description->Text("classifier.activation", "none");
  } else if (problem && *problem != "single_label_classification") {
    return Error(Code::kCorrupt,
                 fmt::format("problem_type {}: expected regression, single_label_classification or multi_label_classification", *problem));
  }
  if (!labels.empty()) description->Texts("classifier.output_labels", std::move(labels));
  return Ok();
}

Status DescribeDimensions(const HfConfig& config, Description* description) {
  const Json& list = config.Member("matryoshka_dimensions");
  BANTAM_ASSIGN(const auto any, config.Flag({"is_matryoshka"}));
  if (list.is_null()) {
    if (any.value_or(false)) description->Flag("text.any_dimensions", true);
    return Ok();
  }
  std::vector<uint32_t> dimensions;
  for (size_t i = 0; list.is_array() && i < list.size() && i < kDimensionsMax; ++i) {
    if (list[i].is_number_unsigned() && list[i].get<uint64_t>() >= 1 && list[i].get<uint64_t>() <= kWidthMax) {
      dimensions.push_back(list[i].get<uint32_t>());
    }
  }
  if (dimensions.empty() || dimensions.size() != list.size()) {
    return Error(Code::kCorrupt, fmt::format("matryoshka_dimensions: {}, expected a list of at most {} numbers from 1 to {}",
                                             ShortJson(list), kDimensionsMax, kWidthMax));
  }
  description->Counts("text.dimensions", std::move(dimensions));
  return Ok();
}

}  // namespace bantam
