// Vocabulary files of any bytes: the first chooses the format, a tokenizer.json or a SentencePiece model. What can be read encodes and
// decodes a text.
#include <cstdint>
#include <string>

#include "base/check.h"
#include "text/sentencepiece_model.h"
#include "text/tokenizer.h"
#include "text/tokenizer_json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bantam;
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  auto spec =
      data[0] % 2 == 0 ? ReadTokenizerJson(bytes, R"({"bos_token":"<s>","eos_token":{"content":"</s>"}})") : ReadSentencePieceModel(bytes);
  if (!spec.ok()) return 0;
  const auto tokenizer = Tokenizer::Make(std::move(spec).value(), /*hash_seed=*/1);
  if (!tokenizer.ok()) return 0;
  for (const char* text : {"Hello <s> w\xc3\xb6rld  12 don't\n", "\xff\xe4\xb8\xad\xcc\x81  ", "<sep>a <mask> b"}) {
    const PromptPiece pieces[] = {{text, true}, {text, false}};
    const auto tokens = tokenizer->Encode(pieces);
    if (!tokens.ok()) continue;
    for (const uint32_t token : *tokens) CHECK(token < tokenizer->size());
    (void)tokenizer->Decode(*tokens, /*special=*/true);
    TokenStream stream(*tokenizer);
    for (const uint32_t token : *tokens) (void)stream.Push(token);
    (void)stream.Finish();
  }
  return 0;
}
