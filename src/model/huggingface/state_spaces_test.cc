// Folders of state spaces, made of GGUF files: they compute what the files compute.
#include "model/huggingface/state_spaces.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "kernels/ref/ref.h"
#include "model/open.h"
#include "testing/checkpoint.h"
#include "testing/model_runner.h"
#include "testing/paths.h"
#include "testing/reference_logits.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

using ::testing::HasSubstr;

// GGUF's names of a layer and the publisher's; "mixer" is "mamba" in Granite.
const std::map<std::string, std::string> kNames = {
    {"attn_norm.weight", "input_layernorm.weight"},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_k.weight", "self_attn.k_proj.weight"},
    {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"ssm_in.weight", "mixer.in_proj.weight"},
    {"ssm_out.weight", "mixer.out_proj.weight"},
    {"ssm_conv1d.weight", "mixer.conv1d.weight"},
    {"ssm_conv1d.bias", "mixer.conv1d.bias"},
    {"ssm_dt.bias", "mixer.dt_bias"},
    {"ssm_a", "mixer.A_log"},
    {"ssm_d", "mixer.D"},
    {"ssm_norm.weight", "mixer.norm.weight"},
    {"ffn_gate.weight", "shared_mlp.input_linear.weight"},
    {"ffn_up.weight", "shared_mlp.input_linear.weight"},
    {"ffn_down.weight", "shared_mlp.output_linear.weight"},
};

class StateSpaceFolder : public ::testing::Test {
 protected:
  std::vector<float> LogitsOf(const std::string& path) {
    std::vector<uint32_t> tokens;
    for (uint32_t i = 0; i < 40; ++i) tokens.push_back(i * 37 % 120);
    auto runner = testing::ModelRunner::Make(path, {&kernels::kReference}, tokens.size());
    EXPECT_TRUE(runner.ok()) << runner.error().message();
    return runner.ok() ? (*runner)->Logits(tokens) : std::vector<float>();
  }
  // Stores the tensors of a file as the publisher has them.
  void Take(const std::string& path, const std::string& mixer) {
    const Result<ModelFile> file = OpenModel(*files_, path);
    ASSERT_TRUE(file.ok()) << file.error().message();
    for (const TensorInfo& tensor : file->directory.tensors()) {
      const auto bytes = file->source->View(tensor.offset_bytes, tensor.size_bytes);
      ASSERT_TRUE(bytes.ok());
      const std::string name(tensor.name);
      std::string published = name == "token_embd.weight" ? "embed_tokens.weight" : name == "output_norm.weight" ? "norm.weight" : "";
      if (mixer == "mixer" && name == "token_embd.weight") published = "embeddings.weight";
      if (mixer == "mixer" && name == "output_norm.weight") published = "norm_f.weight";
      if (name == "output.weight") published = "lm_head.weight";
      if (const size_t dot = name.find('.', 4); published.empty()) {
        std::string own = kNames.at(name.substr(dot + 1));
        if (mixer == "mixer" && name.ends_with("attn_norm.weight")) own = "norm.weight";
        if (own.starts_with("mixer.")) own = mixer + own.substr(5);
        published = "layers." + name.substr(4, dot - 4) + "." + own;
      }
      Store(tensor, published, {reinterpret_cast<const char*>(bytes->data()), bytes->size()});
    }
  }
  void Store(const TensorInfo& tensor, const std::string& published, std::string bytes) {
    std::vector<uint64_t> shape = {tensor.rows(), tensor.columns()};
    if (tensor.n_dimensions == 1 || published.ends_with("D")) shape = {tensor.elements()};
    if (published.ends_with("conv1d.weight")) shape = {tensor.rows(), 1, tensor.columns()};
    if (published.ends_with("A_log")) {
      shape = {tensor.elements()};
      for (size_t i = 0; i < bytes.size(); i += 4) {
        float value;
        std::memcpy(&value, bytes.data() + i, 4);
        value = std::log(-value);
        std::memcpy(bytes.data() + i, &value, 4);
      }
    }
    if (published.ends_with("norm.weight")) shape = {tensor.elements()};
    testing::StoredTensor& stored = tensors_[(published == "lm_head.weight" ? "" : "model.") + published];
    if (!stored.bytes.empty()) shape[0] += stored.shape[0];  // gate and up in one
    stored = {"F32", shape, stored.bytes + bytes};
  }
  void Write(const Json& config) { testing::WriteCheckpoint(folder_.Path("model"), config, tensors_); }
  std::string Error(const Json& config) {
    Write(config);
    Result<ModelFile> file = OpenModel(*files_, folder_.Path("model"));
    if (!file.ok()) return file.error().message();
    const auto outline = OutlineModel(*file, kernels::kReference);
    return outline.ok() ? "" : outline.error().message();
  }

  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  testing::StoredTensors tensors_;
};

TEST_F(StateSpaceFolder, GraniteHybrid) {
  testing::TinyModel tiny = {.width = 64, .heads = 4, .kv_heads = 2, .feed_forward = 96, .hybrid = true};
  testing::BuildTinyModel(tiny).Write(folder_.Path("pairs.gguf"));
  tiny.halves = true;  // rows of queries and keys as the publisher has them
  testing::BuildTinyModel(tiny).Write(folder_.Path("halves.gguf"));
  Take(folder_.Path("halves.gguf"), "mamba");
  Json config = Json::parse(R"({"model_type":"granitemoehybrid","num_hidden_layers":2,"hidden_size":64,"num_attention_heads":4,
      "num_key_value_heads":2,"intermediate_size":96,"shared_intermediate_size":96,"num_local_experts":0,"num_experts_per_tok":0,
      "vocab_size":300,"max_position_embeddings":512,"rms_norm_eps":1e-5,"rope_theta":10000,"position_embedding_type":"rope",
      "hidden_act":"silu","layer_types":["mamba","attention"],"mamba_n_heads":4,"mamba_d_state":32,"mamba_n_groups":2,"mamba_d_conv":4,
      "mamba_expand":2,"tie_word_embeddings":false,"attention_multiplier":0.25,"embedding_multiplier":1,"residual_multiplier":1,
      "logits_scaling":1})");
  Write(config);
  // Decays were stored as logarithms.
  const auto of_file = LogitsOf(folder_.Path("pairs.gguf"));
  EXPECT_LT(testing::Nmse(LogitsOf(folder_.Path("model")), of_file), 1e-10);
  config["position_embedding_type"] = "nope";
  Write(config);
  EXPECT_GT(testing::Nmse(LogitsOf(folder_.Path("model")), of_file), 1e-6);
  config["layer_types"] = {"mamba", "recurrent"};
  EXPECT_THAT(Error(config), HasSubstr("a layer of type \"recurrent\" is not supported"));
  config["layer_types"] = {"mamba"};
  EXPECT_THAT(Error(config), HasSubstr("expected the kinds of 2 layers"));
  config["layer_types"] = {"mamba", "attention"};
  config.erase("mamba_d_state");
  EXPECT_THAT(Error(config), HasSubstr("mamba_d_state is missing"));
}

// The layers of state spaces of the hybrid, as a model of their own.
TEST_F(StateSpaceFolder, Mamba2) {
  testing::BuildTinyModel({.layers = 1, .width = 64, .heads = 4, .feed_forward = 96, .hybrid = true}).Write(folder_.Path("hybrid.gguf"));
  const Result<ModelFile> hybrid = OpenModel(*files_, folder_.Path("hybrid.gguf"));
  ASSERT_TRUE(hybrid.ok());
  testing::GgufBuilder builder;
  builder.Text("general.architecture", "mamba2").U32("mamba2.block_count", 1).U32("mamba2.embedding_length", 64);
  builder.U32("mamba2.context_length", 1 << 20).F32("mamba2.attention.layer_norm_rms_epsilon", 1e-5f);
  for (const char* key : {"inner_size", "time_step_rank", "state_size", "conv_kernel", "group_count"}) {
    builder.U32(std::string("mamba2.ssm.") + key, *hybrid->metadata.U32(std::string("granitehybrid.ssm.") + key).value());
  }
  for (const TensorInfo& tensor : hybrid->directory.tensors()) {
    if (tensor.name.find("ffn_") != std::string_view::npos) continue;
    const auto bytes = hybrid->source->View(tensor.offset_bytes, tensor.size_bytes);
    ASSERT_TRUE(bytes.ok());
    builder.Add({std::string(tensor.name),
                 {tensor.dimensions, tensor.dimensions + tensor.n_dimensions},
                 0,
                 {reinterpret_cast<const char*>(bytes->data()), bytes->size()}});
  }
  builder.Write(folder_.Path("mamba2.gguf"));
  Take(folder_.Path("mamba2.gguf"), "mixer");
  Write(Json::parse(R"({"model_type":"mamba2","num_hidden_layers":1,"hidden_size":64,"expand":2,"num_heads":4,"head_dim":32,
      "state_size":32,"n_groups":2,"conv_kernel":4,"layer_norm_epsilon":1e-5,"hidden_act":"silu","tie_word_embeddings":false,
      "vocab_size":300})"));
  EXPECT_LT(testing::Nmse(LogitsOf(folder_.Path("model")), LogitsOf(folder_.Path("mamba2.gguf"))), 1e-10);
}

}  // namespace
}  // namespace bantam
