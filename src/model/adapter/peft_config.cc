#include "model/adapter/peft_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "base/json.h"
#include "program/low_rank.h"

namespace bantam {
namespace {

constexpr double kAlphaMax = 1e6;
constexpr size_t kPatternsMax = 10'000;

// What says nothing of the numbers: the tensors do, or it was of use in training alone.
constexpr std::string_view kUnread[] = {
    "auto_mapping",   "base_model_name_or_path", "corda_config",   "ensure_weight_tying", "eva_config",        "exclude_modules",
    "fan_in_fan_out", "inference_mode",          "layers_pattern", "layers_to_transform", "loftq_config",      "lora_dropout",
    "lora_ga_config", "megatron_core",           "parent_library", "peft_version",        "qalora_group_size", "revision",
    "runtime_config", "target_modules",          "task_type"};
constexpr std::string_view kRead[] = {"alpha_pattern", "bias", "init_lora_weights", "lora_alpha", "peft_type",
                                      "rank_pattern",  "r",    "use_rslora"};

struct Refused {
  std::string_view member;
  std::string_view what;
};
constexpr Refused kRefused[] = {
    {"use_dora", "weights that are taken apart (DoRA)"},
    {"use_qalora", "groups of inputs (QA-LoRA)"},
    {"lora_bias", "biases of adapters"},
    {"modules_to_save", "whole modules in place of the model's"},
    {"layer_replication", "layers that occur several times"},
    {"target_parameters", "adapters of parameters that are no modules"},
    {"trainable_token_indices", "new embeddings of tokens"},
    {"alora_invocation_tokens", "adapters that begin at certain tokens"},
};

bool SaysNothing(const Json& value) {
  return value.is_null() || value == false || ((value.is_object() || value.is_array()) && value.empty()) || value == "";
}

Error NotSupported(std::string_view member, const Json& value, std::string_view what) {
  return Error(Code::kUnsupported, fmt::format("{}: {}: {} not supported", member, ShortJson(value), what));
}

bool Among(std::string_view name, std::span<const std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

Status CheckMembers(const Json& json) {
  if (JsonText(json, "peft_type") != "LORA") {
    return NotSupported("peft_type", JsonMember(json, "peft_type"), "adapters other than LORA are");
  }
  const Json& bias = JsonMember(json, "bias");
  if (!SaysNothing(bias) && bias != "none") return NotSupported("bias", bias, "changed biases are");
  const Json& begun = JsonMember(json, "init_lora_weights");
  const bool plain = SaysNothing(begun) || begun == true || begun == "gaussian" || begun == "eva" || begun == "orthogonal";
  if (!plain) return NotSupported("init_lora_weights", begun, "beginnings that change the base model are");
  for (const auto& [name, value] : json.items()) {
    if (Among(name, kUnread) || Among(name, kRead) || SaysNothing(value)) continue;
    const std::string& wanted = name;
    const auto known = std::find_if(std::begin(kRefused), std::end(kRefused), [&](const Refused& one) { return one.member == wanted; });
    return NotSupported(
        name, value,
        known == std::end(kRefused) ? "this build does not know the member, and what it changes is" : fmt::format("{} are", known->what));
  }
  return Ok();
}

Result<double> Number(std::string_view member, const Json& value, double low, double high) {
  const double number = value.is_number() ? value.get<double>() : std::nan("");
  if (number >= low && number <= high) return number;
  return Error(Code::kCorrupt, fmt::format("{}: {}: expected a number from {} to {}", member, ShortJson(value), low, high));
}

// Patterns are regular expressions; those that are used are names.
bool IsName(std::string_view pattern) {
  if (pattern.starts_with('^')) pattern.remove_prefix(1);
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
  };
  return !pattern.empty() && std::all_of(pattern.begin(), pattern.end(), plain);
}

Result<std::vector<std::pair<std::string, double>>> ReadPatterns(const Json& json, const char* member, double low, double high) {
  std::vector<std::pair<std::string, double>> patterns;
  const Json& value = JsonMember(json, member);
  if (SaysNothing(value)) return patterns;
  if (!value.is_object() || value.size() > kPatternsMax) {
    return Error(Code::kCorrupt, fmt::format("{}: {}: expected an object of at most {} members", member, ShortJson(value), kPatternsMax));
  }
  for (const auto& [name, number] : value.items()) {
    if (!IsName(name)) return NotSupported(member, Json(name), "regular expressions other than names of modules are");
    BANTAM_ASSIGN(const double read, Number(member, number, low, high));
    patterns.emplace_back(name, read);
  }
  return patterns;
}

bool Fits(std::string_view pattern, std::string_view module) {
  if (pattern.starts_with('^')) return pattern.substr(1) == module;
  if (!module.ends_with(pattern)) return false;
  return module.size() == pattern.size() || module[module.size() - pattern.size() - 1] == '.';
}

template <typename Value>
Value Lookup(const std::vector<std::pair<std::string, Value>>& patterns, std::string_view module, Value otherwise) {
  const auto found = std::find_if(patterns.begin(), patterns.end(), [&](const auto& pattern) { return Fits(pattern.first, module); });
  return found == patterns.end() ? otherwise : found->second;
}

}  // namespace

size_t PeftConfig::RankOf(std::string_view module) const { return Lookup(ranks, module, rank); }
double PeftConfig::AlphaOf(std::string_view module) const { return Lookup(alphas, module, alpha); }

Result<PeftConfig> ReadPeftConfig(std::string_view text) {
  BANTAM_ASSIGN(const Json json, ParseJsonOfUniqueNames(text));
  if (!json.is_object()) return Error(Code::kCorrupt, "expected an object");
  BANTAM_TRY(CheckMembers(json));
  PeftConfig config;
  BANTAM_ASSIGN(const double rank, Number("r", JsonMember(json, "r"), 1, kLowRankMax));
  BANTAM_ASSIGN(config.alpha, Number("lora_alpha", JsonMember(json, "lora_alpha"), -kAlphaMax, kAlphaMax));
  config.rank = static_cast<size_t>(rank);
  const Json& rslora = JsonMember(json, "use_rslora");
  if (!SaysNothing(rslora) && rslora != true) {
    return Error(Code::kCorrupt, fmt::format("use_rslora: {}: expected true or false", ShortJson(rslora)));
  }
  config.root_of_rank = rslora == true;
  BANTAM_ASSIGN(const auto ranks, ReadPatterns(json, "rank_pattern", 1, kLowRankMax));
  for (const auto& [name, number] : ranks) config.ranks.emplace_back(name, static_cast<size_t>(number));
  BANTAM_ASSIGN(config.alphas, ReadPatterns(json, "alpha_pattern", -kAlphaMax, kAlphaMax));
  return config;
}

}  // namespace bantam
