#include "engine/chat.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace bantam {

Result<TrimmedChat> TrimChat(std::vector<ChatMessage> messages, size_t tokens_max, const TokenizeMessages& tokenize) {
  TrimmedChat chat;
  chat.messages = std::move(messages);
  const size_t first = !chat.messages.empty() && chat.messages[0].role == "system" ? 1 : 0;
  while (true) {
    BANTAM_ASSIGN(chat.tokens, tokenize(chat.messages));
    if (chat.tokens.size() <= tokens_max) return chat;
    if (chat.messages.size() <= first + 1) {
      return Error(Code::kExhausted, fmt::format("the message takes {} tokens and the context leaves {}; shorten it or raise --context",
                                                 chat.tokens.size(), tokens_max));
    }
    const auto oldest = chat.messages.begin() + static_cast<std::ptrdiff_t>(first);
    auto next = std::find_if(oldest + 1, chat.messages.end(), [](const ChatMessage& message) { return message.role == "user"; });
    if (next == chat.messages.end()) next = chat.messages.end() - 1;
    chat.dropped += static_cast<size_t>(next - oldest);
    chat.messages.erase(oldest, next);
  }
}

size_t CommonPrefix(std::span<const uint32_t> a, std::span<const uint32_t> b) {
  return static_cast<size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
}

}  // namespace bantam
