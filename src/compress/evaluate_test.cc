#include "compress/evaluate.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "model/vocabulary.h"
#include "testing/model_runner.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"
#include "testing/windowed.h"

namespace bantam {
namespace {

TaskItem Item(std::string_view json) {
  const auto parsed = ParseJson(json);
  EXPECT_TRUE(parsed.ok());
  const auto item = ReadTaskItem(*parsed);
  EXPECT_TRUE(item.ok()) << item.error().message();
  return item.ok() ? *item : TaskItem();
}

TEST(Task, SpacesGoWithWhatFollows) {
  const TaskItem choice = Item(R"({"task": "choice", "prompt": "Water is ", "choices": ["wet", " dry"], "answer": "wet"})");
  EXPECT_EQ(choice.prompt, "Water is");
  EXPECT_EQ(choice.options, (std::vector<std::string>{" wet", "  dry"}));
  const TaskItem joined = Item(R"({"task": "class", "prompt": "Water:", "labels": ["wet", "dry"], "answer": 1})");
  EXPECT_EQ(joined.options, (std::vector<std::string>{" wet", " dry"}));
  EXPECT_EQ(joined.right, 1u);
  const TaskItem glued = Item(R"({"task": "choice", "prompt": "\u6c34", "choices": ["a", "b"], "answer": 0, "join": ""})");
  EXPECT_EQ(glued.options, (std::vector<std::string>{"a", "b"}));
  const TaskItem gap = Item(R"({"task": "cloze", "text": "The ____ sat.", "choices": ["cat", "sea"], "answer": "cat"})");
  EXPECT_EQ(gap.prompt + gap.options[0] + gap.rest, "The cat sat.");
}

TEST(Task, RefusalsNameTheMember) {
  const std::pair<const char*, const char*> kRefused[] = {
      {R"([])", "\"task\""},
      {R"({"task": "essay"})", "\"task\""},
      {R"({"task": "choice", "choices": ["a", "b"], "answer": 0})", "\"prompt\""},
      {R"({"task": "choice", "prompt": "p", "choices": ["a"], "answer": 0})", "\"choices\""},
      {R"({"task": "choice", "prompt": "p", "choices": ["a", ""], "answer": 0})", "\"choices\""},
      {R"({"task": "choice", "prompt": "p", "choices": ["a", "b"], "answer": 2})", "\"answer\""},
      {R"({"task": "choice", "prompt": "p", "choices": ["a", "b"], "answer": -1})", "\"answer\""},
      {R"({"task": "class", "prompt": "p", "labels": ["a", "b"], "answer": "c"})", "\"answer\""},
      {R"({"task": "cloze", "text": "no gap", "answer": "c"})", "\"text\""},
      {R"({"task": "cloze", "text": "____ and ____", "answer": "c"})", "\"text\""},
      {R"({"task": "exact", "prompt": "p", "answer": []})", "\"answer\""},
      {R"({"task": "exact", "prompt": "p", "answer": "a", "tokens": 0})", "\"tokens\""},
  };
  for (const auto& [json, member] : kRefused) {
    const auto item = ReadTaskItem(ParseJson(json).value());
    ASSERT_FALSE(item.ok()) << json;
    EXPECT_EQ(item.error().code(), Code::kInvalidArgument);
    EXPECT_NE(item.error().message().find(member), std::string::npos) << item.error().message();
  }
}

// Published values of the interval.
TEST(Wilson, GivesTheKnownIntervals) {
  struct Row {
    size_t right, asked;
    double low, high;
  };
  for (const Row& row : {Row{0, 10, 0, 0.2775}, Row{8, 10, 0.4902, 0.9433}, Row{50, 100, 0.4038, 0.5962}, Row{10, 10, 0.7225, 1}}) {
    const Interval interval = WilsonInterval(row.right, row.asked);
    EXPECT_NEAR(interval.low, row.low, 1e-4);
    EXPECT_NEAR(interval.high, row.high, 1e-4);
  }
  EXPECT_EQ(WilsonInterval(0, 0).high, 1);
}

class Evaluated : public ::testing::Test {
 protected:
  Evaluated() {
    testing::BuildTinyModel({}).Write(path_);
    tokenizer_.emplace(ReadVocabulary(OpenGguf(*files_, path_).value()).value());
    model_.emplace(path_, /*threads=*/1, "ref", /*window=*/64);
  }

  // log p of `text` behind `prompt`, from whole logits, in doubles.
  double Expected(const std::string& prompt, const std::string& text) {
    std::vector<uint32_t> tokens = tokenizer_->spec().prefix;
    const auto body = tokenizer_->Encode(prompt + text, /*special=*/false).value();
    const size_t begin = tokens.size() + tokenizer_->Encode(prompt, /*special=*/false).value().size();
    tokens.insert(tokens.end(), body.begin(), body.end());
    const auto logits = testing::ModelRunner::Make(path_, {.kernels = ChooseKernels("ref").value()}, 64).value()->Logits(tokens);
    const size_t vocabulary = logits.size() / tokens.size();
    double sum = 0;
    for (size_t i = begin; i < tokens.size(); ++i) {
      const float* row = logits.data() + (i - 1) * vocabulary;
      double total = 0;
      for (size_t v = 0; v < vocabulary; ++v) total += std::exp(static_cast<double>(row[v]));
      sum += static_cast<double>(row[tokens[i]]) - std::log(total);
    }
    return sum;
  }

  testing::TemporaryFolder folder_;
  const std::string path_ = folder_.Path("m.gguf");
  const std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  std::optional<Tokenizer> tokenizer_;
  std::optional<testing::Windowed> model_;
};

TEST_F(Evaluated, ScoresAreLikelihoodsOfWhatFollows) {
  Evaluator evaluator(*model_->runner, *tokenizer_);
  const TaskItem choice = Item(R"({"task": "choice", "prompt": "It is cold in", "choices": ["winter", "a summer"], "answer": 0})");
  const TaskItem label = Item(R"({"task": "class", "prompt": "It is cold in", "labels": ["winter", "a summer"], "answer": 0})");
  const TaskItem gap = Item(R"({"task": "cloze", "text": "It is ____ here", "choices": ["cold", "warm"], "answer": 1})");
  for (int turn = 0; turn < 2; ++turn) {  // whatever was read before
    const auto chosen = evaluator.Ask(choice, nullptr);
    ASSERT_TRUE(chosen.ok()) << chosen.error().message();
    const auto labelled = evaluator.Ask(label, nullptr);
    const auto filled = evaluator.Ask(gap, nullptr);
    ASSERT_TRUE(labelled.ok() && filled.ok());
    for (size_t i = 0; i < 2; ++i) {
      const std::string& option = choice.options[i];
      const double expected = Expected(choice.prompt, option);
      EXPECT_NEAR(labelled->scores[i], expected, 1e-3);
      EXPECT_NEAR(chosen->scores[i], expected / static_cast<double>(option.size()), 1e-4);
      const std::string filling = gap.options[i] + gap.rest;
      EXPECT_NEAR(filled->scores[i], Expected(gap.prompt, filling) / static_cast<double>(filling.size()), 1e-4);
    }
    EXPECT_EQ(chosen->right, chosen->scores[0] > chosen->scores[1]);
    EXPECT_EQ(filled->right, filled->scores[1] > filled->scores[0]);
  }
}

// What the model goes on with is the right answer to an exact question, and fills a gap token by token.
TEST_F(Evaluated, WhatItSaysIsExactlyRight) {
  Evaluator evaluator(*model_->runner, *tokenizer_);
  TaskItem item = Item(R"({"task": "exact", "prompt": "Once upon a time", "answer": "?", "tokens": 6, "stop": []})");
  const auto first = evaluator.Ask(item, nullptr);
  ASSERT_TRUE(first.ok()) << first.error().message();
  EXPECT_FALSE(first->right);
  item.answers = {"another", "  " + first->text + "\n"};
  EXPECT_TRUE(evaluator.Ask(item, nullptr)->right);
  if (first->text.size() > 1) {
    item.stops = {first->text.substr(first->text.size() - 1)};
    EXPECT_LT(evaluator.Ask(item, nullptr)->text.size(), first->text.size());
  }
}

// Of a real vocabulary, in which the beginning of one option is one token with the end of the prompt: then the others count from there,
// too.
TEST(EvaluatedTogether, OptionsAreScoredFromOnePlace) {
  const std::string path = testing::DataPath("models/stories260K.gguf");
  const auto files = MakeFileSystem();
  const Tokenizer tokenizer = ReadVocabulary(OpenGguf(*files, path).value()).value();
  const testing::Windowed model(path, /*threads=*/1, "ref", /*window=*/64);
  const auto tokens = [&](const std::string& text) { return tokenizer.Encode(text, /*special=*/false).value(); };
  const std::string prompt = "One day a li";
  ASSERT_LT(tokens(prompt + "ttle").size(), tokens(prompt).size() + 1) << "\"little\" is one token";
  ASSERT_EQ(tokens(prompt + "xq").size(), tokens(prompt).size() + 2);
  const auto score = [&](std::string_view others) {
    Evaluator evaluator(*model.runner, tokenizer);
    const TaskItem item =
        Item(fmt::format(R"({{"task": "class", "prompt": "One day a li", "labels": ["xq", "{}"], "answer": 0, "join": ""}})", others));
    return evaluator.Ask(item, nullptr).value().scores;
  };
  const std::vector<double> apart = score("xx");
  const std::vector<double> together = score("ttle");
  EXPECT_LT(together[0], apart[0]) << "what is left of the prompt counts";
  // From the same place on, all of the prompt's tail and the option.
  Evaluator evaluator(*model.runner, tokenizer);
  const TaskItem shorter = Item(R"({"task": "class", "prompt": "One day a", "labels": ["lixq", "little"], "answer": 0})");
  const std::vector<double> expected = evaluator.Ask(shorter, nullptr).value().scores;
  for (size_t i = 0; i < 2; ++i) EXPECT_NEAR(together[i], expected[i], 1e-4);
}

TEST_F(Evaluated, LongQuestionsAreRefusedAndOthersGoOn) {
  Evaluator evaluator(*model_->runner, *tokenizer_);
  TaskItem item = Item(R"({"task": "choice", "prompt": "Q", "choices": ["a", "b"], "answer": 0})");
  item.prompt = std::string(200, 'q');
  EXPECT_EQ(evaluator.Ask(item, nullptr).error().code(), Code::kInvalidArgument);
  item.prompt = "short";
  EXPECT_TRUE(evaluator.Ask(item, nullptr).ok());
  const auto stopped =
      evaluator.Ask(Item(R"({"task": "choice", "prompt": "Other", "choices": ["a", "b"], "answer": 0})"), [] { return true; });
  EXPECT_EQ(stopped.error().code(), Code::kCancelled);
}

}  // namespace
}  // namespace bantam
