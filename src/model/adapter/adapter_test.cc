// Adapters of folders and files, against models whose published weights were merged with them in double precision.
#include "model/adapter/adapter.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "base/bytes.h"
#include "base/rng.h"
#include "testing/checkpoint.h"
#include "testing/gguf_builder.h"
#include "testing/model_runner.h"
#include "testing/paths.h"
#include "testing/reference_logits.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

using ::testing::HasSubstr;
using testing::ModelRunner;
using testing::StoredTensors;

const std::vector<uint32_t> kTokens = {1, 5, 9, 39, 0, 7, 7, 21, 3, 2, 17, 30};
constexpr size_t kRank = 5;
constexpr double kAlpha = 12;

std::string BytesOf(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

std::vector<float> FloatsOf(const testing::StoredTensor& tensor) {
  std::vector<float> values(tensor.bytes.size() / sizeof(float));
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

std::vector<float> RandomFloats(size_t count, float size, Rng& rng) {
  std::vector<float> values(count);
  for (float& value : values) value = size * static_cast<float>(rng.Uniform() - 0.5);
  return values;
}

Json PeftConfigJson() { return {{"peft_type", "LORA"}, {"r", kRank}, {"lora_alpha", kAlpha}, {"bias", "none"}}; }

void WriteAdapter(const std::string& folder, const Json& config, const StoredTensors& tensors) {
  std::filesystem::create_directories(folder);
  testing::WriteText(folder + "/adapter_config.json", config.dump());
  testing::WriteText(folder + "/adapter_model.safetensors", testing::SafetensorsFile(tensors));
}

// A published model in F32.
struct Published {
  explicit Published(const std::string& name) : description(testing::ReadDescription(testing::DataPath("huggingface/" + name + ".json"))) {
    description["dtype"] = "F32";
    tensors = testing::ValuesOf(description);
  }
  std::string kind() const { return description["config"]["model_type"].get<std::string>(); }
  // Modules with a matrix that may be adapted.
  std::vector<std::string> Modules() const {
    std::vector<std::string> modules;
    for (const auto& [name, tensor] : tensors) {
      bool other = !name.ends_with(".weight") || tensor.shape.size() != 2;
      for (const char* part : {"embed", "wte", "wpe", "tok_embeddings", "norm", ".experts.", "conv", "input_linear"}) {
        other |= name.find(part) != std::string::npos && name != "embed_out.weight";
      }
      if (!other) modules.push_back(name.substr(0, name.size() - 7));
    }
    return modules;
  }
  // GPT-2 stores matrices by columns.
  bool ByColumns(const std::string& module) const { return kind() == "gpt2" && module != "lm_head"; }

  // PEFT's matrices for these modules.
  StoredTensors Adapter(const std::vector<std::string>& modules, uint64_t seed) const {
    StoredTensors adapter;
    Rng rng(seed);
    for (const std::string& module : modules) {
      std::vector<uint64_t> shape = tensors.at(module + ".weight").shape;
      if (ByColumns(module)) std::swap(shape[0], shape[1]);
      const std::string prefix = "base_model.model." + module;
      adapter[prefix + ".lora_A.weight"] = {"F32", {kRank, shape[1]}, BytesOf(RandomFloats(kRank * shape[1], 0.4f, rng))};
      adapter[prefix + ".lora_B.weight"] = {"F32", {shape[0], kRank}, BytesOf(RandomFloats(shape[0] * kRank, 0.4f, rng))};
    }
    return adapter;
  }
  // W + scale * B A of what is published, in double.
  StoredTensors Merged(const StoredTensors& adapter, double scale) const {
    StoredTensors merged = tensors;
    for (const auto& [name, stored] : adapter) {
      if (!name.ends_with(".lora_A.weight")) continue;
      const std::string prefix = name.substr(0, name.size() - 14);
      const std::string module = prefix.substr(17);
      const std::vector<float> a = FloatsOf(stored);
      const std::vector<float> b = FloatsOf(adapter.at(prefix + ".lora_B.weight"));
      testing::StoredTensor& weight = merged.at(module + ".weight");
      std::vector<float> values = FloatsOf(weight);
      const size_t rank = stored.shape[0];
      const size_t columns = stored.shape[1];
      const size_t rows = b.size() / rank;
      for (size_t r = 0; r < rows; ++r) {
        for (size_t c = 0; c < columns; ++c) {
          double sum = 0;
          for (size_t k = 0; k < rank; ++k) sum += static_cast<double>(b[r * rank + k]) * static_cast<double>(a[k * columns + c]);
          float& value = values[ByColumns(module) ? c * rows + r : r * columns + c];
          value = static_cast<float>(static_cast<double>(value) + scale * sum);
        }
      }
      weight.bytes = BytesOf(values);
    }
    return merged;
  }
  Json description;
  StoredTensors tensors;
};

testing::RunSetup Reference() {
  testing::RunSetup setup;
  setup.kernels = *ChooseKernels("ref");
  return setup;
}

std::unique_ptr<ModelRunner> Open(const std::string& path, const testing::RunSetup& setup = Reference()) {
  auto runner = ModelRunner::Make(path, setup, kTokens.size());
  EXPECT_TRUE(runner.ok()) << runner.error().message();
  return std::move(runner).value();
}

class AdapterOfFamily : public ::testing::TestWithParam<std::string> {
 protected:
  testing::TemporaryFolder folder_;
};

// All modules of all families: the adapted model is the one whose published weights were merged.
TEST_P(AdapterOfFamily, IsTheMergedModel) {
  const Published published(GetParam());
  const std::vector<std::string> modules = published.Modules();
  ASSERT_GE(modules.size(), 4u);
  testing::WriteCheckpoint(folder_.Path("base"), published.description["config"], published.tensors);
  const StoredTensors adapter = published.Adapter(modules, /*seed=*/7);
  WriteAdapter(folder_.Path("adapter"), PeftConfigJson(), adapter);
  testing::WriteCheckpoint(folder_.Path("merged"), published.description["config"], published.Merged(adapter, kAlpha / kRank));
  const auto base = Open(folder_.Path("base"));
  const std::vector<float> before = base->Logits(kTokens);
  const auto adapted = Open(folder_.Path("base"));
  const Status done = adapted->Adapt(folder_.Path("adapter"));
  ASSERT_TRUE(done.ok()) << done.error().message();
  const std::vector<float> merged = Open(folder_.Path("merged"))->Logits(kTokens);
  const std::vector<float> logits = adapted->Logits(kTokens);
  EXPECT_LT(testing::Nmse(logits, merged), 1e-10);
  double left = 0;
  double change = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    left += std::pow(static_cast<double>(logits[i]) - static_cast<double>(merged[i]), 2);
    change += std::pow(static_cast<double>(merged[i]) - static_cast<double>(before[i]), 2);
  }
  EXPECT_LT(left, 1e-5 * change);
}

std::vector<std::string> Families() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(testing::DataPath("huggingface"))) {
    // Factors of Falcon H1 are in its weights alone, and are refused.
    if (entry.path().extension() == ".json" && entry.path().stem() != "falcon_h1") names.push_back(entry.path().stem());
  }
  std::sort(names.begin(), names.end());
  return names;
}
std::string TestName(const ::testing::TestParamInfo<std::string>& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}
INSTANTIATE_TEST_SUITE_P(All, AdapterOfFamily, ::testing::ValuesIn(Families()), TestName);

class AdapterTest : public ::testing::Test {
 protected:
  AdapterTest() {
    testing::WriteCheckpoint(folder_.Path("base"), llama_.description["config"], llama_.tensors);
    base_ = Open(folder_.Path("base"));
  }
  std::string Refusal(const std::string& path) {
    const Status done = base_->Adapt(path);
    return done.ok() ? "accepted" : done.error().message();
  }
  // Of a folder whose tensors were changed.
  template <typename Change>
  std::string RefusalOf(const Change& change) {
    StoredTensors tensors = llama_.Adapter({"model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"}, 3);
    change(&tensors);
    WriteAdapter(folder_.Path("bad"), PeftConfigJson(), tensors);
    return Refusal(folder_.Path("bad"));
  }
  testing::TemporaryFolder folder_;
  const Published llama_{"llama"};
  std::unique_ptr<ModelRunner> base_;
};

// What convert_lora_to_gguf.py makes: rows of queries and keys in pairs, alpha as metadata.
testing::GgufBuilder Converted(const StoredTensors& adapter, size_t heads, size_t kv_heads) {
  const std::pair<const char*, const char*> names[] = {
      {"self_attn.q_proj", "attn_q"}, {"self_attn.k_proj", "attn_k"}, {"self_attn.v_proj", "attn_v"}, {"self_attn.o_proj", "attn_output"},
      {"mlp.gate_proj", "ffn_gate"},  {"mlp.up_proj", "ffn_up"},      {"mlp.down_proj", "ffn_down"}};
  testing::GgufBuilder builder;
  builder.Text("general.architecture", "llama").Text("general.type", "adapter").Text("adapter.type", "lora");
  builder.F32("adapter.lora.alpha", static_cast<float>(kAlpha));
  for (const auto& [name, tensor] : adapter) {
    const bool is_a = name.find("lora_A") != std::string::npos;
    std::string target = "output";
    std::vector<float> values = FloatsOf(tensor);
    for (const auto& [published, gguf] : names) {
      if (name.find(published) == std::string::npos) continue;
      const size_t at = name.find("layers.") + 7;
      target = fmt::format("blk.{}.{}", name.substr(at, name.find('.', at) - at), gguf);
      const size_t count = std::string(gguf) == "attn_q" ? heads : std::string(gguf) == "attn_k" ? kv_heads : 0;
      if (is_a || count == 0) continue;
      const std::vector<float> stored = values;
      const size_t rows = tensor.shape[0] / count;
      for (size_t h = 0; h < count; ++h) {
        for (size_t i = 0; i < rows / 2; ++i) {
          for (size_t half = 0; half < 2; ++half) {
            std::copy_n(&stored[(h * rows + half * rows / 2 + i) * kRank], kRank, &values[(h * rows + 2 * i + half) * kRank]);
          }
        }
      }
    }
    builder.Add({target + (is_a ? ".weight.lora_a" : ".weight.lora_b"), {tensor.shape[1], tensor.shape[0]}, 0, BytesOf(values)});
  }
  return builder;
}

TEST_F(AdapterTest, GgufAndPeftAreOne) {
  const StoredTensors adapter = llama_.Adapter(llama_.Modules(), 11);
  WriteAdapter(folder_.Path("peft"), PeftConfigJson(), adapter);
  Converted(adapter, 4, 2).Write(folder_.Path("a.gguf"));
  const auto other = Open(folder_.Path("base"));
  ASSERT_TRUE(base_->Adapt(folder_.Path("peft")).ok());
  const Status done = other->Adapt(folder_.Path("a.gguf"));
  ASSERT_TRUE(done.ok()) << done.error().message();
  EXPECT_EQ(base_->Logits(kTokens), other->Logits(kTokens));
  EXPECT_EQ(base_->adapter()->digest, other->adapter()->digest) << "one name for the same contents";
  const auto scaled = Open(folder_.Path("base"));
  ASSERT_TRUE(scaled->Adapt(folder_.Path("a.gguf"), /*scale=*/0.5f).ok());
  EXPECT_NE(scaled->adapter()->digest, other->adapter()->digest);
}

TEST_F(AdapterTest, ScalesAsTheConfigSays) {
  const StoredTensors adapter = llama_.Adapter({"model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"}, 3);
  Json config = PeftConfigJson();
  config["use_rslora"] = true;
  config["r"] = 64;
  config["rank_pattern"] = {{"q_proj", kRank}, {"layers.1.mlp.down_proj", kRank}};
  config["alpha_pattern"] = {{"q_proj", kAlpha / 2}, {"down_proj", kAlpha / 2}};
  WriteAdapter(folder_.Path("adapter"), config, adapter);
  const Status done = base_->Adapt(folder_.Path("adapter"), /*scale=*/3);
  ASSERT_TRUE(done.ok()) << done.error().message();
  const double scale = 3 * (kAlpha / 2) / std::sqrt(static_cast<double>(kRank));
  testing::WriteCheckpoint(folder_.Path("merged"), llama_.description["config"], llama_.Merged(adapter, scale));
  EXPECT_LT(testing::Nmse(base_->Logits(kTokens), Open(folder_.Path("merged"))->Logits(kTokens)), 1e-10);
}

// F16 numbers stay F16 in memory, BF16 ones become F32: the same function either way.
TEST_F(AdapterTest, HalvesAreTheNumbersThatTheyAre) {
  for (const char* dtype : {"F16", "BF16"}) {
    Json description = llama_.description;
    description["tensors"] = {{"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", {kRank, 32}},
                              {"base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", {32, kRank}}};
    const StoredTensors same = testing::ValuesOf(description);
    description["dtype"] = dtype;
    WriteAdapter(folder_.Path("half"), PeftConfigJson(), testing::ValuesOf(description));
    WriteAdapter(folder_.Path("same"), PeftConfigJson(), same);
    const auto half = Open(folder_.Path("base"));
    const auto full = Open(folder_.Path("base"));
    ASSERT_TRUE(half->Adapt(folder_.Path("half"), 100).ok());
    ASSERT_TRUE(full->Adapt(folder_.Path("same"), 100).ok());
    EXPECT_EQ(half->Logits(kTokens), full->Logits(kTokens)) << dtype;
    EXPECT_EQ(half->adapter()->updates.bytes() < full->adapter()->updates.bytes(), std::string(dtype) == "F16");
  }
}

// Query, key and value of an adapter go to one tensor of the model, and the other way.
TEST_F(AdapterTest, JoinedOrApart) {
  const testing::TinyModel apart = {.layers = 1, .width = 64, .heads = 4, .feed_forward = 96};
  testing::TinyModel joined = apart;
  joined.joined = true;
  testing::BuildTinyModel(apart).Write(folder_.Path("apart.gguf"));
  testing::BuildTinyModel(joined).Write(folder_.Path("joined.gguf"));
  const auto add = [](testing::GgufBuilder* builder, const std::string& name, uint64_t rows, const std::vector<float>& a,
                      const std::vector<float>& b) {
    builder->Add({name + ".lora_a", {64, kRank}, 0, BytesOf(a)}).Add({name + ".lora_b", {kRank, rows}, 0, BytesOf(b)});
  };
  Rng rng(4);
  const std::vector<float> a = RandomFloats(kRank * 64, 0.4f, rng);
  const std::vector<float> b = RandomFloats(128 * kRank, 0.4f, rng);
  testing::GgufBuilder one;
  testing::GgufBuilder three;
  for (testing::GgufBuilder* builder : {&one, &three}) {
    builder->Text("general.architecture", "llama").Text("general.type", "adapter").Text("adapter.type", "lora");
  }
  add(&one, "blk.0.attn_qkv.weight", 128, a, b);
  add(&three, "blk.0.attn_q.weight", 64, a, {b.begin(), b.begin() + 64 * kRank});
  add(&three, "blk.0.attn_k.weight", 32, a, {b.begin() + 64 * kRank, b.begin() + 96 * kRank});
  add(&three, "blk.0.attn_v.weight", 32, a, {b.begin() + 96 * kRank, b.end()});
  one.Write(folder_.Path("one.gguf"));
  three.Write(folder_.Path("three.gguf"));
  std::vector<std::vector<float>> all;
  for (const char* model : {"apart.gguf", "joined.gguf"}) {
    all.push_back(Open(folder_.Path(model))->Logits(kTokens));
    for (const char* adapter : {"one.gguf", "three.gguf"}) {
      const auto runner = Open(folder_.Path(model));
      const Status done = runner->Adapt(folder_.Path(adapter));
      ASSERT_TRUE(done.ok()) << done.error().message();
      all.push_back(runner->Logits(kTokens));
    }
  }
  EXPECT_NE(all[0], all[1]);
  EXPECT_EQ(all[0], all[3]);
  for (const size_t i : {2, 4, 5}) EXPECT_EQ(all[i], all[1]) << i;
}

// An adapter of the output matrix of a model whose embeddings it is changes the output alone.
TEST_F(AdapterTest, TiedOutput) {
  Published tied("llama");
  tied.description["config"]["tie_word_embeddings"] = true;
  const StoredTensors adapter = tied.Adapter({"lm_head"}, 3);
  Published apart = tied;
  apart.description["config"]["tie_word_embeddings"] = false;
  apart.tensors["lm_head.weight"] = apart.tensors["model.embed_tokens.weight"];
  tied.tensors.erase("lm_head.weight");
  testing::WriteCheckpoint(folder_.Path("tied"), tied.description["config"], tied.tensors);
  testing::WriteCheckpoint(folder_.Path("merged"), apart.description["config"], apart.Merged(adapter, kAlpha / kRank));
  WriteAdapter(folder_.Path("adapter"), PeftConfigJson(), adapter);
  const auto runner = Open(folder_.Path("tied"));
  const Status done = runner->Adapt(folder_.Path("adapter"));
  ASSERT_TRUE(done.ok()) << done.error().message();
  EXPECT_LT(testing::Nmse(runner->Logits(kTokens), Open(folder_.Path("merged"))->Logits(kTokens)), 1e-10);
}

TEST_F(AdapterTest, TiedEmbeddingsAreRefused) {
  testing::BuildTinyModel({.layers = 1, .width = 64, .heads = 4, .feed_forward = 96, .tied = true}).Write(folder_.Path("tied.gguf"));
  Rng rng(1);
  testing::GgufBuilder builder;
  builder.Text("general.architecture", "llama").Text("general.type", "adapter").Text("adapter.type", "lora");
  builder.Add({"token_embd.weight.lora_a", {64, kRank}, 0, BytesOf(RandomFloats(64 * kRank, 1, rng))});
  builder.Add({"token_embd.weight.lora_b", {kRank, 300}, 0, BytesOf(RandomFloats(300 * kRank, 1, rng))});
  builder.Write(folder_.Path("a.gguf"));
  const Status done = Open(folder_.Path("tied.gguf"))->Adapt(folder_.Path("a.gguf"));
  ASSERT_FALSE(done.ok());
  EXPECT_THAT(done.error().message(), HasSubstr("token_embd.weight.lora_a: no product"));
}

TEST_F(AdapterTest, RefusesFoldersByName) {
  const std::string q = "base_model.model.model.layers.0.self_attn.q_proj";
  const auto rename = [&](StoredTensors* tensors, const std::string& to) {
    for (const char* end : {".lora_A.weight", ".lora_B.weight"}) {
      (*tensors)[to + end] = (*tensors)[q + end];
      tensors->erase(q + end);
    }
  };
  EXPECT_EQ(RefusalOf([](StoredTensors*) {}), "accepted");
  EXPECT_THAT(RefusalOf([&](StoredTensors* t) { t->erase(q + ".lora_B.weight"); }), HasSubstr("q_proj has no lora_B"));
  EXPECT_THAT(RefusalOf([&](StoredTensors* t) {
                (*t)[q + ".lora_magnitude_vector"] = {"F32", {1}, BytesOf({1})};
              }),
              HasSubstr("lora_magnitude_vector: expected names that end in"));
  EXPECT_THAT(RefusalOf([&](StoredTensors* t) {
                (*t)["base_model.model.lm_head.weight"] = {"F32", {1}, BytesOf({1})};
              }),
              HasSubstr("whole weights"));
  EXPECT_THAT(RefusalOf([&](StoredTensors* t) { rename(t, "base_model.model.model.layers.9.self_attn.q_proj"); }),
              HasSubstr("the model has 2 layers"));
  EXPECT_THAT(RefusalOf([&](StoredTensors* t) { rename(t, "base_model.model.model.layers.0.self_attn.r_proj"); }),
              HasSubstr("models of type llama have none of that name"));
  EXPECT_THAT(RefusalOf([&](StoredTensors* t) { rename(t, "base_model.model.model.embed_tokens"); }), HasSubstr("no product"));
  EXPECT_THAT(RefusalOf([&](StoredTensors* t) { rename(t, "base_model.model.model.layers.0.input_layernorm"); }), HasSubstr("norms"));
  EXPECT_THAT(RefusalOf([&](StoredTensors* t) { rename(t, "base_model.model.model.layers.0.mlp.experts.3.up_proj"); }),
              HasSubstr("experts"));
  EXPECT_THAT(RefusalOf([&](StoredTensors* t) {
                Rng rng(1);
                (*t)[q + ".lora_A.weight"] = {"F32", {4, 32}, BytesOf(RandomFloats(128, 1, rng))};
              }),
              HasSubstr("lora_B.weight: tensor model.layers.0.self_attn.q_proj.weight: shape [32, 5], expected 4 columns"));
  EXPECT_THAT(RefusalOf([&](StoredTensors* t) {
                Rng rng(1);
                (*t)[q + ".lora_A.weight"] = {"F32", {4, 32}, BytesOf(RandomFloats(128, 1, rng))};
                (*t)[q + ".lora_B.weight"] = {"F32", {32, 4}, BytesOf(RandomFloats(128, 1, rng))};
              }),
              HasSubstr("lora_A.weight: 4 rows, and adapter_config.json says rank 5"));
  EXPECT_THAT(RefusalOf([&](StoredTensors* t) {
                Rng rng(1);
                (*t)[q + ".lora_A.weight"] = {"F32", {kRank, 48}, BytesOf(RandomFloats(kRank * 48, 1, rng))};
              }),
              HasSubstr("rows of 48 elements, and blk.0.attn_q.weight of the model has 32"));
  EXPECT_THAT(
      RefusalOf([&](StoredTensors* t) {
        Rng rng(1);
        (*t)["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"] = {"F32", {16, kRank}, BytesOf(RandomFloats(80, 1, rng))};
      }),
      HasSubstr("16 rows, and blk.1.ffn_down.weight of the model has 32"));
  EXPECT_THAT(RefusalOf([&](StoredTensors* t) {
                std::vector<float> values = FloatsOf((*t)[q + ".lora_B.weight"]);
                values[13] = NAN;
                (*t)[q + ".lora_B.weight"].bytes = BytesOf(values);
              }),
              HasSubstr("q_proj.lora_B.weight: element 3 of row"));
  EXPECT_THAT(RefusalOf([&](StoredTensors* t) { t->clear(); }), HasSubstr("no tensors"));
  EXPECT_THAT(Refusal(folder_.Path("base")), HasSubstr("without adapter_config.json"));
  EXPECT_THAT(Refusal(folder_.Path("base/model.safetensors")), HasSubstr("name the folder"));
  EXPECT_THAT(Refusal(folder_.Path("nothing")), HasSubstr("nothing"));
}

TEST_F(AdapterTest, RefusesFilesByName) {
  Rng rng(1);
  const std::vector<float> a = RandomFloats(kRank * 32, 1, rng);
  const auto refusal = [&](const auto& change) {
    testing::GgufBuilder builder;
    change(&builder);
    builder.Write(folder_.Path("bad.gguf"));
    return Refusal(folder_.Path("bad.gguf"));
  };
  const auto head = [](testing::GgufBuilder* builder) -> testing::GgufBuilder& {
    return builder->Text("general.architecture", "llama").Text("general.type", "adapter").Text("adapter.type", "lora");
  };
  using B = testing::GgufBuilder;
  EXPECT_EQ(refusal([&](B* b) {
              head(b)
                  .Add({"blk.0.attn_q.weight.lora_a", {32, kRank}, 0, BytesOf(a)})
                  .Add({"blk.0.attn_q.weight.lora_b", {kRank, 32}, 0, BytesOf(a)});
            }),
            "accepted");
  EXPECT_THAT(refusal([&](B* b) { b->Text("general.architecture", "llama"); }), HasSubstr("general.type is missing, expected adapter"));
  EXPECT_THAT(refusal([&](B* b) { b->Text("general.architecture", "qwen2").Text("general.type", "adapter").Text("adapter.type", "lora"); }),
              HasSubstr("general.architecture is \"qwen2\", expected llama"));
  EXPECT_THAT(refusal([&](B* b) { head(b).U32("adapter.alora.invocation_tokens", 5); }), HasSubstr("adapter.alora.invocation_tokens"));
  EXPECT_THAT(refusal([&](B* b) { head(b).Add({"blk.0.attn_q.weight", {32, kRank}, 0, BytesOf(a)}); }), HasSubstr("whole weights"));
  EXPECT_THAT(refusal([&](B* b) {
                head(b).Add({"blk.0.attn_q.weight.lora_a", {32, kRank}, 0, BytesOf(a)});
              }),
              HasSubstr("blk.0.attn_q.weight.lora_b is missing"));
  EXPECT_THAT(
      refusal([&](B* b) {
        head(b).Add({"blk.0.attn_q.weight.lora_a", {32, kRank}, 0, BytesOf(a)}).Add({"blk.0.attn_q.weight.lora_b", {4, 40}, 0, BytesOf(a)});
      }),
      HasSubstr("expected the same rank"));
  EXPECT_THAT(refusal([&](B* b) {
                head(b).Add({"blk.0.ffn_up_exps.weight.lora_a", {32, 1, kRank}, 0, BytesOf(a)});
              }),
              HasSubstr("experts"));
  EXPECT_THAT(
      refusal([&](B* b) {
        head(b).Add({"token_embd.weight.lora_a", {32, kRank}, 0, BytesOf(a)}).Add({"token_embd.weight.lora_b", {kRank, 32}, 0, BytesOf(a)});
      }),
      HasSubstr("no product"));
  EXPECT_THAT(refusal([&](B* b) { head(b); }), HasSubstr("no tensors"));
}

TEST_F(AdapterTest, FalconH1IsRefused) {
  const Published published("falcon_h1");
  testing::WriteCheckpoint(folder_.Path("h1"), published.description["config"], published.tensors);
  WriteAdapter(folder_.Path("adapter"), PeftConfigJson(), published.Adapter({published.Modules()[0]}, 1));
  const Status done = Open(folder_.Path("h1"))->Adapt(folder_.Path("adapter"));
  ASSERT_FALSE(done.ok());
  EXPECT_THAT(done.error().message(), HasSubstr("falcon-h1"));
}

TEST_F(AdapterTest, MemoryIsCounted) {
  WriteAdapter(folder_.Path("adapter"), PeftConfigJson(), llama_.Adapter(llama_.Modules(), 3));
  const auto files = MakeFileSystem();
  const Model& model = base_->model();
  const AdapterFor of = {model.config, model.program, *model.kernels};
  AdapterOutline outline = OutlineAdapter(*files, folder_.Path("adapter"), of).value();
  const uint64_t expected = outline.bytes;
  MemoryBudget budget(expected);
  {
    const auto adapter = LoadAdapter(std::move(outline), model, budget).value();
    EXPECT_EQ(budget.used_bytes(), expected);
    const auto second = LoadAdapter(OutlineAdapter(*files, folder_.Path("adapter"), of).value(), model, budget);
    ASSERT_FALSE(second.ok());
    EXPECT_EQ(second.error().code(), Code::kExhausted);
  }
  EXPECT_EQ(budget.used_bytes(), 0u);
}

}  // namespace
}  // namespace bantam
