#include "text/chat_template.h"

#include <utility>

namespace bantam {

Result<ChatTemplate> ChatTemplate::Make(std::string_view source, const TemplateTokens& tokens) {
  if (source.empty()) return Error(Code::kUnsupported, "the model carries no chat template; use --raw to complete plain text");
  Result<jinja::Template> parsed = jinja::Template::Parse(source);
  if (!parsed.ok()) return std::move(parsed).error().With("chat template");
  return ChatTemplate(std::move(parsed).value(), tokens);
}

Result<std::vector<PromptPiece>> ChatTemplate::Render(std::span<const ChatMessage> messages, const std::tm& now) const {
  jinja::List list;
  for (const ChatMessage& message : messages) {
    jinja::Dict dict;
    dict.Set("role", jinja::Value::Str(message.role, /*trusted=*/true));
    dict.Set("content", jinja::Value::Str(message.content, /*trusted=*/false));
    list.push_back(jinja::Value(std::move(dict)));
  }
  jinja::Dict context;
  context.Set("messages", jinja::Value(std::move(list)));
  context.Set("add_generation_prompt", jinja::Value(true));
  context.Set("bos_token", jinja::Value::Str(tokens_.bos, /*trusted=*/true));
  context.Set("eos_token", jinja::Value::Str(tokens_.eos, /*trusted=*/true));
  jinja::RenderOptions options;
  options.now = now;
  Result<jinja::Text> text = template_.Render(context, options);
  if (!text.ok()) return std::move(text).error().With("chat template");
  return ToPieces(*text);
}

std::vector<PromptPiece> ToPieces(const jinja::Text& text) {
  std::vector<PromptPiece> pieces;
  text.ForEachRun([&](std::string_view bytes, bool trusted) { pieces.push_back({std::string(bytes), trusted}); });
  return pieces;
}

}  // namespace bantam
