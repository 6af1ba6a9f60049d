// A model as the gateway sees it: what it is called, what it answers with, and what is told of it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/memory_budget.h"
#include "engine/constraints.h"
#include "engine/engine_thread.h"
#include "engine/request.h"
#include "serve/text_service.h"
#include "text/chat_template.h"
#include "text/output_parser.h"
#include "text/tokenizer.h"

namespace bantam {

// What is told of a model; the gateway computes with none of it.
struct ModelFacts {
  std::string architecture = {};
  std::string format = {};   // "gguf", "bantam", "safetensors"
  std::string weights = {};  // "Q4_K"
  std::string digest = {};   // of the file, where it is known
  uint64_t parameters = 0;
  uint64_t file_bytes = 0;
  uint64_t planned_bytes = 0;  // of memory, all told
  uint64_t weights_bytes = 0;
  uint64_t kv_bytes = 0;
  size_t sequences = 0;
};

// Everything that it points to outlives it. Either `engine` or `texts` is there.
struct ServedModel {
  std::string name;
  std::vector<std::string> aliases = {};
  int64_t loaded_s = 0;  // since 1970
  ModelFacts facts = {};
  const Tokenizer* tokenizer = nullptr;
  size_t context = 0;

  EngineThread* engine = nullptr;
  Constraints* constraints = nullptr;
  const ChatTemplate* chat_template = nullptr;  // null: it has none
  const ChatTemplate* tool_template = nullptr;  // for requests with tools; may be the same
  bool template_shows_tools = false;
  OutputDialect dialect = {};
  std::vector<uint32_t> markers = {};  // of it
  Request defaults = {};

  // That the engine made by itself (EngineOptions::notice).
  std::shared_ptr<std::atomic<uint64_t>> changes = std::make_shared<std::atomic<uint64_t>>(0);

  TextService* texts = nullptr;

  bool Answers() const { return engine != nullptr; }
};

using ServedModels = std::vector<std::shared_ptr<const ServedModel>>;

// All that a version of a model is made of.
class HostedModel {
 public:
  virtual ~HostedModel() = default;
  virtual std::shared_ptr<const ServedModel> served() const = 0;
  // Ends its threads: what runs ends as cancelled, and nobody asks any more.
  virtual void End() = 0;
};

}  // namespace bantam
