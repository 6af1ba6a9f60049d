// What verbs share: options of a run, and the steps from a model's name to a session.
#pragma once

#include <CLI/CLI.hpp>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory_budget.h"
#include "base/system_limits.h"
#include "base/threads.h"
#include "cli/kv_check.h"
#include "engine/draft_model.h"
#include "engine/session.h"
#include "model/load.h"
#include "text/tokenizer.h"

namespace bantam {

// Longest text that `tokenize` reads, and longest list of ids.
inline constexpr size_t kInputBytesMax = size_t{16} << 20;
inline constexpr size_t kIdsBytesMax = size_t{4} << 20;

// What several models of one process share.
struct ProcessMemory {
  std::shared_ptr<MemoryBudget> budget = nullptr;  // made with the first
  std::atomic<uint64_t> planned_bytes = 0;         // for those that are prepared, and what the process holds beside them
};

// What of it is planned for one model, for as long as it lives.
class PlannedShare {
 public:
  PlannedShare() = default;
  PlannedShare(ProcessMemory& process, uint64_t bytes) : process_(&process), bytes_(bytes) { process.planned_bytes += bytes; }
  PlannedShare(PlannedShare&& other) noexcept : process_(std::exchange(other.process_, nullptr)), bytes_(other.bytes_) {}
  PlannedShare& operator=(PlannedShare&& other) noexcept {
    std::swap(process_, other.process_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~PlannedShare() {
    if (process_ != nullptr) process_->planned_bytes -= bytes_;
  }

 private:
  ProcessMemory* process_ = nullptr;
  uint64_t bytes_ = 0;
};

struct RunOptions {
  std::string memory = "auto";       // --memory; auto: what is available
  size_t context = 0;                // --context, 0: min(trained, kContextDefault)
  int threads = 0;                   // -t, 0: those of the tuning, or all usable physical cores
  std::string kernels = "auto";      // auto: that of the tuning, or the fastest
  std::string kv;                    // --kv, empty: f16, of encoders f32, or q8 when memory is short
  std::string weights = "auto";      // --weights; auto: that of the tuning, or panels when they fit
  std::string rope_scaling;          // --rope-scaling KIND:FACTOR, empty: the model's own
  std::string verify = "changed";    // when the weights of packages are checked before they are used: always, changed or never
  ProcessMemory* process = nullptr;  // null: the model has the memory to itself
  bool kv_check = true;              // of verbs that write: a KV type of few bits that costs the model too much gives way (cli/kv_check.h)
  bool tuned = true;  // takes kernels, threads and the like that are not given from what `bantam tune` keeps beside the model
};

// What --memory allows now; auto: what is available. Errors: those of ParseBytes.
Result<uint64_t> MemoryLimitOf(const SystemLimits& limits, const std::string& memory);

// For options that take a count: decimal digits.
CLI::Validator WholeNumber(uint64_t max = UINT32_MAX);

// --no-kv-check, of verbs that ask for the check.
void AddKvCheckOption(CLI::App& verb, RunOptions* options);
// How a model is loaded: memory, kernels, KV type, positions. AddRunOptions adds the context and the threads.
void AddLoadOptions(CLI::App& verb, RunOptions* options);
void AddRunOptions(CLI::App& verb, RunOptions* options);

// "yarn:4"; empty: none.
Result<RopeOverride> ParseRopeScaling(const std::string& text);

// --lora [NAME=]PATH[:SCALE].
struct AdapterOption {
  std::string name;  // empty where none is given
  std::string path;
  float scale = 1;
};
Result<AdapterOption> ParseAdapterOption(const std::string& text, bool named);

// Sizes of steps that a verb wants.
struct StepShape {
  size_t step_tokens = 128;
  bool all_outputs = false;
  size_t texts = 0;        // whole texts of a step, on a model that makes vectors of them; 0: one that goes on with a text
  size_t sequences = 0;    // of an engine; 0: a single session
  bool exits = false;      // of an engine with early exit
  bool narrow_kv = false;  // PlanOptions::narrow_kv
};

// A model file with everything that is known before weights are read.
struct Prepared {
  PlannedShare planned;
  ModelFile file;
  ModelOutline outline;
  std::vector<std::pair<std::string, AdapterOutline>> adapters;  // by name
  MemoryPlan plan;
  std::optional<DraftOutline> draft;
  MemoryPlan draft_plan;  // a part of the plan
  uint64_t memory_limit_bytes = 0;
  std::shared_ptr<MemoryBudget> shared_budget = nullptr;  // of the process; null: the model gets its own
  int processors = 1;                                     // usable at once
  // What the plan was made of; whether its KV type is to be measured before it is used, and with what.
  FitRequest fit;
  struct KvCheck {
    KvChecks known;
    std::string rope;  // KvRopeName
    KvType wanted;
    std::vector<uint32_t> tokens;
  };
  std::optional<KvCheck> kv_check;
  ProcessMemory* process = nullptr;  // RunOptions::process
  bool rows_for_memory = false;      // the planner kept weights as rows, for panels would not fit
};

struct PrepareRequest {
  const Tokenizer* tokenizer = nullptr;  // counted in the plan; some verbs need none
  uint64_t text_bytes = 0;               // that the verb keeps beside it
  RunOptions run;
  StepShape shape;
  TextOptions text = {};
  std::vector<AdapterOption> adapters = {};
  std::string draft = {};  // the path of a draft model, with a tokenizer; empty: none
  bool kv_check = false;   // where options allow it
};

// Errors are those of each step; they name the input.
Result<Prepared> Prepare(FileSystem& files, ModelFile file, const PrepareRequest& request);

// Says so when the context is longer than what the model was trained on.
void NoteContext(const Prepared& prepared);

// Corrupt when the vocabulary has tokens that the model has not.
Status CheckVocabulary(const Tokenizer& tokenizer, const Prepared& prepared, const std::string& path);

// A model in memory and one session on it.
struct Loaded {
  PlannedShare planned;
  std::shared_ptr<MemoryBudget> budget;
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<Model> model;
  std::vector<std::pair<std::string, std::shared_ptr<const Adapter>>> adapters;
  MemoryPlan plan;
  std::unique_ptr<Model> draft;  // or null
  MemoryPlan draft_plan;
  std::unique_ptr<Session> session;
};
// The session has the first adapter, if there is one. What is found out meanwhile (weights that are whole, what a KV type costs) is kept in
// `files`, so that it need not be found out again.
Result<Loaded> Load(FileSystem& files, Prepared prepared);
// The same without the session.
Result<Loaded> LoadWithoutSession(FileSystem& files, Prepared prepared);

// Unsupported, with the verb to use, for a model that goes on with no text.
Status CheckGoesOn(const Config& config);

}  // namespace bantam
