// Writes a GGUF file of a published model's shape with weights drawn at random: what speed depends on, without the download.
// Both Bantam and llama.cpp run it. Formats are mixed over the tensors as llama.cpp's quantizer mixes them.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/rng.h"
#include "formats/gguf_writer.h"
#include "tensor/dtype.h"

namespace bantam {
namespace {

struct Shape {
  std::string_view name;
  uint32_t width;
  uint32_t layers;
  uint32_t heads;
  uint32_t kv_heads;
  uint32_t head_size;
  uint32_t feed_forward;
  uint32_t vocabulary;
  bool tied;  // logits come from the embeddings
  bool bias;  // of queries, keys and values
};
constexpr Shape kShapes[] = {
    {"stories15m", 288, 6, 6, 6, 48, 768, 32000, true, false},         {"smollm2-135m", 576, 30, 9, 3, 64, 1536, 49152, true, false},
    {"qwen2.5-0.5b", 896, 24, 14, 2, 64, 4864, 151936, true, true},    {"tinyllama-1.1b", 2048, 22, 32, 4, 64, 5632, 32000, false, false},
    {"llama-3.2-3b", 3072, 28, 24, 8, 128, 8192, 128256, true, false},
};

// A recipe: what most matrices are stored as, and what those that are more sensitive are.
struct Recipe {
  std::string_view name;
  DType most;
  DType output;  // logits, also where the embeddings make them
  DType more;    // values and down projections of some layers
};
constexpr Recipe kRecipes[] = {
    {"f16", DType::kF16, DType::kF16, DType::kF16},         {"bf16", DType::kBF16, DType::kBF16, DType::kBF16},
    {"q8_0", DType::kQ8_0, DType::kQ8_0, DType::kQ8_0},     {"q6_k", DType::kQ6_K, DType::kQ6_K, DType::kQ6_K},
    {"q4_0", DType::kQ4_0, DType::kQ6_K, DType::kQ4_0},     {"q4_k_m", DType::kQ4_K, DType::kQ6_K, DType::kQ6_K},
    {"iq4_nl", DType::kIQ4_NL, DType::kQ6_K, DType::kQ5_K},
};

// Rows that do not divide by 256 take the format of 32 that comes next in size.
DType Fitting(DType dtype, uint64_t columns) {
  if (columns % Info(dtype).block_elements == 0) return dtype;
  return dtype == DType::kQ6_K ? DType::kQ8_0 : dtype == DType::kQ5_K ? DType::kQ5_1 : DType::kQ5_0;
}

bool TakesMore(uint32_t layer, uint32_t layers) { return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2; }

std::vector<GgufTensor> TensorsOf(const Shape& s, const Recipe& recipe) {
  std::vector<GgufTensor> tensors;
  const auto matrix = [&](std::string name, DType dtype, uint64_t columns, uint64_t rows) {
    tensors.push_back({std::move(name), Fitting(dtype, columns), {columns, rows}});
  };
  const auto vector = [&](std::string name, uint64_t size) { tensors.push_back({std::move(name), DType::kF32, {size}}); };
  const uint64_t q = uint64_t{s.heads} * s.head_size;
  const uint64_t kv = uint64_t{s.kv_heads} * s.head_size;
  matrix("token_embd.weight", s.tied ? recipe.output : recipe.most, s.width, s.vocabulary);
  for (uint32_t layer = 0; layer < s.layers; ++layer) {
    const std::string block = fmt::format("blk.{}.", layer);
    const DType more = TakesMore(layer, s.layers) ? recipe.more : recipe.most;
    vector(block + "attn_norm.weight", s.width);
    matrix(block + "attn_q.weight", recipe.most, s.width, q);
    matrix(block + "attn_k.weight", recipe.most, s.width, kv);
    matrix(block + "attn_v.weight", more, s.width, kv);
    if (s.bias) {
      vector(block + "attn_q.bias", q);
      vector(block + "attn_k.bias", kv);
      vector(block + "attn_v.bias", kv);
    }
    matrix(block + "attn_output.weight", recipe.most, q, s.width);
    vector(block + "ffn_norm.weight", s.width);
    matrix(block + "ffn_gate.weight", recipe.most, s.width, s.feed_forward);
    matrix(block + "ffn_up.weight", recipe.most, s.width, s.feed_forward);
    matrix(block + "ffn_down.weight", more, s.feed_forward, s.width);
  }
  vector("output_norm.weight", s.width);
  if (!s.tied) matrix("output.weight", recipe.output, s.width, s.vocabulary);
  return tensors;
}

// SentencePiece's form, which every reader knows: three control tokens, the bytes, and names that nobody writes.
std::vector<std::string> Vocabulary(uint32_t size) {
  std::vector<std::string> texts = {"<unk>", "<s>", "</s>"};
  for (int byte = 0; byte < 256; ++byte) texts.push_back(fmt::format("<0x{:02X}>", byte));
  while (texts.size() < size) texts.push_back(fmt::format("t{}", texts.size()));
  return texts;
}

template <typename T>
MetadataArray ArrayOf(ValueType type, const std::vector<T>& values) {
  return {type, values.size(), std::as_bytes(std::span(values))};
}

// What layers of any family may be (docs/adr/0012).
struct LayerOptions {
  std::vector<uint32_t> sparse;  // block size, local blocks, global stride; or none
  uint32_t shared = 1;           // neighbouring layers that share weights
};

class Maker {
 public:
  Maker(const Shape& shape, const Recipe& recipe, uint64_t seed, LayerOptions options)
      : shape_(shape), recipe_(recipe), rng_(seed), options_(std::move(options)) {}

  Status Write(FileSystem& files, const std::string& path) {
    const auto texts = Vocabulary(shape_.vocabulary);
    const std::vector<std::string_view> views(texts.begin(), texts.end());
    const std::string encoded = EncodeTexts(views);
    std::vector<float> scores(texts.size());
    for (size_t i = 0; i < scores.size(); ++i) scores[i] = -static_cast<float>(i);
    std::vector<int32_t> types(texts.size(), 1);
    types[0] = 2;
    types[1] = types[2] = 3;
    std::fill(types.begin() + 3, types.begin() + 259, 6);
    const std::string name = fmt::format("{} {} of random weights", shape_.name, recipe_.name);
    const auto u32 = [](std::string_view key, uint64_t value) { return MetadataEntry{key, value, ValueType::kU32}; };
    std::vector<MetadataEntry> metadata = {
        {"general.architecture", std::string_view("llama"), ValueType::kString},
        {"general.name", std::string_view(name), ValueType::kString},
        u32("llama.context_length", 32768),
        u32("llama.embedding_length", shape_.width),
        u32("llama.block_count", shape_.layers),
        u32("llama.feed_forward_length", shape_.feed_forward),
        u32("llama.attention.head_count", shape_.heads),
        u32("llama.attention.head_count_kv", shape_.kv_heads),
        u32("llama.rope.dimension_count", shape_.head_size),
        u32("llama.vocab_size", shape_.vocabulary),
        {"llama.attention.layer_norm_rms_epsilon", 1e-5, ValueType::kF32},
        {"tokenizer.ggml.model", std::string_view("llama"), ValueType::kString},
        {"tokenizer.ggml.tokens", MetadataArray{ValueType::kString, texts.size(), std::as_bytes(std::span(encoded))}, ValueType::kString},
        {"tokenizer.ggml.scores", ArrayOf(ValueType::kF32, scores), ValueType::kF32},
        {"tokenizer.ggml.token_type", ArrayOf(ValueType::kI32, types), ValueType::kI32},
        u32("tokenizer.ggml.bos_token_id", 1),
        u32("tokenizer.ggml.eos_token_id", 2),
        u32("tokenizer.ggml.unknown_token_id", 0)};
    const char* sparse[] = {"block_size", "local_blocks", "global_stride"};
    std::vector<std::string> keys;
    for (const char* key : sparse) keys.push_back(fmt::format("llama.attention.block_sparse.{}", key));
    for (size_t i = 0; i < options_.sparse.size(); ++i) metadata.push_back(u32(keys[i], options_.sparse[i]));
    std::vector<int32_t> weights;
    for (uint32_t i = 0; i < shape_.layers; ++i) weights.push_back(static_cast<int32_t>(i - i % options_.shared));
    if (options_.shared > 1) metadata.push_back({"llama.layer_weights", ArrayOf(ValueType::kI32, weights), ValueType::kI32});
    auto tensors = TensorsOf(shape_, recipe_);
    std::erase_if(tensors, [&](const GgufTensor& tensor) {
      uint32_t layer = 0;
      return std::sscanf(tensor.name.c_str(), "blk.%u.", &layer) == 1 && layer % options_.shared != 0;
    });
    BANTAM_ASSIGN(const auto writer, GgufWriter::Make(files, path, metadata, tensors));
    for (const GgufTensor& tensor : tensors) {
      BANTAM_TRY(WriteTensor(tensor, *writer));
    }
    return writer->Commit();
  }

 private:
  // Rows are picked from a few that were drawn and packed: searching for the scales of every row of a large model would take minutes.
  Status WriteTensor(const GgufTensor& tensor, GgufWriter& writer) {
    constexpr size_t kRowsDrawn = 16;
    const uint64_t columns = tensor.dimensions[0];
    const uint64_t rows = tensor.dimensions.size() > 1 ? tensor.dimensions[1] : 1;
    const size_t row_bytes = RowBytes(tensor.dtype, columns);
    const bool norm = tensor.name.ends_with("norm.weight");
    std::vector<std::vector<uint8_t>> drawn(std::min<uint64_t>(rows, kRowsDrawn), std::vector<uint8_t>(row_bytes));
    std::vector<float> values(columns);
    for (auto& row : drawn) {
      for (float& value : values) value = norm ? 1.0f : Normal() / std::sqrt(static_cast<float>(columns));
      BANTAM_TRY(PackRow(tensor.dtype, values, {}, row.data()));
    }
    for (uint64_t row = 0; row < rows; ++row) {
      BANTAM_TRY(writer.Append(std::as_bytes(std::span(drawn[rows == 1 ? 0 : rng_.Next() % drawn.size()]))));
    }
    return Ok();
  }

  // Box and Muller, "A note on the generation of random normal deviates", 1958.
  float Normal() {
    const double radius = std::sqrt(-2 * std::log(1 - rng_.Uniform()));
    return static_cast<float>(radius * std::cos(6.283185307179586 * rng_.Uniform()));
  }

  const Shape& shape_;
  const Recipe& recipe_;
  Rng rng_;
  const LayerOptions options_;
};

template <typename Table>
std::vector<std::string> NamesOf(const Table& table) {
  std::vector<std::string> names;
  for (const auto& row : table) names.emplace_back(row.name);
  return names;
}
template <typename Table>
const auto& RowOf(const Table& table, const std::string& name) {
  return *std::find_if(std::begin(table), std::end(table), [&](const auto& row) { return row.name == name; });
}

int Main(int argc, char** argv) {
  CLI::App app("Writes a GGUF file of a known shape with random weights.", "make_model");
  std::string shape;
  std::string type;
  std::string path;
  uint64_t seed = 1;
  app.add_option("SHAPE", shape, "of which model")->required()->check(CLI::IsMember(NamesOf(kShapes)));
  app.add_option("TYPE", type, "how weights are stored")->required()->check(CLI::IsMember(NamesOf(kRecipes)));
  app.add_option("OUT", path, "the .gguf file to write")->required();
  app.add_option("--seed", seed, "of the random weights")->capture_default_str();
  LayerOptions options;
  app.add_option("--block-sparse", options.sparse, "tokens of a block, local blocks, stride of blocks seen by all")
      ->delimiter(',')
      ->expected(3);
  app.add_option("--shared", options.shared, "neighbouring layers that share weights")->check(CLI::Range(1, 512));
  CLI11_PARSE(app, argc, argv);
  const auto files = MakeFileSystem();
  const Status written = Maker(RowOf(kShapes, shape), RowOf(kRecipes, type), seed, std::move(options)).Write(*files, path);
  if (written.ok()) return 0;
  std::fprintf(stderr, "make_model: %s\n", written.error().message().c_str());
  return ExitStatus(written.error().code());
}

}  // namespace
}  // namespace bantam

int main(int argc, char** argv) { return bantam::Main(argc, argv); }
