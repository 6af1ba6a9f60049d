// Any vocabulary on any text: the first bytes of the input make the pieces, the rest is the text, which must come back.
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bantam;
  TokenizerSpec spec;
  spec.Add("<unk>", TokenType::kUnknown, 0);
  spec.Add("<s>", TokenType::kControl, 0);
  for (int byte = 0; byte < 256; ++byte) spec.Add(fmt::format("<0x{:02X}>", byte), TokenType::kByte, 0);
  spec.Add("\xe2\x96\x81", TokenType::kNormal, 0);
  spec.bos = 1;
  spec.unknown = 0;
  spec.normalizer = {{NormalizerStep::Kind::kPrepend, "", " "}, {NormalizerStep::Kind::kReplace, " ", std::string(kSpaceMark)}};
  spec.decode.space_mark = kSpaceMark;
  spec.decode.strip_space = true;
  // Up to 31 pieces of up to 7 bytes, each with a score.
  size_t pieces = size > 0 ? data[0] % 32 : 0;
  size_t at = std::min<size_t>(1, size);
  for (; pieces > 0 && at + 2 <= size; --pieces) {
    const size_t length = std::min<size_t>(data[at] % 8, size - at - 2);
    const auto score = static_cast<float>(static_cast<int8_t>(data[at + 1]));
    spec.Add(std::string_view(reinterpret_cast<const char*>(data) + at + 2, length), TokenType::kNormal, score);
    at += 2 + length;
  }
  const auto tokenizer = Tokenizer::Make(std::move(spec));
  CHECK(tokenizer.ok());
  const std::string text(reinterpret_cast<const char*>(data) + at, size - at);
  const auto tokens = tokenizer->Encode(text, /*special=*/false).value();
  for (const uint32_t token : tokens) CHECK(tokenizer->spec().types[token] != TokenType::kControl);
  const std::string back = tokenizer->Decode(tokens, /*special=*/false);
  if (text.find("\xe2\x96\x81") == std::string::npos) CHECK(back == text);
  TokenStream stream(*tokenizer);
  for (const uint32_t token : tokens) (void)stream.Push(token);
  (void)stream.Finish();
  return 0;
}
