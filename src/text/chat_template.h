// Chat templates: from messages to the prompt a model was trained on. The seam behind which the interpreter of the models'
// own templates will stand.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/tokenizer.h"

namespace bantam {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

class ChatTemplate {
 public:
  virtual ~ChatTemplate() = default;
  // The whole prompt, up to where the answer begins. What messages say is never trusted.
  virtual Result<std::vector<PromptPiece>> Render(std::span<const ChatMessage> messages) const = 0;
};

struct ChatTemplateInput {
  std::string_view source;  // the template as the model carries it
  std::string_view eos;     // text of the end-of-sequence token
};

// Recognises the turn format of a template. Unsupported when it is none that this build knows.
Result<std::unique_ptr<ChatTemplate>> MakeChatTemplate(const ChatTemplateInput& input);

}  // namespace bantam
