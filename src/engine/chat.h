// Conversation: the messages of a chat, and which of them still fit the context.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace bantam {

// Tokens of the prompt that a list of messages makes.
using TokenizeMessages = std::function<Result<std::vector<uint32_t>>(std::span<const ChatMessage>)>;

struct TrimmedChat {
  std::vector<ChatMessage> messages;
  std::vector<uint32_t> tokens;
  size_t dropped = 0;  // messages left out
};

// The prompt of `messages` in at most `tokens_max` tokens. While it is longer, the oldest exchange (a user message and what
// follows it up to the next user message) goes; a system message at the front and the newest message stay. Exhausted when
// those alone do not fit.
Result<TrimmedChat> TrimChat(std::vector<ChatMessage> messages, size_t tokens_max, const TokenizeMessages& tokenize);

// How many tokens at the start of both are the same: their KV can stay.
size_t CommonPrefix(std::span<const uint32_t> a, std::span<const uint32_t> b);

}  // namespace bantam
