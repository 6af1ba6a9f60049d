#include "model/text_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/metadata_builder.h"

namespace bantam {
namespace {

using ::testing::HasSubstr;

class TextRulesTest : public ::testing::Test {
 protected:
  Result<TextRules> Read() {
    file_ = ModelFile();
    EXPECT_TRUE(builder_.Build({}, &file_).ok());
    return ReadTextRules(file_.metadata, "bert");
  }
  std::string Problem() {
    const auto rules = Read();
    return rules.ok() ? "" : rules.error().message();
  }
  MetadataBuilder builder_;
  ModelFile file_;
};

std::string Prefix(const TextRules& rules, const std::optional<std::string>& prompt, const std::optional<std::string>& prefix) {
  const auto chosen = ChoosePrefix(rules, prompt, prefix);
  return chosen.ok() ? "\"" + *chosen + "\"" : chosen.error().message();
}

TEST_F(TextRulesTest, AFileThatSaysNothing) {
  builder_.SetText("bert.prompts", "of something else");
  const TextRules rules = Read().value();
  EXPECT_FALSE(rules.pooling_given);
  EXPECT_FALSE(rules.classifier_pooling_given);
  EXPECT_EQ(rules.tokens_max, 0u);
  EXPECT_TRUE(rules.prompt_pooled);
  EXPECT_TRUE(rules.prompts.empty());
  EXPECT_EQ(Prefix(rules, std::nullopt, std::nullopt), "\"\"");
  EXPECT_EQ(Prefix(rules, std::nullopt, "query: "), "\"query: \"");
  EXPECT_THAT(Prefix(rules, "query", std::nullopt), HasSubstr("--prompt query: the model names no prompts"));
  EXPECT_EQ(WholeText(rules, "Query: ", "ÄPFEL"), "Query: ÄPFEL");
}

// What a file of a classifier has says nothing of vectors.
TEST_F(TextRulesTest, Pooling) {
  for (const uint32_t kind : {0u, 1u, 2u, 3u, 4u, UINT32_MAX}) {
    builder_.SetCount("bert.pooling_type", kind);
    builder_.SetCount("bert.classifier_pooling_type", kind);
    EXPECT_EQ(Read()->pooling_given, kind < 4) << kind;
    EXPECT_EQ(Read()->classifier_pooling_given, kind < 4) << kind;
  }
}

TEST_F(TextRulesTest, Prompts) {
  builder_.SetText("bert.text.prompt.query", "query: ");
  builder_.SetText("bert.text.prompt.passage", "passage: ");
  builder_.SetText("bert.text.prompt.plain", "");
  const TextRules rules = Read().value();
  EXPECT_EQ(Prefix(rules, std::nullopt, std::nullopt), "\"\"") << "none is the default";
  EXPECT_EQ(Prefix(rules, "query", std::nullopt), "\"query: \"");
  EXPECT_EQ(Prefix(rules, "plain", std::nullopt), "\"\"");
  EXPECT_THAT(Prefix(rules, "document", std::nullopt), HasSubstr("expected one of those that the model names: query, passage, plain"));
  EXPECT_THAT(Prefix(rules, "", std::nullopt), HasSubstr("expected one of"));
  EXPECT_THAT(Prefix(rules, "query", ""), HasSubstr("both given"));
  builder_.SetText("bert.text.default_prompt", "passage");
  EXPECT_EQ(Prefix(*Read(), std::nullopt, std::nullopt), "\"passage: \"");
  EXPECT_EQ(Prefix(*Read(), "query", std::nullopt), "\"query: \"");
  EXPECT_EQ(Prefix(*Read(), std::nullopt, ""), "\"\"");
  builder_.SetText("bert.text.default_prompt", "document");
  EXPECT_THAT(Problem(), HasSubstr("the default prompt is document, but the model names query, passage, plain"));
}

TEST_F(TextRulesTest, LengthAndCase) {
  builder_.SetCount("bert.text.tokens_max", 256);
  builder_.SetFlag("bert.text.lower_case", true);
  builder_.SetFlag("bert.text.prompt_pooled", false);
  const TextRules rules = Read().value();
  EXPECT_EQ(rules.tokens_max, 256u);
  EXPECT_FALSE(rules.prompt_pooled);
  EXPECT_EQ(WholeText(rules, "Query: ", "ÄPFEL"), "query: äpfel");
}

TEST_F(TextRulesTest, Classes) {
  EXPECT_TRUE(Read()->labels.empty());
  EXPECT_FALSE(Read()->activation.has_value());
  EXPECT_EQ(LabelOf(*Read(), 3), "LABEL_3");
  builder_.SetTexts("bert.classifier.output_labels", {"no", "", "yes"});
  builder_.SetText("bert.classifier.activation", "sigmoid");
  const TextRules rules = Read().value();
  EXPECT_EQ(rules.labels, (std::vector<std::string>{"no", "", "yes"}));
  EXPECT_EQ(rules.activation, ClassActivation::kSigmoid);
  EXPECT_EQ(LabelOf(rules, 2), "yes");
  builder_.SetText("bert.classifier.activation", "relu");
  EXPECT_THAT(Problem(), HasSubstr("classifier.activation: relu, expected none, sigmoid, softmax"));
  builder_.SetText("bert.classifier.activation", "softmax");
  builder_.SetTexts("bert.classifier.output_labels", {std::string(kLabelBytesMax + 1, 'x')});
  EXPECT_THAT(Problem(), HasSubstr("a label of 1025 bytes"));
}

TEST_F(TextRulesTest, Dimensions) {
  const auto problem = [&](size_t dimensions) {
    const Status status = CheckDimensions(*Read(), dimensions, 64);
    return status.ok() ? "" : status.error().message();
  };
  EXPECT_EQ(problem(64), "");
  EXPECT_THAT(problem(32), HasSubstr("dimensions 32: expected 64, for the model does not say"));
  builder_.SetCounts("bert.text.dimensions", {16, 32});
  EXPECT_EQ(problem(32), "");
  EXPECT_EQ(problem(64), "");
  EXPECT_EQ(problem(33), "dimensions 33: expected 16, 32 or 64");
  builder_.SetFlag("bert.text.any_dimensions", true);
  EXPECT_EQ(problem(33), "");
  EXPECT_NE(problem(65), "");
  EXPECT_NE(problem(0), "");
  builder_.SetCounts("bert.text.dimensions", {0});
  EXPECT_THAT(Read().error().message(), HasSubstr("text.dimensions: 0, expected numbers from 1"));
}

TEST_F(TextRulesTest, Refusals) {
  builder_.SetCount("bert.text.tokens_max", 0);
  EXPECT_THAT(Problem(), HasSubstr("text.tokens_max: 0, expected 1 to"));
  builder_.SetCount("bert.text.tokens_max", 1);
  builder_.SetCount("bert.text.prompt.query", 1);
  EXPECT_NE(Problem(), "") << "a number is no text";
  builder_.SetText("bert.text.prompt.query", std::string(kPromptBytesMax + 1, 'x'));
  EXPECT_THAT(Problem(), HasSubstr("at most 65536 bytes of text"));
  builder_.SetText("bert.text.prompt.query", "");
  for (size_t i = 0; i < kPromptsMax; ++i) builder_.SetText("bert.text.prompt." + std::to_string(i), "");
  EXPECT_THAT(Problem(), HasSubstr("at most 256 prompts"));
}

}  // namespace
}  // namespace bantam
