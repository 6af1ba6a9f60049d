#include "text/chat_template.h"

#include <utility>

namespace bantam {

Result<ChatTemplate> ChatTemplate::Make(std::string_view source, const TemplateTokens& tokens) {
  if (source.empty()) return Error(Code::kUnsupported, "the model carries no chat template; bantam run --raw completes plain text");
  Result<jinja::Template> parsed = jinja::Template::Parse(source);
  if (!parsed.ok()) return std::move(parsed).error().With("chat template");
  return ChatTemplate(std::move(parsed).value(), tokens);
}

jinja::Dict ChatTemplate::Context() const {
  jinja::Dict context;
  context.Set("tools", jinja::Value(jinja::None{}));
  context.Set("documents", jinja::Value(jinja::None{}));
  context.Set("add_generation_prompt", jinja::Value(true));
  context.Set("bos_token", jinja::Value::Str(tokens_.bos, /*trusted=*/true));
  context.Set("eos_token", jinja::Value::Str(tokens_.eos, /*trusted=*/true));
  if (!tokens_.unknown.empty()) context.Set("unk_token", jinja::Value::Str(tokens_.unknown, /*trusted=*/true));
  if (!tokens_.pad.empty()) context.Set("pad_token", jinja::Value::Str(tokens_.pad, /*trusted=*/true));
  return context;
}

Result<std::vector<PromptPiece>> ChatTemplate::RenderContext(const jinja::Dict& context, const std::tm& now) const {
  jinja::RenderOptions options;
  options.now = now;
  Result<jinja::Text> text = template_.Render(context, options);
  if (!text.ok()) return std::move(text).error().With("chat template");
  return ToPieces(*text);
}

Result<std::vector<PromptPiece>> ChatTemplate::Render(std::span<const ChatMessage> messages, const std::tm& now) const {
  jinja::List list;
  for (const ChatMessage& message : messages) {
    jinja::Dict dict;
    dict.Set("role", jinja::Value::Str(message.role, /*trusted=*/true));
    dict.Set("content", jinja::Value::Str(message.content, /*trusted=*/false));
    list.push_back(jinja::Value(std::move(dict)));
  }
  jinja::Dict context = Context();
  context.Set("messages", jinja::Value(std::move(list)));
  return RenderContext(context, now);
}

Result<std::vector<PromptPiece>> ChatTemplate::RenderRequest(const Json& request, const std::tm& now) const {
  jinja::Dict context = Context();
  for (const auto& [name, value] : request.items()) context.Set(name, jinja::FromJson(value));
  return RenderContext(context, now);
}

std::vector<PromptPiece> ToPieces(const jinja::Text& text) {
  std::vector<PromptPiece> pieces;
  text.ForEachRun([&](std::string_view bytes, bool trusted) { pieces.push_back({std::string(bytes), trusted}); });
  return pieces;
}

}  // namespace bantam
