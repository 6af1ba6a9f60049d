#include "testing/tiny_model.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "base/check.h"
#include "tensor/half.h"

namespace bantam::testing {
namespace {

// Where a block keeps its f16 scales, and how large a typical code times its sub-scale is.
struct ScalePlace {
  DType dtype;
  size_t d;
  int dmin;  // -1: none
  float typical_code;
};
constexpr ScalePlace kScalePlaces[] = {
    {DType::kQ8_0, 0, -1, 74},
    {DType::kQ4_0, 0, -1, 4.6f},
    {DType::kQ4_K, 0, 2, 32 * 5.0f},
    {DType::kQ5_K, 0, 2, 32 * 10.0f},
    {DType::kQ6_K, 208, -1, 74 * 18.0f},
    {DType::kQ2_K, 80, 82, 8 * 1.5f},
    {DType::kIQ2_XXS, 0, -1, 60},
    {DType::kQ4_1, 0, 2, 4.6f},
    {DType::kQ5_0, 0, -1, 9.2f},
    {DType::kQ5_1, 0, 2, 9.2f},
    {DType::kQ3_K, 108, -1, 18 * 2.3f},
    {DType::kIQ2_XS, 0, -1, 60},
    {DType::kIQ2_S, 0, -1, 60},
    {DType::kIQ3_XXS, 0, -1, 140},
    {DType::kIQ3_S, 0, -1, 140},
    {DType::kIQ1_S, 0, -1, 7},
    {DType::kIQ4_NL, 0, -1, 70},
    {DType::kIQ4_XS, 0, -1, 18 * 70},
    {DType::kTQ1_0, 52, -1, 0.8f},
    {DType::kTQ2_0, 64, -1, 0.8f},
    {DType::kQ1_0, 0, -1, 1},
    {DType::kQ2_0, 0, -1, 1.2f},
    {DType::kNF4, 0, -1, 45},
    {DType::kInt3, 0, -1, 2.3f},
    {DType::kInt3M, 0, 2, 2.3f},
};

// Formats whose scales are no f16 of their own: sets block `block` to about `d` for codes of magnitude 1.
bool PutOtherScale(DType dtype, uint8_t* block, float d) {
  const int exponent = std::ilogb(d);
  if (dtype == DType::kMXFP4) {
    block[0] = static_cast<uint8_t>(128 + exponent - 2);
    return true;
  }
  if (dtype == DType::kNVFP4) {
    for (size_t s = 0; s < 4; ++s) block[s] = static_cast<uint8_t>(block[s] % 8 + (exponent < -8 ? 0 : 8 * (exponent + 8 - 2)) % 120);
    return true;
  }
  if (dtype == DType::kIQ1_M) {
    const uint16_t half = F32ToF16(d / 7);
    for (size_t w = 0; w < 4; ++w) block[49 + 2 * w] = static_cast<uint8_t>((block[49 + 2 * w] & 0x0f) | ((half >> (4 * w) & 15) << 4));
    return true;
  }
  return false;
}

void PutHalf(std::string* bytes, size_t at, float value) {
  const uint16_t half = F32ToF16(value);
  std::memcpy(bytes->data() + at, &half, 2);
}

std::string RandomFloats(DType dtype, size_t elements, float scale, Rng& rng) {
  std::string bytes(elements * Info(dtype).block_bytes, '\0');
  for (size_t i = 0; i < elements; ++i) {
    const float value = static_cast<float>(rng.Uniform() * 2 - 1) * 1.7f * scale;  // unit variance times scale
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (dtype == DType::kBF16) bits >>= 16;
    if (dtype == DType::kF16) bits = F32ToF16(value);
    std::memcpy(bytes.data() + i * Info(dtype).block_bytes, &bits, Info(dtype).block_bytes);
  }
  return bytes;
}

// Per head, rows 0, 2, 4, ... and then 1, 3, 5, ...: pairs of neighbours become pairs half a head apart.
std::string SplitHalves(const std::string& rows, size_t row_bytes, size_t head_dim) {
  std::string split;
  for (size_t head = 0; head < rows.size(); head += head_dim * row_bytes) {
    for (size_t i = 0; i < head_dim; ++i) {
      const size_t from = i < head_dim / 2 ? 2 * i : 2 * (i - head_dim / 2) + 1;
      split += rows.substr(head + from * row_bytes, row_bytes);
    }
  }
  return split;
}

constexpr uint32_t kTinyGroups = 2;
constexpr uint32_t kTinyState = 32;
constexpr uint32_t kTinyTaps = 4;

// The state spaces' keys, and heads that only every second layer has.
void AddHybridKeys(GgufBuilder& builder, const TinyModel& model) {
  std::vector<int32_t> heads, kv_heads;
  for (uint32_t layer = 0; layer < model.layers; ++layer) {
    heads.push_back(layer % 2 == 0 ? 0 : static_cast<int32_t>(model.heads));
    kv_heads.push_back(layer % 2 == 0 ? 0 : static_cast<int32_t>(model.kv_heads));
  }
  builder.I32s("granitehybrid.attention.head_count", heads).I32s("granitehybrid.attention.head_count_kv", kv_heads);
  builder.U32("granitehybrid.ssm.inner_size", 2 * model.width).U32("granitehybrid.ssm.time_step_rank", model.heads);
  builder.U32("granitehybrid.ssm.state_size", kTinyState).U32("granitehybrid.ssm.conv_kernel", kTinyTaps);
  builder.U32("granitehybrid.ssm.group_count", kTinyGroups);
}

}  // namespace

std::string RandomBlocks(DType dtype, size_t elements, size_t columns, Rng& rng) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(columns));
  const DTypeInfo& info = Info(dtype);
  if (info.decode == nullptr) return RandomFloats(dtype, elements, scale, rng);
  std::string bytes(RowBytes(dtype, elements), '\0');
  for (char& byte : bytes) byte = static_cast<char>(rng.Next());
  const auto random_scale = [&] { return scale * static_cast<float>(0.5 + rng.Uniform()); };
  for (const ScalePlace& place : kScalePlaces) {
    if (place.dtype != dtype) continue;
    for (size_t block = 0; block < bytes.size(); block += info.block_bytes) {
      const float d = random_scale() / place.typical_code;
      PutHalf(&bytes, block + place.d, d);
      if (place.dmin >= 0) PutHalf(&bytes, block + static_cast<size_t>(place.dmin), d * place.typical_code / 40);
    }
    return bytes;
  }
  for (size_t block = 0; block < bytes.size(); block += info.block_bytes) {
    CHECK(PutOtherScale(dtype, reinterpret_cast<uint8_t*>(bytes.data()) + block, random_scale()));
  }
  return bytes;
}

void AddTinyVocabulary(GgufBuilder& builder, uint32_t size) {
  CHECK(size >= 300);
  std::vector<std::string> texts = {"<unk>", "<s>", "</s>"};
  std::vector<float> scores = {0, 0, 0};
  std::vector<int32_t> types = {2, 3, 3};
  for (int byte = 0; byte < 256; ++byte) {
    texts.push_back(fmt::format("<0x{:02X}>", byte));
    types.push_back(6);
  }
  while (texts.size() < size) {
    const size_t i = texts.size() - 259;
    texts.push_back(i == 0 ? "\xe2\x96\x81" : i <= 26 ? std::string(1, static_cast<char>('a' + i - 1)) : fmt::format("piece{}", i));
    types.push_back(1);
  }
  for (size_t i = 3; i < size; ++i) scores.push_back(-static_cast<float>(i));
  builder.Text("tokenizer.ggml.model", "llama").Texts("tokenizer.ggml.tokens", texts).F32s("tokenizer.ggml.scores", scores);
  builder.I32s("tokenizer.ggml.token_type", types);
  builder.U32("tokenizer.ggml.bos_token_id", 1).U32("tokenizer.ggml.eos_token_id", 2).U32("tokenizer.ggml.unknown_token_id", 0);
}

GgufBuilder BuildTinyModel(const TinyModel& model) {
  Rng rng(model.seed);
  GgufBuilder builder;
  const std::string family = model.hybrid ? "granitehybrid." : "llama.";
  builder.Text("general.architecture", family.substr(0, family.size() - 1));
  const bool shared = !model.layer_weights.empty();
  if (shared) builder.I32s(family + "layer_weights", model.layer_weights);
  builder.U32(family + "block_count", shared ? static_cast<uint32_t>(model.layer_weights.size()) : model.layers)
      .U32(family + "embedding_length", model.width);
  builder.U32(family + "context_length", model.context).U32(family + "feed_forward_length", model.feed_forward);
  if (model.hybrid) {
    AddHybridKeys(builder, model);
  } else {
    builder.U32("llama.attention.head_count", model.heads).U32("llama.attention.head_count_kv", model.kv_heads);
  }
  builder.F32(family + "attention.layer_norm_rms_epsilon", 1e-5f);
  builder.U32(family + "expert_count", model.experts).U32(family + "expert_used_count", model.experts_used);
  AddTinyVocabulary(builder, model.vocabulary);

  // Numbers around one, at most half of `spread` away.
  const auto vectors = [&](const std::string& name, const std::vector<uint64_t>& dimensions, float around, float spread) {
    std::string bytes;
    uint64_t elements = 1;
    for (const uint64_t dimension : dimensions) elements *= dimension;
    for (uint64_t i = 0; i < elements; ++i) {
      const float value = around + spread * static_cast<float>(rng.Uniform() - 0.5);
      char raw[4];
      std::memcpy(raw, &value, 4);
      bytes.append(raw, 4);
    }
    builder.Add({name, dimensions, 0, bytes});
  };
  const auto vector = [&](const std::string& name, uint64_t width, float around) { vectors(name, {width}, around, 0.1f); };
  const auto matrix = [&](const std::string& prefix, uint64_t columns, uint64_t rows, uint64_t matrices) {
    std::vector<uint64_t> dimensions = {columns, rows};
    if (matrices > 1) dimensions.push_back(matrices);
    std::string bytes = RandomBlocks(model.matrices, columns * rows * matrices, columns, rng);
    if (model.halves && (prefix.ends_with("attn_q") || prefix.ends_with("attn_k"))) {
      bytes = SplitHalves(bytes, RowBytes(model.matrices, columns), model.width / model.heads);
    }
    builder.Add({prefix + ".weight", dimensions, Info(model.matrices).gguf_id, std::move(bytes)});
    if (model.biases && matrices == 1 && prefix.starts_with("blk.")) vector(prefix + ".bias", rows, 0);
  };
  matrix("token_embd", model.width, model.vocabulary, 1);
  const uint64_t kv_width = model.width / model.heads * model.kv_heads;
  for (uint32_t layer = 0; layer < model.layers; ++layer) {
    const std::string prefix = fmt::format("blk.{}.", layer);
    vector(prefix + "attn_norm.weight", model.width, 1);
    if (model.hybrid && layer % 2 == 0) {
      const uint64_t inner = 2 * model.width;
      const uint64_t mixed = inner + 2 * kTinyGroups * kTinyState;
      matrix(prefix + "ssm_in", model.width, inner + mixed + model.heads, 1);
      matrix(prefix + "ssm_out", inner, model.width, 1);
      vectors(prefix + "ssm_conv1d.weight", {kTinyTaps, mixed}, 0, 1);
      vectors(prefix + "ssm_conv1d.bias", {mixed}, 0, 1);
      vectors(prefix + "ssm_dt.bias", {model.heads}, 0, 4);
      vectors(prefix + "ssm_a", {1, model.heads}, -1, 1);
      vectors(prefix + "ssm_d", {1, model.heads}, 1, 1);
      vectors(prefix + "ssm_norm.weight", {inner / kTinyGroups, kTinyGroups}, 1, 1);
    } else {
      matrix(prefix + "attn_q", model.width, model.width, 1);
      matrix(prefix + "attn_k", model.width, kv_width, 1);
      matrix(prefix + "attn_v", model.width, kv_width, 1);
      matrix(prefix + "attn_output", model.width, model.width, 1);
    }
    vector(prefix + "ffn_norm.weight", model.width, 1);
    if (model.experts == 0) {
      matrix(prefix + "ffn_gate", model.width, model.feed_forward, 1);
      matrix(prefix + "ffn_up", model.width, model.feed_forward, 1);
      matrix(prefix + "ffn_down", model.feed_forward, model.width, 1);
    } else {
      builder.Add({prefix + "ffn_gate_inp.weight",
                   {model.width, model.experts},
                   0,
                   RandomBlocks(DType::kF32, uint64_t{model.width} * model.experts, model.width, rng)});
      matrix(prefix + "ffn_gate_exps", model.width, model.feed_forward, model.experts);
      matrix(prefix + "ffn_up_exps", model.width, model.feed_forward, model.experts);
      matrix(prefix + "ffn_down_exps", model.feed_forward, model.width, model.experts);
    }
  }
  vector("output_norm.weight", model.width, 1);
  if (!model.tied) matrix("output", model.width, model.vocabulary, 1);
  for (uint32_t layer = 0; model.joined && layer < model.layers; ++layer) {
    for (const char* kind : {".weight", ".bias"}) {
      const auto name = [&](const char* part) { return fmt::format("blk.{}.attn_{}{}", layer, part, kind); };
      builder.Join({name("q"), name("k"), name("v")}, name("qkv"));
    }
  }
  return builder;
}

GgufBuilder BuildTinyAdapter(const TinyModel& model, uint64_t rank, uint64_t seed) {
  GgufBuilder builder;
  builder.Text("general.architecture", model.hybrid ? "granitehybrid" : "llama").Text("general.type", "adapter");
  builder.Text("adapter.type", "lora").F32("adapter.lora.alpha", static_cast<float>(rank));
  Rng rng(seed);
  const auto pair = [&](const std::string& weight, uint64_t columns, uint64_t rows) {
    builder.Add({weight + ".weight.lora_a", {columns, rank}, 0, RandomBlocks(DType::kF32, columns * rank, columns, rng)});
    builder.Add({weight + ".weight.lora_b", {rank, rows}, 0, RandomBlocks(DType::kF32, rows * rank, rank, rng)});
  };
  for (uint32_t layer = 0; layer < model.layers; ++layer) {
    const std::string prefix = fmt::format("blk.{}.", layer);
    if (model.hybrid && layer % 2 == 0) {
      pair(prefix + "ssm_out", uint64_t{2} * model.width, model.width);
    } else {
      pair(prefix + "attn_q", model.width, model.width);
      pair(prefix + "attn_v", model.width, uint64_t{model.width} / model.heads * model.kv_heads);
    }
    if (model.experts > 0) continue;
    pair(prefix + "ffn_up", model.width, model.feed_forward);
    pair(prefix + "ffn_down", model.feed_forward, model.width);
  }
  return builder;
}

}  // namespace bantam::testing
