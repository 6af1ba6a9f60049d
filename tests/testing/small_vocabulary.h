// A vocabulary of every byte and some longer tokens, for tests of constraints.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/structured/token_vocabulary.h"

namespace bantam::testing {

// The last id ends an answer; the one before it is a control token without text.
inline std::shared_ptr<const TokenVocabulary> SmallVocabulary() {
  std::vector<std::string> texts;
  for (int byte = 0; byte < 256; ++byte) texts.emplace_back(1, static_cast<char>(byte));
  for (const char* text :
       {"\"",       "{\"",         "\":",   "\": ",  "\",", "\", \"", "\"}",   "}}", "]}",   "}]",      "},",   ", ",       "[{",
        "null",     "true",        "false", "name",  "na",  "me\"",   "a",     "ab", "abc",  " a",      "the ", " the",     "10",
        "12",       "0.5",         "-1",    "e1",    "\\n", "\\\"",   "\\u00", "é",  "\xc3", "日本",    "本",   "\xe6\x97", "🙂",
        "aaaaaaaa", "hello world", "://",   "2024-", "\n",  "  ",     "1,",    "2]", "a\"",  "ab\",\"", "é\"",  "\x80",     "\xbf\xbf"}) {
    texts.emplace_back(text);
  }
  texts.emplace_back();
  texts.emplace_back("<end>");
  const auto end = static_cast<uint32_t>(texts.size() - 1);
  return *TokenVocabulary::Make(std::move(texts), {end});
}

}  // namespace bantam::testing
