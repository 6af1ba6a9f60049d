// Any vocabulary on any text, by each model: the first bytes of the input make the pieces, the rest is the text, which must come
// back.
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "text/pre_tokenizers.h"
#include "text/tokenizer.h"

namespace bantam {
namespace {

TokenizerSpec MarkedSpec(TokenizerModel model) {
  TokenizerSpec spec;
  spec.model = model;
  spec.Add("<unk>", TokenType::kUnknown, 0);
  spec.Add("<s>", TokenType::kControl, 0);
  for (int byte = 0; byte < 256; ++byte) spec.Add(fmt::format("<0x{:02X}>", byte), TokenType::kByte, 0);
  spec.Add(kSpaceMark, TokenType::kNormal, 0);
  spec.byte_fallback = true;
  spec.normalizer = {{NormalizerStep::Kind::kPrepend, "", " "}, {NormalizerStep::Kind::kReplace, " ", std::string(kSpaceMark)}};
  spec.decode.space_mark = kSpaceMark;
  spec.decode.strip_space = true;
  spec.unknown = 0;
  return spec;
}

TokenizerSpec ByteLevelSpec(size_t pattern) {
  TokenizerSpec spec;
  spec.model = TokenizerModel::kBpe;
  spec.byte_level = true;
  for (int byte = 0; byte < 256; ++byte) spec.Add(std::string(1, static_cast<char>(byte)), TokenType::kNormal, 0);
  spec.Add("<s>", TokenType::kControl, 0);
  const auto named = NamedPreTokenizers();
  for (const std::string_view regex : named[pattern % named.size()].patterns) {
    SplitStep step;
    step.pattern = regex;
    spec.splits.push_back(step);
  }
  return spec;
}

}  // namespace
}  // namespace bantam

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bantam;
  if (size < 3) return 0;
  constexpr TokenizerModel kModels[] = {TokenizerModel::kSpmBpe, TokenizerModel::kUnigram, TokenizerModel::kBpe};
  const TokenizerModel model = kModels[data[0] % 3];
  const bool byte_level = model == TokenizerModel::kBpe;
  TokenizerSpec spec = byte_level ? ByteLevelSpec(data[1]) : MarkedSpec(model);
  // Up to 31 pieces of up to 7 bytes, each with a score, or as many merges.
  size_t pieces = data[2] % 32;
  size_t at = 3;
  for (; pieces > 0 && at + 2 <= size; --pieces) {
    if (byte_level) {
      const Merge merge = {static_cast<uint32_t>(data[at] % spec.size()), static_cast<uint32_t>(data[at + 1] % spec.size()),
                           static_cast<uint32_t>(spec.size())};
      if (spec.Text(merge.left).size() + spec.Text(merge.right).size() > 64) break;
      spec.Add(std::string(spec.Text(merge.left)) + std::string(spec.Text(merge.right)), TokenType::kNormal, 0);
      if (merge.left != 256 && merge.right != 256) spec.merges.push_back(merge);
      at += 2;
      continue;
    }
    const size_t length = std::min<size_t>(data[at] % 8, size - at - 2);
    const auto score = static_cast<float>(static_cast<int8_t>(data[at + 1]));
    spec.Add(std::string_view(reinterpret_cast<const char*>(data) + at + 2, length), TokenType::kNormal, static_cast<double>(score));
    at += 2 + length;
  }
  const auto tokenizer = Tokenizer::Make(std::move(spec));
  CHECK(tokenizer.ok());
  const std::string text(reinterpret_cast<const char*>(data) + at, size - at);
  const auto tokens = tokenizer->Encode(text, /*special=*/false);
  CHECK(tokens.ok());
  for (const uint32_t token : *tokens) CHECK(tokenizer->spec().types[token] != TokenType::kControl);
  const std::string back = tokenizer->Decode(*tokens, /*special=*/false);
  if (byte_level || text.find(kSpaceMark) == std::string::npos) CHECK(back == text);
  TokenStream stream(*tokenizer);
  for (const uint32_t token : *tokens) (void)stream.Push(token);
  (void)stream.Finish();
  return 0;
}
