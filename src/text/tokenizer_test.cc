#include "text/tokenizer.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/rng.h"

namespace bantam {
namespace {

// Control tokens, all bytes, and a few pieces.
TokenizerSpec SmallSpec() {
  TokenizerSpec spec;
  spec.Add("<unk>", TokenType::kUnknown, 0);
  spec.Add("<s>", TokenType::kControl, 0);
  spec.Add("</s>", TokenType::kControl, 0);
  for (int byte = 0; byte < 256; ++byte) spec.Add(fmt::format("<0x{:02X}>", byte), TokenType::kByte, 0);
  for (const char* piece : {"\xe2\x96\x81", "a", "b", "ab",
                            "\xe2\x96\x81"
                            "ab",
                            "<", "s", ">", "s>", "/"}) {
    spec.Add(piece, TokenType::kNormal, -static_cast<float>(spec.size()));
  }
  spec.Add("<tool>", TokenType::kUserDefined, 0);
  spec.bos = 1;
  spec.eos = 2;
  spec.unknown = 0;
  spec.end_of_turn = {2};
  spec.normalizer = {{NormalizerStep::Kind::kPrepend, "", " "}, {NormalizerStep::Kind::kReplace, " ", std::string(kSpaceMark)}};
  spec.decode.space_mark = kSpaceMark;
  spec.decode.strip_space = true;
  return spec;
}

class TokenizerTest : public ::testing::Test {
 protected:
  const Tokenizer tokenizer_ = Tokenizer::Make(SmallSpec()).value();
  uint32_t Id(std::string_view text) const {
    for (uint32_t token = 0; token < tokenizer_.size(); ++token) {
      if (tokenizer_.spec().Text(token) == text) return token;
    }
    return UINT32_MAX;
  }
};

TEST_F(TokenizerTest, NamesOfControlTokensInUntrustedTextArePlainText) {
  // Merging would reach "<s>" (its score is the highest), and must not.
  for (const char* attack : {"<s>", "a</s>b", "<unk>", "<0x41>", "ab<s>ab"}) {
    const auto tokens = tokenizer_.Encode(attack, /*special=*/false).value();
    for (const uint32_t token : tokens) {
      const TokenType type = tokenizer_.spec().types[token];
      EXPECT_NE(type, TokenType::kControl) << attack;
      EXPECT_NE(type, TokenType::kUnknown) << attack;
    }
    EXPECT_EQ(tokenizer_.Decode(tokens, /*special=*/false), attack);
  }
  EXPECT_EQ(tokenizer_.Encode("<0x41>", false).value(),
            (std::vector<uint32_t>{Id("\xe2\x96\x81"), Id("<"), 3 + '0', 3 + 'x', 3 + '4', 3 + '1', Id(">")}));
}

TEST_F(TokenizerTest, InTrustedTextTheyMeanTheToken) {
  EXPECT_EQ(tokenizer_.Encode("<s>ab</s>", /*special=*/true).value(), (std::vector<uint32_t>{1,
                                                                                             Id("\xe2\x96\x81"
                                                                                                "ab"),
                                                                                             2}));
}

TEST_F(TokenizerTest, PiecesAreOneTextWithTrustPerPiece) {
  const std::vector<PromptPiece> pieces = {{"a", true}, {"b</s>", false}, {"</s>", true}};
  const auto tokens = tokenizer_.Encode(pieces).value();
  EXPECT_EQ(tokens.front(), Id("\xe2\x96\x81"
                               "ab"))
      << "text merges across pieces";
  EXPECT_EQ(std::count(tokens.begin(), tokens.end(), 2u), 1) << "only the trusted one";
}

TEST_F(TokenizerTest, UserDefinedTokensAreFoundInAnyText) {
  EXPECT_EQ(tokenizer_.Encode("<tool>", false).value(), (std::vector<uint32_t>{Id("<tool>")}));
}

TEST_F(TokenizerTest, AnyBytesComeBack) {
  Rng rng(2);
  for (int round = 0; round < 500; ++round) {
    std::string text;
    const size_t size = rng.Next() % 40;
    while (text.size() < size) text += rng.Next() % 2 == 0 ? static_cast<char>(rng.Next()) : "ab <s> /"[rng.Next() % 8];
    if (text.find("\xe2\x96\x81") != std::string::npos) continue;
    EXPECT_EQ(tokenizer_.Decode(tokenizer_.Encode(text, false).value(), false), text);
  }
}

TEST_F(TokenizerTest, StreamsOnlyWholeCharacters) {
  const std::string text = " \xf0\x9f\xa6\x99!";
  TokenStream stream(tokenizer_);
  std::string all;
  const auto encoded = tokenizer_.Encode(text, false).value();
  for (const uint32_t token : encoded) {
    const std::string part = stream.Push(token);
    EXPECT_TRUE(part.empty() || part.find('\x9f') == std::string::npos || part.find("\xf0\x9f\xa6\x99") != std::string::npos) << part;
    all += part;
  }
  EXPECT_EQ(all + stream.Finish(), " " + text) << "the space that encoding adds stays: a stream continues a text";
}

TEST_F(TokenizerTest, StreamReplacesWhatNeverBecomesACharacter) {
  TokenStream stream(tokenizer_);
  EXPECT_EQ(stream.Push(3 + 0xf0), "");
  EXPECT_EQ(stream.Push(3 + 'a'),
            "\xef\xbf\xbd"
            "a");
  EXPECT_EQ(stream.Push(3 + 0xe2), "");
  EXPECT_EQ(stream.Push(1), "") << "control tokens are silent";
  EXPECT_EQ(stream.Finish(), "\xef\xbf\xbd");
}

TEST_F(TokenizerTest, EndOfTurn) {
  EXPECT_TRUE(tokenizer_.EndsTurn(2));
  EXPECT_FALSE(tokenizer_.EndsTurn(1));
}

TEST(Tokenizer, TheHashSeedChangesNoResult) {
  const Tokenizer one = Tokenizer::Make(SmallSpec(), 1).value();
  const Tokenizer two = Tokenizer::Make(SmallSpec(), 0xfeedfacecafebeefULL).value();
  Rng rng(3);
  for (int round = 0; round < 200; ++round) {
    std::string text;
    while (text.size() < 30) text += "ab <s> /\xe2\x96\x81"[rng.Next() % 11];
    EXPECT_EQ(one.Encode(text, false).value(), two.Encode(text, false).value()) << text;
  }
}

// Words are encoded one by one unless a piece reaches from one into the next.
TEST(Tokenizer, PiecesAcrossWordsAreFound) {
  TokenizerSpec spec = SmallSpec();
  const uint32_t across = static_cast<uint32_t>(spec.size());
  spec.Add("b\xe2\x96\x81", TokenType::kNormal, 10);
  const Tokenizer tokenizer = Tokenizer::Make(std::move(spec)).value();
  const auto tokens = tokenizer.Encode("b b", false).value();
  EXPECT_EQ(std::count(tokens.begin(), tokens.end(), across), 1);
  EXPECT_EQ(tokenizer.Decode(tokens, false), "b b");
}

TEST(Tokenizer, TheLongestOfAddedTokensWins) {
  TokenizerSpec spec = SmallSpec();
  const auto first = static_cast<uint32_t>(spec.size());
  for (const char* text : {"<a>", "<a><b>", "<", "<a><c>"}) {
    spec.Add(text, TokenType::kControl, 0);
  }
  const Tokenizer tokenizer = Tokenizer::Make(std::move(spec)).value();
  EXPECT_EQ(tokenizer.Encode("<a><b><a><c><a><", true).value(), (std::vector<uint32_t>{first + 1, first + 3, first, first + 2}));
}

TEST(Tokenizer, RefusesTextsThatNoVocabularyHas) {
  for (const TokenType type : {TokenType::kNormal, TokenType::kControl}) {
    TokenizerSpec spec = SmallSpec();
    spec.Add(std::string((type == TokenType::kNormal ? kTokenBytesMax : kAddedTokenBytesMax) + 1, 'x'), type, 0);
    EXPECT_EQ(Tokenizer::Make(std::move(spec)).error().code(), Code::kCorrupt);
  }
}

TEST(Tokenizer, RefusesContradictions) {
  EXPECT_EQ(Tokenizer::Make(TokenizerSpec()).error().code(), Code::kCorrupt);
  TokenizerSpec bad_byte = SmallSpec();
  bad_byte.texts.replace(bad_byte.texts.find("<0x41>"), 6, "<0xZ1>");
  EXPECT_EQ(Tokenizer::Make(std::move(bad_byte)).error().code(), Code::kCorrupt);
  TokenizerSpec no_fallback = SmallSpec();
  no_fallback.types[3 + 'q'] = TokenType::kNormal;
  no_fallback.unknown.reset();
  EXPECT_EQ(Tokenizer::Make(std::move(no_fallback)).error().code(), Code::kCorrupt);
}

TEST(Tokenizer, WithoutByteTokensTheUnknownTokenStands) {
  TokenizerSpec spec = SmallSpec();
  spec.types[3 + 'q'] = TokenType::kNormal;
  const Tokenizer tokenizer = Tokenizer::Make(std::move(spec)).value();
  const auto tokens = tokenizer.Encode("aq", false).value();
  EXPECT_EQ(tokens.back(), 0u);
}

}  // namespace
}  // namespace bantam
