#include "model/huggingface/folder.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "formats/metadata_builder.h"
#include "kernels/kernels.h"
#include "model/arch/registry.h"
#include "model/huggingface/families.h"
#include "model/open.h"
#include "model/vocabulary.h"
#include "testing/checkpoint.h"
#include "testing/model_runner.h"
#include "testing/paths.h"

namespace bantam {
namespace {

using ::testing::HasSubstr;
using testing::StoredTensors;

std::vector<std::string> Descriptions() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(testing::DataPath("huggingface"))) {
    if (entry.path().extension() == ".json") names.push_back(entry.path().stem());
  }
  std::sort(names.begin(), names.end());
  return names;
}

Json Describe(const std::string& name) { return testing::ReadDescription(testing::DataPath("huggingface/" + name + ".json")); }

std::vector<float> FloatsOf(ModelFile& file, const TensorInfo& tensor) {
  std::vector<float> values(tensor.elements());
  const auto bytes = file.source->View(tensor.offset_bytes, tensor.size_bytes);
  EXPECT_TRUE(bytes.ok()) << tensor.name;
  if (bytes.ok()) Unpack(tensor.dtype, reinterpret_cast<const uint8_t*>(bytes->data()), values.size(), values.data());
  return values;
}

std::string Digest(const std::vector<float>& values) { return fmt::format("{:016x}", Fingerprint(std::as_bytes(std::span(values)))); }

// The converter writes query, key and value as one where the publisher has them so; here they are three.
std::vector<std::string> PartsOf(const ModelFile& file, const std::string& name) {
  if (file.directory.Find(name) != nullptr) return {name};
  const size_t at = name.find("attn_qkv");
  if (at == std::string::npos) return {};
  std::vector<std::string> parts;
  for (const char* part : {"attn_q", "attn_k", "attn_v"}) parts.push_back(name.substr(0, at) + part + name.substr(at + 8));
  return parts;
}

class Published : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    description_ = Describe(GetParam());
    testing::WriteCheckpoint(folder_.Path("model"), description_["config"], testing::ValuesOf(description_));
  }
  testing::TemporaryFolder folder_;
  Json description_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
};

TEST_P(Published, TensorsAreThoseOfTheConverter) {
  Result<ModelFile> file = OpenModel(*files_, folder_.Path("model"));
  ASSERT_TRUE(file.ok()) << file.error().message();
  size_t used = 0;
  for (const auto& [name, converted] : description_["converted"].items()) {
    if (name == "rope_freqs.weight") continue;  // Llama 3's rule worked out; here it is metadata
    std::vector<float> values;
    uint64_t rows = 0;
    const std::vector<std::string> parts = PartsOf(*file, name);
    for (const std::string& part : parts) {
      const TensorInfo* tensor = file->directory.Find(part);
      ASSERT_NE(tensor, nullptr) << part;
      const std::vector<float> more = FloatsOf(*file, *tensor);
      values.insert(values.end(), more.begin(), more.end());
      rows += tensor->dimensions[tensor->n_dimensions - 1];
      ++used;
    }
    ASSERT_FALSE(parts.empty()) << name;
    EXPECT_EQ(Digest(values), converted["digest"].get<std::string>()) << name;
    EXPECT_EQ(rows, converted["shape"].back().get<uint64_t>()) << name;
  }
  EXPECT_EQ(used, file->directory.tensors().size());
}

// What the converter's metadata makes of the same weights.
class PublishedMetadata : public Published {};
TEST_P(PublishedMetadata, LogitsAreThoseOfTheConvertersMetadata) {
  // GGUF files of families that follow config.json's activation mean the tanh form whatever it says.
  const std::string kind = description_["config"]["model_type"].get<std::string>();
  if ((*FindHfFamily(kind))->names_activation) {
    description_["config"]["hidden_act"] = "gelu_new";
    testing::WriteCheckpoint(folder_.Path("model"), description_["config"], testing::ValuesOf(description_));
  }
  // Nor do those of FalconMamba have two numbers for norms.
  if (kind == "falcon_mamba") {
    description_["config"]["mixer_rms_eps"] = description_["config"]["layer_norm_epsilon"];
    testing::WriteCheckpoint(folder_.Path("model"), description_["config"], testing::ValuesOf(description_));
  }
  Result<ModelFile> ours = OpenModel(*files_, folder_.Path("model"));
  Result<ModelFile> theirs = OpenModel(*files_, folder_.Path("model"));
  ASSERT_TRUE(ours.ok() && theirs.ok());
  MetadataBuilder builder;
  for (const auto& [key, value] : description_["metadata"].items()) {
    if (value.is_boolean()) builder.SetFlag(key, value.get<bool>());
    if (value.is_number_unsigned()) builder.SetCount(key, value.get<uint32_t>());
    if (value.is_number_float()) builder.SetNumber(key, value.get<double>());
    if (value.is_string()) builder.SetText(key, value.get<std::string>());
    if (!value.is_array()) continue;
    std::vector<uint32_t> counts;
    for (const Json& entry : value) counts.push_back(entry.is_boolean() ? entry.get<bool>() : entry.get<uint32_t>());
    builder.SetCounts(key, counts);
  }
  if (kind == "phimoe") {  // what GGUF has no words for
    builder.SetNumber("phimoe.published_router_jitter", 0.01);
    builder.SetNumber("phimoe.attention.layer_norm_epsilon", description_["config"]["rms_norm_eps"].get<double>());
  }
  std::vector<MetadataBuilder::Tensor> tensors;
  for (const TensorInfo& tensor : theirs->directory.tensors()) tensors.push_back({std::string(tensor.name), tensor});
  ASSERT_TRUE(builder.Build(tensors, &*theirs).ok());
  testing::RunSetup setup;
  setup.kernels = *ChooseKernels("ref");
  const std::vector<uint32_t> tokens = {1, 5, 9, 39, 0, 7, 7, 21, 3, 2, 17, 30};
  auto one = testing::ModelRunner::Make(std::move(*ours), setup, tokens.size());
  auto other = testing::ModelRunner::Make(std::move(*theirs), setup, tokens.size());
  ASSERT_TRUE(one.ok()) << one.error().message();
  ASSERT_TRUE(other.ok()) << other.error().message();
  EXPECT_EQ((*one)->Logits(tokens), (*other)->Logits(tokens));
}

// "gelu" is the error function's form in published code.
class PublishedActivation : public Published {};
TEST_P(PublishedActivation, IsTheOneThatIsNamed) {
  for (const auto& [name, activation] : {std::pair("gelu", Activation::kErfGelu), std::pair("gelu_new", Activation::kGelu)}) {
    description_["config"]["hidden_act"] = name;
    description_["config"].erase("activation_function");
    testing::WriteCheckpoint(folder_.Path("model"), description_["config"], testing::ValuesOf(description_));
    Result<ModelFile> file = OpenModel(*files_, folder_.Path("model"));
    ASSERT_TRUE(file.ok()) << file.error().message();
    const Result<Config> config = ReadConfig(*file);
    ASSERT_TRUE(config.ok()) << config.error().message();
    EXPECT_EQ(config->activation, activation) << name;
  }
}

std::string TestName(const ::testing::TestParamInfo<std::string>& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}
INSTANTIATE_TEST_SUITE_P(All, PublishedActivation, ::testing::Values("codeshell", "falcon", "gpt2", "gpt_neox", "mpt", "phi", "starcoder2"),
                         TestName);
INSTANTIATE_TEST_SUITE_P(All, Published, ::testing::ValuesIn(Descriptions()), TestName);

// Where the converter works Llama 3's rule out into a table, its metadata alone say nothing of it.
std::vector<std::string> WithoutTables() {
  std::vector<std::string> names = Descriptions();
  std::erase_if(names, [](const std::string& name) { return Describe(name)["converted"].contains("rope_freqs.weight"); });
  return names;
}
INSTANTIATE_TEST_SUITE_P(All, PublishedMetadata, ::testing::ValuesIn(WithoutTables()), TestName);

// A llama checkpoint to damage.
class Folder : public ::testing::Test {
 protected:
  std::string Path(std::string_view name) const { return folder_.Path("model/" + std::string(name)); }
  void Write() { testing::WriteCheckpoint(folder_.Path("model"), config_, tensors_); }
  // The checkpoint in two files and their index, which `change` may turn into a lie.
  void WriteShards(const std::function<void(Json&)>& change = nullptr) {
    Write();
    std::filesystem::remove(Path("model.safetensors"));
    StoredTensors halves[2];
    Json map = Json::object();
    for (const auto& [name, tensor] : tensors_) {
      const size_t half = name.find("layers.1.") == std::string::npos ? 0 : 1;
      halves[half][name] = tensor;
      map[name] = fmt::format("model-0000{}-of-00002.safetensors", half + 1);
    }
    for (size_t i = 0; i < 2; ++i) {
      testing::WriteText(Path(fmt::format("model-0000{}-of-00002.safetensors", i + 1)), testing::SafetensorsFile(halves[i]));
    }
    if (change) change(map);
    testing::WriteText(Path("model.safetensors.index.json"), Json({{"weight_map", map}}).dump());
  }
  ModelOutline Outline() {
    ModelFile file = OpenModel(*files_, folder_.Path("model")).value();
    return OutlineModel(file, **ChooseKernels("ref")).value();
  }
  std::string Error() {
    Result<ModelFile> file = OpenModel(*files_, folder_.Path("model"));
    if (!file.ok()) return file.error().message();
    const Result<ModelOutline> outline = OutlineModel(*file, **ChooseKernels("ref"));
    return outline.ok() ? "" : outline.error().message();
  }

  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  Json description_ = Describe("llama");
  Json config_ = description_["config"];
  StoredTensors tensors_ = testing::ValuesOf(description_);
};

TEST_F(Folder, ShardsAreOneModel) {
  Write();
  Result<ModelFile> whole = OpenModel(*files_, folder_.Path("model"));
  ASSERT_TRUE(whole.ok()) << whole.error().message();
  WriteShards();
  Result<ModelFile> shards = OpenModel(*files_, folder_.Path("model") + "/");
  ASSERT_TRUE(shards.ok()) << shards.error().message();
  EXPECT_THAT(shards->format, HasSubstr("2 files"));
  ASSERT_EQ(shards->directory.tensors().size(), whole->directory.tensors().size());
  for (const TensorInfo& tensor : whole->directory.tensors()) {
    const TensorInfo* same = shards->directory.Find(tensor.name);
    ASSERT_NE(same, nullptr) << tensor.name;
    EXPECT_EQ(FloatsOf(*shards, *same), FloatsOf(*whole, tensor)) << tensor.name;
  }
}

TEST_F(Folder, AnIndexThatLies) {
  WriteShards([](Json& map) { map["lm_head.weight"] = "model-00002-of-00002.safetensors"; });
  EXPECT_THAT(Error(), HasSubstr("tensor lm_head.weight is not in model-00002-of-00002.safetensors, where the index says"));
  WriteShards([](Json& map) { map["extra"] = "model-00001-of-00002.safetensors"; });
  EXPECT_THAT(Error(), HasSubstr("tensor extra is not in"));
  for (const char* name : {"../model.safetensors", "/etc/x.safetensors", "sub/x.safetensors", ".hidden.safetensors", "passwd", ""}) {
    WriteShards([&](Json& map) { map["lm_head.weight"] = name; });
    EXPECT_THAT(Error(), HasSubstr("expected a .safetensors file of the same folder")) << name;
  }
  WriteShards([](Json& map) { map["lm_head.weight"] = "model-00009-of-00002.safetensors"; });
  EXPECT_THAT(Error(), HasSubstr("model-00009-of-00002.safetensors"));
  testing::WriteText(Path("model.safetensors.index.json"), "{}");
  EXPECT_THAT(Error(), HasSubstr("weight_map is missing"));
}

TEST_F(Folder, WhatIsMissing) {
  Write();
  std::filesystem::remove(Path("model.safetensors"));
  EXPECT_THAT(Error(), HasSubstr("no safetensors; fetch the model's weights too"));
  testing::WriteText(Path("pytorch_model.bin"), "x");
  EXPECT_THAT(Error(), HasSubstr("weights in .bin files are programs"));
  std::filesystem::remove(Path("config.json"));
  EXPECT_THAT(Error(), HasSubstr("a folder without config.json"));
  const auto alone = OpenModel(*files_, Path("x.safetensors"));
  ASSERT_FALSE(alone.ok());
  EXPECT_THAT(alone.error().message(), HasSubstr("name the folder that holds both"));
}

// Rows of heads are counted where they are put in order, so that none is read from behind the file's end.
TEST(FolderOfHeads, OfOtherShapes) {
  const Json description = Describe("qwen3_5");
  const testing::TemporaryFolder folder;
  const auto files = MakeFileSystem();
  const std::string name = "model.language_model.layers.0.linear_attn.in_proj_z.weight";
  const auto error = [&](std::vector<uint64_t> shape) {
    testing::StoredTensors tensors = testing::ValuesOf(description);
    tensors.at(name).shape = std::move(shape);
    testing::WriteCheckpoint(folder.Path("model"), description["config"], tensors);
    const auto file = OpenModel(*files, folder.Path("model"));
    return file.ok() ? std::string() : file.error().message();
  };
  EXPECT_EQ(error({48, 32}), "");
  EXPECT_THAT(error({48, 2, 16}),
              HasSubstr("tensor " + name + ": shape [48, 2, 16], expected 48 rows (2 keys with 3 heads of values each)"));
  EXPECT_THAT(error({24, 64}), HasSubstr("expected 48 rows"));
}

TEST_F(Folder, WhatContradicts) {
  const auto with = [&](const char* member, Json value) {
    config_ = description_["config"];
    config_[member] = std::move(value);
    Write();
    return Error();
  };
  EXPECT_THAT(with("model_type", "qwen9"),
              HasSubstr("model_type qwen9 is not supported; of the 67 that are, the closest are qwen2, qwen3, qwen3_5"));
  EXPECT_THAT(with("model_type", 3), HasSubstr("model_type: 3, expected a string"));
  EXPECT_THAT(with("hidden_act", "mish"), HasSubstr("activation mish: models of type llama are run with silu"));
  EXPECT_THAT(with("num_attention_heads", -4), HasSubstr("num_attention_heads: -4, expected a whole number"));
  EXPECT_THAT(with("num_attention_heads", 5), HasSubstr("5 heads over 2 kv heads"));
  EXPECT_THAT(with("num_key_value_heads", 4), HasSubstr("tensor model.layers.0.self_attn.k_proj.weight: shape [16, 32], expected 32 rows"));
  EXPECT_THAT(with("hidden_size", nullptr), HasSubstr("hidden_size is missing"));
  EXPECT_THAT(with("intermediate_size", 44), HasSubstr("blk.0.ffn_gate.weight: expected [44, 32], found [48, 32]"));
  EXPECT_THAT(with("num_hidden_layers", 3), HasSubstr("blk.2."));
  EXPECT_THAT(with("num_hidden_layers", 1), HasSubstr("tensor blk.1.attn_norm.weight: no part of this llama model of 1 layers reads it"));
  EXPECT_THAT(with("num_hidden_layers", 4'000'000),
              HasSubstr("config.json num_hidden_layers: 4000000, expected an integer from 1 to 512; correct it, or fetch the file again"));
  EXPECT_THAT(with("rms_norm_eps", -1), HasSubstr("config.json rms_norm_eps: -1, expected a number from 0 to 1"));
  EXPECT_THAT(with("rope_scaling", {{"type", "linear"}, {"factor", -1}}), HasSubstr("rope_scaling.factor: -1, expected a number above 0"));
  EXPECT_THAT(with("rope_scaling", {{"type", "linear"}}), HasSubstr("rope_scaling.factor: missing"));
  EXPECT_THAT(with("attention_bias", true), HasSubstr("attention_bias is true, but blk.0.attn_q.weight has no bias"));
  EXPECT_THAT(with("mlp_bias", true), HasSubstr("mlp_bias is true, but blk.0.ffn_up.weight has no bias"));
  EXPECT_EQ(with("attention_bias", false), "");
  EXPECT_THAT(with("vocab_size", 41), HasSubstr("vocab_size is 41, but the embeddings have 40 rows"));
  EXPECT_THAT(with("quantization_config", {{"quant_method", "quip"}}), HasSubstr("weights quantised by quip"));
  EXPECT_THAT(with("rope_scaling", {{"type", "spiral"}}), HasSubstr("rope_scaling of type spiral"));
  config_ = description_["config"];
  tensors_.erase("lm_head.weight");
  Write();
  // Publishers of models that make vectors leave it out: such a model goes on with no text.
  EXPECT_EQ(Error(), "");
  EXPECT_TRUE(Outline().config.whole_texts);
  config_["tie_word_embeddings"] = true;
  Write();
  EXPECT_EQ(Error(), "");
  tensors_["model.layers.0.self_attn.magic.weight"] = {"F32", {1}, "abcd"};
  Write();
  EXPECT_THAT(Error(), HasSubstr("tensor model.layers.0.self_attn.magic.weight: models of type llama have none of that name"));
  tensors_.erase("model.layers.0.self_attn.magic.weight");
  tensors_["model.norm.weight"] = {"F8_E4M3", {32}, std::string(32, 'x')};
  Write();
  EXPECT_THAT(Error(), HasSubstr("tensor model.norm.weight: elements of type F8_E4M3, expected F32, F16 or BF16"));
  testing::WriteText(Path("config.json"), "[1]");
  EXPECT_THAT(Error(), HasSubstr("config.json: no JSON object"));
}

TEST_F(Folder, BiasesThatTheConfigDenies) {
  const std::string bias = "model.layers.0.self_attn.q_proj.bias";
  tensors_[bias] = {"F32", {32}, std::string(128, '\0')};
  config_["attention_bias"] = false;
  Write();
  EXPECT_THAT(Error(), HasSubstr("attention_bias is false, but there is blk.0.attn_q.bias"));
  config_["attention_bias"] = true;
  Write();
  EXPECT_EQ(Error(), "");
}

// A model that has what its family does not read is of another family, or of a newer kind.
TEST_F(Folder, TensorsThatNobodyReads) {
  tensors_["model.layers.0.self_attn.q_norm.weight"] = {"F32", {8}, std::string(32, '\0')};
  Write();
  EXPECT_THAT(Error(), HasSubstr("tensor blk.0.attn_q_norm.weight: no part of this llama model of 2 layers reads it"));
}

// Members that change what a family computes, and that it does not follow.
TEST(FolderOfFamilies, WhatIsNotRun) {
  const testing::TemporaryFolder folder;
  const auto files = MakeFileSystem();
  const auto error = [&](const std::string& name, const std::function<void(Json&)>& change) {
    const Json description = Describe(name);
    Json config = description["config"];
    change(config);
    testing::WriteCheckpoint(folder.Path("model"), config, testing::ValuesOf(description));
    const auto file = OpenModel(*files, folder.Path("model"));
    return file.ok() ? std::string() : file.error().message();
  };
  EXPECT_THAT(error("gpt_oss", [](Json& config) { config["swiglu_limit"] = 5; }),
              HasSubstr("swiglu_limit 5 in this family is not supported"));
  EXPECT_EQ(error("gpt_oss", [](Json& config) { config["swiglu_limit"] = 7.0; }), "");
  EXPECT_THAT(error("gpt_oss", [](Json& config) { config["layer_types"][0] = "chunked_attention"; }),
              HasSubstr("a layer of type \"chunked_attention\" is not supported"));
  EXPECT_THAT(error("gemma2", [](Json& config) { config["layer_types"] = {"full_attention"}; }), HasSubstr("expected the kinds of"));
  EXPECT_THAT(error("bloom", [](Json& config) { config["apply_residual_connection_post_layernorm"] = true; }),
              HasSubstr("apply_residual_connection_post_layernorm true"));
  EXPECT_THAT(error("mpt", [](Json& config) { config["attn_config"]["qk_gn"] = true; }),
              HasSubstr("attn_config.qk_gn true in this family"));
  EXPECT_THAT(error("deepseek", [](Json& config) { config["scoring_func"] = "sigmoid"; }),
              HasSubstr("scoring_func \"sigmoid\" in this family is not supported"));
  EXPECT_THAT(error("cohere2", [](Json& config) { config["use_qk_norm"] = true; }), HasSubstr("use_qk_norm true"));
  EXPECT_THAT(error("falcon", [](Json& config) { config["activation"] = "relu6"; }), HasSubstr("activation relu6"));
  EXPECT_THAT(error("falcon", [](Json& config) { config["alibi"] = true; }), HasSubstr("alibi true in this family"));
  EXPECT_THAT(error("falcon", [](Json& config) { config["parallel_attn"] = false; }), HasSubstr("parallel_attn false"));
  EXPECT_THAT(error("gpt2", [](Json& config) { config["scale_attn_weights"] = false; }), HasSubstr("scale_attn_weights false"));
  EXPECT_THAT(error("gpt2", [](Json& config) { config["scale_attn_by_inverse_layer_idx"] = true; }), HasSubstr("inverse_layer_idx true"));
  EXPECT_THAT(error("deepseek", [](Json& config) { config["moe_layer_freq"] = 2; }), HasSubstr("moe_layer_freq 2"));
  EXPECT_THAT(error("lfm2_moe", [](Json& config) { config["norm_topk_prob"] = false; }), HasSubstr("norm_topk_prob false"));
  EXPECT_THAT(error("smollm3", [](Json& config) { config["use_sliding_window"] = true; }), HasSubstr("use_sliding_window true"));
  EXPECT_THAT(error("qwen2_moe", [](Json& config) { config["norm_topk_prob"] = true; }), HasSubstr("norm_topk_prob true"));
  EXPECT_THAT(error("qwen3_moe", [](Json& config) { config["norm_topk_prob"] = false; }), HasSubstr("norm_topk_prob false"));
  EXPECT_THAT(error("qwen3_moe", [](Json& config) { config.erase("norm_topk_prob"); }), HasSubstr("norm_topk_prob false"));
  EXPECT_THAT(error("qwen3_moe", [](Json& config) { config["decoder_sparse_step"] = 2; }), HasSubstr("decoder_sparse_step 2"));
  EXPECT_THAT(error("mamba2", [](Json& config) { config["time_step_limit"] = {0.0, 0.01}; }), HasSubstr("time_step_limit [0.0,0.01]"));
  EXPECT_EQ(error("mamba2", [](Json& config) { config["time_step_limit"] = {0.0, {{"__float__", "Infinity"}}}; }), "");
  // As Python spells it, which JSON does not have; in texts it is a word.
  testing::WriteText(folder.Path("model/config.json"), [] {
    Json config = Describe("mamba2")["config"];
    config["name"] = "to Infinity";
    std::string text = config.dump();
    return text.insert(1, R"("time_step_limit":[0.0,Infinity],)");
  }());
  const auto unlimited = OpenModel(*files, folder.Path("model"));
  EXPECT_TRUE(unlimited.ok()) << unlimited.error().message();
  EXPECT_THAT(error("smallthinker", [](Json& config) { config["rope_layout"] = {0, 0}; }), HasSubstr("rope_layout that says 0 of layer"));
}

// What members say of norms and biases, and what is there.
TEST(FolderOfFamilies, WhatIsSaidOfTensors) {
  const testing::TemporaryFolder folder;
  const auto files = MakeFileSystem();
  const auto error = [&](const std::string& name, const std::function<void(Json&)>& change, const std::string& without = "nothing") {
    const Json description = Describe(name);
    Json config = description["config"];
    change(config);
    StoredTensors tensors = testing::ValuesOf(description);
    std::erase_if(tensors, [&](const auto& entry) { return entry.first.find(without) != std::string::npos; });
    testing::WriteCheckpoint(folder.Path("model"), config, tensors);
    Result<ModelFile> file = OpenModel(*files, folder.Path("model"));
    if (!file.ok()) return file.error().message();
    const Result<ModelOutline> outline = OutlineModel(*file, **ChooseKernels("ref"));
    return outline.ok() ? "" : outline.error().message();
  };
  const auto set = [](const std::string& member, Json value) {
    return [=](Json& config) { config[Json::json_pointer("/" + member)] = value; };
  };
  EXPECT_THAT(error("stablelm", set("use_parallel_residual", true)),
              HasSubstr("config.json: use_parallel_residual is true, but there is blk.0.ffn_norm.weight; fetch the files again"));
  EXPECT_EQ(error("stablelm", set("use_parallel_residual", true), "post_attention_layernorm"), "");
  EXPECT_THAT(error("stablelm", set("use_parallel_residual", false), "post_attention_layernorm"),
              HasSubstr("use_parallel_residual is false, but there is no tensor *.ffn_norm.weight"));
  EXPECT_THAT(error(
                  "stablelm", [](Json& config) { config.erase("use_parallel_residual"); }, "post_attention_layernorm"),
              HasSubstr("use_parallel_residual is false"))
      << "as the publisher's code takes it";
  EXPECT_THAT(error("stablelm", set("use_parallel_residual", 1)), HasSubstr("use_parallel_residual: 1, expected true or false"));
  EXPECT_THAT(error("stablelm", set("qk_layernorm", true)), HasSubstr("qk_layernorm is true, but there is no tensor *.attn_q_norm.weight"));
  EXPECT_THAT(error("falcon_h1", set("mamba_rms_norm", false)), HasSubstr("mamba_rms_norm is false, but there is blk.0.ssm_norm.weight"));
  EXPECT_THAT(error("falcon_h1", set("mamba_rms_norm", true), "mamba.norm"), HasSubstr("mamba_rms_norm is true, but there is no tensor"));
  EXPECT_EQ(error("falcon_h1", set("mamba_rms_norm", false), "mamba.norm"), "");
  EXPECT_THAT(error("falcon_h1", set("mamba_conv_bias", false)), HasSubstr("mamba_conv_bias is false, but there is blk.0.ssm_conv1d.bias"));
  EXPECT_THAT(error("mamba", set("use_conv_bias", false)), HasSubstr("use_conv_bias is false"));
  EXPECT_THAT(error("mamba2", set("use_bias", true)), HasSubstr("use_bias is true, but there is no tensor *.ssm_in.bias"));
  EXPECT_THAT(error("ernie4_5_moe", set("moe_use_aux_free", false), "nothing"), HasSubstr("moe_use_aux_free is false, but there is"));
  EXPECT_THAT(error("mpt", set("no_bias", false)), HasSubstr("no_bias is false, but there is no tensor *.bias"));
  EXPECT_THAT(error("mpt", set("attn_config/qk_ln", true)), HasSubstr("attn_config.qk_ln is true, but there is no tensor"));
  EXPECT_THAT(error("mpt", set("attn_config/alibi", false)),
              HasSubstr("learned_pos_emb is true, but there is no tensor *position_embd.weight"))
      << "nothing would say where a token stands";
  EXPECT_THAT(error("starcoder2", set("use_bias", false)), HasSubstr("use_bias is false, but there is"));
}

// Members whose other values are another model.
TEST(FolderOfFamilies, MembersThatAreFollowedOrRefused) {
  const testing::TemporaryFolder folder;
  const auto files = MakeFileSystem();
  const auto error = [&](const std::string& name, const std::function<void(Json&)>& change) {
    const Json description = Describe(name);
    Json config = description["config"];
    change(config);
    testing::WriteCheckpoint(folder.Path("model"), config, testing::ValuesOf(description));
    const auto file = OpenModel(*files, folder.Path("model"));
    return file.ok() ? std::string() : file.error().message();
  };
  const auto set = [](const std::string& member, Json value) {
    return [=](Json& config) { config[Json::json_pointer("/" + member)] = value; };
  };
  EXPECT_THAT(error("mpt", set("norm_type", "low_precision_rmsnorm")), HasSubstr("norm_type \"low_precision_rmsnorm\" in this family"));
  EXPECT_EQ(error("mpt", set("norm_type", "low_precision_layernorm")), "");
  EXPECT_THAT(error("mpt", set("ffn_config", {{"ffn_type", "mptglu"}})), HasSubstr("ffn_config.ffn_type \"mptglu\""));
  EXPECT_THAT(error("mpt", set("ffn_config", {{"ffn_act_fn", {{"name", "silu"}}}})), HasSubstr("ffn_config.ffn_act_fn.name \"silu\""));
  EXPECT_EQ(error("mpt", set("ffn_config", {{"ffn_type", "mptmlp"}, {"ffn_act_fn", {{"name", "gelu"}, {"approximate", "none"}}}})), "");
  EXPECT_THAT(error("mpt", set("ffn_config", {{"ffn_hidden_size", 64}})), HasSubstr("ffn_config.ffn_hidden_size 64"));
  EXPECT_THAT(error("mpt", set("attn_config/softmax_scale", 0.5)), HasSubstr("attn_config.softmax_scale 0.5"));
  EXPECT_THAT(error("mpt", set("logit_scale", "inv_sqrt_d_model")), HasSubstr("logit_scale \"inv_sqrt_d_model\""));
  EXPECT_THAT(error("mpt", set("attn_config/attn_type", "linear_attention")), HasSubstr("attn_config.attn_type \"linear_attention\""));
  EXPECT_EQ(error("mpt", set("attn_config/attn_type", "multihead_attention")), "");
  EXPECT_THAT(
      error("mpt",
            [](Json& config) { config["attn_config"]["attn_type"] = "multihead_attention", config["attn_config"]["kv_n_heads"] = 2; }),
      HasSubstr("attn_config.kv_n_heads is 2, but attn_config.attn_type \"multihead_attention\""));
  EXPECT_THAT(error("codeshell", set("position_embedding_type", "alibi")), HasSubstr("position_embedding_type \"alibi\""));
  EXPECT_THAT(error("ernie4_5", set("compression_ratio", 2.0)), HasSubstr("compression_ratio 2.0 in this family"));
  EXPECT_THAT(error("ernie4_5_moe", set("use_rmsnorm", false)), HasSubstr("use_rmsnorm false in this family"));
  EXPECT_THAT(error("ernie4_5_moe", set("moe_gate_act", "sigmoid")), HasSubstr("moe_gate_act \"sigmoid\""));
  EXPECT_THAT(error("falcon_h1", set("mamba_proj_bias", true)), HasSubstr("mamba_proj_bias true in this family"));
  EXPECT_THAT(error("falcon_h1", set("time_step_limit", {0.0, 0.5})), HasSubstr("time_step_limit [0.0,0.5]"));
  EXPECT_THAT(error("falcon_h1", set("mamba_d_head", 16)),
              HasSubstr("mamba_d_head is 16, but 6 heads (mamba_n_heads) have 48 elements together"));
  EXPECT_EQ(error("falcon_h1", set("mamba_d_head", "auto")), "");
  EXPECT_THAT(error("falcon_h1", [](Json& config) { config.erase("rope_theta"); }), HasSubstr("rope_theta is missing"));
  // Which layers have a window, and no window.
  EXPECT_THAT(error("gemma2", set("sliding_window", nullptr)), HasSubstr("sliding_window is no number above 0"));
  EXPECT_THAT(error("olmo3", set("sliding_window", nullptr)), HasSubstr("sliding_window is no number above 0"));
  EXPECT_EQ(error("olmo3",
                  [](Json& config) {
                    config["sliding_window"] = nullptr, config["layer_types"] = {"full_attention", "full_attention"};
                  }),
            "");
  EXPECT_THAT(error("exaone4", set("layer_types", {"sliding_attention", "full_attention"})),
              HasSubstr("sliding_window is no number above 0"));
  EXPECT_EQ(error("exaone4", set("layer_types", {"full_attention", "full_attention"})), "");
  EXPECT_THAT(error("exaone4", set("sliding_window_pattern", "LG")), HasSubstr("sliding_window is no number above 0"));
  EXPECT_THAT(error("exaone4", [](Json& config) { config.erase("sliding_window"); }), HasSubstr("a window in a model of 2 layers"))
      << "4096, as the publisher's code takes it";
  EXPECT_THAT(error("exaone4", set("num_hidden_layers", 64)), HasSubstr("a model of 64 layers without a sliding_window"));
  EXPECT_THAT(error("olmo3", [](Json& config) { config.erase("layer_types"), config["sliding_window_pattern"] = "GL"; }),
              HasSubstr("sliding_window_pattern GL whose last layer is an L"));
  EXPECT_THAT(error("olmo3", [](Json& config) { config.erase("layer_types"), config["sliding_window_pattern"] = "LX"; }),
              HasSubstr("expected the letters L and G"));
}

// Which Baichuan it is, only its layers and its vocabulary say.
TEST_F(Folder, BaichuanOfUnknownKind) {
  config_["model_type"] = "baichuan";
  config_["vocab_size"] = 64000;
  Write();
  EXPECT_THAT(Error(),
              HasSubstr("num_hidden_layers 2 in this family, whose layers turn in models of 32 and have linear biases in those of 40"));
  config_["num_hidden_layers"] = 40;
  Write();
  EXPECT_THAT(Error(), ::testing::Not(HasSubstr("this family")));
  config_["vocab_size"] = 125696;
  Write();
  EXPECT_THAT(Error(), HasSubstr("Baichuan 2 from safetensors (its output matrix is normalised"));
  config_["vocab_size"] = 125697;  // with a token of its own
  Write();
  EXPECT_THAT(Error(), HasSubstr("vocab_size is 125697, and 64000 in the first"));
  config_["vocab_size"] = 64000;
  config_["z_loss_weight"] = 0;
  Write();
  EXPECT_THAT(Error(), HasSubstr("Baichuan 2 from safetensors"));
}

// Gemma's first files say "gelu" in hidden_act and mean the tanh form, as the publisher's code takes it; hidden_activation is followed.
TEST(FolderOfFamilies, ActivationsOfGemma) {
  const testing::TemporaryFolder folder;
  const auto files = MakeFileSystem();
  const auto activation = [&](const std::string& name, Json old_name, Json own_name) {
    const Json description = Describe(name);
    Json config = description["config"];
    config["hidden_act"] = std::move(old_name);
    config["hidden_activation"] = std::move(own_name);
    testing::WriteCheckpoint(folder.Path("model"), config, testing::ValuesOf(description));
    Result<ModelFile> file = OpenModel(*files, folder.Path("model"));
    EXPECT_TRUE(file.ok()) << file.error().message();
    return ReadConfig(*file)->activation;
  };
  for (const char* name : {"gemma", "gemma2", "gemma3_text"}) {
    EXPECT_EQ(activation(name, "gelu", nullptr), Activation::kGelu) << name;
    EXPECT_EQ(activation(name, "gelu", "gelu_pytorch_tanh"), Activation::kGelu) << name;
    EXPECT_EQ(activation(name, "gelu_pytorch_tanh", "gelu"), Activation::kErfGelu) << name;
  }
}

// MiniCPM 4.1 attends to chosen blocks of texts that are longer.
TEST_F(Folder, TextsThatAreAttendedToWhole) {
  description_ = Describe("minicpm");
  config_ = description_["config"];
  tensors_ = testing::ValuesOf(description_);
  const auto limit = [&](Json sparse) {
    config_["sparse_config"] = std::move(sparse);
    Write();
    Result<ModelFile> file = OpenModel(*files_, folder_.Path("model"));
    EXPECT_TRUE(file.ok()) << file.error().message();
    return OutlineModel(*file, **ChooseKernels("ref"))->program;
  };
  EXPECT_EQ(limit(nullptr).context_limit, 0u);
  EXPECT_EQ(limit({{"topk", 64}}).context_limit, 8191u) << "as the publisher's code has it";
  const Program program = limit({{"dense_len", 32}});
  EXPECT_EQ(program.context_limit, 31u);
  EXPECT_EQ(program.context_max, 31u);
  EXPECT_THAT(TooManyPositions(program, 32),
              HasSubstr("at most 31 are run: longer texts are attended to by chosen blocks (sparse_config)"));
  for (const Json& sparse : {Json(5), Json({{"dense_len", -1}}), Json({{"dense_len", 1}})}) {
    config_["sparse_config"] = sparse;
    Write();
    EXPECT_THAT(Error(), HasSubstr("sparse_config")) << sparse.dump();
  }
}

// FalconMamba's inner norms have a number of their own.
TEST_F(Folder, NormsOfFalconMambasMixers) {
  description_ = Describe("falcon_mamba");
  config_ = description_["config"];
  tensors_ = testing::ValuesOf(description_);
  const auto epsilon = [&] {
    Write();
    Result<ModelFile> file = OpenModel(*files_, folder_.Path("model"));
    EXPECT_TRUE(file.ok()) << file.error().message();
    return ReadConfig(*file)->state_space.norm_epsilon;
  };
  EXPECT_EQ(epsilon(), 1e-6f) << "as the publisher's code has it";
  config_["mixer_rms_eps"] = 1e-4;
  EXPECT_EQ(epsilon(), 1e-4f);
  config_["mixer_rms_eps"] = -1;
  Write();
  EXPECT_THAT(Error(), HasSubstr("config.json mixer_rms_eps: -1, expected a number from 0 to 1"));
}

// Readers of JSON do not agree on which of the two counts.
TEST_F(Folder, MembersThatOccurTwice) {
  Write();
  const std::string config = config_.dump();
  testing::WriteText(Path("config.json"), R"({"hidden_size":64,)" + config.substr(1));
  EXPECT_THAT(Error(), HasSubstr("config.json: member \"hidden_size\" occurs twice"));
  testing::WriteText(Path("config.json"), R"({"rope_scaling":{"factor":2,"factor":4},)" + config.substr(1));
  EXPECT_THAT(Error(), HasSubstr("member \"factor\" occurs twice"));
  Write();
  for (const char* name : {"quantize_config.json", "tokenizer_config.json", "generation_config.json"}) {
    testing::WriteText(Path(name), R"({"bits":4,"bits":8})");
    EXPECT_THAT(Error(), HasSubstr(std::string(name) + ": member \"bits\" occurs twice"));
    std::filesystem::remove(Path(name));
  }
  WriteShards();
  std::string index;
  std::getline(std::ifstream(Path("model.safetensors.index.json")), index);
  testing::WriteText(Path("model.safetensors.index.json"), R"({"weight_map":{},)" + index.substr(1));
  EXPECT_THAT(Error(), HasSubstr("weight_map occurs twice"));
  const std::string entry = R"("lm_head.weight":"model-00002-of-00002.safetensors",)";
  testing::WriteText(Path("model.safetensors.index.json"), R"({"weight_map":{)" + entry + index.substr(index.find('{', 1) + 1));
  EXPECT_THAT(Error(), HasSubstr("weight_map names tensor lm_head.weight twice"));
}

// What the publisher's code takes for what config.json leaves out; null is no absence.
TEST_F(Folder, DefaultsAreThePublishers) {
  const auto windows = [&](const std::function<void(Json&)>& change) {
    Json config = description_["config"];
    change(config);
    testing::WriteCheckpoint(folder_.Path("model"), config, tensors_);
    Result<ModelFile> file = OpenModel(*files_, folder_.Path("model"));
    EXPECT_TRUE(file.ok());
    return OutlineModel(*file, **ChooseKernels("ref"))->program.kv_layers[0].window;
  };
  description_ = Describe("mistral");
  tensors_ = testing::ValuesOf(description_);
  EXPECT_EQ(windows([](Json& config) { config.erase("sliding_window"); }), 4096u);
  EXPECT_EQ(windows([](Json& config) { config["sliding_window"] = nullptr; }), 0u);
  description_ = Describe("qwen2");
  tensors_ = testing::ValuesOf(description_);
  EXPECT_EQ(windows([](Json& config) { config["max_window_layers"] = 0; }), 0u) << "not switched on";
  EXPECT_EQ(windows([](Json& config) { config["use_sliding_window"] = true; }), 0u) << "from layer 2 on, of 2";
  EXPECT_EQ(windows([](Json& config) { config["use_sliding_window"] = true, config["max_window_layers"] = 0; }), 64u);
  const auto refusal = [&](const std::string& name, const std::function<void(Json&)>& change) {
    description_ = Describe(name);
    config_ = description_["config"];
    tensors_ = testing::ValuesOf(description_);
    change(config_);
    Write();
    return Error();
  };
  EXPECT_THAT(refusal("llama", [](Json& config) { config.erase("rms_norm_eps"); }), HasSubstr("config.json: rms_norm_eps (of LayerNorm"));
  EXPECT_THAT(refusal("llama", [](Json& config) { config.erase("max_position_embeddings"); }),
              HasSubstr("max_position_embeddings is missing"));
  const auto sees_later = [&] { return Outline().config.later_tokens; };
  EXPECT_EQ(refusal("gemma3_text", [](Json& config) { config["use_bidirectional_attention"] = true; }), "");
  EXPECT_TRUE(sees_later());
  EXPECT_EQ(refusal("qwen2", [](Json& config) { config["is_causal"] = false; }), "");
  EXPECT_TRUE(sees_later());
  EXPECT_EQ(refusal("qwen2", [](Json& config) { config["is_causal"] = true; }), "");
  EXPECT_FALSE(sees_later());
  EXPECT_THAT(refusal("gemma2", [](Json& config) { config["query_pre_attn_scalar"] = 64; }), HasSubstr("query_pre_attn_scalar 64"));
  EXPECT_THAT(refusal("gemma2", [](Json& config) { config["attn_logit_softcapping"] = nullptr; }),
              HasSubstr("attn_logit_softcapping null"));
  EXPECT_THAT(refusal("mpt", [](Json& config) { config["attn_config"] = {{"rope", true}}; }), HasSubstr("attn_config.rope"));
  EXPECT_EQ(refusal("mpt", [](Json& config) { config.erase("attn_config"); }), "");
}

// Options of any family: block-sparse attention by the members of Phi 3 small, and layers that share weights.
TEST_F(Folder, LayerOptions) {
  config_["blocksparse_block_size"] = 32;
  config_["blocksparse_num_local_blocks"] = 4;
  config_["blocksparse_vert_stride"] = 8;
  Write();
  EXPECT_THAT(Error(), HasSubstr("blocksparse_homo_head_pattern false"));
  config_["blocksparse_homo_head_pattern"] = true;
  config_["dense_attention_every_n_layers"] = 2;
  config_["layer_weights"] = {0, 0};
  std::erase_if(tensors_, [](const auto& entry) { return entry.first.find("layers.1.") != std::string::npos; });
  Write();
  Result<ModelFile> file = OpenModel(*files_, folder_.Path("model"));
  ASSERT_TRUE(file.ok()) << file.error().message();
  const auto outline = OutlineModel(*file, **ChooseKernels("ref"));
  ASSERT_TRUE(outline.ok()) << outline.error().message();
  EXPECT_EQ(outline->program.kv_layers[0].sparse, (BlockSparse{32, 4, 8}));
  EXPECT_EQ(outline->program.kv_layers[1].sparse, BlockSparse{});
  for (Json wrong : {Json("all"), Json::array({0, -1}), Json::array({0, 1.5}), Json::array()}) {
    config_["layer_weights"] = wrong;
    Write();
    EXPECT_THAT(Error(), HasSubstr("expected a list of at most 512 layers"));
  }
  config_["layer_weights"] = {0};
  Write();
  EXPECT_THAT(Error(), HasSubstr("layer_weights"));
}

TEST_F(Folder, WindowsTurnByABaseOfTheirOwn) {
  description_ = Describe("gemma3_text");
  tensors_ = testing::ValuesOf(description_);
  config_ = description_["config"];
  const auto base = [&] {
    Write();
    Result<ModelFile> file = OpenModel(*files_, folder_.Path("model"));
    EXPECT_TRUE(file.ok());
    return *file->metadata.Number("gemma3.rope.freq_base_swa").value();
  };
  config_["rope_local_base_freq"] = 30000.0;
  EXPECT_EQ(base(), 30000);
  config_.erase("rope_local_base_freq");
  EXPECT_EQ(base(), 10000);
  config_["rope_parameters"] = {{"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 20000.0}}},
                                {"full_attention", {{"rope_type", "default"}, {"rope_theta", 1000000.0}}}};
  EXPECT_EQ(base(), 20000);
}

TEST_F(Folder, MinistralsLayersSeeAWindowOrEverything) {
  config_["model_type"] = "ministral";
  config_["sliding_window"] = 16;
  config_["layer_types"] = {"sliding_attention", "full_attention"};
  Write();
  Result<ModelFile> file = OpenModel(*files_, folder_.Path("model"));
  ASSERT_TRUE(file.ok()) << file.error().message();
  const auto outline = OutlineModel(*file, **ChooseKernels("ref"));
  ASSERT_TRUE(outline.ok()) << outline.error().message();
  EXPECT_EQ(outline->program.kv_layers[0].window, 16u);
  EXPECT_EQ(outline->program.kv_layers[1].window, 0u);
}

TEST_F(Folder, ScalingThatDoesNotSayHow) {
  for (const Json& scaling : {Json(5), Json::array(), Json({{"rope_type", 7}}), Json({{"factor", 2}})}) {
    config_["rope_scaling"] = scaling;
    Write();
    EXPECT_THAT(Error(), HasSubstr("expected an object with a rope_type that says how")) << scaling.dump();
  }
  config_["rope_scaling"] = {{"rope_type", "llama3"}, {"factor", 8}};
  Write();
  EXPECT_THAT(Error(), HasSubstr("rope_scaling of type llama3 needs original_max_position_embeddings"));
}

// Both spellings of the same scaling.
TEST_F(Folder, ScalingByEitherName) {
  description_ = Describe("hunyuan_v1_dense");
  tensors_ = testing::ValuesOf(description_);
  config_ = description_["config"];
  double bases[2];
  for (const size_t spelling : {0, 1}) {
    config_.erase("rope_scaling");
    config_[spelling == 0 ? "rope_scaling" : "rope_parameters"] = {
        {"rope_type", "dynamic"}, {"alpha", 1000.0}, {"factor", 1.0}, {"rope_theta", 10000.0}};
    Write();
    Result<ModelFile> file = OpenModel(*files_, folder_.Path("model"));
    ASSERT_TRUE(file.ok()) << file.error().message();
    bases[spelling] = OutlineModel(*file, **ChooseKernels("ref"))->program.ropes[0].base;
  }
  EXPECT_EQ(bases[0], bases[1]);
  EXPECT_GT(bases[0], 1e7);
}

// No tree is made of them; where one would be, JSON has a limit of its own.
TEST_F(Folder, ABombOfBrackets) {
  std::string bomb = "[";
  for (size_t i = 0; i < 100'000; ++i) bomb += "[],";
  bomb += "[]]";
  const std::string header = fmt::format(R"({{"__metadata__":{},"x":{{"shape":{},"dtype":"U8"}}}})", bomb, bomb);
  const uint64_t size = header.size();
  Write();
  testing::WriteText(Path("model.safetensors"), std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + header);
  EXPECT_THAT(Error(), HasSubstr("tensor x: shape that is no list of whole numbers"));
  testing::WriteText(Path("model.safetensors.index.json"), fmt::format(R"({{"weight_map":{{"x":{}}}}})", bomb));
  EXPECT_THAT(Error(), HasSubstr("weight_map names no text for tensor x"));
}

// Tokens of a tokenizer.json that the embeddings have no rows for.
TEST_F(Folder, TokensPastTheEmbeddings) {
  const auto write = [&](size_t words) {
    Json vocabulary = Json::object();
    for (size_t i = 0; i < words; ++i) vocabulary[fmt::format("w{}", i)] = i;
    const Json added = {{{"id", words},
                         {"content", "<image>"},
                         {"special", true},
                         {"single_word", false},
                         {"lstrip", false},
                         {"rstrip", false},
                         {"normalized", false}}};
    const Json json = {{"version", "1.0"},
                       {"added_tokens", added},
                       {"normalizer", nullptr},
                       {"pre_tokenizer", nullptr},
                       {"post_processor", nullptr},
                       {"decoder", nullptr},
                       {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}}};
    testing::WriteText(Path("tokenizer.json"), json.dump());
    Result<ModelFile> file = OpenModel(*files_, folder_.Path("model"));
    EXPECT_TRUE(file.ok());
    const auto tokenizer = ReadVocabulary(*file);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().message();
    return tokenizer->size();
  };
  Write();
  EXPECT_EQ(write(39), 40u);
  EXPECT_EQ(write(40), 40u) << "of the picture's token nothing is kept";
  EXPECT_EQ(write(41), 41u) << "words stay, and the model refuses them";
}

TEST_F(Folder, ExpertsAreCounted) {
  description_ = Describe("mixtral");
  config_ = description_["config"];
  tensors_ = testing::ValuesOf(description_);
  tensors_.erase("model.layers.1.block_sparse_moe.experts.2.w1.weight");
  Write();
  EXPECT_THAT(Error(), HasSubstr("tensor blk.1.ffn_gate_exps.weight: number 2 of 4 is missing"));
  tensors_["model.layers.1.block_sparse_moe.experts.4000000000.w1.weight"] = {"F16", {1, 1}, "xx"};
  Write();
  EXPECT_THAT(Error(), HasSubstr("number 4000000000, expected less than 1024"));
}

// Layers with a window see as far as config.json says, though GGUF files of the family name none.
TEST_F(Folder, MistralsWindow) {
  for (const auto& [name, windows] :
       std::map<std::string, std::vector<size_t>>{{"mistral", {16, 16}}, {"mixtral", {0, 0}}, {"phi3", {24, 24}}}) {
    description_ = Describe(name);
    testing::WriteCheckpoint(folder_.Path(name), description_["config"], testing::ValuesOf(description_));
    Result<ModelFile> file = OpenModel(*files_, folder_.Path(name));
    ASSERT_TRUE(file.ok()) << file.error().message();
    const auto outline = OutlineModel(*file, **ChooseKernels("ref"));
    ASSERT_TRUE(outline.ok()) << outline.error().message();
    ASSERT_EQ(outline->program.kv_layers.size(), windows.size());
    for (size_t i = 0; i < windows.size(); ++i) EXPECT_EQ(outline->program.kv_layers[i].window, windows[i]) << name;
  }
}

TEST_F(Folder, RandomDamageNeverCrashes) {
  Write();
  const std::string weights = testing::SafetensorsFile(tensors_);
  const std::string config = config_.dump();
  uint64_t state = 1;
  const auto next = [&state](uint64_t n) {
    state = state * 6364136223846793005 + 1442695040888963407;
    return (state >> 33) % n;
  };
  for (int round = 0; round < 300; ++round) {
    std::string file = weights.substr(0, 4096);
    std::string text = config;
    for (int i = 0; i < 3; ++i) {
      file[next(1u << 31) % file.size()] = static_cast<char>(next(1u << 31));
      text[next(1u << 31) % text.size()] = static_cast<char>(next(1u << 31));
    }
    testing::WriteText(Path("model.safetensors"), file + weights.substr(4096));
    testing::WriteText(Path("config.json"), round % 2 == 0 ? config : text);
    Error();
  }
}

TEST(FolderOfTests, MiniMindSpeaks) {
  const std::string folder = testing::SharedPath("models/minimind2-small");
  SKIP_WITHOUT(folder);
  const auto files = MakeFileSystem();
  Result<ModelFile> file = OpenModel(*files, folder);
  ASSERT_TRUE(file.ok()) << file.error().message();
  const auto tokenizer = ReadVocabulary(*file);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message();
  EXPECT_EQ(tokenizer->size(), 6400u);
  const auto chat = ReadChatTemplate(*file, /*tools=*/false);
  ASSERT_TRUE(chat.ok()) << chat.error().message();
  const std::vector<ChatMessage> messages = {{"user", "hi"}};
  const auto prompt = chat->Render(messages, std::tm{});
  ASSERT_TRUE(prompt.ok()) << prompt.error().message();
  std::string text;
  for (const PromptPiece& piece : *prompt) text += piece.text;
  EXPECT_EQ(text, "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
}

}  // namespace
}  // namespace bantam
