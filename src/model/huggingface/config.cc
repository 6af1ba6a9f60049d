#include "model/huggingface/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "model/config.h"

namespace bantam {
namespace {

constexpr uint64_t kCountMax = uint64_t{1} << 31;

Error WrongKind(const char* name, const Json& value, std::string_view expected) {
  return Error(Code::kCorrupt, fmt::format("{}: {}, expected {}", name, ShortJson(value), expected));
}

std::pair<const char*, const Json*> FirstOf(const Json& object, HfConfig::Names names) {
  for (const char* name : names) {
    const Json& member = JsonMember(object, name);
    if (!member.is_null()) return {name, &member};
  }
  return {nullptr, nullptr};
}

// Python writes Infinity, which JSON does not have: outside of strings it becomes the largest number.
std::string SpellInfinity(std::string_view text) {
  constexpr std::string_view kWord = "Infinity";
  constexpr std::string_view kLargest = "1.7976931348623157e308";
  std::string spelled;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (in_string && text[i] == '\\' && i + 1 < text.size()) {
      spelled += text[i++];
    } else if (text[i] == '"') {
      in_string = !in_string;
    } else if (!in_string && text.substr(i, kWord.size()) == kWord) {
      spelled += kLargest;
      i += kWord.size() - 1;
      continue;
    }
    spelled += text[i];
  }
  return spelled;
}

}  // namespace

Result<HfConfig> HfConfig::Parse(std::string_view text) {
  BANTAM_ASSIGN(Json root, ParseJsonOfUniqueNames(SpellInfinity(text)));
  if (!root.is_object()) return Error(Code::kCorrupt, "no JSON object; fetch the file again");
  const Json inner = JsonMember(root, "text_config");
  if (inner.is_object()) {
    for (const auto& [name, value] : inner.items()) root[name] = value;
  }
  return HfConfig(std::move(root));
}

const Json& HfConfig::RopeScaling() const {
  const Json& parameters = Member("rope_parameters");
  if (parameters.is_null()) return Member("rope_scaling");
  const Json& full = JsonMember(parameters, "full_attention");
  return full.is_null() ? parameters : full;
}

const Json& HfConfig::At(std::string_view path) const {
  const Json* at = &root_;
  while (!path.empty()) {
    const size_t dot = std::min(path.find('.'), path.size());
    at = &JsonMember(*at, std::string(path.substr(0, dot)).c_str());
    path.remove_prefix(std::min(dot + 1, path.size()));
  }
  return *at;
}

Status HfConfig::AddDefaults(std::string_view json) {
  if (json.empty()) return Ok();
  BANTAM_ASSIGN(const Json defaults, ParseJson(json));
  for (const auto& [name, value] : defaults.items()) {
    if (!root_.contains(name)) root_[name] = value;
  }
  return Ok();
}

Result<std::optional<uint32_t>> HfConfig::CountOf(const Json& object, Names names) {
  const auto [name, value] = FirstOf(object, names);
  if (value == nullptr) return std::optional<uint32_t>();
  if (!value->is_number_unsigned() || value->get<uint64_t>() > kCountMax) {
    return WrongKind(name, *value, fmt::format("a whole number up to {}", kCountMax));
  }
  return std::optional(static_cast<uint32_t>(value->get<uint64_t>()));
}

Result<uint32_t> HfConfig::RequireCount(Names names) const {
  BANTAM_ASSIGN(const auto count, Count(names));
  if (!count) return Error(Code::kCorrupt, fmt::format("{} is missing", *names.begin()));
  return *count;
}

const char* HfConfig::NameOf(Names names) const {
  const char* name = FirstOf(root_, names).first;
  return name == nullptr ? *names.begin() : name;
}

Result<std::optional<double>> HfConfig::NumberOf(const Json& object, Names names) {
  const auto [name, value] = FirstOf(object, names);
  if (value == nullptr) return std::optional<double>();
  if (!value->is_number() || !std::isfinite(value->get<double>())) return WrongKind(name, *value, "a number");
  return std::optional(value->get<double>());
}

Result<std::optional<bool>> HfConfig::Flag(Names names) const {
  const auto [name, value] = FirstOf(root_, names);
  if (value == nullptr) return std::optional<bool>();
  if (!value->is_boolean()) return WrongKind(name, *value, "true or false");
  return std::optional(value->get<bool>());
}

Result<std::optional<std::string>> HfConfig::Text(Names names) const {
  const auto [name, value] = FirstOf(root_, names);
  if (value == nullptr) return std::optional<std::string>();
  if (!value->is_string()) return WrongKind(name, *value, "a string");
  return std::optional(value->get<std::string>());
}

Error NotRun(std::string_view what) {
  return Error(Code::kUnsupported, fmt::format("{} is not supported; a GGUF file of the model may run", what));
}

Result<std::vector<uint32_t>> ReadLayerKinds(const HfConfig& config, std::string_view marked, std::string_view other) {
  BANTAM_ASSIGN(const uint32_t layers, config.RequireCount({"num_hidden_layers"}));
  const Json& kinds = config.Member("layer_types");
  if (!kinds.is_array() || kinds.size() != layers || layers > kLayersMax) {
    return Error(Code::kCorrupt, fmt::format("layer_types: {}, expected the kinds of {} layers", ShortJson(kinds), layers));
  }
  std::vector<uint32_t> of_layers;
  for (const Json& kind : kinds) {
    if (kind != marked && kind != other) return NotRun(fmt::format("a layer of type {}", ShortJson(kind)));
    of_layers.push_back(kind == marked ? 1 : 0);
  }
  return of_layers;
}

}  // namespace bantam
