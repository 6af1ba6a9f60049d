// Chat templates: from messages to the prompt a model was trained on, by the template that the model carries (jinja.h).
#pragma once

#include <ctime>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "text/jinja.h"
#include "text/tokenizer.h"

namespace bantam {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

// What a template may show besides messages: trusted, for it names control tokens.
struct TemplateTokens {
  std::string bos;
  std::string eos;
  std::string unknown;
  std::string pad;
};

class ChatTemplate {
 public:
  // Corrupt and Unsupported name the line of the template; Unsupported also when `source` is empty.
  static Result<ChatTemplate> Make(std::string_view source, const TemplateTokens& tokens);

  // The whole prompt, up to where the answer begins. What messages say is never trusted. `now` is what the template sees as the local time.
  // Errors: Corrupt (the template refuses these messages, such as a system message), Exhausted (a limit).
  Result<std::vector<PromptPiece>> Render(std::span<const ChatMessage> messages, const std::tm& now) const;

  // The same for a request in JSON: an object with "messages" and what else the template looks at, such as "tools". Its members stand in
  // for what this class would give: bos_token, eos_token, add_generation_prompt (true).
  Result<std::vector<PromptPiece>> RenderRequest(const Json& request, const std::tm& now) const;

 private:
  ChatTemplate(jinja::Template parsed, const TemplateTokens& tokens) : template_(std::move(parsed)), tokens_(tokens) {}
  jinja::Dict Context() const;
  Result<std::vector<PromptPiece>> RenderContext(const jinja::Dict& context, const std::tm& now) const;

  jinja::Template template_;
  TemplateTokens tokens_;
};

// The parts of a rendered text that are the template's own, and the others.
std::vector<PromptPiece> ToPieces(const jinja::Text& text);

}  // namespace bantam
