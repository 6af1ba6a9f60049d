// A hostile adapter beside a small model: a PEFT folder or a GGUF file, as far as its numbers in memory. The input is the length of
// adapter_config.json, that, and adapter_model.safetensors; or with a length of 0 a GGUF file.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/memory_budget.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "model/adapter/adapter.h"
#include "model/load.h"
#include "model/open.h"

namespace bantam {
namespace {

class MemoryMapping final : public FileMapping {
 public:
  explicit MemoryMapping(std::string_view bytes) { bytes_ = std::as_bytes(std::span(bytes.data(), bytes.size())); }
  void Release(uint64_t, uint64_t) const override {}
};

// A few files by name.
class Files final : public FileSystem {
 public:
  std::vector<std::pair<std::string, std::string_view>> files;
  const std::string_view* Find(const std::string& path) const {
    const auto found = std::find_if(files.begin(), files.end(), [&](const auto& file) { return file.first == path; });
    return found == files.end() ? nullptr : &found->second;
  }
  Result<std::unique_ptr<FileMapping>> Map(const std::string& path) override {
    const std::string_view* bytes = Find(path);
    if (bytes == nullptr || bytes->empty()) return Error(Code::kNotFound, "no such file");
    return std::unique_ptr<FileMapping>(std::make_unique<MemoryMapping>(*bytes));
  }
  Result<std::string> ReadText(const std::string& path, size_t bytes_max) override {
    const std::string_view* bytes = Find(path);
    if (bytes == nullptr || bytes->size() > bytes_max) return Error(Code::kNotFound, "no such file, or a large one");
    return std::string(*bytes);
  }
  Result<std::unique_ptr<FileWriter>> Create(const std::string&) override { return Error(Code::kDenied, "read-only"); }
  bool Exists(const std::string& path) override { return Find(path) != nullptr; }
  Result<std::vector<Entry>> List(const std::string& path) override {
    if (path.ends_with(".gguf")) return Error(Code::kInvalidArgument, "no folder");
    return std::vector<Entry>();
  }
  Status Remove(const std::string&) override { return Error(Code::kDenied, "read-only"); }
};

constexpr std::string_view kConfig =
    R"({"model_type":"llama","hidden_size":32,"num_hidden_layers":1,"num_attention_heads":4,"num_key_value_heads":2,)"
    R"("intermediate_size":48,"vocab_size":40,"max_position_embeddings":64,"rms_norm_eps":1e-05,"rope_theta":10000.0,)"
    R"("hidden_act":"silu","tie_word_embeddings":false})";

// All zeros: an adapter does not look at them.
std::string Weights() {
  const struct {
    const char* name;
    size_t rows;
    size_t columns;  // 0: a vector
  } tensors[] = {{"model.embed_tokens", 40, 32},
                 {"lm_head", 40, 32},
                 {"model.norm", 32, 0},
                 {"model.layers.0.input_layernorm", 32, 0},
                 {"model.layers.0.post_attention_layernorm", 32, 0},
                 {"model.layers.0.self_attn.q_proj", 32, 32},
                 {"model.layers.0.self_attn.k_proj", 16, 32},
                 {"model.layers.0.self_attn.v_proj", 16, 32},
                 {"model.layers.0.self_attn.o_proj", 32, 32},
                 {"model.layers.0.mlp.gate_proj", 48, 32},
                 {"model.layers.0.mlp.up_proj", 48, 32},
                 {"model.layers.0.mlp.down_proj", 32, 48}};
  std::string header;
  size_t size = 0;
  for (const auto& tensor : tensors) {
    const size_t bytes = 4 * tensor.rows * std::max<size_t>(tensor.columns, 1);
    header += fmt::format(R"({}"{}.weight":{{"dtype":"F32","shape":[{}{}],"data_offsets":[{},{}]}})", header.empty() ? "{" : ",",
                          tensor.name, tensor.rows, tensor.columns == 0 ? "" : fmt::format(",{}", tensor.columns), size, size + bytes);
    size += bytes;
  }
  header += "}";
  const uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
  return file + header + std::string(size, '\0');
}

// Lives as long as the process.
struct Base {
  Base() {
    files.files = {{"base/config.json", kConfig}, {"base/model.safetensors", weights}};
    ModelFile file = OpenModel(files, "base").value();
    model = LoadModel(OutlineModel(file, **ChooseKernels("ref")).value(), file, {budget, *pool}, nullptr).value();
  }
  const std::string weights = Weights();
  Files files;
  MemoryBudget budget{uint64_t{64} << 20};
  std::unique_ptr<ThreadPool> pool = ThreadPool::Make(1).value();
  std::unique_ptr<Model> model;
};

Status Load(FileSystem& files, const std::string& path, Base& base) {
  const Model& model = *base.model;
  BANTAM_ASSIGN(AdapterOutline outline, OutlineAdapter(files, path, {model.config, model.program, *model.kernels}));
  const uint64_t expected = outline.bytes;
  MemoryBudget budget(uint64_t{16} << 20);
  BANTAM_ASSIGN(const auto adapter, LoadAdapter(std::move(outline), model, budget));
  CHECK(adapter->updates.bytes() == expected && adapter->updates.rank_max() <= kLowRankMax);
  return Ok();
}

}  // namespace
}  // namespace bantam

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static bantam::Base base;
  uint32_t config_size = 0;
  if (size < sizeof(config_size)) return 0;
  std::memcpy(&config_size, data, sizeof(config_size));
  const std::string_view text(reinterpret_cast<const char*>(data) + sizeof(config_size), size - sizeof(config_size));
  const size_t cut = std::min<size_t>(config_size, text.size());
  bantam::Files files;
  if (config_size == 0) {
    files.files = {{"a.gguf", text}};
  } else {
    files.files = {{"a/adapter_config.json", text.substr(0, cut)}, {"a/adapter_model.safetensors", text.substr(cut)}};
  }
  (void)bantam::Load(files, config_size == 0 ? "a.gguf" : "a", base).ok();
  return 0;
}
