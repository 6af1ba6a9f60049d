#include "model/huggingface/encoders.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "base/json.h"
#include "model/config.h"

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

Error NotRun(std::string_view what) { return Error(Code::kUnsupported, fmt::format("{} is not supported in this family", what)); }

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
    if (member != expected) return NotRun(fmt::format("{} {}", fixed.member, ShortJson(member)));
  }
  return Ok();
}

Status CopyActivation(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const auto activation, config.Text({"hidden_activation", "hidden_act"}));
  if (activation) description->Text("hidden_activation", *activation);
  return Ok();
}

// GGUF's numbers.
constexpr uint32_t kMean = 1;
constexpr uint32_t kFirst = 2;
constexpr uint32_t kLast = 3;

Result<uint32_t> ReadPooling(FileSystem& files, const std::string& path) {
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
  return mean ? kMean : first ? kFirst : kLast;
}

}  // namespace

constinit const std::span<const NameRule> kEncoderNames = kEncoder;
constinit const std::span<const NameRule> kBertNames = kBert;
constinit const std::span<const NameRule> kRobertaNames = kRoberta;
constinit const std::span<const NameRule> kNomicBertNames = kNomicBert;
constinit const std::span<const NameRule> kModernBertNames = kModernBert;

Status DescribeBert(const HfConfig& config, Description* description) {
  BANTAM_TRY(CheckFixed(config, {{"position_embedding_type", "\"absolute\""}, {"is_decoder", "false"}, {"add_cross_attention", "false"}}));
  return CopyActivation(config, description);
}

Status DescribeRoberta(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const uint32_t rows, config.RequireCount({"max_position_embeddings"}));
  BANTAM_ASSIGN(const uint32_t padding, config.RequireCount({"pad_token_id"}));
  if (padding >= rows) return Error(Code::kCorrupt, fmt::format("pad_token_id {} and max_position_embeddings {}", padding, rows));
  description->Count("context_length", rows - padding - 1);
  return DescribeBert(config, description);
}

// The published models were trained on fewer tokens than they have positions for.
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
  BANTAM_ASSIGN(const auto trained, config.Count({"max_trained_positions"}));
  description->Count("context_length", std::min(positions, trained.value_or(kTrained)));
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
  if (pooling && *pooling != "cls" && *pooling != "mean") return NotRun(fmt::format("classifier_pooling {}", *pooling));
  if (pooling) description->Count("classifier_pooling_type", *pooling == "mean" ? kMean : kFirst);
  return CopyActivation(config, description);
}

Result<uint32_t> PositionsSkipped(const HfFamily& family, const HfConfig& config) {
  if (!family.positions_behind_padding) return 0;
  BANTAM_ASSIGN(const uint32_t padding, config.RequireCount({"pad_token_id"}));
  return padding + 1;
}

Status DescribeTextUse(FileSystem& files, const std::string& folder, Description* description) {
  const std::string path = fmt::format("{}/modules.json", folder);
  if (!files.Exists(path)) return Ok();
  BANTAM_ASSIGN(const std::string text, files.ReadText(path, kModulesBytesMax));
  BANTAM_ASSIGN(const Json modules, ParseJson(text).With(path));
  bool unit_length = false;
  for (const Json& module : modules) {
    const std::string type = JsonText(module, "type").value_or("");
    const std::string place = JsonText(module, "path").value_or("");
    if (type.ends_with(".Transformer")) continue;
    if (type.ends_with(".Normalize")) {
      unit_length = true;
    } else if (type.ends_with(".Pooling")) {
      // A folder within, and no way out of it.
      if (place.empty() || place[0] == '.' || place.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos) {
        return Error(Code::kCorrupt, fmt::format("{}: path \"{}\", expected the name of a folder", path, place));
      }
      const std::string pooling = fmt::format("{}/{}/config.json", folder, place);
      BANTAM_ASSIGN(const uint32_t kind, ReadPooling(files, pooling));
      description->Count("pooling_type", kind);
    } else {
      return Error(Code::kUnsupported, fmt::format("{}: a module of type {} behind the model is not supported", path, type));
    }
  }
  description->Flag("pooling_unit_length", unit_length);
  return Ok();
}

}  // namespace bantam
