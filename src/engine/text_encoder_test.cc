#include "engine/text_encoder.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/rng.h"
#include "formats/metadata_builder.h"
#include "model/open.h"
#include "model/pack.h"
#include "model/text_rules.h"
#include "model/vocabulary.h"
#include "testing/checkpoint.h"
#include "testing/gguf_builder.h"
#include "testing/gguf_variant.h"
#include "testing/paths.h"
#include "testing/reference_logits.h"
#include "testing/text_runner.h"

namespace bantam {
namespace {

using testing::DataPath;

using Options = testing::TextSetup;
using Runner = testing::TextRunner;
using testing::RandomTexts;

TextOptions Pooled(Pooling pooling) {
  TextOptions use;
  use.pooling = pooling;
  return use;
}

class Encoders : public ::testing::TestWithParam<const char*> {};

TEST_P(Encoders, MatchTheReference) {
  const auto reference = testing::ReadReferenceLogits(DataPath(std::string("archs/") + GetParam() + ".logits"));
  double largest = 0;
  for (const KernelSet* kernels : RunnableKernels()) {
    std::vector<float> first;
    for (const int threads : {1, 2, 3}) {
      const auto got =
          Runner(GetParam(), {.kernels = kernels, .threads = threads, .use = Pooled(Pooling::kEveryToken)}).Encode(reference.tokens);
      ASSERT_EQ(got.size(), reference.logits.size());
      const double error = testing::Nmse(got, reference.logits);
      EXPECT_LT(error, 1e-9) << kernels->name << ", " << threads << " threads";
      largest = std::max(largest, error);
      if (first.empty()) first = got;
      EXPECT_EQ(std::memcmp(got.data(), first.data(), got.size() * sizeof(float)), 0) << kernels->name << ", " << threads << " threads";
    }
  }
  std::printf("%s: %.1e\n", GetParam(), largest);  // docs/families.md
}

TEST_P(Encoders, NoTextChangesAnother) {
  Rng rng(7);
  const std::vector<TextTokens> texts = RandomTexts(rng, {5, 40, 1, 17, 96, 16, 33, 2, 8, 60});
  for (const KernelSet* kernels : RunnableKernels()) {
    std::vector<std::vector<float>> alone;
    Runner single(GetParam(), {.kernels = kernels, .threads = 1, .step_texts = 1});
    for (const TextTokens& text : texts) alone.push_back(single.Encode(text.tokens));
    for (const size_t step_tokens : {size_t{96}, size_t{200}, size_t{1000}}) {
      Runner together(GetParam(), {.kernels = kernels, .threads = 3, .step_tokens = step_tokens, .step_texts = 6});
      EXPECT_EQ(together.Encode(texts), alone) << kernels->name << ", steps of " << step_tokens;
      std::vector<TextTokens> reversed(texts.rbegin(), texts.rend());
      auto got = together.Encode(reversed);
      std::reverse(got.begin(), got.end());
      EXPECT_EQ(got, alone) << kernels->name << ", steps of " << step_tokens;
    }
  }
}

TEST_P(Encoders, Pool) {
  Rng rng(8);
  const std::vector<TextTokens> texts = RandomTexts(rng, {9, 20, 1});
  const auto rows = Runner(GetParam(), {.use = Pooled(Pooling::kEveryToken)}).Encode(texts);
  const auto first = Runner(GetParam(), {.use = Pooled(Pooling::kFirst)}).Encode(texts);
  const auto last = Runner(GetParam(), {.use = Pooled(Pooling::kLast)}).Encode(texts);
  const auto mean = Runner(GetParam(), {.use = Pooled(Pooling::kMean)}).Encode(texts);
  for (size_t i = 0; i < texts.size(); ++i) {
    const size_t n = texts[i].tokens.size();
    const size_t width = rows[i].size() / n;
    ASSERT_EQ(rows[i].size(), n * width);
    EXPECT_EQ(first[i], std::vector<float>(rows[i].begin(), rows[i].begin() + static_cast<std::ptrdiff_t>(width)));
    EXPECT_EQ(last[i], std::vector<float>(rows[i].end() - static_cast<std::ptrdiff_t>(width), rows[i].end()));
    for (size_t c = 0; c < width; ++c) {
      double sum = 0;
      for (size_t t = 0; t < n; ++t) sum += static_cast<double>(rows[i][t * width + c]);
      EXPECT_NEAR(static_cast<double>(mean[i][c]), sum / static_cast<double>(n), 1e-6);
    }
  }
}

// The first token knows of the last.
TEST_P(Encoders, SeeLaterTokens) {
  Runner runner(GetParam(), {.use = Pooled(Pooling::kFirst)});
  std::vector<uint32_t> tokens(30, 10);
  const auto before = runner.Encode(tokens);
  tokens.back() = 11;
  EXPECT_NE(runner.Encode(tokens), before);
}

TEST_P(Encoders, KeysAndValuesMayBeRounded) {
  const auto reference = testing::ReadReferenceLogits(DataPath(std::string("archs/") + GetParam() + ".logits"));
  for (const auto& [type, limit] : {std::pair(KvType::kF16, 1e-5), std::pair(KvType::kInt8, 1e-3)}) {
    const auto got = Runner(GetParam(), {.kv_type = type, .use = Pooled(Pooling::kEveryToken)}).Encode(reference.tokens);
    EXPECT_LT(testing::Nmse(got, reference.logits), limit);
  }
}

INSTANTIATE_TEST_SUITE_P(All, Encoders, ::testing::Values("bert", "nomic-bert", "nomic-bert-moe", "modern-bert"), [](const auto& row) {
  std::string name = row.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(TextEncoder, ScoresMatchTheReference) {
  for (const std::string name : {"bert", "modern-bert"}) {
    const auto reference = testing::ReadReferenceLogits(DataPath("archs/" + name + "-rank.logits"));
    TextOptions use;
    use.classify = true;
    for (const KernelSet* kernels : RunnableKernels()) {
      const auto got = Runner(name, {.kernels = kernels, .use = use}).Encode(reference.tokens);
      ASSERT_EQ(got.size(), 1u);
      EXPECT_NEAR(got[0], reference.logits[0], 1e-5f) << name << " " << kernels->name;
    }
  }
}

TEST(TextEncoder, TypesOfTokens) {
  TextTokens text = {{2, 10, 11, 3, 12, 13, 3}, /*second=*/4};
  Runner runner("bert", {});
  const auto pair = runner.Encode(std::span(&text, 1));
  text.second = SIZE_MAX;
  EXPECT_NE(runner.Encode(std::span(&text, 1)), pair);
  // What has no table of types knows no difference.
  Runner untyped("modern-bert", {});
  const auto single = untyped.Encode(std::span(&text, 1));
  text.second = 4;
  EXPECT_EQ(untyped.Encode(std::span(&text, 1)), single);
}

// Angles that depend on the length are those of a text's own, whatever stands beside it: a text alone is planned for alone.
void CheckAngles(const std::string& path, const RopeOverride& rope, std::initializer_list<size_t> sizes) {
  Rng rng(4);
  const std::vector<TextTokens> texts = RandomTexts(rng, sizes);
  const size_t longest = std::max(sizes);
  std::vector<std::vector<float>> alone;
  for (const TextTokens& text : texts) {
    const size_t n = text.tokens.size();
    alone.push_back(Runner(Runner::Path{path}, {.rope = rope, .context = n, .step_tokens = n, .step_texts = 1}).Encode(text.tokens));
  }
  Runner together(Runner::Path{path}, {.threads = 3, .rope = rope, .context = longest, .step_tokens = 2 * longest});
  EXPECT_EQ(together.Encode(texts), alone);
}

TEST(TextEncoder, DynamicAnglesAreOfEachText) {
  const std::string path = DataPath("archs/nomic-bert.gguf");
  const RopeOverride dynamic = {RopeScaling::kDynamicNtk, 4};
  CheckAngles(path, dynamic, {150, 30, 200, 97, 96});
  // Up to the trained length nothing is stretched, and beyond it the base is that of a fixed factor for the text's length.
  Rng rng(5);
  const std::vector<TextTokens> texts = RandomTexts(rng, {90, 150});
  Runner stretched(Runner::Path{path}, {.rope = dynamic, .context = 300, .step_tokens = 300});
  EXPECT_EQ(stretched.Encode(texts[0].tokens), Runner("nomic-bert", {}).Encode(texts[0].tokens));
  const RopeOverride fixed = {RopeScaling::kNtk, 4.0 * 150 / 96 - 3};
  const auto expected = Runner(Runner::Path{path}, {.rope = fixed, .context = 150, .step_tokens = 150}).Encode(texts[1].tokens);
  EXPECT_LT(testing::Nmse(stretched.Encode(texts[1].tokens), expected), 1e-10);
}

TEST(TextEncoder, LongRopeIsOfEachText) {
  testing::TemporaryFolder folder;
  testing::GgufVariant variant;
  variant.metadata = {{"nomic-bert.rope.scaling.type", std::string_view("longrope")},
                      {"nomic-bert.rope.scaling.original_context_length", uint64_t{32}, ValueType::kU32}};
  variant.tensors = {{"rope_factors_short.weight", {1, 1.5f, 2, 2.5f}}, {"rope_factors_long.weight", {2, 4, 8, 16}}};
  ASSERT_TRUE(testing::WriteVariant(DataPath("archs/nomic-bert.gguf"), folder.Path("m.gguf"), variant).ok());
  CheckAngles(folder.Path("m.gguf"), {}, {20, 60, 32, 33});
}

TEST(TextEncoder, NumbersThatAreNone) {
  EXPECT_TRUE(CheckNumbers({}).ok());
  EXPECT_TRUE(CheckNumbers(std::vector<float>{0, -1e38f}).ok());
  for (const float x : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
    const Status status = CheckNumbers(std::vector<float>{0, x});
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code(), Code::kCorrupt);
  }
}

TEST(TextEncoder, RefusesWhatItCannotRead) {
  Runner runner("bert", {});
  const auto error = [&](std::vector<uint32_t> tokens) {
    const TextTokens text = {std::move(tokens)};
    const Status status = runner.encoder->Encode(std::span(&text, 1), [](size_t, std::span<float>) { return Status(Ok()); });
    return status.ok() ? std::string() : status.error().message();
  };
  EXPECT_NE(error({}).find("no tokens"), std::string::npos);
  EXPECT_NE(error({5, 120}).find("token 120: expected an id below the vocabulary size 120"), std::string::npos);
  EXPECT_NE(error(std::vector<uint32_t>(97, 5)).find("97 tokens, and the model reads at most 96"), std::string::npos);
  EXPECT_EQ(error(std::vector<uint32_t>(96, 5)), "");
  const auto cancelled = [] { return true; };
  const TextTokens text = {{5, 6}};
  const Status status = runner.encoder->Encode(
      std::span(&text, 1), [](size_t, std::span<float>) { return Status(Ok()); }, cancelled);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), Code::kCancelled);
}

TEST(TextEncoder, ClassifierOfAModelWithoutOne) {
  const auto files = MakeFileSystem();
  ModelFile file = OpenModel(*files, DataPath("archs/nomic-bert.gguf")).value();
  TextOptions use;
  use.classify = true;
  const auto outline = OutlineModel(file, *RunnableKernels().front(), {}, use);
  ASSERT_FALSE(outline.ok());
  EXPECT_EQ(outline.error().code(), Code::kUnsupported);
}

// ---- Hugging Face folders ----

// A file's tensors under the names that publishers give them, "#" being a layer's number.
using Names = std::vector<std::pair<std::string, std::string>>;

testing::StoredTensors Publish(const std::string& model, const Names& names) {
  const auto files = MakeFileSystem();
  ModelFile file = OpenModel(*files, DataPath("archs/" + model + ".gguf")).value();
  testing::StoredTensors published;
  for (const TensorInfo& tensor : file.directory.tensors()) {
    std::string name(tensor.name);
    std::string layer;
    if (name.starts_with("blk.")) {
      const size_t dot = name.find('.', 4);
      layer = name.substr(4, dot - 4);
      name = "#" + name.substr(dot);
    }
    const size_t dot = name.rfind('.');
    const auto rule = std::find_if(names.begin(), names.end(), [&](const auto& pair) { return pair.first == name.substr(0, dot); });
    if (rule == names.end()) continue;
    std::string target = rule->second + name.substr(dot);
    if (const size_t at = target.find('#'); at != std::string::npos) target.replace(at, 1, layer);
    testing::StoredTensor stored = {"F32", {}, {}};
    for (uint32_t d = tensor.n_dimensions; d-- > 0;) stored.shape.push_back(tensor.dimensions[d]);
    const auto bytes = file.source->View(tensor.offset_bytes, tensor.size_bytes).value();
    stored.bytes.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    published[target] = std::move(stored);
  }
  return published;
}

// A folder computes the bits of the file whose tensors it has.
class EncoderFolders : public ::testing::Test {
 protected:
  void Check(const std::string& model, const Json& config, const testing::StoredTensors& tensors, bool classifies) {
    testing::WriteCheckpoint(folder_.Path("model"), config, tensors);
    Rng rng(3);
    std::vector<TextTokens> texts = RandomTexts(rng, {30, 7, 96});
    texts[0].second = 20;
    for (const bool classify : {false, true}) {
      if (classify && !classifies) continue;
      Options setup;
      setup.use.classify = classify;
      if (!classify) setup.use.pooling = Pooling::kFirst;
      EXPECT_EQ(Runner(Runner::Path{folder_.Path("model")}, setup).Encode(texts), Runner(model, setup).Encode(texts))
          << "classify " << classify;
    }
  }
  Config Read() {
    const auto files = MakeFileSystem();
    ModelFile file = OpenModel(*files, folder_.Path("model")).value();
    return OutlineModel(file, *RunnableKernels().front())->config;
  }
  std::string Problem() {
    const auto files = MakeFileSystem();
    const auto file = OpenModel(*files, folder_.Path("model"));
    return file.ok() ? "" : file.error().message();
  }
  void WritePooling(std::string_view modules, std::string_view pooling) {
    std::filesystem::create_directories(folder_.Path("model/1_Pooling"));
    testing::WriteText(folder_.Path("model/modules.json"), modules);
    testing::WriteText(folder_.Path("model/1_Pooling/config.json"), pooling);
  }
  testing::TemporaryFolder folder_;
};

Json BertConfig(std::string_view model_type) {
  return {{"model_type", model_type}, {"hidden_size", 32},    {"num_hidden_layers", 2},  {"num_attention_heads", 4},
          {"intermediate_size", 32},  {"hidden_act", "gelu"}, {"layer_norm_eps", 1e-12}, {"max_position_embeddings", 96},
          {"vocab_size", 120},        {"pad_token_id", 1},    {"type_vocab_size", 2}};
}

// The names of "bert-base-uncased" and its kin.
Names BertNames(const std::string& prefix) {
  const std::string embeddings = prefix + "embeddings.";
  const std::string layer = prefix + "encoder.layer.#.";
  return {{"token_embd", embeddings + "word_embeddings"},
          {"position_embd", embeddings + "position_embeddings"},
          {"token_types", embeddings + "token_type_embeddings"},
          {"token_embd_norm", embeddings + "LayerNorm"},
          {"#.attn_q", layer + "attention.self.query"},
          {"#.attn_k", layer + "attention.self.key"},
          {"#.attn_v", layer + "attention.self.value"},
          {"#.attn_output", layer + "attention.output.dense"},
          {"#.attn_output_norm", layer + "attention.output.LayerNorm"},
          {"#.ffn_up", layer + "intermediate.dense"},
          {"#.ffn_down", layer + "output.dense"},
          {"#.layer_output_norm", layer + "output.LayerNorm"}};
}

TEST_F(EncoderFolders, Bert) {
  Names names = BertNames("bert.");
  names.emplace_back("cls", "bert.pooler.dense");
  names.emplace_back("cls.output", "classifier");
  testing::StoredTensors tensors = Publish("bert", names);
  // Old files write norms so.
  auto node = tensors.extract("bert.embeddings.LayerNorm.weight");
  node.key() = "bert.embeddings.LayerNorm.gamma";
  tensors.insert(std::move(node));
  tensors["cls.predictions.bias"] = {"F32", {120}, std::string(480, '\0')};
  tensors["bert.embeddings.position_ids"] = {"I64", {1, 96}, std::string(768, '\0')};
  Check("bert", BertConfig("bert"), tensors, /*classifies=*/true);
  EXPECT_EQ(Read().pooling, Pooling::kMean);
  EXPECT_TRUE(Read().unit_length);
}

// Positions begin behind the padding token's.
TEST_F(EncoderFolders, XlmRoberta) {
  Names names = BertNames("roberta.");
  names.emplace_back("cls", "classifier.dense");
  names.emplace_back("cls.output", "classifier.out_proj");
  testing::StoredTensors tensors = Publish("bert", names);
  testing::StoredTensor& positions = tensors["roberta.embeddings.position_embeddings.weight"];
  positions.bytes = std::string(2 * 32 * 4, '\x7f') + positions.bytes;
  positions.shape[0] += 2;
  Json config = BertConfig("xlm-roberta");
  config["max_position_embeddings"] = 98;
  Check("bert", config, tensors, /*classifies=*/true);
  EXPECT_EQ(Read().context_max, 96u);
  config["pad_token_id"] = 97;
  testing::WriteCheckpoint(folder_.Path("model"), config, tensors);
  EXPECT_NE(Problem().find("pad_token_id 97: expected one below max_position_embeddings (98) less 1"), std::string::npos) << Problem();
}

// What a head gives by its definition, in doubles: activation(in x) with the first matrix, and out of that.
std::vector<float> HeadScores(const testing::StoredTensors& tensors, const std::string& first, const std::string& second, bool relu,
                              const std::vector<float>& vector) {
  const auto floats = [&](const std::string& name) {
    const testing::StoredTensor& stored = tensors.at(name);
    std::vector<float> values(stored.bytes.size() / 4);
    std::memcpy(values.data(), stored.bytes.data(), stored.bytes.size());
    return values;
  };
  const auto product = [&](const std::string& name, const std::vector<float>& x) {
    const std::vector<float> weights = floats(name + ".weight");
    std::vector<float> out = floats(name + ".bias");
    for (size_t r = 0; r < out.size(); ++r) {
      double sum = static_cast<double>(out[r]);
      for (size_t c = 0; c < x.size(); ++c) sum += static_cast<double>(weights[r * x.size() + c]) * static_cast<double>(x[c]);
      out[r] = static_cast<float>(sum);
    }
    return out;
  };
  std::vector<float> hidden = product(first, vector);
  for (float& x : hidden) x = relu ? std::max(x, 0.0f) : std::tanh(x);
  return product(second, hidden);
}

// Three classes of random weights.
void AddClassifier(Rng& rng, testing::StoredTensors* tensors) {
  std::vector<float> weights(3 * 32 + 3);
  for (float& weight : weights) weight = static_cast<float>(static_cast<int>(rng.Next() % 2001) - 1000) * 1e-3f;
  const auto* bytes = reinterpret_cast<const char*>(weights.data());
  (*tensors)["classifier.weight"] = {"F32", {3, 32}, std::string(bytes, 3 * 32 * 4)};
  (*tensors)["classifier.bias"] = {"F32", {3}, std::string(bytes + 3 * 32 * 4, 3 * 4)};
}

TEST_F(EncoderFolders, AClassifierOfSeveralClasses) {
  Rng rng(11);
  Names names = BertNames("bert.");
  names.emplace_back("cls", "bert.pooler.dense");
  testing::StoredTensors tensors = Publish("bert", names);
  AddClassifier(rng, &tensors);
  testing::WriteCheckpoint(folder_.Path("model"), BertConfig("bert"), tensors);
  const std::vector<TextTokens> texts = RandomTexts(rng, {7, 30, 1});
  Options setup;
  setup.use.classify = true;
  const auto scores = Runner(Runner::Path{folder_.Path("model")}, setup).Encode(texts);
  setup.use = Pooled(Pooling::kFirst);
  const auto vectors = Runner(Runner::Path{folder_.Path("model")}, setup).Encode(texts);
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto expected = HeadScores(tensors, "bert.pooler.dense", "classifier", /*relu=*/false, vectors[i]);
    ASSERT_EQ(scores[i].size(), 3u);
    for (size_t c = 0; c < 3; ++c) EXPECT_NEAR(scores[i][c], expected[c], 1e-5f) << "text " << i << ", class " << c;
  }
}

// DistilBERT is BERT without types of tokens, with a head of its own.
TEST_F(EncoderFolders, DistilBert) {
  Rng rng(12);
  Names plain = BertNames("");
  std::erase_if(plain, [](const auto& pair) { return pair.first == "token_types"; });
  testing::StoredTensors without = Publish("bert", plain);
  testing::WriteCheckpoint(folder_.Path("bert"), BertConfig("bert"), without);
  Names names = {{"token_embd", "distilbert.embeddings.word_embeddings"},
                 {"position_embd", "distilbert.embeddings.position_embeddings"},
                 {"token_embd_norm", "distilbert.embeddings.LayerNorm"},
                 {"cls", "pre_classifier"}};
  const std::string layer = "distilbert.transformer.layer.#.";
  for (const auto& [ours, theirs] :
       {std::pair("attn_q", "attention.q_lin"), std::pair("attn_k", "attention.k_lin"), std::pair("attn_v", "attention.v_lin"),
        std::pair("attn_output", "attention.out_lin"), std::pair("attn_output_norm", "sa_layer_norm"), std::pair("ffn_up", "ffn.lin1"),
        std::pair("ffn_down", "ffn.lin2"), std::pair("layer_output_norm", "output_layer_norm")}) {
    names.emplace_back(std::string("#.") + ours, layer + theirs);
  }
  testing::StoredTensors tensors = Publish("bert", names);
  AddClassifier(rng, &tensors);
  tensors["vocab_projector.bias"] = {"F32", {120}, std::string(480, '\0')};
  const Json config = {{"model_type", "distilbert"},
                       {"dim", 32},
                       {"n_layers", 2},
                       {"n_heads", 4},
                       {"hidden_dim", 32},
                       {"activation", "gelu"},
                       {"vocab_size", 120},
                       {"pad_token_id", 0},
                       {"max_position_embeddings", 96}};
  testing::WriteCheckpoint(folder_.Path("model"), config, tensors);
  const std::vector<TextTokens> texts = RandomTexts(rng, {7, 30, 1});
  Options setup;
  setup.use = Pooled(Pooling::kFirst);
  const auto vectors = Runner(Runner::Path{folder_.Path("model")}, setup).Encode(texts);
  EXPECT_EQ(vectors, Runner(Runner::Path{folder_.Path("bert")}, setup).Encode(texts));
  setup.use = {};
  setup.use.classify = true;
  const auto scores = Runner(Runner::Path{folder_.Path("model")}, setup).Encode(texts);
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto expected = HeadScores(tensors, "pre_classifier", "classifier", /*relu=*/true, vectors[i]);
    for (size_t c = 0; c < 3; ++c) EXPECT_NEAR(scores[i][c], expected[c], 1e-5f) << "text " << i << ", class " << c;
  }
}

// What config.json says of classes; a package of the folder says the same.
TEST_F(EncoderFolders, Classes) {
  Rng rng(13);
  testing::StoredTensors tensors = Publish("bert", BertNames(""));
  AddClassifier(rng, &tensors);
  Json config = BertConfig("bert");
  const auto files = MakeFileSystem();
  const auto read = [&](const std::string& name) {
    ModelFile file = OpenModel(*files, folder_.Path(name)).value();
    return ReadTextRules(file.metadata, "bert").value();
  };
  const auto with = [&](const char* member, const Json& value) {
    Json changed = config;
    changed[member] = value;
    testing::WriteCheckpoint(folder_.Path("model"), changed, tensors);
    return Problem().empty() ? read("model") : TextRules();
  };
  EXPECT_TRUE(with("hidden_act", "gelu").labels.empty());
  config["id2label"] = {{"2", "contradiction"}, {"0", "entailment"}, {"1", 7}};
  const TextRules rules = with("problem_type", "single_label_classification");
  EXPECT_EQ(rules.labels, (std::vector<std::string>{"entailment", "7", "contradiction"}));
  EXPECT_FALSE(rules.activation.has_value());
  EXPECT_EQ(with("problem_type", "multi_label_classification").activation, ClassActivation::kSigmoid);
  EXPECT_EQ(with("problem_type", "regression").activation, ClassActivation::kNothing);
  EXPECT_EQ(with("sentence_transformers", {{"activation_fn", "torch.nn.modules.activation.Sigmoid"}}).activation,
            ClassActivation::kSigmoid);
  EXPECT_FALSE(with("sentence_transformers", {{"activation_fn", "torch.nn.modules.linear.Identity"}}).activation.has_value())
      << "several classes are told apart by a softmax";
  with("problem_type", "ranking");
  EXPECT_NE(Problem().find("problem_type ranking: expected regression"), std::string::npos) << Problem();
  for (const Json& wrong : {Json{{"0", "a"}, {"2", "b"}}, Json{{"0", "a"}, {"x", "b"}}, Json{{"0", nullptr}}, Json{{"0", {"a"}}}, Json(3),
                            Json{{"0", std::string(2000, 'x')}}}) {
    with("id2label", wrong);
    EXPECT_NE(Problem().find("id2label"), std::string::npos) << DumpJson(wrong, -1);
  }
  with("problem_type", "multi_label_classification");
  ModelFile file = OpenModel(*files, folder_.Path("model")).value();
  const auto pool = ThreadPool::Make(1).value();
  ASSERT_TRUE(PackModel(*files, file, folder_.Path("m.bantam"), {.tool_version = "test"}, *pool, nullptr).ok());
  EXPECT_EQ(read("m.bantam").labels, rules.labels);
  EXPECT_EQ(read("m.bantam").activation, ClassActivation::kSigmoid);
}

TEST_F(EncoderFolders, PartsOfVectors) {
  const testing::StoredTensors tensors = Publish("bert", BertNames(""));
  Json config = BertConfig("bert");
  const auto files = MakeFileSystem();
  const auto rules = [&] {
    testing::WriteCheckpoint(folder_.Path("model"), config, tensors);
    ModelFile file = OpenModel(*files, folder_.Path("model")).value();
    return ReadTextRules(file.metadata, "bert").value();
  };
  EXPECT_FALSE(rules().any_dimensions);
  config["is_matryoshka"] = true;
  EXPECT_TRUE(rules().any_dimensions);
  config["matryoshka_dimensions"] = {8, 16};
  EXPECT_EQ(rules().dimensions, (std::vector<uint32_t>{8, 16}));
  EXPECT_FALSE(rules().any_dimensions);
  config["matryoshka_dimensions"] = {8, 0};
  testing::WriteCheckpoint(folder_.Path("model"), config, tensors);
  EXPECT_NE(Problem().find("matryoshka_dimensions"), std::string::npos);
}

TEST_F(EncoderFolders, NomicBert) {
  const std::string layer = "encoder.layers.#.";
  const Names names = {{"token_embd", "embeddings.word_embeddings"},
                       {"token_types", "embeddings.token_type_embeddings"},
                       {"token_embd_norm", "emb_ln"},
                       {"#.attn_qkv", layer + "attn.Wqkv"},
                       {"#.attn_output", layer + "attn.out_proj"},
                       {"#.attn_output_norm", layer + "norm1"},
                       {"#.ffn_up", layer + "mlp.fc11"},
                       {"#.ffn_gate", layer + "mlp.fc12"},
                       {"#.ffn_down", layer + "mlp.fc2"},
                       {"#.layer_output_norm", layer + "norm2"}};
  const Json config = {{"model_type", "nomic_bert"},
                       {"n_embd", 32},
                       {"n_layer", 2},
                       {"n_head", 4},
                       {"n_inner", 40},
                       {"activation_function", "swiglu"},
                       {"n_positions", 8192},
                       {"vocab_size", 120},
                       {"layer_norm_epsilon", 1e-12},
                       {"rotary_emb_base", 1000},
                       {"prenorm", false},
                       {"rotary_emb_fraction", 1.0},
                       {"rotary_scaling_factor", nullptr}};
  Check("nomic-bert", config, Publish("nomic-bert", names), /*classifies=*/false);
  EXPECT_EQ(Read().context_max, 2048u) << "tokens that the models were trained on";
  EXPECT_EQ(Read().ropes.at(0).scaling, RopeScaling::kNone);
  // The publisher's way to all of the positions.
  Json stretched = config;
  stretched["rotary_scaling_factor"] = 2;
  testing::WriteCheckpoint(folder_.Path("model"), stretched, Publish("nomic-bert", names));
  const RopeSpec rope = Read().ropes.at(0);
  EXPECT_EQ(Read().context_max, 8192u);
  EXPECT_EQ(rope.scaling, RopeScaling::kDynamicNtk);
  EXPECT_EQ(rope.factor, 2);
  EXPECT_EQ(rope.original_context, 2048u);
  stretched["max_trained_positions"] = 1024;
  testing::WriteCheckpoint(folder_.Path("model"), stretched, Publish("nomic-bert", names));
  EXPECT_EQ(Read().ropes.at(0).original_context, 1024u);
  stretched["rotary_scaling_factor"] = 0.5;
  testing::WriteCheckpoint(folder_.Path("model"), stretched, Publish("nomic-bert", names));
  EXPECT_NE(Problem().find("rotary_scaling_factor 0.5: expected 1 or more"), std::string::npos) << Problem();
}

TEST_F(EncoderFolders, ModernBert) {
  const std::string layer = "model.layers.#.";
  const Names names = {{"token_embd", "model.embeddings.tok_embeddings"},
                       {"token_embd_norm", "model.embeddings.norm"},
                       {"#.attn_norm", layer + "attn_norm"},
                       {"#.attn_qkv", layer + "attn.Wqkv"},
                       {"#.attn_output", layer + "attn.Wo"},
                       {"#.ffn_norm", layer + "mlp_norm"},
                       {"#.ffn_up", layer + "mlp.Wi"},
                       {"#.ffn_down", layer + "mlp.Wo"},
                       {"output_norm", "model.final_norm"},
                       {"cls", "head.dense"},
                       {"cls.norm", "head.norm"},
                       {"cls.output", "classifier"}};
  const Json config = {{"model_type", "modernbert"},
                       {"hidden_size", 32},
                       {"num_hidden_layers", 3},
                       {"num_attention_heads", 4},
                       {"intermediate_size", 20},
                       {"hidden_activation", "gelu"},
                       {"max_position_embeddings", 96},
                       {"norm_eps", 1e-5},
                       {"local_attention", 16},
                       {"global_attn_every_n_layers", 3},
                       {"vocab_size", 120},
                       {"global_rope_theta", 160000.0},
                       {"local_rope_theta", 10000.0},
                       {"classifier_pooling", "mean"}};
  Check("modern-bert", config, Publish("modern-bert", names), /*classifies=*/true);
  EXPECT_EQ(Read().layers[1].window, 17u) << "eight tokens on either side";
}

TEST_F(EncoderFolders, WhatStandsBehindTheModel) {
  testing::WriteCheckpoint(folder_.Path("model"), BertConfig("bert"), Publish("bert", BertNames("")));
  constexpr std::string_view kTransformer = R"({"path":"","type":"sentence_transformers.models.Transformer"})";
  constexpr std::string_view kPooling = R"({"path":"1_Pooling","type":"sentence_transformers.models.Pooling"})";
  constexpr std::string_view kNormalize = R"({"path":"2_Normalize","type":"sentence_transformers.models.Normalize"})";
  const auto list = [](std::initializer_list<std::string_view> modules) { return fmt::format("[{}]", fmt::join(modules, ",")); };
  WritePooling(list({kTransformer, kPooling, kNormalize}), R"({"pooling_mode_cls_token":true,"pooling_mode_mean_tokens":false})");
  EXPECT_EQ(Read().pooling, Pooling::kFirst);
  EXPECT_TRUE(Read().unit_length);
  WritePooling(list({kTransformer, kPooling}), R"({"pooling_mode_mean_tokens":true})");
  EXPECT_EQ(Read().pooling, Pooling::kMean);
  EXPECT_FALSE(Read().unit_length);
  WritePooling(list({kTransformer, kPooling}), R"({"pooling_mode_mean_tokens":true,"pooling_mode_max_tokens":true})");
  EXPECT_NE(Problem().find("pooling other than"), std::string::npos) << Problem();
  const std::string dense = R"({"path":"2_Dense","type":"sentence_transformers.models.Dense"})";
  std::filesystem::create_directories(folder_.Path("model/2_Dense"));
  testing::WriteText(folder_.Path("model/2_Dense/config.json"), R"({"activation_function":"torch.nn.modules.activation.Tanh"})");
  WritePooling(list({kTransformer, kPooling, dense}), R"({"pooling_mode_mean_tokens":true})");
  EXPECT_NE(Problem().find("activation_function torch.nn.modules.activation.Tanh: only"), std::string::npos) << Problem();
  WritePooling(list({kTransformer, kPooling, R"({"path":"2_LayerNorm","type":"sentence_transformers.models.LayerNorm"})"}),
               R"({"pooling_mode_mean_tokens":true})");
  EXPECT_NE(Problem().find("models.LayerNorm in \"2_LayerNorm\" behind the model is not supported"), std::string::npos) << Problem();
  WritePooling(list({R"({"path":"../1_Pooling","type":"sentence_transformers.models.Pooling"})"}), "{}");
  EXPECT_NE(Problem().find("expected the name of a folder"), std::string::npos) << Problem();
}

// A matrix behind the pooling.
TEST_F(EncoderFolders, Dense) {
  testing::WriteCheckpoint(folder_.Path("model"), BertConfig("bert"), Publish("bert", BertNames("")));
  Options setup;
  setup.use = Pooled(Pooling::kMean);
  Rng rng(14);
  const std::vector<TextTokens> texts = RandomTexts(rng, {9, 20});
  const auto before = Runner(Runner::Path{folder_.Path("model")}, setup).Encode(texts);
  std::vector<float> weights(48 * 32);
  for (float& weight : weights) weight = static_cast<float>(static_cast<int>(rng.Next() % 2001) - 1000) * 1e-3f;
  std::filesystem::create_directories(folder_.Path("model/2_Dense"));
  testing::WriteText(folder_.Path("model/2_Dense/config.json"), R"({"activation_function":"torch.nn.modules.linear.Identity"})");
  const std::string bytes(reinterpret_cast<const char*>(weights.data()), weights.size() * 4);
  testing::WriteText(folder_.Path("model/2_Dense/model.safetensors"),
                     testing::SafetensorsFile({{"linear.weight", {"F32", {48, 32}, bytes}}}));
  WritePooling(R"([{"path":"1_Pooling","type":"sentence_transformers.models.Pooling"},)"
               R"({"path":"2_Dense","type":"sentence_transformers.models.Dense"}])",
               R"({"pooling_mode_mean_tokens":true})");
  ASSERT_EQ(Problem(), "");
  const auto after = Runner(Runner::Path{folder_.Path("model")}, setup).Encode(texts);
  for (size_t i = 0; i < texts.size(); ++i) {
    ASSERT_EQ(after[i].size(), 48u);
    for (size_t r = 0; r < 48; ++r) {
      double sum = 0;
      for (size_t c = 0; c < 32; ++c) sum += static_cast<double>(weights[r * 32 + c]) * static_cast<double>(before[i][c]);
      EXPECT_NEAR(static_cast<double>(after[i][r]), sum, 1e-5);
    }
  }
}

// What sentence-transformers keeps of texts; a package of the folder says the same.
TEST_F(EncoderFolders, RulesOfTexts) {
  testing::WriteCheckpoint(folder_.Path("model"), BertConfig("bert"), Publish("bert", BertNames("")));
  const auto files = MakeFileSystem();
  const auto rules = [&](const std::string& name) {
    ModelFile file = OpenModel(*files, folder_.Path(name)).value();
    return ReadTextRules(file.metadata, "bert").value();
  };
  EXPECT_FALSE(rules("model").pooling_given);
  EXPECT_EQ(rules("model").tokens_max, 0u);
  testing::WriteText(folder_.Path("model/sentence_bert_config.json"), R"({"max_seq_length":64,"do_lower_case":true})");
  testing::WriteText(folder_.Path("model/config_sentence_transformers.json"),
                     R"({"prompts":{"query":"query: ","passage":"passage: ","document":null},"default_prompt_name":"query"})");
  WritePooling(R"([{"path":"1_Pooling","type":"sentence_transformers.models.Pooling"}])",
               R"({"pooling_mode_mean_tokens":true,"include_prompt":false})");
  ModelFile file = OpenModel(*files, folder_.Path("model")).value();
  const auto pool = ThreadPool::Make(1).value();
  ASSERT_TRUE(PackModel(*files, file, folder_.Path("m.bantam"), {.tool_version = "test"}, *pool, nullptr).ok());
  for (const char* name : {"model", "m.bantam"}) {
    const TextRules read = rules(name);
    EXPECT_TRUE(read.pooling_given) << name;
    EXPECT_EQ(read.tokens_max, 64u) << name;
    EXPECT_TRUE(read.lower_case) << name;
    EXPECT_FALSE(read.prompt_pooled) << name;
    ASSERT_EQ(read.prompts.size(), 3u) << name;
    EXPECT_EQ(read.prompts[0].name, "query") << name;
    EXPECT_EQ(read.prompts[1].text, "passage: ") << name;
    EXPECT_EQ(read.prompts[2].text, "") << name;
    EXPECT_EQ(read.default_prompt, "query") << name;
  }
}

TEST_F(EncoderFolders, RulesOfTextsThatAreWrong) {
  testing::WriteCheckpoint(folder_.Path("model"), BertConfig("bert"), Publish("bert", BertNames("")));
  const auto problem = [&](const std::string& name, std::string_view text) {
    testing::WriteText(folder_.Path("model/" + name), text);
    const std::string found = Problem();
    std::filesystem::remove(folder_.Path("model/" + name));
    return found;
  };
  for (const char* length : {"0", "-1", "1.5", "\"256\"", "99999999999"}) {
    EXPECT_NE(problem("sentence_bert_config.json", fmt::format(R"({{"max_seq_length":{}}})", length)).find("expected 1 to"),
              std::string::npos)
        << length;
  }
  const std::string prompts = "config_sentence_transformers.json";
  EXPECT_NE(problem(prompts, R"({"prompts":{"query":"q"},"default_prompt_name":"passage"})").find("none of the prompts"),
            std::string::npos);
  EXPECT_NE(problem(prompts, R"({"default_prompt_name":"passage"})").find("none of the prompts"), std::string::npos);
  for (const char* wrong : {R"({"query":1})", R"(["query"])", R"("query")", R"({"":"q"})", "7"}) {
    EXPECT_NE(problem(prompts, fmt::format(R"({{"prompts":{}}})", wrong)).find("texts by name"), std::string::npos) << wrong;
  }
  EXPECT_EQ(problem(prompts, R"({"prompts":{},"default_prompt_name":null})"), "");
  EXPECT_EQ(problem("sentence_bert_config.json", R"({"max_seq_length":null,"do_lower_case":false})"), "");
}

TEST_F(EncoderFolders, WhatIsRefused) {
  for (const auto& [member, value] :
       {std::pair<const char*, Json>("position_embedding_type", "relative_key"), std::pair<const char*, Json>("is_decoder", true),
        std::pair<const char*, Json>("hidden_act", "mish")}) {
    Json config = BertConfig("bert");
    config[member] = value;
    testing::WriteCheckpoint(folder_.Path("model"), config, Publish("bert", BertNames("")));
    EXPECT_NE(Problem(), "") << member;
  }
}

class Texts : public ::testing::Test {
 protected:
  Texts() {
    const auto files = MakeFileSystem();
    tokenizer_.emplace(ReadVocabulary(OpenModel(*files, DataPath("archs/bert.gguf")).value()).value());
  }
  std::vector<uint32_t> Ids(std::string_view text) { return tokenizer_->Encode(text, /*special=*/false).value(); }
  std::optional<Tokenizer> tokenizer_;
};

constexpr uint32_t kCls = 2, kSep = 3;

TEST_F(Texts, Surrounded) {
  const std::vector<uint32_t> ids = Ids("the pump leaks");
  std::vector<uint32_t> expected = {kCls};
  expected.insert(expected.end(), ids.begin(), ids.end());
  expected.push_back(kSep);
  EXPECT_EQ(TokenizeText(*tokenizer_, "the pump leaks", {96, false})->tokens, expected);
  EXPECT_EQ(TokenizeText(*tokenizer_, "", {96, false})->tokens, (std::vector<uint32_t>{kCls, kSep}));
}

TEST_F(Texts, Truncated) {
  const std::vector<uint32_t> ids = Ids("the pump is hot");
  ASSERT_EQ(ids.size(), 4u);
  EXPECT_EQ(TokenizeText(*tokenizer_, "the pump is hot", {6, false})->tokens.size(), 6u);
  const auto long_text = TokenizeText(*tokenizer_, "the pump is hot", {5, false});
  ASSERT_FALSE(long_text.ok());
  EXPECT_EQ(long_text.error().code(), Code::kExhausted);
  EXPECT_EQ(TokenizeText(*tokenizer_, "the pump is hot", {5, true})->tokens, (std::vector<uint32_t>{kCls, ids[0], ids[1], ids[2], kSep}));
  EXPECT_FALSE(TokenizeText(*tokenizer_, "the pump is hot", {1, true}).ok()) << "no room for a token";
}

TEST_F(Texts, Pairs) {
  const uint32_t pump = Ids("pump")[0], hot = Ids("hot")[0], water = Ids("water")[0];
  const auto tokenize = [&](const TextLimit& limit) {
    return TokenizePair(*tokenizer_, TokenizePart(*tokenizer_, "pump hot", limit).value(), "water hot", limit);
  };
  const auto pair = tokenize({96, false});
  EXPECT_EQ(pair->tokens, (std::vector<uint32_t>{kCls, pump, hot, kSep, water, hot, kSep}));
  EXPECT_EQ(pair->second, 4u);
  const auto cut = tokenize({6, true});
  EXPECT_EQ(cut->tokens, (std::vector<uint32_t>{kCls, pump, hot, kSep, water, kSep}));
  EXPECT_FALSE(tokenize({6, false}).ok());
  EXPECT_FALSE(tokenize({5, true}).ok()) << "nothing of the second text is left";
}

// Only where the model can read more is that a remedy.
TEST_F(Texts, TooLong) {
  const auto message = [&](std::string_view text, const TextLimit& limit) {
    return TokenizeText(*tokenizer_, text, limit).error().message();
  };
  EXPECT_EQ(message("the pump is hot", {5}),
            "6 tokens, and the model reads at most 5 at once; shorten the text, or have its end left away (--truncate)");
  EXPECT_EQ(
      message("the pump is hot", {5, false, /*can_grow=*/true}),
      "6 tokens, and the model reads at most 5 at once, unless it is asked for more (--context); shorten the text, or have its end left "
      "away (--truncate)");
}

// XLM-RoBERTa's pieces, from either of its files: "<s> a </s></s> b </s>".
class XlmRobertaPairs : public ::testing::Test {
 protected:
  XlmRobertaPairs() {
    std::ifstream file(DataPath("tokenizers/unigram.json"));
    json_ = ParseJson(std::string(std::istreambuf_iterator<char>(file), {})).value();
  }
  static constexpr uint32_t kBos = 1, kEos = 2;

  void Check(const Tokenizer& tokenizer, const std::vector<uint32_t>& between) {
    const TextLimit limit = {100};
    const auto a = TokenizePart(tokenizer, "the pump", limit).value();
    const auto b = TokenizePart(tokenizer, "water", limit).value();
    ASSERT_FALSE(a.empty() || b.empty());
    std::vector<uint32_t> expected = {kBos};
    expected.insert(expected.end(), a.begin(), a.end());
    std::vector<uint32_t> single = expected;
    single.push_back(kEos);
    EXPECT_EQ(TokenizeText(tokenizer, "the pump", limit)->tokens, single);
    expected.insert(expected.end(), between.begin(), between.end());
    const size_t second = expected.size();
    expected.insert(expected.end(), b.begin(), b.end());
    expected.push_back(kEos);
    const auto pair = TokenizePair(tokenizer, a, "water", limit);
    EXPECT_EQ(pair->tokens, expected);
    EXPECT_EQ(pair->second, second);
  }

  testing::GgufBuilder Gguf() {
    std::vector<std::string> tokens;
    std::vector<float> scores;
    std::vector<int32_t> types;
    for (const Json& piece : json_["model"]["vocab"]) {
      tokens.push_back(piece[0].get<std::string>());
      scores.push_back(piece[1].get<float>());
      types.push_back(types.empty() ? 2 : types.size() <= kEos ? 3 : 1);
    }
    testing::GgufBuilder builder;
    builder.Text("tokenizer.ggml.model", "t5").Texts("tokenizer.ggml.tokens", tokens).F32s("tokenizer.ggml.scores", scores);
    builder.I32s("tokenizer.ggml.token_type", types).Bool("tokenizer.ggml.add_space_prefix", true);
    builder.U32("tokenizer.ggml.bos_token_id", kBos).U32("tokenizer.ggml.eos_token_id", kEos);
    builder.U32("tokenizer.ggml.seperator_token_id", kEos).Bool("tokenizer.ggml.add_bos_token", true);
    return builder;
  }
  Tokenizer Read(const testing::GgufBuilder& builder) {
    builder.Write(folder_.Path("v.gguf"));
    const auto files = MakeFileSystem();
    return ReadVocabulary(OpenModel(*files, folder_.Path("v.gguf")).value()).value();
  }
  Json json_;
  testing::TemporaryFolder folder_;
};

TEST_F(XlmRobertaPairs, TokenizerJson) {
  const Json bos = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
  const Json eos = {{"SpecialToken", {{"id", "</s>"}, {"type_id", 0}}}};
  const Json a = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const Json b = {{"Sequence", {{"id", "B"}, {"type_id", 0}}}};
  const auto special = [](const char* text, uint32_t id) { return Json{{"id", text}, {"ids", {id}}, {"tokens", {text}}}; };
  json_["post_processor"] = {{"type", "TemplateProcessing"},
                             {"single", Json::array({bos, a, eos})},
                             {"pair", Json::array({bos, a, eos, eos, b, eos})},
                             {"special_tokens", {{"<s>", special("<s>", kBos)}, {"</s>", special("</s>", kEos)}}}};
  const std::string text = DumpJson(json_, /*indent=*/-1);
  MetadataBuilder builder;
  builder.AttachBytes("tokenizer.huggingface.json", std::as_bytes(std::span(text)));
  ModelFile file;
  ASSERT_TRUE(builder.Build({}, &file).ok());
  Check(ReadVocabulary(file).value(), {kEos, kEos});
}

TEST_F(XlmRobertaPairs, Gguf) {
  Check(Read(Gguf().Bool("tokenizer.ggml.add_sep_token", true)), {kEos, kEos});
  // Older files say nothing of it.
  Check(Read(Gguf()), {kEos, kEos});
  Check(Read(Gguf().Bool("tokenizer.ggml.add_sep_token", false)), {kEos});
}

TEST(UnitLength, Scales) {
  std::vector<float> x = {3, 0, -4};
  ScaleToUnitLength(x);
  EXPECT_EQ(x, (std::vector<float>{0.6f, 0, -0.8f}));
  std::vector<float> nothing(3);
  ScaleToUnitLength(nothing);
  EXPECT_EQ(nothing, std::vector<float>(3));
}

}  // namespace
}  // namespace bantam
