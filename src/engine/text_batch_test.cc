// Requests for vectors, classes and rankings, one by one and as a file.
#include "engine/text_batch.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/base64.h"
#include "testing/memory_file.h"
#include "testing/text_runner.h"

namespace bantam {
namespace {

using testing::DataPath;
using ::testing::HasSubstr;
using testing::MemoryFile;

class TextBatchTest : public ::testing::Test {
 protected:
  explicit TextBatchTest(bool classify = false) {
    const auto files = MakeFileSystem();
    ModelFile file = OpenModel(*files, DataPath("archs/bert.gguf")).value();
    model_ = std::make_unique<TextModel>(ReadTextModel(file).value());
    testing::TextSetup setup;
    setup.use.classify = classify;
    if (!classify) setup.use.pooling = Pooling::kMean;
    runner_ = std::make_unique<testing::TextRunner>("bert", setup);
    context_ = std::make_unique<TextRequestContext>(TextRequestContext{.model = *model_, .limit = {96}});
    context_->work = classify ? TextWork::kScores : TextWork::kVectors;
    context_->width = runner_->encoder->width();
    if (classify) context_->ranking = PlanRanking(*model_, std::nullopt);
  }

  // The answer to one request alone.
  Json Ask(const std::string& request) {
    const Json json = ParseJson(request).value();
    const auto read = ReadTextRequest(json, *context_);
    EXPECT_TRUE(read.ok()) << read.error().message();
    TextAnswer answer(*read, *context_);
    const Status done = runner_->encoder->Encode(read->texts, [&](size_t, std::span<float> values) { return answer.Add(values); });
    EXPECT_TRUE(done.ok()) << done.error().message();
    return ParseJson("{" + answer.Finish() + "}").value();
  }
  std::string Refusal(const std::string& request) {
    const auto read = ReadTextRequest(ParseJson(request).value(), *context_);
    return read.ok() ? "" : read.error().message();
  }
  Result<BatchSummary> Run(MemoryFile& output, const Progress& progress = nullptr) {
    MemoryFile input(input_);
    return RunTextBatch({.input = input, .output = output, .context = *context_, .encoder = *runner_->encoder, .progress = progress});
  }

  std::unique_ptr<TextModel> model_;
  std::unique_ptr<testing::TextRunner> runner_;
  std::unique_ptr<TextRequestContext> context_;
  std::string input_;
};

TEST_F(TextBatchTest, VectorsAreTheEncoders) {
  const Json answer = Ask(R"({"input": ["the pump leaks", "hot water"], "model": "any"})");
  ASSERT_EQ(answer["embeddings"].size(), 2u);
  const TextTokens text = TokenizeText(model_->tokenizer, "hot water", {96}).value();
  std::vector<float> expected = runner_->Encode(text.tokens);
  ScaleToUnitLength(expected);
  EXPECT_EQ(answer["embeddings"][1].get<std::vector<float>>(), expected);
  EXPECT_EQ(answer["usage"]["prompt_tokens"], 6 + 4);
  // A text alone, its ids, and in base64.
  EXPECT_EQ(Ask(R"({"input": "hot water"})")["embeddings"][0], answer["embeddings"][1]);
  const std::string ids = fmt::format("[{}]", fmt::join(text.tokens, ","));
  EXPECT_EQ(Ask(R"({"input": )" + ids + "}")["embeddings"], Json::array({answer["embeddings"][1]}));
  EXPECT_EQ(Ask(R"({"input": [)" + ids + R"(, "the pump leaks"]})")["embeddings"][1], answer["embeddings"][0]);
  const auto bytes = DecodeBase64(Ask(R"({"input": "hot water", "encoding_format": "base64"})")["embeddings"][0].get<std::string>());
  ASSERT_EQ(bytes->size(), 4 * expected.size());
  std::vector<float> decoded(expected.size());
  std::memcpy(decoded.data(), bytes->data(), bytes->size());
  EXPECT_EQ(decoded, expected);
  const auto plain = Ask(R"({"input": "hot water", "normalize": false})")["embeddings"][0].get<std::vector<float>>();
  EXPECT_EQ(plain, runner_->Encode(text.tokens));
}

TEST_F(TextBatchTest, VectorsAreCutWhereTheModelSaysSo) {
  EXPECT_THAT(Refusal(R"({"input": "a", "dimensions": 8})"), HasSubstr("dimensions 8: expected 32, for the model does not say"));
  model_->rules.dimensions = {8};
  const auto whole = Ask(R"({"input": "hot water", "normalize": false})")["embeddings"][0].get<std::vector<float>>();
  std::vector<float> expected(whole.begin(), whole.begin() + 8);
  ScaleToUnitLength(expected);
  EXPECT_EQ(Ask(R"({"input": "hot water", "dimensions": 8})")["embeddings"][0].get<std::vector<float>>(), expected);
}

TEST_F(TextBatchTest, WhatIsRefused) {
  for (const auto& [request, part] : std::initializer_list<std::pair<const char*, const char*>>{
           {"[]", "expected an object"},
           {"{}", "expected \"input\" (vectors)"},
           {R"({"input": "a", "classify": "b"})", "expected \"input\" (vectors)"},
           {R"({"input": []})", "0 texts, expected 1 to 2048"},
           {R"({"input": 5})", "a text, or a list of token ids"},
           {R"({"input": [null]})", "a text, or a list of token ids"},
           {R"({"input": [[1, 500]]})", "input[0]: id: 500: expected a token below 120"},
           {R"({"input": [[1, -1]]})", "expected a token below 120"},
           {R"({"input": "a", "inputs": 1})", "the nearest is input"},
           {R"({"input": "a", "encoding_format": "hex"})", "\"float\" or \"base64\""},
           {R"({"input": "a", "truncate": 1})", "true or false"},
           {R"({"input": "a", "dimensions": 0})", "a whole number from 1"},
           {R"({"input": "a", "dimensions": 1.5})", "a whole number from 1"},
           {R"({"input": "a", "top_n": 1})", "top_n: means nothing beside"},
           {R"({"input": "a", "prompt_name": "query"})", "names no prompts"},
           {R"({"input": "a", "prompt_name": 5})", "prompt_name: 5: expected the name"},
           {R"({"query": "a", "documents": ["b"]})", "neither classified nor ranked"},
           {R"({"classify": "a"})", "neither classified nor ranked"}}) {
    EXPECT_THAT(Refusal(request), HasSubstr(part)) << request;
  }
  std::string long_text = "water";
  for (int i = 0; i < 200; ++i) long_text += " water";
  EXPECT_THAT(Refusal(R"({"input": ["a", ")" + long_text + R"("]})"), HasSubstr("input[1]: 203 tokens"));
  EXPECT_EQ(Refusal(R"({"truncate": true, "input": ")" + long_text + R"("})"), "");
  std::string many = "\"a\"";
  for (size_t i = 0; i < kTextsMax; ++i) many += ",\"a\"";
  EXPECT_THAT(Refusal(R"({"input": [)" + many + "]}"), HasSubstr("2049 texts"));
}

// Lines of all kinds: answered in order, whatever stands beside them, wherever the run was ended, and with the same bytes.
TEST_F(TextBatchTest, OrderErrorsAndGoingOn) {
  const std::vector<std::string> words = {"pump", "hot", "water", "leaks", "the"};
  for (int i = 0; i < 120; ++i) {
    std::string text = words[static_cast<size_t>(i) % 5];
    for (int k = 0; k < i % 17; ++k) text += " " + words[static_cast<size_t>(k + i) % 5];
    if (i == 31) {
      input_ += "no json\n";
    } else if (i == 32) {
      input_ += R"({"custom_id": "x", "body": {"input": 7}})"
                "\n";
    } else if (i % 5 == 0) {
      input_ += fmt::format(R"({{"id": {}, "input": ["{}", "pump"]}})", i, text) + "\n";
    } else {
      input_ += fmt::format(R"({{"input": "{}"}})", text) + "\n";
    }
  }
  MemoryFile whole;
  const auto summary = Run(whole);
  ASSERT_TRUE(summary.ok()) << summary.error().message();
  EXPECT_EQ(summary->lines, 120u);
  EXPECT_EQ(summary->errors, 2u);
  const Json pump = Ask(R"({"input": "pump"})")["embeddings"][0];
  MemoryFile reading(whole.bytes_);
  LineReader reader(reading);
  for (size_t i = 0; i < 120; ++i) {
    const Json line = ParseJson(reader.Next().value()->text).value();
    EXPECT_EQ(line["index"], i);
    EXPECT_EQ(line.contains("error"), i == 31 || i == 32) << i;
    if (i == 32) {
      EXPECT_EQ(line["id"], "x");
    }
    if (i % 5 == 0) {
      EXPECT_EQ(line["id"], i);
      EXPECT_EQ(line["embeddings"][1], pump);
    }
  }
  for (const size_t cut : {size_t{0}, size_t{10}, whole.bytes_.size() / 3, whole.bytes_.size() - 1}) {
    MemoryFile output(whole.bytes_.substr(0, cut));
    ASSERT_TRUE(Run(output).ok()) << cut;
    EXPECT_EQ(output.bytes_, whole.bytes_) << cut;
  }
  // Stopped again and again.
  MemoryFile output;
  for (int run = 0; run < 100; ++run) {
    int looks = 5 + 3 * run;
    const auto stopped = Run(output, [&](std::string_view, uint64_t, uint64_t) { return looks-- > 0; });
    if (stopped.ok()) break;
    ASSERT_EQ(stopped.error().code(), Code::kCancelled) << stopped.error().message();
    EXPECT_THAT(stopped.error().message(), HasSubstr("the same command goes on there"));
    if (run == 98) {
      ASSERT_TRUE(Run(output).ok());
    }
  }
  EXPECT_EQ(output.bytes_, whole.bytes_);
  input_ = "{}\n";
  EXPECT_THAT(Run(whole).error().message(), HasSubstr("line 1 of the input is not the one that was answered"));
}

class ScoreBatchTest : public TextBatchTest {
 protected:
  ScoreBatchTest() : TextBatchTest(/*classify=*/true) {}
  float Score(std::string_view first, std::string_view second) {
    const auto tokens = TokenizePart(model_->tokenizer, first, {96}).value();
    const TextTokens pair = TokenizePair(model_->tokenizer, tokens, second, {96}).value();
    return runner_->Encode(std::span(&pair, 1))[0][0];
  }
};

TEST_F(ScoreBatchTest, Rankings) {
  const Json answer =
      Ask(R"({"query": "what leaks?", "documents": ["the pump", {"text": "hot water"}, "a seal"], "return_documents": false})");
  ASSERT_EQ(answer["results"].size(), 3u);
  const std::vector<std::string> documents = {"the pump", "hot water", "a seal"};
  float before = 1e30f;
  for (const Json& result : answer["results"]) {
    const auto score = result["relevance_score"].get<float>();
    EXPECT_LE(score, before);
    before = score;
    EXPECT_EQ(score, Score("what leaks?", documents[result["index"].get<size_t>()]));
  }
  const Json top = Ask(R"({"query": "what leaks?", "documents": ["the pump", "hot water", "a seal"], "top_n": 1})");
  EXPECT_EQ(top["results"], Json::array({answer["results"][0]}));
  EXPECT_THAT(Refusal(R"({"query": "a"})"), HasSubstr("documents: null: expected a"));
  EXPECT_THAT(Refusal(R"({"documents": ["a"]})"), HasSubstr("query: null: expected a text"));
  EXPECT_THAT(Refusal(R"({"query": "a", "documents": [3]})"), HasSubstr("a text, or an object with \"text\""));
  EXPECT_THAT(Refusal(R"({"query": "a", "documents": ["b"], "return_documents": true})"), HasSubstr("the request has them"));
  EXPECT_THAT(Refusal(R"({"input": "a"})"), HasSubstr("no vectors are made here"));
}

TEST_F(ScoreBatchTest, ClassesOfTextsAndPairs) {
  model_->rules.labels = {"leak"};
  const Json answer = Ask(R"({"classify": [["what leaks?", "the pump"], "hot water"]})");
  ASSERT_EQ(answer["labels"].size(), 2u);
  EXPECT_EQ(answer["labels"][0], Json::array({Json{{"label", "leak"}, {"score", Score("what leaks?", "the pump")}}}));
  EXPECT_EQ(Ask(R"({"classify": "hot water"})")["labels"], answer["labels"][1]);
  context_->activation = ClassActivation::kSigmoid;
  const auto probability = Ask(R"({"classify": "hot water"})")["labels"][0]["probability"].get<double>();
  EXPECT_NEAR(probability, 1 / (1 + std::exp(-answer["labels"][1][0]["score"].get<double>())), 1e-6);
  EXPECT_THAT(Refusal(R"({"classify": [["a", "b", "c"]]})"), HasSubstr("a text, or a list of two"));
}

}  // namespace
}  // namespace bantam
