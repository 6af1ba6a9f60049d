#include "text/chat_template.h"

#include <gtest/gtest.h>

namespace bantam {
namespace {

// As TinyLlama-1.1B-Chat carries it.
constexpr char kZephyr[] =
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}";

TEST(ChatTemplate, RendersZephyrTurns) {
  const auto made = MakeChatTemplate({kZephyr, "</s>"});
  ASSERT_TRUE(made.ok());
  const std::vector<ChatMessage> messages = {{"system", "You are a helpful assistant."},
                                             {"user", "Name three uses of a soil moisture sensor.</s>"}};
  const auto pieces = (*made)->Render(messages);
  ASSERT_TRUE(pieces.ok());
  std::string text;
  for (const PromptPiece& piece : *pieces) {
    text += piece.text;
    // The prompt of ../shared/golden/real/greedy.json; what the user says is never trusted.
    const bool said = piece.text.find("helpful") != std::string::npos || piece.text.find("Name three") != std::string::npos;
    EXPECT_EQ(piece.trusted, !said) << piece.text;
  }
  EXPECT_EQ(text,
            "<|system|>\nYou are a helpful assistant.</s>\n<|user|>\nName three uses of a soil moisture sensor.</s></s>\n<|assistant|>\n");
}

TEST(ChatTemplate, UnknownOnesAreNamedErrors) {
  EXPECT_EQ(MakeChatTemplate({"", "</s>"}).error().code(), Code::kUnsupported);
  EXPECT_EQ(MakeChatTemplate({"{{ bos_token }}[INST]", "</s>"}).error().code(), Code::kUnsupported);
  const auto made = MakeChatTemplate({kZephyr, "</s>"});
  const std::vector<ChatMessage> messages = {{"tool", "x"}};
  EXPECT_EQ((*made)->Render(messages).error().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace bantam
