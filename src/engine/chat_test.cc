#include "engine/chat.h"

#include <gtest/gtest.h>

namespace bantam {
namespace {

// One token per character, and one per message for its frame.
Result<std::vector<uint32_t>> Tokenize(std::span<const ChatMessage> messages) {
  std::vector<uint32_t> tokens;
  for (const ChatMessage& message : messages) {
    tokens.push_back(0);
    for (const char c : message.content) tokens.push_back(static_cast<unsigned char>(c));
  }
  return tokens;
}

std::string Contents(const TrimmedChat& chat) {
  std::string text;
  for (const ChatMessage& message : chat.messages) text += message.content + ",";
  return text;
}

const std::vector<ChatMessage> kChat = {{"system", "S"}, {"user", "u1"},      {"assistant", "a1"},
                                        {"user", "u2"},  {"assistant", "a2"}, {"user", "u3"}};

TEST(TrimChat, KeepsAllThatFits) {
  const auto chat = TrimChat(kChat, 17, Tokenize);
  EXPECT_EQ(Contents(*chat), "S,u1,a1,u2,a2,u3,");
  EXPECT_EQ(chat->dropped, 0u);
  EXPECT_EQ(chat->tokens.size(), 17u);
}

TEST(TrimChat, OldestExchangesGoAndTheSystemMessageStays) {
  EXPECT_EQ(Contents(*TrimChat(kChat, 16, Tokenize)), "S,u2,a2,u3,");
  const auto chat = TrimChat(kChat, 9, Tokenize);
  EXPECT_EQ(Contents(*chat), "S,u3,");
  EXPECT_EQ(chat->dropped, 4u);
}

TEST(TrimChat, WithoutASystemMessageAndWithUnevenTurns) {
  EXPECT_EQ(Contents(*TrimChat({{"user", "u1"}, {"user", "u2"}, {"assistant", "a"}, {"user", "u3"}}, 8, Tokenize)), "u2,a,u3,");
  EXPECT_EQ(Contents(*TrimChat({{"assistant", "a"}, {"assistant", "b"}, {"user", "u"}}, 3, Tokenize)), "u,");
}

TEST(TrimChat, TheNewestMessageAloneMustFit) {
  const auto chat = TrimChat(kChat, 4, Tokenize);
  ASSERT_FALSE(chat.ok());
  EXPECT_EQ(chat.error().code(), Code::kExhausted);
  EXPECT_NE(chat.error().message().find("5 tokens"), std::string::npos) << chat.error().message();
}

TEST(CommonPrefix, CountsEqualStarts) {
  const std::vector<uint32_t> a = {1, 2, 3};
  EXPECT_EQ(CommonPrefix(a, std::vector<uint32_t>{1, 2, 4, 5}), 2u);
  EXPECT_EQ(CommonPrefix(a, a), 3u);
  EXPECT_EQ(CommonPrefix(a, {}), 0u);
}

}  // namespace
}  // namespace bantam
