// A hostile Hugging Face folder: config.json and model.safetensors, as far as the lowered program and its weights. The input is the two
// files, the first with its length in front.
#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include "base/memory_budget.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "model/load.h"
#include "model/open.h"
#include "model/text_rules.h"
#include "program/memory_plan.h"

namespace bantam {
namespace {

constexpr uint64_t kMemoryMax = uint64_t{256} << 20;

class MemoryMapping final : public FileMapping {
 public:
  explicit MemoryMapping(std::string_view bytes) { bytes_ = std::as_bytes(std::span(bytes.data(), bytes.size())); }
  void Release(uint64_t, uint64_t) const override {}
};

class Folder final : public FileSystem {
 public:
  Folder(std::string_view config, std::string_view weights) : config_(config), weights_(weights) {}
  Result<std::unique_ptr<FileMapping>> Map(const std::string& path) override {
    if (!path.ends_with("model.safetensors") || weights_.empty()) return Error(Code::kNotFound, "no such file");
    return std::unique_ptr<FileMapping>(std::make_unique<MemoryMapping>(weights_));
  }
  Result<std::string> ReadText(const std::string&, size_t) override { return std::string(config_); }
  Result<std::unique_ptr<FileWriter>> Create(const std::string&) override { return Error(Code::kDenied, "read-only"); }
  // What stands beside an encoder is in the same text.
  bool Exists(const std::string& path) override {
    return path == "folder/config.json" || path == "folder/model.safetensors" || path == "folder/sentence_bert_config.json" ||
           path == "folder/config_sentence_transformers.json";
  }
  Result<std::vector<Entry>> List(const std::string&) override { return std::vector<Entry>(); }
  Status Remove(const std::string&) override { return Error(Code::kDenied, "read-only"); }

 private:
  std::string_view config_;
  std::string_view weights_;
};

Status Load(FileSystem& files) {
  BANTAM_ASSIGN(ModelFile file, OpenModel(files, "folder"));
  BANTAM_ASSIGN(const auto architecture, file.metadata.Text("general.architecture"));
  if (const auto rules = ReadTextRules(file.metadata, architecture.value_or("")); rules.ok()) {
    (void)ChoosePrefix(*rules, "query", std::nullopt).ok();
  }
  BANTAM_ASSIGN(ModelOutline outline, OutlineModel(file, **ChooseKernels("ref")));
  PlanOptions options;
  options.context = 32;
  options.step_tokens = 2;
  if (PlanMemory(outline.program, options, {}).total_bytes() > kMemoryMax) return Error(Code::kExhausted, "too large to run here");
  MemoryBudget budget(kMemoryMax);
  const auto pool = ThreadPool::Make(1).value();
  BANTAM_ASSIGN(const auto model, LoadModel(std::move(outline), file, {budget, *pool}, nullptr));
  return Ok();
}

}  // namespace
}  // namespace bantam

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  uint32_t config_size = 0;
  if (size < sizeof(config_size)) return 0;
  std::memcpy(&config_size, data, sizeof(config_size));
  const std::string_view text(reinterpret_cast<const char*>(data) + sizeof(config_size), size - sizeof(config_size));
  const size_t cut = std::min<size_t>(config_size, text.size());
  bantam::Folder folder(text.substr(0, cut), text.substr(cut));
  (void)bantam::Load(folder).ok();
  return 0;
}
