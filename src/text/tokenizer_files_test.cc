// Small vocabularies in each format and what independent implementations made of texts with them: SentencePiece's own encoder for
// .model files, the tokenizers library in JavaScript for tokenizer.json.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>

#include "base/json.h"
#include "testing/paths.h"
#include "text/sentencepiece_model.h"
#include "text/tokenizer.h"
#include "text/tokenizer_json.h"

namespace bantam {
namespace {

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

Result<Tokenizer> Open(const std::string& name) {
  const std::string bytes = ReadAll(testing::DataPath("tokenizers/" + name));
  BANTAM_ASSIGN(TokenizerSpec spec, name.ends_with(".model") ? ReadSentencePieceModel(bytes) : ReadTokenizerJson(bytes, ""));
  return Tokenizer::Make(std::move(spec));
}

class VocabularyFile : public ::testing::TestWithParam<const char*> {};

TEST_P(VocabularyFile, AgreesWithTheReference) {
  const auto tokenizer = Open(GetParam());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message();
  const Json cases = ParseJson(ReadAll(testing::DataPath("tokenizers/cases.json"))).value();
  size_t count = 0;
  for (const Json& one : cases) {
    if (one["vocabulary"] != GetParam()) continue;
    const auto text = one["text"].get<std::string>();
    EXPECT_EQ(tokenizer->Encode(text, /*special=*/true).value(), one["ids"].get<std::vector<uint32_t>>()) << text;
    ++count;
  }
  EXPECT_GT(count, 60u);
}

INSTANTIATE_TEST_SUITE_P(All, VocabularyFile,
                         ::testing::Values("unigram.model", "bpe.model", "unigram.json", "bpe.json", "wordpiece.json", "byte_level.json",
                                           "symbols_bpe.model", "symbols_unigram.model"));

TEST(VocabularyFile, DecodesWhatItEncodes) {
  for (const char* name : {"bpe.model", "bpe.json", "byte_level.json"}) {
    const Tokenizer tokenizer = Open(name).value();
    for (const char* text : {"Hello, w\xc3\xb6rld  !", "a\n\n b", "\xf0\x9f\xa6\x99", "x", " leading", "trailing "}) {
      EXPECT_EQ(tokenizer.Decode(tokenizer.Encode(text, false).value(), false), text) << name;
    }
  }
  const Tokenizer bert = Open("wordpiece.json").value();
  EXPECT_EQ(bert.Decode(bert.Encode("Hello, the WORLD. don't", false).value(), false), "hello, the world. don't");
  const Tokenizer unigram = Open("unigram.json").value();
  EXPECT_EQ(unigram.Decode(unigram.Encode("the  one", false).value(), false), "the one");
}

TEST(VocabularyFile, PrefixAndSuffix) {
  const Tokenizer bert = Open("wordpiece.json").value();
  EXPECT_EQ(bert.WithPrefix({7}), (std::vector<uint32_t>{2, 7, 3}));
  EXPECT_EQ(bert.WithPrefix({2, 7, 3}), (std::vector<uint32_t>{2, 7, 3})) << "not twice";
  EXPECT_EQ(bert.spec().bos, 2u);
  EXPECT_EQ(Open("unigram.json").value().WithPrefix({}), (std::vector<uint32_t>{2}));
}

// What the publishers' code puts between two texts: BERT one separator, RoBERTa two.
TEST(VocabularyFile, BetweenTwoTexts) {
  const auto between = [](std::string_view processor) {
    const std::string json =
        R"({"model":{"type":"WordLevel","vocab":{"a":0,"c":1,"s":2},"unk_token":"a"},"post_processor":)" + std::string(processor) + "}";
    return ReadTokenizerJson(json, "").value().between;
  };
  EXPECT_EQ(between(R"({"type":"BertProcessing","cls":["c",1],"sep":["s",2]})"), (std::vector<uint32_t>{2}));
  EXPECT_EQ(between(R"({"type":"RobertaProcessing","cls":["c",1],"sep":["s",2]})"), (std::vector<uint32_t>{2, 2}));
  const std::string tokens = R"("special_tokens":{"c":{"id":"c","ids":[1]},"s":{"id":"s","ids":[2]}}})";
  const std::string single =
      R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"c"}},{"Sequence":{"id":"A"}},{"SpecialToken":{"id":"s"}}],)";
  const std::string s = R"({"SpecialToken":{"id":"s"}},)";
  EXPECT_EQ(
      between(single + R"("pair":[{"Sequence":{"id":"A"}},)" + s + s + R"({"Sequence":{"id":"B"}},{"SpecialToken":{"id":"c"}}],)" + tokens),
      (std::vector<uint32_t>{2, 2}));
  EXPECT_EQ(between(single + R"("pair":[],)" + tokens), (std::vector<uint32_t>{2}));
}

TEST(VocabularyFile, UntrustedTextIsNoControlToken) {
  const Tokenizer tokenizer = Open("byte_level.json").value();
  const auto trusted = tokenizer.Encode("<|im_end|>", /*special=*/true).value();
  const auto untrusted = tokenizer.Encode("<|im_end|>", /*special=*/false).value();
  EXPECT_EQ(trusted, (std::vector<uint32_t>{2}));
  EXPECT_EQ(std::count(untrusted.begin(), untrusted.end(), 2u), 0);
  EXPECT_EQ(tokenizer.Decode(untrusted, false), "<|im_end|>");
}

TEST(VocabularyFile, RolesComeFromTheConfiguration) {
  const std::string json = ReadAll(testing::DataPath("tokenizers/byte_level.json"));
  const auto spec = ReadTokenizerJson(json, R"({"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}, "pad_token": null})");
  ASSERT_TRUE(spec.ok()) << spec.error().message();
  EXPECT_EQ(spec->bos, 1u);
  EXPECT_EQ(spec->eos, 2u);
  EXPECT_FALSE(spec->pad.has_value());
  EXPECT_EQ(spec->end_of_turn.front(), 2u);
}

// Cut off and damaged in every way: an error or a tokenizer, never a crash. (Fuzzing goes further.)
TEST(VocabularyFile, DamageIsAnError) {
  for (const char* name : {"bpe.model", "wordpiece.json"}) {
    const std::string bytes = ReadAll(testing::DataPath(std::string("tokenizers/") + name));
    const bool model = std::string_view(name).ends_with(".model");
    for (size_t size = 0; size < bytes.size(); size += 1 + size / 64) {
      const auto spec = model ? ReadSentencePieceModel(bytes.substr(0, size)) : ReadTokenizerJson(bytes.substr(0, size), "");
      if (!spec.ok()) {
        EXPECT_EQ(spec.error().code(), Code::kCorrupt) << size;
      }
    }
  }
}

// Rules of the tokenizers library (0.22) that its JavaScript port does not have or that need a vocabulary of their own.
class LibraryRules : public ::testing::Test {
 protected:
  static std::vector<uint32_t> Ids(const std::string& json, std::string_view text) {
    auto spec = ReadTokenizerJson(json, "");
    EXPECT_TRUE(spec.ok()) << spec.error().message();
    return Tokenizer::Make(std::move(spec).value()).value().Encode(text, /*special=*/true).value();
  }
};
using Tokens = std::vector<uint32_t>;

TEST_F(LibraryRules, UnigramSumsHave64Bits) {
  const std::string json = R"({"model":{"type":"Unigram","unk_id":0,"vocab":[["u",0],["a",-1],["b",-1],["ab",-2.00000001]]}})";
  EXPECT_EQ(Ids(json, "ab"), (Tokens{1, 2})) << "in 32 bits both ways are equal, and the first stands";
}

TEST_F(LibraryRules, WordPieceWithoutPrefix) {
  const std::string json =
      R"({"model":{"type":"WordPiece","unk_token":"u","continuing_subword_prefix":"","vocab":{"u":0,"ab":1,"c":2,"b":3}}})";
  EXPECT_EQ(Ids(json, "abcab"), (Tokens{1, 2, 1}));
  EXPECT_EQ(Ids(json, "abd"), (Tokens{0}));
}

TEST_F(LibraryRules, AWordMayBeginAsPiecesThatGoOnAreWritten) {
  const std::string json = R"({"model":{"type":"WordPiece","unk_token":"u","vocab":{"u":0,"a":1,"##b":2}}})";
  EXPECT_EQ(Ids(json, "ab"), (Tokens{1, 2}));
  EXPECT_EQ(Ids(json, "##bb"), (Tokens{2, 2}));
  EXPECT_EQ(Ids(json, "b"), (Tokens{0}));
}

TEST_F(LibraryRules, NoWordIsShortEnoughForALimitOfZero) {
  const std::string json = R"({"model":{"type":"WordPiece","unk_token":"u","max_input_chars_per_word":0,"vocab":{"u":0,"a":1}}})";
  EXPECT_EQ(Ids(json, "a"), (Tokens{0}));
}

TEST_F(LibraryRules, OfAddedWordsOnlyTheLongestIsTried) {
  const std::string json = R"({"added_tokens":[{"id":10,"content":"foo"},{"id":11,"content":"foobar","single_word":true}],
                               "model":{"type":"BPE","vocab":{"f":0,"o":1,"b":2,"a":3,"r":4,"x":5},"merges":[]}})";
  EXPECT_EQ(Ids(json, "foobar"), (Tokens{11}));
  EXPECT_EQ(Ids(json, "foobarx"), (Tokens{0, 1, 1, 2, 3, 4, 5})) << "not foo either";
  EXPECT_EQ(Ids(json, "foox"), (Tokens{10, 5}));
}

TEST_F(LibraryRules, AddedTokensAsWrittenComeBeforeNormalizedOnes) {
  const std::string json = R"({"added_tokens":[{"id":10,"content":"ab","normalized":true},{"id":11,"content":"bc","normalized":false}],
                               "model":{"type":"BPE","vocab":{"a":0,"b":1,"c":2},"merges":[]}})";
  EXPECT_EQ(Ids(json, "abc"), (Tokens{0, 11}));
  EXPECT_EQ(Ids(json, "abac"), (Tokens{10, 0, 2}));
}

TEST_F(LibraryRules, PartsOfFixedLength) {
  const std::string json = R"({"pre_tokenizer":{"type":"FixedLength","length":2},
                               "model":{"type":"WordLevel","unk_token":"u","vocab":{"u":0,"ab":1,"c\n":2,"\u00e9d":3,"e":4}}})";
  EXPECT_EQ(Ids(json,
                "abc\n\xc3\xa9"
                "de"),
            (Tokens{1, 2, 3, 4}));
}

TEST(VocabularyFile, ErrorsNameTheComponent) {
  const auto message = [](std::string_view member) {
    const std::string json = R"({"model":{"type":"WordLevel","vocab":{"a":0,"u":1},"unk_token":"u"},)" + std::string(member) + "}";
    const auto spec = ReadTokenizerJson(json, "");
    return spec.ok() ? std::string("no error") : spec.error().message();
  };
  EXPECT_EQ(message(R"("decoder":null)"), "no error");
  EXPECT_THAT(message(R"("decoder":{"type":"CTC"})"), ::testing::HasSubstr("decoder CTC is not known"));
  EXPECT_THAT(message(R"("normalizer":{"type":"Sequence","normalizers":[{"type":"Odd"}]})"), ::testing::HasSubstr("normalizer Odd"));
  EXPECT_THAT(message(R"("pre_tokenizer":{"type":"UnicodeScripts"})"), ::testing::HasSubstr("pre-tokenizer UnicodeScripts"));
  EXPECT_THAT(message(R"("pre_tokenizer":{"type":"Split"})"), ::testing::HasSubstr("pattern"));
  EXPECT_THAT(message(R"("post_processor":{"type":"What"})"), ::testing::HasSubstr("post-processor What"));
  EXPECT_THAT(message(R"("added_tokens":[{"id":-1,"content":"x"}])"), ::testing::HasSubstr("\"x\""));
  EXPECT_THAT(message(R"("added_tokens":[{"id":99999999,"content":"x"}])"), ::testing::HasSubstr("from 0 to"));
  EXPECT_EQ(ReadTokenizerJson("[]", "").error().code(), Code::kCorrupt);
  EXPECT_EQ(ReadTokenizerJson(R"({"model":{"type":"BPE","vocab":[],"merges":[]}})", "").error().code(), Code::kCorrupt);
  EXPECT_EQ(ReadTokenizerJson(R"({"model":{"type":"New","vocab":{"a":0}}})", "").error().code(), Code::kUnsupported);
}

}  // namespace
}  // namespace bantam
