#include "model/adapter/peft_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"

namespace bantam {
namespace {

using ::testing::HasSubstr;

// As PEFT 0.17 writes it, with all that it names.
Json Written() {
  return Json::parse(
      R"({"alpha_pattern": {}, "auto_mapping": null, "base_model_name_or_path": "some/model", "bias": "none", "corda_config": null,
          "eva_config": null, "exclude_modules": null, "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true,
          "layer_replication": null, "layers_pattern": null, "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 32,
          "lora_bias": false, "lora_dropout": 0.05, "megatron_config": null, "megatron_core": "megatron.core", "modules_to_save": null,
          "peft_type": "LORA", "qalora_group_size": 16, "r": 8, "rank_pattern": {}, "revision": null,
          "target_modules": ["q_proj", "v_proj"],
          "target_parameters": null, "task_type": "CAUSAL_LM", "trainable_token_indices": null, "use_dora": false, "use_qalora": false,
          "use_rslora": false})");
}

std::string Refusal(const Json& json) {
  const auto config = ReadPeftConfig(json.dump());
  return config.ok() ? "accepted" : config.error().message();
}

TEST(PeftConfig, ReadsWhatPeftWrites) {
  const PeftConfig config = ReadPeftConfig(Written().dump()).value();
  EXPECT_EQ(config.rank, 8u);
  EXPECT_EQ(config.alpha, 32);
  EXPECT_FALSE(config.root_of_rank);
  EXPECT_EQ(config.RankOf("model.layers.0.self_attn.q_proj"), 8u);
}

// Names as PEFT matches them: re.match("(.*\.)?(KEY)$", module), the first that fits.
TEST(PeftConfig, PatternsAreNamesOrEndsOfThem) {
  Json json = Written();
  json["rank_pattern"] = {{"layers.0.self_attn.q_proj", 4}, {"q_proj", 16}, {"^lm_head", 2}};
  json["alpha_pattern"] = {{"k_proj", 7.5}};
  const PeftConfig config = ReadPeftConfig(json.dump()).value();
  EXPECT_EQ(config.RankOf("model.layers.0.self_attn.q_proj"), 4u);
  EXPECT_EQ(config.RankOf("model.layers.10.self_attn.q_proj"), 16u);
  EXPECT_EQ(config.RankOf("model.layers.1.self_attn.xq_proj"), 8u);
  EXPECT_EQ(config.RankOf("lm_head"), 2u);
  EXPECT_EQ(config.RankOf("model.lm_head"), 8u);
  EXPECT_EQ(config.AlphaOf("model.layers.1.self_attn.k_proj"), 7.5);
  EXPECT_EQ(config.AlphaOf("model.layers.1.self_attn.q_proj"), 32);
}

TEST(PeftConfig, RefusesByName) {
  const struct {
    const char* member;
    Json value;
    const char* said;
  } cases[] = {
      {"peft_type", "LOHA", "peft_type: \"LOHA\": adapters other than LORA"},
      {"peft_type", nullptr, "peft_type"},
      {"use_dora", true, "use_dora: true: weights that are taken apart (DoRA)"},
      {"use_qalora", true, "use_qalora"},
      {"bias", "all", "bias: \"all\""},
      {"lora_bias", true, "lora_bias"},
      {"modules_to_save", {"lm_head"}, "modules_to_save: [\"lm_head\"]"},
      {"layer_replication", {{0, 1}}, "layer_replication"},
      {"target_parameters", {"experts.gate_up_proj"}, "target_parameters"},
      {"trainable_token_indices", {1, 2}, "trainable_token_indices"},
      {"alora_invocation_tokens", {5}, "alora_invocation_tokens"},
      {"init_lora_weights", "pissa_niter_16", "init_lora_weights: \"pissa_niter_16\": beginnings that change the base model"},
      {"a_new_thing", 3, "a_new_thing: 3: this build does not know the member"},
      {"r", 0, "r: 0: expected a number from 1 to 512"},
      {"r", 513, "r: 513"},
      {"r", "8", "r: \"8\""},
      {"lora_alpha", nullptr, "lora_alpha"},
      {"lora_alpha", 1e9, "lora_alpha"},
      {"use_rslora", 1, "use_rslora: 1"},
      {"rank_pattern", {{".*q_proj", 4}}, "regular expressions"},
      {"rank_pattern", {{"q_proj", 4000}}, "rank_pattern: 4000"},
      {"alpha_pattern", 3, "alpha_pattern: 3"},
  };
  for (const auto& one : cases) {
    Json json = Written();
    json[one.member] = one.value;
    EXPECT_THAT(Refusal(json), HasSubstr(one.said));
  }
  EXPECT_THAT(Refusal(Json::array()), HasSubstr("expected an object"));
  EXPECT_FALSE(ReadPeftConfig(R"({"r": 1, "r": 2})").ok());
}

}  // namespace
}  // namespace bantam
