#include "text/tokenizer.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/rng.h"
#include "text/spec_builder.h"

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

TEST_F(TokenizerTest, AStreamWritesTheControlTokensItIsTold) {
  TokenStream stream(tokenizer_, {2});
  EXPECT_EQ(stream.Push(2), "</s>");
  EXPECT_EQ(stream.Push(1), "");
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

// Bytes, a few merges, and tokens of each kind.
TokenizerSpec ByteLevelSpec() {
  TokenizerSpec spec;
  spec.model = TokenizerModel::kBpe;
  spec.byte_level = true;
  spec.added_apart = true;
  for (int byte = 0; byte < 256; ++byte) {
    const char text = static_cast<char>(byte);
    spec.Add(std::string_view(&text, 1), TokenType::kNormal, 0);
  }
  const auto merge = [&](uint32_t left, uint32_t right) {
    const std::string text = std::string(spec.Text(left)) + std::string(spec.Text(right));
    spec.merges.push_back({left, right, static_cast<uint32_t>(spec.size())});
    spec.Add(text, TokenType::kNormal, 0);
    return static_cast<uint32_t>(spec.size() - 1);
  };
  const uint32_t ab = merge('a', 'b');     // 256
  const uint32_t space = merge(' ', 'a');  // 257
  merge(ab, ab);                           // 258
  merge(space, 'b');                       // 259
  merge('a', 'a');                         // 260
  spec.Add("<s>", TokenType::kControl, 0);
  SplitStep split;
  split.pattern = R"( ?\p{L}+|[^\p{L}])";
  spec.splits = {split};
  return spec;
}

TEST(ByteLevelBpe, JoinsByRankAndFromTheLeft) {
  const Tokenizer tokenizer = Tokenizer::Make(ByteLevelSpec()).value();
  EXPECT_EQ(tokenizer.Encode("ab", false).value(), (std::vector<uint32_t>{256}));
  EXPECT_EQ(tokenizer.Encode("abab", false).value(), (std::vector<uint32_t>{258}));
  EXPECT_EQ(tokenizer.Encode("ababab", false).value(), (std::vector<uint32_t>{258, 256}));
  EXPECT_EQ(tokenizer.Encode("aaa", false).value(), (std::vector<uint32_t>{260, 'a'}));
  EXPECT_EQ(tokenizer.Encode(" ab", false).value(), (std::vector<uint32_t>{' ', 256})) << "the lower rank goes first";
  EXPECT_EQ(tokenizer.Encode("ab ab", false).value(), (std::vector<uint32_t>{256, ' ', 256})) << "nothing is joined across parts";
  EXPECT_EQ(tokenizer.Name(257),
            "\xc4\xa0"
            "a")
      << "as vocabularies write it";
}

TEST(ByteLevelBpe, IgnoringMerges) {
  TokenizerSpec spec = ByteLevelSpec();
  spec.ignore_merges = true;
  spec.Add("xyz", TokenType::kNormal, 0);
  const Tokenizer tokenizer = Tokenizer::Make(std::move(spec)).value();
  EXPECT_EQ(tokenizer.Encode("xyz ab xyzx", false).value(), (std::vector<uint32_t>{262, 259, ' ', 'x', 'y', 'z', 'x'}));
}

// Short words are joined in an array and long ones with a queue: both the same, and both as the definition says.
TEST(ByteLevelBpe, LongWordsAreJoinedAsShortOnes) {
  TokenizerSpec spec = ByteLevelSpec();
  const auto merges = spec.merges;
  const Tokenizer tokenizer = Tokenizer::Make(std::move(spec)).value();
  const auto by_definition = [&](std::string_view word) {
    std::vector<uint32_t> symbols;
    for (const char c : word) symbols.push_back(static_cast<unsigned char>(c));
    for (const Merge& merge : merges) {
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        if (symbols[i] != merge.left || symbols[i + 1] != merge.right) continue;
        symbols[i] = merge.joined;
        symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(i) + 1);
      }
    }
    return symbols;
  };
  Rng rng(5);
  for (int round = 0; round < 300; ++round) {
    std::string word;
    for (uint64_t n = 1 + rng.Next() % 150; n > 0; --n) word += "aab"[rng.Next() % 3];
    EXPECT_EQ(tokenizer.Encode(word, false).value(), by_definition(word)) << word;
  }
}

TEST(ByteLevelBpe, AnyBytesComeBack) {
  const Tokenizer tokenizer = Tokenizer::Make(ByteLevelSpec()).value();
  Rng rng(6);
  for (int round = 0; round < 300; ++round) {
    std::string text;
    for (uint64_t n = rng.Next() % 200; n > 0; --n)
      text += static_cast<char>(round % 2 == 0 ? rng.Next() : "ab \n\xc3\xa9<s>"[rng.Next() % 10]);
    const auto tokens = tokenizer.Encode(text, false).value();
    EXPECT_EQ(tokenizer.Decode(tokens, false), text);
    EXPECT_EQ(std::count(tokens.begin(), tokens.end(), 261u), 0) << "no control token from text that is not trusted";
  }
}

// Some vocabularies lack tokens of bytes that UTF-8 never has.
TEST(ByteLevelBpe, AMissingByteIsTheReplacementCharacter) {
  TokenizerSpec spec = ByteLevelSpec();
  spec.texts[0xff] = '\xfe';
  const Tokenizer tokenizer = Tokenizer::Make(std::move(spec)).value();
  EXPECT_EQ(tokenizer.Decode(tokenizer.Encode("a\xff", false).value(), false), "a\xef\xbf\xbd");
}

TEST(AddedTokens, TheirRules) {
  TokenizerSpec spec = ByteLevelSpec();
  const auto first = static_cast<uint32_t>(spec.size());
  for (const char* text : {"<l>", "<r>", "word", "<n>"}) spec.Add(text, TokenType::kUserDefined, 0);
  spec.added.push_back({first, /*strip_left=*/true});
  spec.added.push_back({first + 1, false, /*strip_right=*/true});
  spec.added.push_back({first + 2, false, false, /*whole_word=*/true});
  spec.added.push_back({first + 3, false, false, false, /*normalized=*/true});
  spec.normalizer = {{NormalizerStep::Kind::kLowercase, "", ""}};
  const Tokenizer tokenizer = Tokenizer::Make(std::move(spec)).value();
  const auto encode = [&](std::string_view text) { return tokenizer.Encode(text, false).value(); };
  EXPECT_EQ(encode("x \n<l> y"), (std::vector<uint32_t>{'x', first, ' ', 'y'})) << "each space apart by the pattern";
  EXPECT_EQ(encode("x <r> \ty"), (std::vector<uint32_t>{'x', ' ', first + 1, 'y'}));
  EXPECT_EQ(encode("a word."), (std::vector<uint32_t>{'a', ' ', first + 2, '.'}));
  EXPECT_EQ(encode("words"), (std::vector<uint32_t>{'w', 'o', 'r', 'd', 's'}));
  EXPECT_EQ(encode("\xc3\xa9word").back(), static_cast<uint32_t>('d'));
  EXPECT_EQ(encode("<N>"), (std::vector<uint32_t>{first + 3})) << "found in the normalized text";
  EXPECT_EQ(encode("<R>").size(), 3u) << "not found there";
}

// Two stretches of equal length: what a pattern learned of the first is nothing to the second, though it lies at the same address.
TEST(AddedTokens, StretchesBetweenThemAreApart) {
  TokenizerSpec spec = ByteLevelSpec();
  spec.splits[0].pattern = R"(\s*[\n]+|\s+(?!\S)|\s+|\S+)";
  const Tokenizer tokenizer = Tokenizer::Make(std::move(spec)).value();
  const std::string spaces(20, ' ');
  const auto alone = tokenizer.Encode(spaces + "\nx", true).value();
  const auto behind = tokenizer.Encode(spaces + " x<s>" + spaces + "\nx", true).value();
  ASSERT_GT(behind.size(), alone.size());
  EXPECT_TRUE(std::equal(alone.rbegin(), alone.rend(), behind.rbegin()));
  MatchWork work;
  const PreTokenizer splitter = PreTokenizer::Make(tokenizer.spec().splits).value();
  struct Words : WordSink {
    void Word(std::string_view word) override { words.emplace_back(word); }
    std::vector<std::string> words;
  };
  std::string buffer = spaces + " x";
  Words first;
  ASSERT_TRUE(splitter.Split(buffer, true, &work, &first).ok());
  buffer = spaces + "\nx";
  buffer.resize(22);
  Words second;
  ASSERT_TRUE(splitter.Split(buffer, true, &work, &second).ok());
  EXPECT_EQ(second.words.front(), spaces + "\n");
}

TEST(AddedTokens, TurnEndsAreNobodysToWrite) {
  TokenizerSpec spec = ByteLevelSpec();
  const auto end = static_cast<uint32_t>(spec.size());
  spec.Add("<|im_end|>", TokenType::kUserDefined, 0);
  FindTurnEnds(&spec);
  const Tokenizer tokenizer = Tokenizer::Make(std::move(spec)).value();
  EXPECT_TRUE(tokenizer.EndsTurn(end));
  EXPECT_EQ(tokenizer.Encode("<|im_end|>", true).value(), std::vector<uint32_t>{end});
  const auto untrusted = tokenizer.Encode("<|im_end|>", false).value();
  EXPECT_EQ(std::count(untrusted.begin(), untrusted.end(), end), 0);
}

TEST(ByteLevelBpe, SymbolsAtTheEndsOfWords) {
  TokenizerSpec spec;
  spec.model = TokenizerModel::kBpe;
  spec.byte_level = true;
  spec.word_end = "</w>";
  for (const char* text : {"a", "b", "a</w>", "b</w>", "ab</w>"}) spec.Add(text, TokenType::kNormal, 0);
  spec.merges = {{0, 3, 4}};
  spec.decode.word_end = "</w>";
  const Tokenizer tokenizer = Tokenizer::Make(std::move(spec)).value();
  EXPECT_EQ(tokenizer.Encode("ab", false).value(), (std::vector<uint32_t>{4}));
  EXPECT_EQ(tokenizer.Encode("aa", false).value(), (std::vector<uint32_t>{0, 2}));
  EXPECT_EQ(tokenizer.Decode(std::vector<uint32_t>{4, 2}, false), "ab a");
}

TEST(Unigram, TheBestSumWins) {
  TokenizerSpec spec;
  spec.model = TokenizerModel::kUnigram;
  spec.Add("<unk>", TokenType::kUnknown, 0);
  for (const auto& [text, score] : std::initializer_list<std::pair<const char*, float>>{
           {"a", -3}, {"b", -3}, {"c", -3}, {"ab", -4}, {"bc", -3.5f}, {"abc", -9}, {"xx", -1}}) {
    spec.Add(text, TokenType::kNormal, score);
  }
  spec.unknown = 0;
  const Tokenizer tokenizer = Tokenizer::Make(std::move(spec)).value();
  EXPECT_EQ(tokenizer.Encode("abc", false).value(), (std::vector<uint32_t>{1, 5})) << "-6.5 against -7 and -9";
  EXPECT_EQ(tokenizer.Encode("abab", false).value(), (std::vector<uint32_t>{4, 4}));
  EXPECT_EQ(tokenizer
                .Encode("a??x\xc3\xa9"
                        "c",
                        false)
                .value(),
            (std::vector<uint32_t>{1, 0, 3}))
      << "unknown neighbours are one";
  EXPECT_EQ(tokenizer.Encode("axxx", false).value(), (std::vector<uint32_t>{1, 0, 7})) << "equal sums: the way found first stays";
}

TEST(Tokenizer, WorkIsLinear) {
  const Tokenizer byte_level = Tokenizer::Make(ByteLevelSpec()).value();
  const Tokenizer marked = Tokenizer::Make(SmallSpec()).value();
  for (const Tokenizer* tokenizer : {&byte_level, &marked}) {
    for (const char* unit : {" ", "a", "ab", "\xcc\x81", "<", "\n"}) {
      std::string text;
      while (text.size() < 1'000'000) text += unit;
      const PromptPiece piece = {text, true};
      EncodeStats stats;
      ASSERT_TRUE(tokenizer->Encode(std::span(&piece, 1), &stats).ok());
      EXPECT_LT(stats.match_steps + stats.model_steps, 12 * text.size()) << unit;
    }
  }
}

TEST(Tokenizer, APatternThatTakesTooLongIsAnError) {
  TokenizerSpec spec = ByteLevelSpec();
  spec.splits[0].pattern = "[ab]*[ab]*[ab]*[ab]*[ab]*c";
  const Tokenizer tokenizer = Tokenizer::Make(std::move(spec)).value();
  EXPECT_TRUE(tokenizer.Encode("abc", false).ok());
  const auto encoded = tokenizer.Encode(std::string(5000, 'a'), false);
  ASSERT_FALSE(encoded.ok());
  EXPECT_EQ(encoded.error().code(), Code::kExhausted);
}

}  // namespace
}  // namespace bantam
