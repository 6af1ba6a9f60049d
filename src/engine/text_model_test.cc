// Vectors and scores by decoders: against their own logits, another implementation's, and properties of what is causal.
#include "engine/text_model.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "model/vocabulary.h"
#include "tensor/dtype.h"
#include "testing/checkpoint.h"
#include "testing/gguf_builder.h"
#include "testing/gguf_variant.h"
#include "testing/model_runner.h"
#include "testing/reference_logits.h"
#include "testing/text_runner.h"

namespace bantam {
namespace {

using testing::DataPath;
using ::testing::HasSubstr;
using testing::RandomTexts;
using Runner = testing::TextRunner;
using Options = testing::TextSetup;

TextOptions Whole(Pooling pooling) {
  TextOptions use;
  use.whole = true;
  use.pooling = pooling;
  return use;
}

class Decoders : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string name = GetParam();
    path_ = DataPath("archs/" + name);
    if (!std::filesystem::exists(path_ + ".gguf")) path_ = testing::SharedPath("golden/archs/") + name;
    if (!std::filesystem::exists(path_ + ".gguf")) GTEST_SKIP() << "the shared folder is not there";
    reference_ = testing::ReadReferenceLogits(path_ + ".logits");
  }
  Runner::Path File() const { return {path_ + ".gguf"}; }
  Options With(TextOptions use, const KernelSet* kernels = RunnableKernels().front()) const {
    Options setup;
    setup.kernels = kernels;
    setup.use = std::move(use);
    setup.step_tokens = std::max<size_t>(96, reference_.tokens.size());
    return setup;
  }
  std::string path_;
  testing::ReferenceLogits reference_;
};

// The vector of every token, times the output matrix, is what another implementation has for logits.
TEST_P(Decoders, VectorsTimesTheOutputMatrixAreTheReferencesLogits) {
  const auto rows = Runner(File(), With(Whole(Pooling::kEveryToken))).Encode(reference_.tokens);
  const auto files = MakeFileSystem();
  ModelFile file = OpenModel(*files, path_ + ".gguf").value();
  const Config config = OutlineModel(file, *RunnableKernels().front())->config;
  const TensorInfo* matrix = file.directory.Find("output.weight");
  if (matrix == nullptr) matrix = file.directory.Find("token_embd.weight");
  const TensorInfo* bias = file.directory.Find("output.bias");
  const size_t vocabulary = matrix->rows();
  const size_t width = config.width;
  const auto floats = [&](const TensorInfo& tensor) {
    const auto bytes = file.source->View(tensor.offset_bytes, tensor.size_bytes).value();
    std::vector<float> values(tensor.elements());
    Unpack(tensor.dtype, reinterpret_cast<const uint8_t*>(bytes.data()), values.size(), values.data());
    return values;
  };
  const std::vector<float> weights = floats(*matrix);
  const std::vector<float> biases = bias == nullptr ? std::vector<float>(vocabulary) : floats(*bias);
  ASSERT_EQ(rows.size(), reference_.tokens.size() * width);
  ASSERT_EQ(reference_.logits.size(), reference_.tokens.size() * vocabulary);
  std::vector<float> logits;
  for (size_t t = 0; t < reference_.tokens.size(); ++t) {
    for (size_t v = 0; v < vocabulary; ++v) {
      double sum = static_cast<double>(biases[v]);
      for (size_t c = 0; c < width; ++c) sum += static_cast<double>(weights[v * width + c]) * static_cast<double>(rows[t * width + c]);
      sum *= static_cast<double>(config.logit_scale);
      const auto cap = static_cast<double>(config.logit_softcap);
      logits.push_back(static_cast<float>(cap == 0 ? sum : cap * std::tanh(sum / cap)));
    }
  }
  EXPECT_LT(testing::Nmse(logits, reference_.logits), 1e-8);
}

// Scores by answers have the bits of a session's logits behind the last token, whatever its steps.
TEST_P(Decoders, AnswersAreTheLogitsBehindTheText) {
  const std::vector<uint32_t> answers = {5, 17, 3};
  TextOptions use = Whole(Pooling::kLast);
  use.classify = true;
  use.answers = answers;
  for (const KernelSet* kernels : RunnableKernels()) {
    const testing::RunSetup setup = {kernels, KvType::kF32, 2, {7, 1, 16}};
    auto run = testing::ModelRunner::Make(path_ + ".gguf", setup, reference_.tokens.size()).value();
    const std::vector<float> logits = run->Logits(reference_.tokens);
    const size_t vocabulary = logits.size() / reference_.tokens.size();
    const auto got = Runner(File(), With(use, kernels)).Encode(reference_.tokens);
    ASSERT_EQ(got.size(), answers.size());
    for (size_t i = 0; i < answers.size(); ++i) {
      EXPECT_EQ(got[i], logits[logits.size() - vocabulary + answers[i]]) << kernels->name << ", answer " << i;
    }
  }
}

TEST_P(Decoders, NoTextChangesAnother) {
  Rng rng(7);
  std::vector<TextTokens> texts = RandomTexts(rng, {5, 40, 1, 17, 96, 16, 33, 2, 8, 60});
  for (TextTokens& text : texts) {
    for (uint32_t& token : text.tokens) token %= 32;
  }
  std::vector<std::vector<float>> alone;
  Options setup = With(Whole(Pooling::kMean));
  setup.threads = 1;
  setup.step_texts = 1;
  Runner single(File(), setup);
  for (const TextTokens& text : texts) alone.push_back(single.Encode(text.tokens));
  setup.threads = 3;
  setup.step_texts = 6;
  for (const size_t step_tokens : {size_t{96}, size_t{1000}}) {
    setup.step_tokens = step_tokens;
    Runner together(File(), setup);
    EXPECT_EQ(together.Encode(texts), alone) << "steps of " << step_tokens;
    std::vector<TextTokens> reversed(texts.rbegin(), texts.rend());
    auto got = together.Encode(reversed);
    std::reverse(got.begin(), got.end());
    EXPECT_EQ(got, alone) << "steps of " << step_tokens;
  }
}

// A token's vector is that of the text that ends there; the mean is theirs.
TEST_P(Decoders, BeginningsAreTheTextsThatEndThere) {
  const std::vector<uint32_t> tokens(reference_.tokens.begin(), reference_.tokens.begin() + 13);
  const auto rows = Runner(File(), With(Whole(Pooling::kEveryToken))).Encode(tokens);
  const size_t width = rows.size() / tokens.size();
  Runner last(File(), With(Whole(Pooling::kLast)));
  std::vector<double> sums(width);
  for (size_t n = 1; n <= tokens.size(); ++n) {
    const std::vector<float> vector = last.Encode(std::vector<uint32_t>(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n)));
    EXPECT_EQ(std::memcmp(vector.data(), rows.data() + (n - 1) * width, width * sizeof(float)), 0) << n << " tokens";
    for (size_t c = 0; c < width; ++c) sums[c] += static_cast<double>(vector[c]);
  }
  const std::vector<float> mean = Runner(File(), With(Whole(Pooling::kMean))).Encode(tokens);
  for (size_t c = 0; c < width; ++c) {
    const double expected = sums[c] / static_cast<double>(tokens.size());
    EXPECT_NEAR(static_cast<double>(mean[c]), expected, 1e-5 * std::max(1.0, std::fabs(expected)));
  }
}

INSTANTIATE_TEST_SUITE_P(All, Decoders,
                         ::testing::Values("llama-dense", "bitnet", "gemma3n", "gemma4", "qwen35", "bloom-dense", "falcon-h1-dense",
                                           "gemma2-dense", "gemma3-dense", "gpt-oss-moe", "gpt2-dense", "granitehybrid-dense", "lfm2-dense",
                                           "mamba-dense", "minicpm-dense", "mistral3-dense", "phi3-dense", "qwen2-dense", "qwen3-dense",
                                           "qwen3moe-moe"),
                         [](const auto& row) {
                           std::string name = row.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// Keys and values of one layer are kept at a time, unless others attend to them later.
TEST(TextModel, KeysAndValuesOfOneLayer) {
  const auto kv_layers = [](const std::string& name, bool whole) {
    const auto files = MakeFileSystem();
    ModelFile file = OpenModel(*files, DataPath("archs/" + name + ".gguf")).value();
    TextOptions use;
    use.whole = whole;
    return OutlineModel(file, *RunnableKernels().front(), {}, use)->program.kv_layers.size();
  };
  EXPECT_GT(kv_layers("llama-dense", /*whole=*/false), 1u);
  EXPECT_EQ(kv_layers("llama-dense", /*whole=*/true), 1u);
  EXPECT_EQ(kv_layers("gemma4", /*whole=*/true), kv_layers("gemma4", /*whole=*/false));
}

// Where the file says so, tokens see later ones too, and the memory plan of a session is refused.
TEST(TextModel, ADecoderThatSeesLaterTokens) {
  testing::TemporaryFolder folder;
  testing::GgufVariant variant;
  variant.metadata = {{"llama.attention.causal", false}, {"llama.pooling_type", uint64_t{1}, ValueType::kU32}};
  ASSERT_TRUE(testing::WriteVariant(DataPath("archs/llama-dense.gguf"), folder.Path("m.gguf"), variant).ok());
  Options setup;
  setup.use.pooling = Pooling::kFirst;
  Runner runner(Runner::Path{folder.Path("m.gguf")}, setup);
  std::vector<uint32_t> tokens(30, 10);
  const auto before = runner.Encode(tokens);
  tokens.back() = 11;
  EXPECT_NE(runner.Encode(tokens), before);
  EXPECT_TRUE(runner.model->config.whole_texts);
  // One token sees nothing but itself either way.
  Options causal;
  causal.use = Whole(Pooling::kFirst);
  EXPECT_EQ(runner.Encode({10}), Runner("llama-dense", causal).Encode({10}));
  const auto files = MakeFileSystem();
  ModelFile file = OpenModel(*files, folder.Path("m.gguf")).value();
  EXPECT_EQ(OutlineModel(file, *RunnableKernels().front())->config.pooling, Pooling::kMean);
}

// EmbeddingGemma: a window reaches as far on either side.
TEST(TextModel, WindowsOfLaterTokens) {
  const std::string path = testing::SharedPath("golden/archs/gemma3-dense.gguf");
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "the shared folder is not there";
  testing::TemporaryFolder folder;
  testing::GgufVariant variant;
  variant.metadata = {{"gemma3.attention.causal", false}, {"gemma3.attention.sliding_window", uint64_t{8}, ValueType::kU32}};
  ASSERT_TRUE(testing::WriteVariant(path, folder.Path("m.gguf"), variant).ok());
  const auto files = MakeFileSystem();
  ModelFile file = OpenModel(*files, folder.Path("m.gguf")).value();
  const Config config = OutlineModel(file, *RunnableKernels().front())->config;
  size_t windowed = 0;
  for (const LayerPlan& layer : config.layers) {
    if (layer.window == 0) continue;
    ++windowed;
    EXPECT_EQ(layer.window, 9u) << "four on each side, and the token itself";
  }
  EXPECT_GT(windowed, 0u);
}

TEST(TextModel, RecurrentLayersSeeNoLaterTokens) {
  testing::TemporaryFolder folder;
  testing::GgufVariant variant;
  variant.metadata = {{"qwen35.attention.causal", false}};
  ASSERT_TRUE(testing::WriteVariant(DataPath("archs/qwen35.gguf"), folder.Path("m.gguf"), variant).ok());
  const auto files = MakeFileSystem();
  ModelFile file = OpenModel(*files, folder.Path("m.gguf")).value();
  const auto outline = OutlineModel(file, *RunnableKernels().front());
  ASSERT_FALSE(outline.ok());
  EXPECT_THAT(outline.error().message(), HasSubstr("recurrent layers"));
}

// ---- Hugging Face folders ----

class DecoderFolders : public ::testing::Test {
 protected:
  DecoderFolders() : config_(testing::ReadDescription(DataPath("huggingface/qwen3.json"))["config"]) {
    tensors_ = testing::ValuesOf(testing::ReadDescription(DataPath("huggingface/qwen3.json")));
    width_ = config_["hidden_size"].get<size_t>();
  }
  void Write() { testing::WriteCheckpoint(folder_.Path("model"), config_, tensors_); }
  std::vector<std::vector<float>> Encode(const TextOptions& use) {
    Options setup;
    setup.use = use;
    setup.context = setup.step_tokens = 32;
    return Runner(Runner::Path{folder_.Path("model")}, setup).Encode(texts_);
  }
  Json config_;
  testing::StoredTensors tensors_;
  size_t width_ = 0;
  std::vector<TextTokens> texts_ = {{{1, 2, 3, 4}}, {{5}}, {{3, 2, 1, 0, 7, 9}}};
  testing::TemporaryFolder folder_;
};

// Qwen3-Embedding: no output matrix, names without what stands in front of a decoder's, and the last token's vector.
TEST_F(DecoderFolders, Embedding) {
  Write();
  TextOptions use = Whole(Pooling::kLast);
  const auto expected = Encode(use);
  testing::StoredTensors bare;
  for (auto& [name, tensor] : tensors_) {
    if (name != "lm_head.weight") bare[name.starts_with("model.") ? name.substr(6) : name] = tensor;
  }
  tensors_ = bare;
  config_["tie_word_embeddings"] = false;
  Write();
  std::filesystem::create_directories(folder_.Path("model/1_Pooling"));
  testing::WriteText(folder_.Path("model/1_Pooling/config.json"), R"({"pooling_mode_lasttoken":true,"pooling_mode_mean_tokens":false})");
  testing::WriteText(folder_.Path("model/modules.json"), R"([{"path":"","type":"sentence_transformers.models.Transformer"},)"
                                                         R"({"path":"1_Pooling","type":"sentence_transformers.models.Pooling"},)"
                                                         R"({"path":"2_Normalize","type":"sentence_transformers.models.Normalize"}])");
  testing::WriteText(folder_.Path("model/config_sentence_transformers.json"),
                     R"({"prompts":{"query":"Instruct: x\nQuery:","document":""}})");
  EXPECT_EQ(Encode({}), expected);
  const auto files = MakeFileSystem();
  ModelFile file = OpenModel(*files, folder_.Path("model")).value();
  const Config config = OutlineModel(file, *RunnableKernels().front())->config;
  EXPECT_EQ(config.pooling, Pooling::kLast);
  EXPECT_TRUE(config.unit_length && config.no_output && config.whole_texts);
  const TextRules rules = ReadTextRules(file.metadata, "qwen3").value();
  EXPECT_TRUE(rules.pooling_given);
  EXPECT_EQ(ChoosePrefix(rules, "query", std::nullopt).value(), "Instruct: x\nQuery:");
  // Without an output matrix nothing answers.
  use.classify = true;
  use.answers = {1, 2};
  const auto outline = OutlineModel(file, *RunnableKernels().front(), {}, use);
  ASSERT_FALSE(outline.ok());
  EXPECT_THAT(outline.error().message(), HasSubstr("neither a classifier nor an output matrix"));
}

// Qwen3ForSequenceClassification and its kin: scores are products of the last token's vector.
TEST_F(DecoderFolders, SequenceClassification) {
  std::vector<float> weights(3 * width_);
  Rng rng(3);
  for (float& weight : weights) weight = static_cast<float>(static_cast<int>(rng.Next() % 2001) - 1000) * 1e-3f;
  tensors_["score.weight"] = {"F32", {3, width_}, std::string(reinterpret_cast<const char*>(weights.data()), 4 * weights.size())};
  tensors_.erase("lm_head.weight");
  config_["tie_word_embeddings"] = false;
  config_["id2label"] = {{"0", "a"}, {"1", "b"}, {"2", "c"}};
  Write();
  TextOptions use;
  const auto vectors = Encode(Whole(Pooling::kLast));
  use.classify = true;
  const auto scores = Encode(use);
  for (size_t i = 0; i < texts_.size(); ++i) {
    ASSERT_EQ(scores[i].size(), 3u);
    for (size_t r = 0; r < 3; ++r) {
      double sum = 0;
      for (size_t c = 0; c < width_; ++c) sum += static_cast<double>(weights[r * width_ + c]) * static_cast<double>(vectors[i][c]);
      EXPECT_NEAR(static_cast<double>(scores[i][r]), sum, 1e-4 * std::max(1.0, std::fabs(sum)));
    }
  }
  const auto files = MakeFileSystem();
  ModelFile file = OpenModel(*files, folder_.Path("model")).value();
  EXPECT_EQ(ReadTextRules(file.metadata, "qwen3")->labels, (std::vector<std::string>{"a", "b", "c"}));
}

// ---- Ranking ----

class Judged : public ::testing::Test {
 protected:
  Judged() : tokenizer_(ReadVocabulary(OpenModel(*MakeFileSystem(), DataPath("models/stories260K.gguf")).value()).value()) {}
  Tokenizer tokenizer_;
};

TEST_F(Judged, TemplatesAreChecked) {
  EXPECT_TRUE(JudgeTemplate::Parse("{query} {document}").ok());
  for (const char* wrong :
       {"", "{query}", "{document}", "{document} {query}", "{query} {query} {document}", "{query}{document}{document}"}) {
    EXPECT_FALSE(JudgeTemplate::Parse(wrong).ok()) << wrong;
  }
  EXPECT_TRUE(JudgeTemplate::Parse(kQwen3JudgeTemplate).ok());
}

TEST_F(Judged, TextsArePlainAndCutAtTheEndOfTheDocument) {
  const JudgeTemplate judge = JudgeTemplate::Parse("q {query} d {document} a").value();
  const auto tokens = [&](std::string_view text) { return tokenizer_.Encode(text, /*special=*/false).value(); };
  EXPECT_EQ(judge.Tokenize(tokenizer_, "one", "two", {100})->tokens, tokens("q one d two a"));
  const size_t whole = tokens("q one d two three four a").size();
  const auto refused = judge.Tokenize(tokenizer_, "one", "two three four", {whole - 1});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), Code::kExhausted);
  // The longest beginning that fits.
  const auto cut = judge.Tokenize(tokenizer_, "one", "two three four", {whole - 3, /*truncate=*/true});
  ASSERT_TRUE(cut.ok()) << cut.error().message();
  bool is_beginning = false;
  size_t longest = 0;
  for (size_t n = 0; n <= 14; ++n) {
    const auto of = tokens(fmt::format("q one d {} a", std::string_view("two three four").substr(0, n)));
    if (of.size() <= whole - 3) longest = n;
    is_beginning = is_beginning || of == cut->tokens;
  }
  EXPECT_TRUE(is_beginning);
  EXPECT_EQ(cut->tokens, tokens(fmt::format("q one d {} a", std::string_view("two three four").substr(0, longest))));
  EXPECT_FALSE(judge.Tokenize(tokenizer_, "one", "two", {2, /*truncate=*/true}).ok()) << "no room for a document";
}

// A decoder of no classifier, whose vocabulary has `more` beside bytes and what "yes" and "no" are made of.
TextModel Decoder(const std::vector<std::string>& more) {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(fmt::format("<0x{:02X}>", byte));
  for (const char* piece : {"\u2581", "y", "e", "s", "n", "o", "\u2581y", "es", "\u2581n"}) tokens.emplace_back(piece);
  std::vector<int32_t> types(tokens.size(), 1);
  std::fill_n(types.begin(), 3, 3);
  std::fill_n(types.begin() + 3, 256, 6);
  for (const std::string& piece : more) {
    tokens.push_back(piece);
    types.push_back(piece.starts_with("<|") ? 3 : 1);
  }
  std::vector<float> scores;
  for (size_t i = 0; i < tokens.size(); ++i) scores.push_back(-static_cast<float>(i));
  testing::TemporaryFolder folder;
  testing::GgufBuilder builder;
  builder.Text("tokenizer.ggml.model", "llama").Texts("tokenizer.ggml.tokens", tokens).F32s("tokenizer.ggml.scores", scores);
  builder.I32s("tokenizer.ggml.token_type", types).U32("tokenizer.ggml.bos_token_id", 1).U32("tokenizer.ggml.eos_token_id", 2);
  builder.Write(folder.Path("v.gguf"));
  const auto files = MakeFileSystem();
  return TextModel{Config(), TextRules(), ReadVocabulary(OpenModel(*files, folder.Path("v.gguf")).value()).value()};
}

TEST(Rankings, ADecoderIsAskedForYesOrNo) {
  const std::vector<std::string> answers = {"\u2581yes", "\u2581no"};
  const TextModel plain = Decoder(answers);
  const auto size = static_cast<uint32_t>(plain.tokenizer.size());
  const auto asked = PlanRanking(plain, "{query}: {document}?");
  ASSERT_TRUE(asked.ok()) << asked.error().message();
  EXPECT_EQ(asked->answers, (std::vector<uint32_t>{size - 2, size - 1}));
  std::vector<float> logits = {3, 1};
  EXPECT_NEAR(asked->ranking.Of(logits), 1 / (1 + std::exp(-2.0f)), 1e-6f);
  EXPECT_EQ(asked->Tokenize(plain.tokenizer, "no", "yes", {100})->tokens, plain.tokenizer.Encode("no: yes?", /*special=*/false).value());
  EXPECT_THAT(PlanRanking(plain, std::nullopt).error().message(),
              HasSubstr("no <|im_start|>; say how it is asked for yes or no (--template)"));
  EXPECT_THAT(PlanRanking(plain, "{query}").error().message(), HasSubstr("expected a text with {query}"));
  // Qwen's words, or the file's own; names of control tokens mean those in the template alone.
  TextModel qwen = Decoder({"\u2581yes", "\u2581no", "<|im_start|>"});
  const auto usual = PlanRanking(qwen, std::nullopt);
  ASSERT_TRUE(usual.ok()) << usual.error().message();
  const auto tokens = usual->Tokenize(qwen.tokenizer, "<|im_start|>", "<|im_start|>", {10'000})->tokens;
  EXPECT_EQ(std::count(tokens.begin(), tokens.end(), static_cast<uint32_t>(qwen.tokenizer.size() - 1)), 3) << "of the template";
  qwen.judge_template = "{query} {document}";
  EXPECT_EQ(PlanRanking(qwen, std::nullopt)->Tokenize(qwen.tokenizer, "a", "b", {10'000})->tokens,
            qwen.tokenizer.Encode("a b", /*special=*/false).value());
}

// Pairs are read as classify reads them.
TEST(Rankings, InLowerCaseWhereTheModelWantsIt) {
  TextModel model = Decoder({"\u2581yes", "\u2581no"});
  const auto tokens = [&] { return PlanRanking(model, "{query}: {document}?")->Tokenize(model.tokenizer, "No", "YES", {100})->tokens; };
  EXPECT_EQ(tokens(), model.tokenizer.Encode("No: YES?", /*special=*/false).value());
  model.rules.lower_case = true;
  EXPECT_EQ(tokens(), model.tokenizer.Encode("no: yes?", /*special=*/false).value());
}

TEST(Rankings, WhatCannotRank) {
  EXPECT_THAT(PlanRanking(Decoder({}), "{query} {document}").error().message(), HasSubstr("\"yes\" is 2 tokens of its vocabulary"));
  TextModel model = Decoder({"\u2581yes", "\u2581no"});
  model.config.no_output = true;
  EXPECT_THAT(PlanRanking(model, "{query} {document}").error().message(), HasSubstr("no classifier"));
  model.classes = 1;
  EXPECT_TRUE(PlanRanking(model, std::nullopt)->answers.empty());
  EXPECT_FALSE(PlanRanking(model, std::nullopt)->judge.has_value()) << "a pair, as it is";
  EXPECT_TRUE(PlanRanking(model, "{query} {document}")->judge.has_value());
  model.config.later_tokens = true;
  EXPECT_THAT(PlanRanking(model, "{query} {document}").error().message(), HasSubstr("a template is for decoders"));
  model.classes = 0;
  EXPECT_THAT(PlanRanking(model, std::nullopt).error().message(), HasSubstr("makes vectors, and ranks nothing"));
}

}  // namespace
}  // namespace bantam
