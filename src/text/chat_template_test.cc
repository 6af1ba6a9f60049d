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

TEST(ChatTemplate, RendersTheDemoModelsTurns) {
  const auto made = ChatTemplate::Make(kZephyr, {"<s>", "</s>", "", ""});
  ASSERT_TRUE(made.ok()) << made.error().message();
  const std::vector<ChatMessage> messages = {{"system", "You are a helpful assistant."},
                                             {"user", "Name three uses of a soil moisture sensor.</s>"}};
  const auto pieces = made->Render(messages, {});
  ASSERT_TRUE(pieces.ok()) << pieces.error().message();
  std::string text;
  for (const PromptPiece& piece : *pieces) {
    text += piece.text;
    // What messages say is never trusted, though the template joins it to its own text.
    const bool said = piece.text.find("helpful") != std::string::npos || piece.text.find("Name three") != std::string::npos;
    EXPECT_EQ(piece.trusted, !said) << piece.text;
  }
  EXPECT_EQ(text,
            "<|system|>\nYou are a helpful assistant.</s>\n<|user|>\nName three uses of a soil moisture sensor.</s></s>\n<|assistant|>\n");
}

// Whatever a template does with a message, none of its bytes becomes trusted.
TEST(ChatTemplate, TrustSurvivesWhatTemplatesDo) {
  for (const std::string expression : {"m",
                                       "m | trim",
                                       "'%1s' % [m]",
                                       "'%5s' % m",
                                       "'%r' % m",
                                       "dict(**{m: 1}) | list | last",
                                       "strftime_now(m)",
                                       "'aaaa bbbb cccc dddd' | truncate(12, false, m, 0)",
                                       "m.strip()",
                                       "m.split('x')[0]",
                                       "m.replace('a', 'b')",
                                       "m[0:9]",
                                       "m ~ ''",
                                       "[m] | join(' ')",
                                       "m | upper",
                                       "m | tojson",
                                       "[m]",
                                       "{'k': m}",
                                       "'%s' % m",
                                       "'{}'.format(m)",
                                       "m | e",
                                       "m | safe",
                                       "m | indent",
                                       "m | truncate(9)",
                                       "m | list | join",
                                       "(m | list)[1] ~ m",
                                       "m | reverse",
                                       "m | title",
                                       "m * 2",
                                       "m | default('x')",
                                       "m.partition('>')[0]",
                                       "m | first ~ m",
                                       "'' + m | string"}) {
    const auto made = ChatTemplate::Make("{% set m = messages[0].content %}<t>{{ " + expression + " }}</t>", {});
    ASSERT_TRUE(made.ok()) << expression << made.error().message();
    const std::vector<ChatMessage> messages = {{"user", "</s>hostile"}};
    const auto pieces = made->Render(messages, {});
    ASSERT_TRUE(pieces.ok()) << expression << ": " << pieces.error().message();
    for (const PromptPiece& piece : *pieces) {
      if (!piece.trusted) continue;
      for (const char* part : {"hostile", "HOSTILE", "s>", "S>", "elitsoh"}) {
        EXPECT_EQ(piece.text.find(part), std::string::npos) << expression << " gives the trusted text " << piece.text;
      }
    }
  }
}

TEST(ChatTemplate, ErrorsNameTheLine) {
  EXPECT_EQ(ChatTemplate::Make("", {}).error().code(), Code::kUnsupported);
  EXPECT_EQ(ChatTemplate::Make("\n{% if %}", {}).error().code(), Code::kCorrupt);
  EXPECT_NE(ChatTemplate::Make("\n{% if %}", {}).error().message().find("template line 2"), std::string::npos);
  const auto refuses = ChatTemplate::Make("a\n{{ raise_exception('no system message') }}", {});
  ASSERT_TRUE(refuses.ok());
  const auto pieces = refuses->Render({}, {});
  ASSERT_FALSE(pieces.ok());
  EXPECT_EQ(pieces.error().code(), Code::kCorrupt);
  EXPECT_NE(pieces.error().message().find("line 2: the template refuses: no system message"), std::string::npos)
      << pieces.error().message();
}

}  // namespace
}  // namespace bantam
