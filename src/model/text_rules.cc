#include "model/text_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "model/config.h"
#include "text/normalizer.h"

namespace bantam {
namespace {

const TextPrompt* FindPrompt(const TextRules& rules, std::string_view name) {
  const auto found =
      std::find_if(rules.prompts.begin(), rules.prompts.end(), [&](const TextPrompt& prompt) { return prompt.name == name; });
  return found == rules.prompts.end() ? nullptr : &*found;
}

std::string Names(const TextRules& rules) {
  std::string names;
  for (const TextPrompt& prompt : rules.prompts) names += fmt::format("{}{}", names.empty() ? "" : ", ", prompt.name);
  return names;
}

Status ReadPrompts(const Metadata& metadata, const std::string& prefix, TextRules* rules) {
  for (const MetadataEntry& entry : metadata.entries()) {
    if (!entry.key.starts_with(prefix)) continue;
    BANTAM_ASSIGN(const auto text, metadata.Text(entry.key));
    const std::string_view name = entry.key.substr(prefix.size());
    if (name.empty() || name.size() > kPromptNameBytesMax || text->size() > kPromptBytesMax || rules->prompts.size() == kPromptsMax) {
      return Error(Code::kCorrupt,
                   fmt::format("{}: expected at most {} prompts, each with a name of 1 to {} bytes and at most {} bytes of text", prefix,
                               kPromptsMax, kPromptNameBytesMax, kPromptBytesMax));
    }
    rules->prompts.push_back({std::string(name), std::string(*text)});
  }
  return Ok();
}

Status ReadClasses(const Metadata& metadata, const std::string& prefix, TextRules* rules) {
  const std::string key = prefix + "output_labels";
  BANTAM_ASSIGN(const auto labels, metadata.Texts(key, kClassesMax));
  BANTAM_ASSIGN(const auto activation, metadata.Text(prefix + "activation"));
  if (labels) rules->labels.assign(labels->begin(), labels->end());
  for (const std::string& label : rules->labels) {
    if (label.size() <= kLabelBytesMax) continue;
    return Error(Code::kCorrupt, fmt::format("{}: a label of {} bytes, expected at most {}", key, label.size(), kLabelBytesMax));
  }
  if (!activation) return Ok();
  rules->activation = ClassActivationFromName(*activation);
  if (rules->activation) return Ok();
  return Error(Code::kCorrupt, fmt::format("{}activation: {}, expected {}", prefix, *activation, fmt::join(kClassActivationNames, ", ")));
}

Status ReadDimensions(const Metadata& metadata, const std::string& key, TextRules* rules) {
  BANTAM_ASSIGN(const auto numbers, metadata.Numbers(key, kDimensionsMax));
  for (const double number : numbers.value_or(std::vector<double>())) {
    if (!(number >= 1 && number <= kWidthMax)) {
      return Error(Code::kCorrupt, fmt::format("{}: {}, expected numbers from 1 to {}", key, number, kWidthMax));
    }
    rules->dimensions.push_back(static_cast<uint32_t>(number));
  }
  return Ok();
}

}  // namespace

std::optional<ClassActivation> ClassActivationFromName(std::string_view name) {
  for (size_t i = 0; i < std::size(kClassActivationNames); ++i) {
    if (kClassActivationNames[i] == name) return static_cast<ClassActivation>(i);
  }
  return std::nullopt;
}

Result<TextRules> ReadTextRules(const Metadata& metadata, std::string_view architecture) {
  TextRules rules;
  const auto key = [&](std::string_view name) { return fmt::format("{}.{}", architecture, name); };
  BANTAM_ASSIGN(const auto pooling, metadata.U32(key("pooling_type")));
  BANTAM_ASSIGN(const auto classifier, metadata.U32(key("classifier_pooling_type")));
  BANTAM_ASSIGN(const auto tokens, metadata.U32(key("text.tokens_max")));
  BANTAM_ASSIGN(const auto lower, metadata.Bool(key("text.lower_case")));
  BANTAM_ASSIGN(const auto pooled, metadata.Bool(key("text.prompt_pooled")));
  BANTAM_ASSIGN(const auto fallback, metadata.Text(key("text.default_prompt")));
  const auto given = [](const std::optional<uint32_t>& kind) { return kind && *kind != kPoolingRank && *kind != kPoolingUnsaid; };
  rules.pooling_given = given(pooling);
  rules.classifier_pooling_given = given(classifier);
  if (tokens && (*tokens == 0 || *tokens > kContextLengthMax)) {
    return Error(Code::kCorrupt, fmt::format("{}: {}, expected 1 to {}", key("text.tokens_max"), *tokens, kContextLengthMax));
  }
  rules.tokens_max = tokens.value_or(0);
  rules.lower_case = lower.value_or(false);
  rules.prompt_pooled = pooled.value_or(true);
  BANTAM_TRY(ReadPrompts(metadata, key("text.prompt."), &rules));
  BANTAM_TRY(ReadClasses(metadata, key("classifier."), &rules));
  BANTAM_TRY(ReadDimensions(metadata, key("text.dimensions"), &rules));
  BANTAM_ASSIGN(const auto any, metadata.Bool(key("text.any_dimensions")));
  rules.any_dimensions = any.value_or(false);
  rules.default_prompt = std::string(fallback.value_or(""));
  if (!rules.default_prompt.empty() && FindPrompt(rules, rules.default_prompt) == nullptr) {
    return Error(Code::kCorrupt, fmt::format("the default prompt is {}, but the model names {}", rules.default_prompt,
                                             rules.prompts.empty() ? "none" : Names(rules)));
  }
  return rules;
}

Result<std::string> ChoosePrefix(const TextRules& rules, const std::optional<std::string>& prompt,
                                 const std::optional<std::string>& prefix) {
  if (prompt && prefix) return Error(Code::kInvalidArgument, "--prompt and --prefix were both given; give one");
  if (prefix) return *prefix;
  const std::string& name = prompt ? *prompt : rules.default_prompt;
  if (!prompt && name.empty()) return std::string();
  const TextPrompt* found = FindPrompt(rules, name);
  if (found != nullptr) return found->text;
  return Error(Code::kInvalidArgument,
               rules.prompts.empty()
                   ? fmt::format("--prompt {}: the model names no prompts; give what stands in front of each text itself (--prefix)", name)
                   : fmt::format("--prompt {}: expected one of those that the model names: {}", name, Names(rules)));
}

std::string LabelOf(const TextRules& rules, size_t number) {
  return number < rules.labels.size() ? rules.labels[number] : fmt::format("LABEL_{}", number);
}

Status CheckDimensions(const TextRules& rules, size_t dimensions, size_t width) {
  const bool listed = std::find(rules.dimensions.begin(), rules.dimensions.end(), dimensions) != rules.dimensions.end();
  if (dimensions == width || (dimensions < width && dimensions > 0 && (listed || rules.any_dimensions))) return Ok();
  std::string expected = fmt::format("{}", width);
  if (rules.any_dimensions) expected = fmt::format("1 to {}", width);
  if (!rules.dimensions.empty()) expected = fmt::format("{} or {}", fmt::join(rules.dimensions, ", "), width);
  return Error(
      Code::kInvalidArgument,
      fmt::format("dimensions {}: expected {}{}", dimensions, expected,
                  expected == std::to_string(width) ? ", for the model does not say that parts of its vectors mean anything" : ""));
}

std::string WholeText(const TextRules& rules, std::string_view prefix, std::string_view text) {
  std::string whole = fmt::format("{}{}", prefix, text);
  return rules.lower_case ? Lowercase(whole) : whole;
}

}  // namespace bantam
