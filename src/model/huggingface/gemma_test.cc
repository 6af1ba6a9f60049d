// Folders of Gemma 3n and 4, made of the reference models: they compute what the GGUF files compute.
#include "model/huggingface/gemma.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "kernels/ref/ref.h"
#include "model/open.h"
#include "testing/checkpoint.h"
#include "testing/model_runner.h"
#include "testing/paths.h"
#include "testing/reference_logits.h"

namespace bantam {
namespace {

using ::testing::HasSubstr;

// GGUF's names and the publisher's, without "blk.N." and "layers.N.".
const std::map<std::string, std::string> kNames = {
    {"token_embd.weight", "embed_tokens.weight"},
    {"output_norm.weight", "norm.weight"},
    {"per_layer_token_embd.weight", "embed_tokens_per_layer.weight"},
    {"per_layer_model_proj.weight", "per_layer_model_projection.weight"},
    {"per_layer_proj_norm.weight", "per_layer_projection_norm.weight"},
    {"altup_proj.weight", "altup_projections.*.weight"},
    {"altup_unembd_proj.weight", "altup_unembed_projections.*.weight"},
    {"attn_norm.weight", "input_layernorm.weight"},
    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_k.weight", "self_attn.k_proj.weight"},
    {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"attn_q_norm.weight", "self_attn.q_norm.weight"},
    {"attn_k_norm.weight", "self_attn.k_norm.weight"},
    {"post_attention_norm.weight", "post_attention_layernorm.weight"},
    {"ffn_norm.weight", "pre_feedforward_layernorm.weight"},
    {"post_ffw_norm.weight", "post_feedforward_layernorm.weight"},
    {"ffn_gate.weight", "mlp.gate_proj.weight"},
    {"ffn_up.weight", "mlp.up_proj.weight"},
    {"ffn_down.weight", "mlp.down_proj.weight"},
    {"inp_gate.weight", "per_layer_input_gate.weight"},
    {"proj.weight", "per_layer_projection.weight"},
    {"post_norm.weight", "post_per_layer_input_norm.weight"},
    {"altup_correct_coef.weight", "altup.correction_coefs.weight"},
    {"altup_correct_scale.weight", "altup.correct_output_scale"},
    {"altup_predict_coef.weight", "altup.prediction_coefs.weight"},
    {"altup_router.weight", "altup.modality_router.weight"},
    {"altup_router_norm.weight", "altup.router_norm.weight"},
    {"laurel_l.weight", "laurel.linear_left.weight"},
    {"laurel_r.weight", "laurel.linear_right.weight"},
    {"laurel_post_norm.weight", "laurel.post_laurel_norm.weight"},
    {"layer_output_scale.weight", "layer_scalar"},
};

class GemmaFolder : public ::testing::Test {
 protected:
  // What the publisher stores where the GGUF file has this tensor.
  void Store(const TensorInfo& tensor, std::string_view bytes) {
    const std::string name(tensor.name);
    const size_t dot = name.starts_with("blk.") ? name.find('.', 4) + 1 : 0;
    if (name == "rope_freqs.weight") return;
    std::string published = "model.language_model." + (dot == 0 ? "" : "layers." + name.substr(4, dot - 4)) + kNames.at(name.substr(dot));
    std::vector<uint64_t> shape;
    for (size_t d = std::min<size_t>(tensor.n_dimensions, 2); d-- > 0;) shape.push_back(tensor.dimensions[d]);
    const size_t star = published.find('*');
    const size_t size = bytes.size() / tensor.matrices();
    for (size_t i = 0; i < tensor.matrices(); ++i) {
      const std::string one = star == std::string::npos ? published : published.replace(star, 1, std::to_string(i));
      tensors_[one] = {"F32", shape, std::string(bytes.substr(i * size, size))};
    }
  }
  std::vector<float> LogitsOf(const std::string& path) {
    const auto reference = testing::ReadReferenceLogits(testing::DataPath("archs/" + name_ + ".logits"));
    auto runner = testing::ModelRunner::Make(path, {&kernels::kReference}, reference.tokens.size());
    EXPECT_TRUE(runner.ok()) << runner.error().message();
    return runner.ok() ? (*runner)->Logits(reference.tokens) : std::vector<float>();
  }
  std::string Error(const std::function<void(Json&)>& change) {
    Json config = config_;
    change(config);
    testing::WriteCheckpoint(folder_.Path("model"), config, tensors_);
    Result<ModelFile> file = OpenModel(*files_, folder_.Path("model"));
    if (!file.ok()) return file.error().message();
    const auto outline = OutlineModel(*file, kernels::kReference);
    return outline.ok() ? "" : outline.error().message();
  }
  void EqualsTheFile(const std::string& name, Json config) {
    name_ = name;
    const std::string gguf = testing::DataPath("archs/" + name + ".gguf");
    Result<ModelFile> file = OpenModel(*files_, gguf);
    ASSERT_TRUE(file.ok()) << file.error().message();
    for (const TensorInfo& tensor : file->directory.tensors()) {
      const auto bytes = file->source->View(tensor.offset_bytes, tensor.size_bytes);
      ASSERT_TRUE(bytes.ok());
      Store(tensor, {reinterpret_cast<const char*>(bytes->data()), bytes->size()});
    }
    config_ = std::move(config);
    testing::WriteCheckpoint(folder_.Path("model"), config_, tensors_);
    // The deviations of sparse gates are worked out again, to the last place but one.
    EXPECT_LT(testing::Nmse(LogitsOf(folder_.Path("model")), LogitsOf(gguf)), name == "gemma3n" ? 1e-9 : 1e-30);
  }

  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  std::string name_;
  Json config_;
  testing::StoredTensors tensors_;
};

TEST_F(GemmaFolder, Gemma3n) {
  EqualsTheFile("gemma3n", Json::parse(R"({"model_type":"gemma3n","text_config":{"model_type":"gemma3n_text","num_hidden_layers":5,
      "hidden_size":16,"num_attention_heads":2,"num_key_value_heads":1,"head_dim":8,"intermediate_size":[24,24,24,24,24],"vocab_size":48,
      "max_position_embeddings":256,"rms_norm_eps":1e-6,"rope_theta":1000000,"rope_local_base_freq":10000,"sliding_window":8,
      "layer_types":["sliding_attention","sliding_attention","full_attention","sliding_attention","full_attention"],
      "hidden_activation":"gelu_pytorch_tanh","final_logit_softcapping":30,"hidden_size_per_layer_input":8,"num_kv_shared_layers":2,
      "altup_num_inputs":4,"altup_active_idx":0,"activation_sparsity_pattern":[0.95,0.95,0,0,0]}})"));
  EXPECT_THAT(Error([](Json& c) { c["text_config"]["intermediate_size"] = {24, 24}; }), HasSubstr("for each of 5 layers"));
  EXPECT_THAT(Error([](Json& c) { c["text_config"]["activation_sparsity_pattern"] = {0.95, 1}; }), HasSubstr("from 0 to below 1"));
  EXPECT_THAT(Error([](Json& c) { c["text_config"]["layer_types"][1] = "linear_attention"; }), HasSubstr("a layer of type"));
  EXPECT_THAT(Error([](Json& c) { c["text_config"]["num_kv_shared_layers"] = 4; }), HasSubstr("attention.shared_kv_layers"));
  EXPECT_THAT(Error([](Json& c) { c["text_config"]["num_kv_shared_layers"] = 3; }), HasSubstr("which it attends to"));
}

TEST_F(GemmaFolder, Gemma4) {
  EqualsTheFile("gemma4", Json::parse(R"({"model_type":"gemma4","text_config":{"model_type":"gemma4_text","num_hidden_layers":5,
      "hidden_size":16,"num_attention_heads":2,"num_key_value_heads":1,"head_dim":8,"global_head_dim":16,"intermediate_size":20,
      "vocab_size":48,"max_position_embeddings":256,"rms_norm_eps":1e-6,"sliding_window":8,"use_double_wide_mlp":true,
      "rope_parameters":{"full_attention":{"rope_type":"proportional","partial_rotary_factor":0.25,"rope_theta":1000000},
                         "sliding_attention":{"rope_type":"default","rope_theta":10000}},
      "layer_types":["sliding_attention","sliding_attention","full_attention","sliding_attention","full_attention"],
      "hidden_activation":"gelu_pytorch_tanh","final_logit_softcapping":30,"hidden_size_per_layer_input":8,"num_kv_shared_layers":2,
      "enable_moe_block":false}})"));
  EXPECT_THAT(Error([](Json& c) { c["text_config"]["enable_moe_block"] = true; }), HasSubstr("enable_moe_block"));
  EXPECT_THAT(Error([](Json& c) { c["text_config"].erase("global_head_dim"); }), HasSubstr("global_head_dim"));
}

}  // namespace
}  // namespace bantam
