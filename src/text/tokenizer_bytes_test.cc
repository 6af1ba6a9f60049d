#include "text/tokenizer_bytes.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "base/rng.h"
#include "testing/paths.h"
#include "text/sentencepiece_model.h"
#include "text/tokenizer_json.h"

namespace bantam {
namespace {

constexpr const char* kVocabularies[] = {"unigram.model",  "bpe.model",       "unigram.json",      "bpe.json",
                                         "wordpiece.json", "byte_level.json", "symbols_bpe.model", "symbols_unigram.model"};

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

StoredTokenizer Open(const std::string& name) {
  const std::string bytes = ReadAll(testing::DataPath("tokenizers/" + name));
  StoredTokenizer stored;
  stored.spec = (name.ends_with(".model") ? ReadSentencePieceModel(bytes) : ReadTokenizerJson(bytes, "")).value();
  stored.names = {"<s>", "</s>", "", "<pad>"};
  return stored;
}

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

// What another implementation made of texts comes out of the stored vocabulary too.
TEST(TokenizerBytes, AStoredVocabularyAgreesWithTheReference) {
  const Json cases = ParseJson(ReadAll(testing::DataPath("tokenizers/cases.json"))).value();
  for (const char* name : kVocabularies) {
    auto stored = DecodeTokenizer(Bytes(EncodeTokenizer(Open(name))));
    ASSERT_TRUE(stored.ok()) << name << ": " << stored.error().message();
    EXPECT_EQ(stored->names.eos, "</s>");
    EXPECT_EQ(stored->names.pad, "<pad>");
    const Tokenizer tokenizer = Tokenizer::Make(std::move(stored->spec)).value();
    const Tokenizer original = Tokenizer::Make(Open(name).spec).value();
    for (const Json& one : cases) {
      if (one["vocabulary"] != name) continue;
      const auto text = one["text"].get<std::string>();
      const auto ids = one["ids"].get<std::vector<uint32_t>>();
      EXPECT_EQ(tokenizer.Encode(text, /*special=*/true).value(), ids) << name << ": " << text;
      EXPECT_EQ(tokenizer.Decode(ids, /*special=*/false), original.Decode(ids, /*special=*/false)) << name << ": " << text;
    }
  }
}

TEST(TokenizerBytes, EveryFieldComesBack) {
  for (const char* name : kVocabularies) {
    const std::string bytes = EncodeTokenizer(Open(name));
    EXPECT_EQ(EncodeTokenizer(DecodeTokenizer(Bytes(bytes)).value()), bytes) << name;
  }
  // Those that no file of the tests has.
  StoredTokenizer stored;
  TokenizerSpec& spec = stored.spec;
  spec.model = TokenizerModel::kWordPiece;
  spec.Add("a", TokenType::kNormal, 0);
  spec.Add("b", TokenType::kControl, 0);
  spec.pieces_anywhere = spec.single_precision = spec.added_listed = true;
  spec.fuse_unknown = false;
  spec.word_inside = "##";
  spec.word_characters_max = 100;
  spec.merges = {{0, 1, 1}};
  spec.added = {{1, true, false, true, true}};
  spec.normalizer = {{NormalizerStep::Kind::kSentencePiece, "p", "w", true, true, true, true}};
  spec.splits = {{SplitStep::Kind::kMetaspace, "x+", SplitStep::Behavior::kMergedWithNext, true, "_", SplitStep::Prefix::kAlways, true}};
  spec.decode = {"_", true, true, "</w>", true};
  spec.bos = 0;
  spec.pad = 1;
  spec.end_of_turn = {1};
  spec.prefix = {0, 1};
  spec.suffix = {1};
  spec.between = {1, 0};
  spec.between = {1, 0};
  const StoredTokenizer got = DecodeTokenizer(Bytes(EncodeTokenizer(stored))).value();
  EXPECT_TRUE(got.spec.pieces_anywhere && got.spec.single_precision && got.spec.added_listed && !got.spec.fuse_unknown);
  EXPECT_EQ(got.spec.word_inside, "##");
  EXPECT_EQ(got.spec.word_characters_max, 100u);
  EXPECT_TRUE(got.spec.added[0].strip_left && !got.spec.added[0].strip_right && got.spec.added[0].whole_word &&
              got.spec.added[0].normalized);
  EXPECT_TRUE(got.spec.normalizer[0].whole_text && got.spec.normalizer[0].pattern == "p" && got.spec.normalizer[0].with == "w");
  EXPECT_TRUE(got.spec.splits[0].invert && got.spec.splits[0].split && got.spec.splits[0].prefix == SplitStep::Prefix::kAlways);
  EXPECT_EQ(got.spec.splits[0].behavior, SplitStep::Behavior::kMergedWithNext);
  EXPECT_EQ(got.spec.decode.word_end, "</w>");
  EXPECT_TRUE(got.spec.decode.strip_space && got.spec.decode.byte_level && got.spec.decode.tidy_punctuation);
  EXPECT_EQ(got.spec.decode.space_mark, "_");
  const NormalizerStep& step = got.spec.normalizer[0];
  EXPECT_TRUE(step.kind == NormalizerStep::Kind::kSentencePiece && step.collapse_spaces && step.space_as_suffix && step.add_space);
  EXPECT_TRUE(got.spec.splits[0].kind == SplitStep::Kind::kMetaspace && got.spec.splits[0].mark == "_" &&
              got.spec.splits[0].pattern == "x+");
  EXPECT_TRUE(got.spec.merges.size() == 1 && got.spec.merges[0].right == 1 && got.spec.merges[0].joined == 1);
  EXPECT_EQ(got.spec.end_of_turn, std::vector<uint32_t>{1});
  EXPECT_EQ(got.spec.suffix, std::vector<uint32_t>{1});
  EXPECT_EQ(got.spec.between, (std::vector<uint32_t>{1, 0}));
  EXPECT_EQ(got.spec.pad, 1u);
  EXPECT_EQ(got.spec.bos, 0u);
  EXPECT_EQ(got.spec.eos, std::nullopt);
  EXPECT_EQ(got.spec.prefix, (std::vector<uint32_t>{0, 1}));
  EXPECT_EQ(got.spec.between, (std::vector<uint32_t>{1, 0}));
}

TEST(TokenizerBytes, DamageIsAnErrorOrAVocabulary) {
  const std::string whole = EncodeTokenizer(Open("bpe.json"));
  for (size_t size = 0; size < whole.size(); size += 1 + size / 50) {
    EXPECT_FALSE(DecodeTokenizer(Bytes(whole.substr(0, size))).ok()) << size;
  }
  EXPECT_FALSE(DecodeTokenizer(Bytes(whole + "x")).ok());
  Rng rng(9);
  for (int i = 0; i < 300; ++i) {
    std::string bytes = whole;
    for (uint64_t n = 0; n < 1 + rng.Next() % 3; ++n) bytes[rng.Next() % bytes.size()] = static_cast<char>(rng.Next());
    auto stored = DecodeTokenizer(Bytes(bytes));
    if (!stored.ok()) continue;
    const auto tokenizer = Tokenizer::Make(std::move(stored->spec));
    if (tokenizer.ok()) (void)tokenizer->Encode("the words, and 123 others", /*special=*/true).ok();
  }
}

// What no vocabulary has, but a file may say: work and memory stay in proportion to the text.
TEST(TokenizerBytes, StepsThatGrowAreStopped) {
  StoredTokenizer stored = Open("byte_level.json");
  SplitStep bytes;
  bytes.kind = SplitStep::Kind::kByteLevel;
  stored.spec.splits.assign(32, bytes);
  const Tokenizer doubling = Tokenizer::Make(std::move(stored.spec)).value();
  EXPECT_EQ(doubling.Encode("\xc3\xa9t\xc3\xa9", /*special=*/false).error().code(), Code::kExhausted);
  stored = Open("byte_level.json");
  stored.spec.splits.clear();
  for (size_t i = 0; i < 32; ++i) {
    SplitStep step;
    step.kind = SplitStep::Kind::kMetaspace;
    step.mark = i % 2 == 0 ? "a" : "b";
    step.prefix = SplitStep::Prefix::kAlways;
    step.split = true;
    stored.spec.splits.push_back(step);
  }
  const Tokenizer branching = Tokenizer::Make(std::move(stored.spec)).value();
  EXPECT_EQ(branching.Encode("x", /*special=*/false).error().code(), Code::kExhausted);
  stored = Open("wordpiece.json");
  stored.spec.word_inside = std::string(100, '#');
  EXPECT_EQ(Tokenizer::Make(std::move(stored.spec)).error().code(), Code::kCorrupt);
  stored = Open("bpe.model");
  NormalizerStep spaces = {};
  spaces.kind = NormalizerStep::Kind::kSentencePiece;
  spaces.with = std::string(4096, '_');
  stored.spec.normalizer = {spaces};
  EXPECT_EQ(Tokenizer::Make(std::move(stored.spec)).error().code(), Code::kCorrupt);
}

TEST(TokenizerBytes, ListsAreBounded) {
  const auto refused = [](auto&& change) {
    StoredTokenizer stored = Open("bpe.json");
    change(&stored.spec);
    const auto got = DecodeTokenizer(Bytes(EncodeTokenizer(stored)));
    return got.ok() ? std::string("taken") : got.error().message();
  };
  EXPECT_NE(refused([](TokenizerSpec* spec) { spec->normalizer.resize(1000); }).find("normalizer: 1000"), std::string::npos);
  EXPECT_NE(refused([](TokenizerSpec* spec) { spec->end_of_turn.assign(1000, 0); }).find("end_of_turn: 1000"), std::string::npos);
  EXPECT_EQ(DecodeTokenizerNames(Bytes(EncodeTokenizer(Open("bpe.json"))))->bos, "<s>");
}

TEST(TokenizerBytes, ContradictionsAreNamed) {
  const auto refused = [](auto&& change) {
    StoredTokenizer stored = Open("bpe.json");
    change(&stored.spec);
    const auto got = DecodeTokenizer(Bytes(EncodeTokenizer(stored)));
    return got.ok() ? std::string("taken") : got.error().message();
  };
  EXPECT_NE(refused([](TokenizerSpec* spec) { spec->types.pop_back(); }).find("types and scores"), std::string::npos);
  EXPECT_NE(refused([](TokenizerSpec* spec) { spec->text_ends.back() += 1; }).find("texts do not end"), std::string::npos);
  EXPECT_NE(refused([](TokenizerSpec* spec) { std::swap(spec->text_ends[3], spec->text_ends[9]); }).find("texts do not end"),
            std::string::npos);
  EXPECT_NE(refused([](TokenizerSpec* spec) { spec->merges[0].joined = 1u << 30; }).find("tokens that it has not"), std::string::npos);
  EXPECT_NE(refused([](TokenizerSpec* spec) { spec->eos = 1u << 30; }).find("special tokens"), std::string::npos);
  EXPECT_NE(refused([](TokenizerSpec* spec) { spec->types[0] = static_cast<TokenType>(9); }).find("types are outside"), std::string::npos);
  EXPECT_NE(refused([](TokenizerSpec* spec) { spec->model = static_cast<TokenizerModel>(9); }).find("model: 9"), std::string::npos);
}

}  // namespace
}  // namespace bantam
