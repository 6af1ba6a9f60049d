#include "model/vocabulary.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <sstream>

#include "formats/gguf.h"
#include "formats/metadata_builder.h"
#include "testing/gguf_builder.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// X.inp: cases separated by marker lines; X.out: the ids of each, one line. From another implementation.
void CheckCases(const std::string& path, bool lossless) {
  const auto files = MakeFileSystem();
  const ModelFile file = OpenGguf(*files, path).value();
  const Tokenizer tokenizer = ReadVocabulary(file).value();
  std::string cases = ReadAll(path + ".inp");
  std::istringstream expected(ReadAll(path + ".out"));
  const std::string marker = "\n__ggml_vocab_test__\n";
  size_t count = 0;
  for (std::string line; std::getline(expected, line); ++count) {
    const size_t end = cases.find(marker);
    ASSERT_NE(end, std::string::npos) << "more lines than cases";
    const std::string text = cases.substr(0, end);
    cases.erase(0, end + marker.size());
    const auto ids = tokenizer.Encode(text, /*special=*/false).value();
    EXPECT_EQ(ids.empty() ? "" : fmt::format(" {}", fmt::join(ids, " ")), line) << "case " << count << ": " << text;
    if (lossless) {
      EXPECT_EQ(tokenizer.Decode(ids, /*special=*/false), text) << "case " << count;
    }
  }
  EXPECT_GT(count, 40u);
}

TEST(Vocabulary, AllLlamaSentencePieceCases) { CheckCases(testing::DataPath("tokenizers/ggml-vocab-llama-spm.gguf"), /*lossless=*/true); }

class Golden : public ::testing::TestWithParam<const char*> {};

TEST_P(Golden, AllCases) {
  const std::string path = testing::SharedPath(fmt::format("golden/tokenizers/ggml-vocab-{}.gguf", GetParam()));
  SKIP_WITHOUT(path);
  // BERT's normalizer lowers case and drops accents and spaces.
  CheckCases(path, /*lossless=*/std::string_view(GetParam()) != "bert-bge");
}
INSTANTIATE_TEST_SUITE_P(All, Golden, ::testing::Values("bert-bge", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2", "starcoder"));

class VocabularyTest : public ::testing::Test {
 protected:
  Result<Tokenizer> Read(const testing::GgufBuilder& builder) {
    builder.Write(folder_.Path("v.gguf"));
    BANTAM_ASSIGN(file_, OpenGguf(*files_, folder_.Path("v.gguf")));
    return ReadVocabulary(file_);
  }
  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  ModelFile file_;
};

TEST_F(VocabularyTest, SpecialTokens) {
  testing::GgufBuilder builder;
  testing::AddTinyVocabulary(builder, 300);
  const Tokenizer tokenizer = Read(builder).value();
  EXPECT_EQ(tokenizer.spec().bos, 1u);
  EXPECT_EQ(tokenizer.spec().end_of_turn, std::vector<uint32_t>{2});
  EXPECT_EQ(tokenizer.spec().prefix, std::vector<uint32_t>{1});
  EXPECT_GT(tokenizer.bytes(), 1000u);
}

// The template needs no tokenizer that this build knows; requests with tools have one of their own where the model brings it.
TEST_F(VocabularyTest, ChatTemplates) {
  const auto rendered = [&](const testing::GgufBuilder& builder, bool tools) {
    EXPECT_EQ(Read(builder).error().code(), Code::kUnsupported);
    const auto made = ReadChatTemplate(file_, tools);
    if (!made.ok()) return made.error().message();
    const Json request = {{"messages", Json::array({Json{{"content", "hi"}}})}, {"style", "!"}};
    const auto pieces = made->RenderRequest(request, {});
    if (!pieces.ok()) return pieces.error().message();
    std::string text;
    for (const PromptPiece& piece : *pieces) {
      text += piece.text + (piece.trusted ? "+" : "-");
    }
    return text;
  };
  testing::GgufBuilder builder;
  builder.Text("tokenizer.ggml.model", "of-tomorrow").Texts("tokenizer.ggml.tokens", {"a", "<s>", "</s>"});
  builder.U32("tokenizer.ggml.bos_token_id", 1).U32("tokenizer.ggml.eos_token_id", 7);
  EXPECT_NE(rendered(builder, false).find("no chat template"), std::string::npos);
  builder.Text("tokenizer.chat_template", "{{ bos_token + messages[0].content + eos_token + style + add_generation_prompt | string }}");
  EXPECT_EQ(rendered(builder, true), "<s>+hi!-True+");
  builder.Text("tokenizer.chat_template.tool_use", "tools");
  EXPECT_EQ(rendered(builder, true), "tools+");
  EXPECT_EQ(rendered(builder, false), "<s>+hi!-True+");
}

TEST_F(VocabularyTest, Refusals) {
  const Error none = Read(testing::GgufBuilder().U32("x", 1)).error();
  EXPECT_EQ(none.code(), Code::kNotFound);
  EXPECT_NE(none.message().find("fetch tokenizer.json too"), std::string::npos) << none.message();
  testing::GgufBuilder other;
  other.Text("tokenizer.ggml.model", "gpt2");
  EXPECT_EQ(Read(other).error().code(), Code::kUnsupported);
  testing::GgufBuilder uneven;
  uneven.Text("tokenizer.ggml.model", "llama").Texts("tokenizer.ggml.tokens", {"a", "b"}).F32s("tokenizer.ggml.scores", {0});
  uneven.I32s("tokenizer.ggml.token_type", {1, 1});
  EXPECT_EQ(Read(uneven).error().code(), Code::kCorrupt);
  testing::GgufBuilder bad_type;
  bad_type.Text("tokenizer.ggml.model", "llama").Texts("tokenizer.ggml.tokens", {"a"}).F32s("tokenizer.ggml.scores", {0});
  bad_type.I32s("tokenizer.ggml.token_type", {9});
  EXPECT_NE(Read(bad_type).error().message().find("token 0: type 9"), std::string::npos);
  testing::GgufBuilder bad_score;
  bad_score.Text("tokenizer.ggml.model", "llama").Texts("tokenizer.ggml.tokens", {"a"}).F32s("tokenizer.ggml.scores", {NAN});
  bad_score.I32s("tokenizer.ggml.token_type", {1});
  EXPECT_NE(Read(bad_score).error().message().find("token 0: score"), std::string::npos);
}

// A SentencePiece model of four pieces, and what tokenizer_config.json adds to it.
TEST_F(VocabularyTest, TokensThatTheSettingsAdd) {
  std::string model;
  const auto piece = [&](const std::string& text, char type) {
    const std::string message = std::string("\x0a") + static_cast<char>(text.size()) + text + std::string("\x15\0\0\0\0\x18", 6) + type;
    model += std::string("\x0a") + static_cast<char>(message.size()) + message;
  };
  piece("<unk>", 2);
  piece("<s>", 3);
  piece("</s>", 3);
  piece("a", 1);
  model += std::string("\x12\x02\x18\x02");  // byte-pair merges
  const auto read = [&](const std::string& settings) {
    MetadataBuilder builder;
    builder.AttachBytes("tokenizer.sentencepiece.model", std::as_bytes(std::span(model)));
    builder.AttachBytes("tokenizer.huggingface.config", std::as_bytes(std::span(settings)));
    file_ = ModelFile();
    EXPECT_TRUE(builder.Build({}, &file_).ok());
    return ReadVocabulary(file_);
  };
  const auto added = read(R"({"eos_token":"<|im_end|>","added_tokens_decoder":{"1":{"content":"<s>","special":true},)"
                          R"("5":{"content":"<|im_end|>","special":true},"4":{"content":"<|im_start|>","special":true}}})");
  ASSERT_TRUE(added.ok()) << added.error().message();
  EXPECT_EQ(added->size(), 6u);
  EXPECT_EQ(added->spec().Text(4), "<|im_start|>");
  EXPECT_EQ(added->spec().types[5], TokenType::kControl);
  EXPECT_EQ(added->spec().eos, 5u);
  const auto refused = [&](const std::string& tokens) {
    const auto vocabulary = read(R"({"added_tokens_decoder":)" + tokens + "}");
    return vocabulary.ok() ? "" : vocabulary.error().message();
  };
  EXPECT_NE(refused(R"({"5":{"content":"<x>","special":true}})").find("token 5 is added, but 4 would be the next"), std::string::npos);
  EXPECT_NE(refused(R"({"4":{"content":"<x>","special":false}})").find("token 4 is <x>, which tokenizer.model does not have"),
            std::string::npos);
  EXPECT_NE(refused(R"({"3":{"content":"<x>","special":true}})").find("token 3 is <x>"), std::string::npos);
  EXPECT_NE(refused(R"({"99999999999999999999":{"content":"<x>","special":true}})").find("is <x>"), std::string::npos);
  EXPECT_NE(refused(R"({"-1":{"content":"<x>","special":true}})").find("is <x>"), std::string::npos);
}

}  // namespace
}  // namespace bantam
