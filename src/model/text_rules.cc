#include "model/text_rules.h"

#include <fmt/format.h>

#include <algorithm>

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

}  // namespace

Result<TextRules> ReadTextRules(const Metadata& metadata, std::string_view architecture) {
  TextRules rules;
  const auto key = [&](std::string_view name) { return fmt::format("{}.{}", architecture, name); };
  BANTAM_ASSIGN(const auto pooling, metadata.U32(key("pooling_type")));
  BANTAM_ASSIGN(const auto classifier, metadata.U32(key("classifier_pooling_type")));
  BANTAM_ASSIGN(const auto tokens, metadata.U32(key("text.tokens_max")));
  BANTAM_ASSIGN(const auto lower, metadata.Bool(key("text.lower_case")));
  BANTAM_ASSIGN(const auto pooled, metadata.Bool(key("text.prompt_pooled")));
  BANTAM_ASSIGN(const auto fallback, metadata.Text(key("text.default_prompt")));
  rules.pooling_given = pooling && *pooling != kPoolingRank;
  rules.classifier_pooling_given = classifier && *classifier != kPoolingRank;
  if (tokens && (*tokens == 0 || *tokens > kContextLengthMax)) {
    return Error(Code::kCorrupt, fmt::format("{}: {}, expected 1 to {}", key("text.tokens_max"), *tokens, kContextLengthMax));
  }
  rules.tokens_max = tokens.value_or(0);
  rules.lower_case = lower.value_or(false);
  rules.prompt_pooled = pooled.value_or(true);
  BANTAM_TRY(ReadPrompts(metadata, key("text.prompt."), &rules));
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

std::string WholeText(const TextRules& rules, std::string_view prefix, std::string_view text) {
  std::string whole = fmt::format("{}{}", prefix, text);
  return rules.lower_case ? Lowercase(whole) : whole;
}

}  // namespace bantam
