// Quantised folders: tests/data/huggingface/make_quantised.py packs them, and says what their weights are.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <tuple>
#include <vector>

#include "base/base64.h"
#include "base/bytes.h"
#include "kernels/kernels.h"
#include "model/open.h"
#include "model/pack.h"
#include "testing/checkpoint.h"
#include "testing/gguf_builder.h"
#include "testing/model_runner.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

using ::testing::HasSubstr;
using testing::StoredTensor;
using testing::StoredTensors;

std::vector<std::string> Names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(testing::DataPath("huggingface/quantised"))) {
    names.push_back(entry.path().stem());
  }
  std::sort(names.begin(), names.end());
  return names;
}

Json Describe(const std::string& name) { return testing::ReadDescription(testing::DataPath("huggingface/quantised/" + name + ".json")); }

StoredTensors TensorsOf(const Json& description) {
  StoredTensors tensors = testing::ValuesOf(description);
  for (const auto& [name, tensor] : description["packed"].items()) {
    tensors[name] = {tensor["dtype"].get<std::string>(), tensor["shape"].get<std::vector<uint64_t>>(),
                     DecodeBase64(tensor["data"].get<std::string>()).value()};
  }
  return tensors;
}

std::vector<float> FloatsOf(ModelFile& file, const TensorInfo& tensor) {
  std::vector<float> values(tensor.elements());
  const auto bytes = file.source->View(tensor.offset_bytes, tensor.size_bytes);
  EXPECT_TRUE(bytes.ok()) << tensor.name;
  if (bytes.ok()) Unpack(tensor.dtype, reinterpret_cast<const uint8_t*>(bytes->data()), values.size(), values.data());
  return values;
}

// The tensor that gives the order of a weight's columns, by its own name or that of the products that share it.
const TensorInfo* OrderOf(const ModelFile& file, const std::string& weight) {
  const std::string prefix = weight.substr(0, weight.size() - 7);
  if (const TensorInfo* own = file.directory.Find(prefix + ".order")) return own;
  for (const auto& [part, all] : std::vector<std::pair<std::string, std::string>>{{"attn_q", "attn_qkv"},
                                                                                  {"attn_k", "attn_qkv"},
                                                                                  {"attn_v", "attn_qkv"},
                                                                                  {"ffn_gate", "ffn_gate_up"},
                                                                                  {"ffn_up", "ffn_gate_up"}}) {
    const size_t at = prefix.find(part);
    if (at == std::string::npos) continue;
    if (const TensorInfo* shared = file.directory.Find(std::string(prefix).replace(at, part.size(), all) + ".order")) return shared;
  }
  return nullptr;
}

// A weight with its factor, and its columns as the model's publisher has them.
std::vector<float> WeightsOf(ModelFile& file, const std::string& name) {
  const TensorInfo& tensor = *file.directory.Find(name);
  std::vector<float> values = FloatsOf(file, tensor);
  const size_t matrix = tensor.columns() * tensor.rows();
  if (const TensorInfo* factor = file.directory.Find(name.substr(0, name.size() - 7) + ".factor")) {
    const std::vector<float> factors = FloatsOf(file, *factor);
    for (size_t i = 0; i < values.size(); ++i) values[i] *= factors[i / matrix];
  }
  const TensorInfo* stored_order = OrderOf(file, name);
  if (stored_order == nullptr) return values;
  const std::vector<float> order = FloatsOf(file, *stored_order);
  std::vector<float> ordered(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t column = i % tensor.columns();
    const size_t from = i / matrix % stored_order->rows() * tensor.columns();
    ordered[i - column + static_cast<size_t>(order[from + column])] = values[i];
  }
  return ordered;
}

class Quantised : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    description_ = Describe(GetParam());
    testing::WriteCheckpoint(folder_.Path("model"), description_["config"], TensorsOf(description_));
  }
  testing::TemporaryFolder folder_;
  Json description_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
};

TEST_P(Quantised, WeightsAreThoseOfTheDefinition) {
  Result<ModelFile> file = OpenModel(*files_, folder_.Path("model"));
  ASSERT_TRUE(file.ok()) << file.error().message();
  for (const auto& [name, expected] : description_["expected"].items()) {
    ASSERT_NE(file->directory.Find(name), nullptr) << name;
    const std::vector<float> values = WeightsOf(*file, name);
    EXPECT_EQ(fmt::format("{:016x}", Fingerprint(std::as_bytes(std::span(values)))), expected["digest"].get<std::string>()) << name;
    const double stated = GetParam().starts_with("nf4") ? 1.3e-5 : 6e-8;
    EXPECT_LT(expected["error"].get<double>(), stated) << name;
  }
}

// Reads other tensors than the file's: F32 weights, whose columns are in order.
class PlainSource final : public TensorSource {
 public:
  explicit PlainSource(std::vector<float> values) : values_(std::move(values)) {}
  Result<std::span<const std::byte>> View(uint64_t offset, uint64_t size) override {
    return std::as_bytes(std::span(values_)).subspan(offset, size);
  }
  void Release(uint64_t, uint64_t) override {}

 private:
  std::vector<float> values_;
};

struct Extra {
  std::string_view name;
  std::vector<float> values;
};
// The same model with its weights as F32, and further tensors.
void MakePlain(ModelFile* file, const std::vector<Extra>& extras = {}) {
  std::vector<float> all;
  std::vector<TensorInfo> tensors;
  for (TensorInfo tensor : file->directory.tensors()) {
    if (tensor.name.ends_with(".order") || tensor.name.ends_with(".factor")) continue;
    const std::string name(tensor.name);
    const std::vector<float> values = name.ends_with(".weight") ? WeightsOf(*file, name) : FloatsOf(*file, tensor);
    tensor.dtype = DType::kF32;
    tensor.offset_bytes = all.size() * sizeof(float);
    tensor.size_bytes = values.size() * sizeof(float);
    all.insert(all.end(), values.begin(), values.end());
    tensors.push_back(tensor);
  }
  for (const auto& [name, values] : extras) {
    tensors.push_back({name, DType::kF32, 1, {values.size(), 1, 1, 1}, all.size() * sizeof(float), values.size() * sizeof(float)});
    all.insert(all.end(), values.begin(), values.end());
  }
  file->directory = TensorDirectory::Make(std::move(tensors)).value();
  file->source = std::make_unique<PlainSource>(std::move(all));
}

double Nmse(const std::vector<float>& got, const std::vector<float>& expected) {
  double bad = 0;
  double total = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    bad += std::pow(static_cast<double>(got[i]) - static_cast<double>(expected[i]), 2);
    total += std::pow(static_cast<double>(expected[i]), 2);
  }
  return bad / total;
}

TEST_P(Quantised, LogitsAreThoseOfPlainWeights) {
  Result<ModelFile> plain = OpenModel(*files_, folder_.Path("model"));
  ASSERT_TRUE(plain.ok()) << plain.error().message();
  MakePlain(&*plain);
  const std::vector<uint32_t> tokens = {1, 5, 9, 19, 0, 7, 7, 21, 3, 2, 17, 20};
  const auto exact = testing::ModelRunner::Make(std::move(*plain), {.kernels = *ChooseKernels("ref")}, tokens.size());
  ASSERT_TRUE(exact.ok()) << exact.error().message();
  const std::vector<float> expected = (*exact)->Logits(tokens);
  // What differs from other folders behind the reading: inputs in another order, and a table of its own.
  const bool differs = GetParam().find("order") != std::string::npos || GetParam() == "nf4";
  std::vector<const KernelSet*> sets = RunnableKernels();
  if (!differs) sets.resize(1);
  for (const KernelSet* kernels : sets) {
    std::vector<float> first;
    for (const testing::RunSetup& setup :
         {testing::RunSetup{.kernels = kernels, .threads = 1}, testing::RunSetup{.kernels = kernels, .threads = 3, .chunks = {1, 4, 2}}}) {
      Result<ModelFile> file = OpenModel(*files_, folder_.Path("model"));
      ASSERT_TRUE(file.ok());
      const auto runner = testing::ModelRunner::Make(std::move(*file), setup, tokens.size());
      ASSERT_TRUE(runner.ok()) << runner.error().message();
      const std::vector<float> logits = (*runner)->Logits(tokens);
      // Activations are rounded to 8 bits.
      EXPECT_LT(Nmse(logits, expected), 1e-3) << kernels->name;
      if (first.empty()) first = logits;
      EXPECT_EQ(logits, first) << kernels->name;
    }
  }
}

// Where a quantiser sorted the columns of products, those of an adapter are sorted with them.
TEST_P(Quantised, AdaptersReadInputsInTheirOrder) {
  Result<ModelFile> plain = OpenModel(*files_, folder_.Path("model"));
  ASSERT_TRUE(plain.ok()) << plain.error().message();
  testing::GgufBuilder builder;
  builder.Text("general.architecture", plain->metadata.Text("general.architecture").value().value());
  builder.Text("general.type", "adapter").Text("adapter.type", "lora");
  Rng rng(3);
  for (const char* part : {"attn_q", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "ssm_out"}) {
    const TensorInfo* weight = plain->directory.Find(fmt::format("blk.0.{}.weight", part));
    if (weight == nullptr) continue;  // another family's
    for (const auto& [end, columns, rows] :
         {std::tuple("lora_a", weight->columns(), uint64_t{3}), {"lora_b", uint64_t{3}, weight->rows()}}) {
      const std::string bytes = testing::RandomBlocks(DType::kF32, columns * rows, columns, rng);
      builder.Add({fmt::format("{}.{}", weight->name, end), {columns, rows}, 0, bytes});
    }
  }
  builder.Write(folder_.Path("a.gguf"));
  MakePlain(&*plain);
  const std::vector<uint32_t> tokens = {1, 5, 9, 19, 0, 7, 7, 21, 3, 2, 17, 20};
  std::vector<std::vector<float>> logits;
  for (const bool of_plain : {true, false}) {
    ModelFile file = of_plain ? std::move(*plain) : OpenModel(*files_, folder_.Path("model")).value();
    const auto runner = testing::ModelRunner::Make(std::move(file), {.kernels = *ChooseKernels("ref")}, tokens.size());
    ASSERT_TRUE(runner.ok()) << runner.error().message();
    const Status done = (*runner)->Adapt(folder_.Path("a.gguf"));
    ASSERT_TRUE(done.ok()) << done.error().message();
    logits.push_back((*runner)->Logits(tokens));
  }
  EXPECT_LT(Nmse(logits[1], logits[0]), 1e-10);
}

// Orders of inputs, factors and blocks of our own go into a package and come out as they were.
TEST_P(Quantised, APackageComputesTheSame) {
  const auto pool = ThreadPool::Make(1).value();
  ModelFile file = OpenModel(*files_, folder_.Path("model")).value();
  const auto report = PackModel(*files_, file, folder_.Path("m.bantam"), {.tool_version = "test"}, *pool, nullptr);
  ASSERT_TRUE(report.ok()) << report.error().message();
  const std::vector<uint32_t> tokens = {1, 5, 9, 19, 0, 7, 7, 21, 3, 2};
  const testing::RunSetup setup = {.kernels = *ChooseKernels("ref"), .threads = 1};
  const auto folder = testing::ModelRunner::Make(folder_.Path("model"), setup, tokens.size());
  const auto package = testing::ModelRunner::Make(folder_.Path("m.bantam"), setup, tokens.size());
  ASSERT_TRUE(package.ok()) << package.error().message();
  EXPECT_TRUE((*package)->Logits(tokens) == (*folder)->Logits(tokens));
}

std::string TestName(const ::testing::TestParamInfo<std::string>& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}
INSTANTIATE_TEST_SUITE_P(All, Quantised, ::testing::ValuesIn(Names()), TestName);

// ---- What is done with them ----

class QuantisedFolder : public ::testing::Test {
 protected:
  void Take(const std::string& name) {
    const Json description = Describe(name);
    config_ = description["config"];
    tensors_ = TensorsOf(description);
  }
  Result<ModelFile> Open() {
    testing::WriteCheckpoint(folder_.Path("model"), config_, tensors_);
    return OpenModel(*files_, folder_.Path("model"));
  }
  std::string Error() {
    Result<ModelFile> file = Open();
    if (!file.ok()) return file.error().message();
    const Result<ModelOutline> outline = OutlineModel(*file, **ChooseKernels("ref"));
    return outline.ok() ? "" : outline.error().message();
  }
  std::string ErrorOf(const std::string& name, const std::function<void()>& change) {
    Take(name);
    change();
    return Error();
  }
  DType FormatOf(const std::string& name, const std::string& tensor) {
    Take(name);
    const Result<ModelFile> file = Open();
    EXPECT_TRUE(file.ok());
    return file->directory.Find(tensor)->dtype;
  }
  size_t Permutes(const std::string& name) {
    Take(name);
    ModelFile file = Open().value();
    const Program program = OutlineModel(file, **ChooseKernels("ref")).value().program;
    return static_cast<size_t>(
        std::count_if(program.ops.begin(), program.ops.end(), [](const Op& op) { return std::holds_alternative<PermuteOp>(op); }));
  }
  Json& Quantization() { return config_["quantization_config"]; }
  // 32-bit element i of a tensor.
  void Set(const std::string& tensor, size_t i, uint32_t value) { std::memcpy(tensors_.at(tensor).bytes.data() + 4 * i, &value, 4); }

  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  Json config_;
  StoredTensors tensors_;
};

TEST_F(QuantisedFolder, FormatsAreTheSmallestThatHoldTheCodes) {
  const std::string query = "blk.0.attn_q.weight";
  const std::pair<const char*, DType> cases[] = {
      {"gptq-g32", DType::kQ4_0},
      {"gptq-order-apart", DType::kQ5_0},
      {"gptq-3bit", DType::kQ4_0},
      {"gptq-2bit", DType::kQ4_0},
      {"gptq-8bit", DType::kQ8_0},
      {"gptq-8bit-zeros", DType::kF16},
      {"awq", DType::kQ5_0},
      {"nf4", DType::kNF4},
      {"llm-int8", DType::kQ8_0},
      {"packed-int4", DType::kQ4_0},
      {"packed-int8", DType::kQ8_0},
      {"int8", DType::kQ8_0},
      {"packed-int4-zeros", DType::kQ5_0},
      {"fp8", DType::kF16},
      {"fp8-blocks", DType::kF16},
      {"plain-e4m3", DType::kF16},
      {"ternary", DType::kQ2_0},
  };
  for (const auto& [name, format] : cases) EXPECT_EQ(FormatOf(name, query), format) << name;
  EXPECT_EQ(FormatOf("ternary", "blk.0.ffn_down.weight"), DType::kQ4_0) << "96 columns are no whole blocks of 64";
  EXPECT_EQ(FormatOf("mxfp4", "blk.0.ffn_up_exps.weight"), DType::kMXFP4);
}

TEST_F(QuantisedFolder, ProductsOfOneInputShareItsOrder) {
  EXPECT_EQ(Permutes("gptq-g32"), 0u);
  EXPECT_EQ(Permutes("gptq-order"), 3u) << "of query, key and value; gate and up; down";
  EXPECT_EQ(Permutes("gptq-order-apart"), 6u);
  EXPECT_EQ(Permutes("gptq-order-groups"), 1u);
  EXPECT_EQ(Permutes("gptq-order-experts"), 6u);
}

TEST_F(QuantisedFolder, WhatIsMissingOrOfAnotherShape) {
  const std::string p = "model.layers.0.self_attn.q_proj";
  const auto without = [&](const char* name, const std::string& tensor) { return ErrorOf(name, [&] { tensors_.erase(tensor); }); };
  EXPECT_THAT(without("gptq-order", p + ".qzeros"), HasSubstr("tensor " + p + ".qzeros is missing, which " + p + ".qweight needs"));
  EXPECT_THAT(without("gptq-order", p + ".scales"), HasSubstr(".scales is missing"));
  EXPECT_THAT(without("packed-int4", p + ".weight_shape"), HasSubstr(".weight_shape is missing"));
  EXPECT_THAT(without("nf4", p + ".weight.quant_map"), HasSubstr(".weight.quant_map is missing"));
  EXPECT_THAT(without("nf4-nested", p + ".weight.nested_quant_map"), HasSubstr(".nested_quant_map is missing"));
  EXPECT_THAT(without("int8", p + ".weight_scale"), HasSubstr(".weight_scale is missing"));
  EXPECT_THAT(without("mxfp4", "model.layers.0.mlp.experts.down_proj_scales"), HasSubstr("down_proj_scales is missing"));
  EXPECT_THAT(without("gptq-order-experts", "model.layers.0.block_sparse_moe.experts.0.w1.qweight"), HasSubstr("have none of that name"));
  const auto shaped = [&](const char* name, const std::string& tensor, std::vector<uint64_t> shape) {
    return ErrorOf(name, [&] { tensors_.at(tensor).shape = std::move(shape); });
  };
  EXPECT_THAT(shaped("gptq-order", p + ".qweight", {32, 8}), HasSubstr("expected"));
  EXPECT_THAT(shaped("gptq-order", p + ".scales", {1, 64}),
              HasSubstr("tensor " + p + ".scales: F16 [1, 64], expected F16 or BF16 or F32 [1, 32]"));
  EXPECT_THAT(shaped("gptq-order", p + ".g_idx", {8, 8}), HasSubstr("tensor " + p + ".g_idx: I32 [8, 8], expected I32 or U32 [64]"));
  EXPECT_THAT(shaped("awq", p + ".qweight", {32, 8}), HasSubstr("expected"));
  EXPECT_THAT(shaped("awq", p + ".qweight", {256}), HasSubstr("of 2 dimensions"));
  EXPECT_THAT(shaped("llm-int8", p + ".SCB", {2, 16}), HasSubstr("expected F32 [32]"));
  EXPECT_THAT(shaped("nf4", p + ".weight.absmax", {2, 16}), HasSubstr("expected F32 [32]"));
  EXPECT_THAT(shaped("fp8-blocks", p + ".weight_scale_inv", {4, 1}), HasSubstr("F32 [4, 1], expected F16 or BF16 or F32 [2, 2]"));
  EXPECT_THAT(shaped("mxfp4", "model.layers.0.mlp.experts.down_proj_blocks", {2, 64, 16}), HasSubstr("[experts, rows, groups, 16]"));
  for (const uint64_t rows : {uint64_t{0}, uint64_t{33}, uint64_t{1} << 62, ~uint64_t{0}}) {
    EXPECT_THAT(ErrorOf("packed-int4", [&] { std::memcpy(tensors_.at(p + ".weight_shape").bytes.data(), &rows, 8); }),
                HasSubstr("expected"));
  }
}

TEST_F(QuantisedFolder, NumbersThatLie) {
  const std::string p = "model.layers.0.self_attn.q_proj";
  EXPECT_THAT(ErrorOf("gptq-order", [&] { Set(p + ".g_idx", 5, 2); }), HasSubstr("g_idx: element 5 is 2, expected less than 2 groups"));
  EXPECT_THAT(ErrorOf("gptq-order", [&] { Set(p + ".g_idx", 5, UINT32_MAX); }), HasSubstr("element 5 is -1, expected less than 2"));
  EXPECT_THAT(ErrorOf("gptq-order", [&] { std::memset(tensors_.at(p + ".g_idx").bytes.data(), 0, 256); }),
              HasSubstr("g_idx: group 0 has 64 columns, expected 32"));
  EXPECT_THAT(ErrorOf("gptq-order", [&] { Quantization()["desc_act"] = false; }),
              HasSubstr("columns of a group are not neighbours, but quantization_config says desc_act false"));
  EXPECT_THAT(ErrorOf("gptq-order-apart", [&] { Quantization()["sym"] = true; }),
              HasSubstr("quantization_config says sym true, which is 8"));
  const float infinite = INFINITY;
  EXPECT_THAT(ErrorOf("llm-int8", [&] { std::memcpy(tensors_.at(p + ".SCB").bytes.data() + 8, &infinite, 4); }),
              HasSubstr("the scale of row 2, group 0 is inf, expected a finite number"));
  EXPECT_THAT(ErrorOf("fp8", [&] { std::memcpy(tensors_.at(p + ".weight_scale").bytes.data(), &infinite, 4); }),
              HasSubstr("its scale is inf"));
  EXPECT_THAT(ErrorOf("nf4", [&] { Set(p + ".weight.quant_map", 3, 0x3f000000); }),
              HasSubstr("quant_map: element 3 is 0.5, expected -0.39"));
  const std::string state = p + ".weight.quant_state.bitsandbytes__nf4";
  const auto stated = [&](const std::string& text) {
    return ErrorOf("nf4-nested", [&] { tensors_.at(state) = {"U8", {text.size()}, text}; });
  };
  EXPECT_THAT(stated("{"), HasSubstr(state));
  EXPECT_THAT(stated("{}"), HasSubstr("shape null and blocksize null"));
  EXPECT_THAT(stated(R"({"shape":[32,64],"blocksize":0})"), HasSubstr("blocksize 0"));
  EXPECT_THAT(stated(R"({"shape":[32,64],"blocksize":48})"), HasSubstr("64 columns in blocks of 48"));
  EXPECT_THAT(stated(R"({"shape":[64,64],"blocksize":64})"), HasSubstr("expected 2048 bytes (64 rows of 64 columns)"));
  EXPECT_THAT(stated(R"({"shape":[32,64],"blocksize":64,"nested_blocksize":0,"nested_offset":0.1})"), HasSubstr("nested_blocksize 0"));
}

TEST_F(QuantisedFolder, WhatTheConfigContradicts) {
  const auto with = [&](const char* name, const char* member, Json value) {
    return ErrorOf(name, [&] { Quantization()[member] = std::move(value); });
  };
  EXPECT_THAT(with("gptq-g32", "bits", 8), HasSubstr("expected"));
  EXPECT_THAT(with("gptq-g32", "bits", 5), HasSubstr("5 bits (quantization_config) are not supported"));
  EXPECT_THAT(with("gptq-g32", "bits", nullptr), HasSubstr("quantization_config.bits is missing"));
  EXPECT_THAT(with("gptq-g32", "group_size", 16), HasSubstr("expected 2 groups (32 columns in groups of 16)"));
  EXPECT_THAT(with("gptq-g32", "group_size", 0), HasSubstr("group_size: 0, expected -1 or 1 to"));
  EXPECT_THAT(with("gptq-g32", "group_size", 1 << 30), HasSubstr("group_size: 1073741824, expected -1 or 1 to"));
  EXPECT_THAT(with("gptq-g32", "group_size", -1), HasSubstr("expected 1 groups (64 columns in groups of 64)"));
  EXPECT_THAT(with("gptq-g32", "checkpoint_format", "marlin"), HasSubstr("checkpoint_format marlin"));
  EXPECT_THAT(with("gptq-g32", "quant_method", "awq"), HasSubstr("expected"));
  EXPECT_THAT(with("awq", "version", "marlin"), HasSubstr("version marlin of AWQ"));
  EXPECT_THAT(with("awq", "quant_method", "bitsandbytes"),
              HasSubstr("qweight is packed as GPTQ or AWQ does, but quantization_config says bitsandbytes"));
  EXPECT_THAT(with("packed-int4", "format", "marlin-24"), HasSubstr("format marlin-24 of compressed-tensors"));
  EXPECT_THAT(with("packed-int4", "sparsity_config", {{"format", "sparse-24-bitmask"}}), HasSubstr("sparse-24-bitmask"));
  EXPECT_THAT(with("packed-int4", "config_groups", Json::object()), HasSubstr("config_groups"));
  EXPECT_THAT(with("packed-int4", "transform_config", {{"config_groups", {{"v", Json::object()}}}}), HasSubstr("transform_config"));
  EXPECT_THAT(with("ternary", "quantization_mode", "online"), HasSubstr("quantization_mode online of BitNet"));
  EXPECT_THAT(with("ternary", "linear_class", "other"), HasSubstr("linear_class other of BitNet"));
  EXPECT_THAT(ErrorOf("int8", [&] { Quantization()["config_groups"]["group_0"]["weights"]["num_bits"] = 4; }),
              HasSubstr("has 8 bits, channel, but quantization_config says 4 bits, channel"));
  EXPECT_THAT(ErrorOf("fp8-rows", [&] { Quantization()["config_groups"]["group_0"]["weights"]["type"] = "int"; }),
              HasSubstr("has 8 bits (floats), channel, but quantization_config says 8 bits, channel"));
  EXPECT_THAT(ErrorOf("packed-int4", [&] { Quantization()["config_groups"]["group_0"]["weights"]["group_size"] = 64; }),
              HasSubstr("but quantization_config says 4 bits, group 64"));
  EXPECT_THAT(ErrorOf("packed-int4", [&] { Quantization()["config_groups"]["group_0"]["weights"]["symmetric"] = false; }),
              HasSubstr("quantization_config says 4 bits, group 32, with zero points"));
  EXPECT_THAT(with("fp8-blocks", "weight_block_size", {0, 32}), HasSubstr("weight_block_size: [0,32], expected two whole numbers"));
  EXPECT_THAT(ErrorOf("gptq-g32", [&] { config_.erase("quantization_config"); }), HasSubstr("but quantization_config says nothing"));
  EXPECT_THAT(ErrorOf("plain-e4m3", [&] { config_["quantization_config"] = Describe("awq")["config"]["quantization_config"]; }),
              HasSubstr("quantization_config says awq, but no tensor is quantised so"));
  EXPECT_THAT(ErrorOf("int8", [&] { config_["quantization_config"] = Describe("awq")["config"]["quantization_config"]; }),
              HasSubstr("but quantization_config says awq"));
}

// Older folders say it in a file of its own.
TEST_F(QuantisedFolder, ConfigOfItsOwn) {
  Take("gptq-order");
  Json own = Quantization();
  own.erase("quant_method");
  config_.erase("quantization_config");
  ASSERT_FALSE(Open().ok());
  testing::WriteText(folder_.Path("model/quantize_config.json"), own.dump());
  EXPECT_TRUE(Open().ok());
}

TEST_F(QuantisedFolder, AwqInAFileOfItsOwn) {
  Take("awq");
  config_.erase("quantization_config");
  ASSERT_FALSE(Open().ok());
  testing::WriteText(folder_.Path("model/quant_config.json"), R"({"zero_point":true,"q_group_size":32,"w_bit":4,"version":"GEMM"})");
  EXPECT_EQ(Error(), "");
}

// As published tools write them.
TEST_F(QuantisedFolder, OtherWordsForTheSame) {
  // GPTQModel: some modules have other settings.
  EXPECT_EQ(ErrorOf("gptq-g32",
                    [&] {
                      Quantization()["sym"] = true;
                      Quantization()["dynamic"] = {{"+:.*down.*", {{"sym", false}}}};
                      Set("model.layers.0.mlp.down_proj.qzeros", 0, 0x66666666);
                    }),
            "");
  EXPECT_EQ(ErrorOf("gptq-order-apart",
                    [&] {
                      Quantization()["desc_act"] = false;
                      Quantization()["dynamic"] = {{"+:.*", {{"desc_act", true}}}};
                    }),
            "");
  // AutoRound: GPTQ or AWQ by another name; AWQ that is symmetric and says nothing of zero points.
  EXPECT_EQ(ErrorOf("gptq-g32",
                    [&] {
                      Quantization()["quant_method"] = "auto-round";
                      Quantization()["packing_format"] = "auto_round:auto_gptq";
                    }),
            "");
  EXPECT_THAT(ErrorOf("gptq-g32", [&] { Quantization()["quant_method"] = "auto-round"; }), HasSubstr("packing_format auto_round"));
  EXPECT_EQ(ErrorOf("awq",
                    [&] {
                      Quantization()["zero_point"] = false;
                      std::erase_if(tensors_, [](const auto& tensor) { return tensor.first.ends_with(".qzeros"); });
                    }),
            "");
  EXPECT_THAT(ErrorOf("awq", [&] { Quantization()["zero_point"] = false; }), HasSubstr("sym true"));
  // bitsandbytes: whatever type the bytes are stored as.
  EXPECT_EQ(ErrorOf("nf4",
                    [&] {
                      StoredTensor& weight = tensors_["model.layers.0.self_attn.q_proj.weight"];
                      weight.dtype = "BF16";
                      weight.shape[0] /= 2;
                    }),
            "");
  // compressed-tensors: a strategy that is left out, and KV alone.
  EXPECT_EQ(ErrorOf("int8",
                    [&] {
                      Json& weights = Quantization()["config_groups"]["group_0"]["weights"];
                      weights.erase("strategy");
                      weights["group_size"] = -1;
                    }),
            "");
  EXPECT_EQ(ErrorOf("plain-e4m3",
                    [&] {
                      config_["quantization_config"] = Describe("int8")["config"]["quantization_config"];
                      Quantization()["config_groups"] = Json::object();
                      Quantization()["kv_cache_scheme"] = {{"num_bits", 8}};
                      tensors_["model.layers.0.self_attn.kv_scale"] = {"F32", {1}, "abcd"};
                    }),
            "");
}

TEST_F(QuantisedFolder, BlocksByScheme) {
  const auto with = [&](const Json& structure) {
    return ErrorOf("fp8-blocks", [&] {
      for (auto& [name, tensor] : StoredTensors(tensors_)) {
        if (!name.ends_with("_inv")) continue;
        tensors_[name.substr(0, name.size() - 4)] = tensor;
        tensors_.erase(name);
      }
      config_["quantization_config"] = Describe("fp8-rows")["config"]["quantization_config"];
      Json& groups = Quantization()["config_groups"];
      groups["group_1"] = groups["group_0"];
      groups["group_1"]["weights"]["strategy"] = "block";
      groups["group_1"]["weights"]["block_structure"] = structure;
    });
  };
  EXPECT_EQ(with("16x32"), "");
  EXPECT_EQ(with({16, 32}), "");
  for (const Json& wrong :
       {Json("16"), Json("16x"), Json("x32"), Json("16x32x"), Json("0x32"), Json({16}), Json(7), Json("99999999999x1")}) {
    EXPECT_THAT(with(wrong), HasSubstr("block_structure: ")) << wrong;
  }
}

// What is not part of the text model is not looked at, whatever it is packed as.
TEST_F(QuantisedFolder, OtherPartsAreNotJoined) {
  Take("nf4");
  tensors_["vision_tower.fc2.weight"] = {"U8", {48, 1}, std::string(48, 'a')};
  tensors_["vision_tower.fc2.weight.absmax"] = {"F32", {1}, "abcd"};
  EXPECT_EQ(Error(), "");
  // A block that predicts further tokens.
  tensors_["model.layers.1.mlp.up_proj.weight"] = {"U8", {48, 1}, std::string(48, 'a')};
  tensors_["model.layers.1.mlp.up_proj.weight.absmax"] = {"F32", {1}, "abcd"};
  EXPECT_THAT(Error(), HasSubstr("model.layers.1.mlp.up_proj.weight"));
  config_["num_nextn_predict_layers"] = 1;
  EXPECT_EQ(Error(), "");
}

// An index by another name, where it is the only one.
TEST_F(QuantisedFolder, IndexOfAnotherName) {
  Take("gptq-g32");
  ASSERT_TRUE(Open().ok());
  const std::string folder = folder_.Path("model/");
  std::filesystem::rename(folder + "model.safetensors", folder + "gptq_model-4bit-32g-00001-of-00001.safetensors");
  Json map;
  for (const auto& [name, tensor] : tensors_) map[name] = "gptq_model-4bit-32g-00001-of-00001.safetensors";
  testing::WriteText(folder + "gptq_model-4bit-32g.safetensors.index.json", Json({{"weight_map", map}}).dump());
  testing::WriteText(folder + "other.safetensors", "");
  EXPECT_TRUE(OpenModel(*files_, folder_.Path("model")).ok());
}

// Scales of activations are not used, and layers may be left as they were.
TEST_F(QuantisedFolder, ScalesOfActivationsAreLeftOut) {
  Take("fp8");
  tensors_["model.layers.0.self_attn.q_proj.input_scale"] = {"F32", {}, "abcd"};
  tensors_["model.layers.0.self_attn.k_proj.k_scale"] = {"F32", {1}, "abcd"};
  EXPECT_EQ(Error(), "");
}

// Quantisers wrote biases of zeros to models without: a member of a family that denies them is no contradiction.
TEST_F(QuantisedFolder, BiasesOfZerosThatAFamilyDenies) {
  Take("gptq-g32");
  config_["model_type"] = "starcoder2";
  config_["hidden_act"] = "gelu";
  config_["use_bias"] = false;
  const uint64_t rows = 32;  // 2 heads of 16
  tensors_["model.layers.0.self_attn.q_proj.bias"] = {"F32", {rows}, std::string(4 * rows, '\0')};
  const Result<ModelFile> file = Open();
  EXPECT_TRUE(file.ok()) << file.error().message();
  config_["use_bias"] = true;
  tensors_.erase("model.layers.0.self_attn.q_proj.bias");
  EXPECT_THAT(Error(), HasSubstr("use_bias is true, but there is no tensor *.attn_q.bias"));
}

// The tensors of our own can stand in any file, with anything in them.
TEST_F(QuantisedFolder, OwnTensorsThatLie) {
  const auto error = [&](const Extra& extra) -> std::string {
    Take("gptq-g32");
    ModelFile file = Open().value();
    MakePlain(&file, {extra});
    const auto runner = testing::ModelRunner::Make(std::move(file), {.kernels = *ChooseKernels("ref")}, /*tokens_max=*/4);
    return runner.ok() ? "" : runner.error().message();
  };
  std::vector<float> order(64);
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<float>(63 - i);
  EXPECT_EQ(error({"blk.0.attn_qkv.order", order}), "");
  for (const float lie : {64.0f, -1.0f, 0.5f, 1e30f, NAN, INFINITY}) {
    std::vector<float> lying = order;
    lying[7] = lie;
    EXPECT_THAT(error({"blk.0.attn_q.order", lying}), HasSubstr("element 7 is")) << lie;
  }
  order.push_back(0);
  EXPECT_THAT(error({"blk.0.attn_q.order", order}), HasSubstr("tensor blk.0.attn_q.order: expected [64], found [65]"));
  EXPECT_THAT(error({"blk.0.attn_q.factor", {1, 2}}), HasSubstr("tensor blk.0.attn_q.factor: expected [1], found [2]"));
  EXPECT_THAT(error({"blk.0.attn_norm.factor", {2}}), HasSubstr("no part of this llama model of 1 layers reads it"));
  EXPECT_THAT(error({"token_embd.order", order}), HasSubstr("no part of this llama model of 1 layers reads it"));
  EXPECT_EQ(error({"blk.0.attn_q.factor", {2}}), "");
}

}  // namespace
}  // namespace bantam
