#include "text/chat_template.h"

#include <fmt/format.h>

namespace bantam {
namespace {

// <|role|>\n, the message, the end-of-sequence token and a line feed; then <|assistant|>\n (Zephyr, TinyLlama).
class ZephyrTemplate final : public ChatTemplate {
 public:
  explicit ZephyrTemplate(std::string_view eos) : eos_(eos) {}

  Result<std::vector<PromptPiece>> Render(std::span<const ChatMessage> messages) const override {
    std::vector<PromptPiece> pieces;
    for (const ChatMessage& message : messages) {
      if (message.role != "system" && message.role != "user" && message.role != "assistant") {
        return Error(Code::kInvalidArgument, fmt::format("a message with the role {}: expected system, user or assistant", message.role));
      }
      pieces.push_back({fmt::format("<|{}|>\n", message.role), /*trusted=*/true});
      pieces.push_back({message.content, /*trusted=*/false});
      pieces.push_back({eos_ + "\n", /*trusted=*/true});
    }
    pieces.push_back({"<|assistant|>\n", /*trusted=*/true});
    return pieces;
  }

 private:
  std::string eos_;
};

bool Contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

}  // namespace

Result<std::unique_ptr<ChatTemplate>> MakeChatTemplate(const ChatTemplateInput& input) {
  // The line feed stands in the template as itself or as an escape.
  const bool zephyr = Contains(input.source, "'<|user|>\n' + message['content'] + eos_token") ||
                      Contains(input.source, "'<|user|>\\n' + message['content'] + eos_token");
  if (zephyr && Contains(input.source, "<|assistant|>")) {
    return std::unique_ptr<ChatTemplate>(std::make_unique<ZephyrTemplate>(input.eos));
  }
  return Error(Code::kUnsupported,
               input.source.empty()
                   ? std::string("the model carries no chat template; use --raw to complete plain text")
                   : std::string("the model's chat template is not one this build knows; use --raw to complete plain text"));
}

}  // namespace bantam
