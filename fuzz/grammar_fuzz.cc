// Hostile schemas, grammars and expressions: they compile or are refused within their limits, and what compiles never comes to a dead end.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/json.h"
#include "text/structured/json_schema.h"
#include "text/structured/text_grammar.h"
#include "text/structured/token_constraint.h"

namespace {

using namespace bantam;

std::shared_ptr<const TokenVocabulary> Vocabulary() {
  std::vector<std::string> texts;
  for (int byte = 0; byte < 256; ++byte) texts.emplace_back(1, static_cast<char>(byte));
  for (const char* text : {"\"", "{\"", "\":", "\",\"", "\"}", "true", "ab", "aaaa", "12", "\\n", "\xc3", "日本", ", "})
    texts.emplace_back(text);
  texts.emplace_back("<end>");
  const auto end = static_cast<uint32_t>(texts.size() - 1);
  return *TokenVocabulary::Make(std::move(texts), {end});
}

// Follows tokens that the input chooses. JSON that ends has to be JSON.
void Walk(const std::shared_ptr<const Grammar>& grammar, std::string_view choices, bool json) {
  static const auto vocabulary = Vocabulary();
  constexpr size_t kStepsMax = 60;
  TokenConstraint constraint(TokenMasks::Make(grammar, vocabulary));
  std::vector<uint32_t> bits(vocabulary->words());
  std::string text;
  for (size_t step = 0; step < kStepsMax && !constraint.ended(); ++step) {
    if (!constraint.Mask(bits).ok()) return;
    std::vector<uint32_t> allowed;
    for (uint32_t id = 0; id < vocabulary->size(); ++id) {
      if ((bits[id / 32] >> (id % 32) & 1) != 0) allowed.push_back(id);
    }
    CHECK(!allowed.empty());
    const auto choice = static_cast<unsigned char>(choices.empty() ? step * 37 : choices[step * 13 % choices.size()]);
    const uint32_t id = allowed[(choice + step) % allowed.size()];
    const std::string forced = constraint.Forced();
    const Status accepted = constraint.Accept(id);
    if (!accepted.ok() && accepted.error().code() == Code::kUnsupported) return;
    CHECK(accepted.ok());
    if (!constraint.ended()) text += vocabulary->TextOf(id);
    CHECK(forced.empty() || text.empty() || forced[0] == vocabulary->TextOf(id)[0]);
    if (json && constraint.MayEnd()) CHECK(ParseJson(text).ok());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  GrammarLimits limits;
  limits.states = 5'000;
  limits.rules = 1'000;
  limits.depth = 60;
  limits.automaton = {.states_max = 500, .work_max = 200'000};
  // The first byte chooses the language.
  const int language = data[0] % 3;
  const auto grammar = language == 0   ? CompileJsonSchema(text, {.limits = limits})
                       : language == 1 ? CompileGbnf(text, limits)
                                       : CompileRegex(text, limits);
  if (grammar.ok()) Walk(*grammar, text, /*json=*/language == 0);
  return 0;
}
