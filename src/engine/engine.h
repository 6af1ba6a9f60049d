// Engine: many requests on one model, in steps that they share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/disk.h"
#include "base/memory_budget.h"
#include "base/result.h"
#include "base/system_limits.h"
#include "engine/adaptive.h"
#include "engine/admission.h"
#include "engine/beam_search.h"
#include "engine/calibration.h"
#include "engine/draft.h"
#include "engine/draft_model.h"
#include "engine/generation.h"
#include "engine/prefix_cache.h"
#include "engine/pressure.h"
#include "engine/request.h"
#include "engine/step_cost.h"
#include "engine/step_policy.h"
#include "model/adapter/adapter.h"
#include "model/kv_cache.h"
#include "model/load.h"
#include "program/executor.h"
#include "program/memory_plan.h"
#include "text/tokenizer.h"

namespace bantam {

// Of an engine, at most, and where nobody asks for another number.
inline constexpr size_t kSequencesMax = 64;
inline constexpr size_t kSequencesDefault = 8;
inline constexpr size_t kAdaptersMax = 64;
inline constexpr size_t kAdapterNameMax = 256;  // bytes

// Windows and states that are kept for prefixes, where sequences have some: so many more than run.
inline constexpr size_t kCheckpointsMax = 4;
// What a plan leaves for requests: the list of candidates that all samplers share, and prompts, answers and tables of some.
inline constexpr uint64_t kRequestsBytes = uint64_t{8} << 20;
inline uint64_t RequestsBytes(size_t vocabulary) { return kRequestsBytes + vocabulary * (sizeof(Candidate) + sizeof(float)); }

// What early exit keeps of a step's rows.
uint64_t ExitBytes(const Program& program, const PlanOptions& options);

// What so many sequences at once ask of a plan: places, logits of each and of drafts, and checkpoints.
void PlanSequences(size_t sequences, PlanOptions* options);

struct EngineOptions {
  PolicyOptions policy;  // residents_max, step_tokens and step_outputs are those of the plan
  AdmissionLimits admission;
  bool prefix_cache = true;
  // Requests that come while memory is short, and say nothing of KV themselves, keep it in 8 bits (PlanOptions::narrow_kv): nearly twice as
  // many tokens in the same memory, and other answers than with the plan's. Usage::kv_type says which of both an answer had.
  bool narrow_kv = false;
  // Early exit: so many layers are asked first by requests that want it (Request::exit_confidence); 0: there is none.
  size_t exit_layer = 0;
  Digest model_digest{};  // names the weights, for prefixes
  bool check = false;     // looks at each plan, and after each step whether blocks and holders agree: Internal
  // Where EngineThread keeps prefixes from one run to the next, with model_digest; empty: nowhere.
  std::string prefix_file;
  // How short memory is, and what the machine takes, in watts, where somebody watches it; asked by Look.
  std::function<MemoryPressure()> watch;
  std::function<std::optional<double>(int64_t now_ns)> watts;
  // What confidences are given as; none: as they are computed.
  std::shared_ptr<const Calibration> calibration;
  // Changes what new requests get, and how many run; used by this engine alone, and may have been used by one before it.
  std::shared_ptr<AdaptiveController> adaptive;
  // Told, within Adapt, that another package of the model is wanted: whoever owns the engine makes another one of that.
  std::function<void(size_t precision)> use_precision;
  // Told what the engine changed by itself, and why: within LoadPrefixes, SavePrefixes, SetPressure and Adapt, so by the thread that calls
  // these. Must not call into the engine.
  std::function<void(std::string_view change)> notice;
  std::function<bool()> fail;  // asked before each reservation of KV: true makes it fail, for tests
};

// What the engine did so far.
struct EngineCounters {
  uint64_t steps = 0;
  uint64_t rows = 0;
  uint64_t prompt_tokens = 0;
  uint64_t cached_tokens = 0;
  uint64_t generated_tokens = 0;
  uint64_t drafted_tokens = 0;
  uint64_t accepted_tokens = 0;
  // Of the draft model: its steps, and what of the drafts was its own.
  uint64_t draft_steps = 0;
  uint64_t model_drafted_tokens = 0;
  uint64_t model_accepted_tokens = 0;
  uint64_t preemptions = 0;  // sequences that lost their KV and computed it anew
  uint64_t refusals = 0;
  uint64_t exited_tokens = 0;  // of the generated ones, that left early
  uint64_t narrowed = 0;       // requests that got KV of 8 bits because memory was short
};

// Belongs to one thread. A step is a transaction: a plan (a pure function of a snapshot), blocks for all of it, the model, then commit or,
// where blocks are missing, the grants that have none are taken back. What an answer is does not depend on what else runs.
class Engine {
 public:
  // Called within Step, Cancel and Submit.
  using Sink = std::function<void(Event event)>;

  // The model, tokenizer, pool, budget and clock outlive it. The plan says how many sequences hold KV (PlanOptions::sequences) and how many
  // tokens' there are; step_outputs is at least sequences. Exhausted when the budget cannot hold KV and activations.
  struct Setup {
    const Model& model;
    const Tokenizer& tokenizer;
    const MemoryPlan& plan;
    const Clock& clock;
    EngineOptions options;
    // Guesses what answers go on with; outlives the engine too. Null: none. Its plan is that of PlanDraft.
    const Model* draft = nullptr;
    MemoryPlan draft_plan = {};
  };
  static Result<std::unique_ptr<Engine>> Make(const Setup& setup, const Resources& resources, Sink sink);
  ~Engine();

  // Errors: InvalidArgument for what makes no sense, Exhausted for what never fits, Unavailable for what does not now: the queue is full,
  // or the first token would come too late; the message has the prediction. `arrival_ns` is of the clock.
  Result<RequestId> Submit(Request request, int64_t arrival_ns);
  Result<RequestId> Submit(Request request) { return Submit(std::move(request), clock_.NowNs()); }
  // The same for a request that was checked, admitted and has its memory already. Errors: those of Generation::Make.
  Result<RequestId> Accept(Request request, int64_t arrival_ns, MemoryBudget::Reservation held);
  void CancelAll();
  // Everything it held is free when this returns. False: there is no such request (any more).
  bool Cancel(RequestId id);
  // Both look only at what never changes, so any thread may ask: whether a request makes sense, and what it holds beside KV.
  Status Check(const Request& request) const;
  uint64_t BytesOf(const Request& request) const;

  // Adapters of the model, by name. One that comes under a name that is there takes its place; requests go on with the one that they began
  // with, and what nobody uses any more is freed. Errors: InvalidArgument (a name that is empty or too long), Exhausted (too many, or no
  // memory for rows of its rank), NotFound for a name that is not there, which says those that are.
  Status AddAdapter(const std::string& name, std::shared_ptr<const Adapter> adapter);
  Status RemoveAdapter(const std::string& name);
  const std::map<std::string, std::shared_ptr<const Adapter>>& adapters() const { return adapters_; }

  // One step. False: there was nothing to do.
  Result<bool> Step();

  bool idle() const { return requests_.empty(); }
  const EngineOptions& options() const { return options_; }
  const EngineCounters& counters() const { return counters_; }
  const StepCost& cost() const { return cost_; }
  // What admission looks at.
  EngineLoad load() const;
  const KvCache& kv() const { return kv_; }
  const PrefixCache& prefixes() const { return *prefixes_; }
  const DraftModel* draft_model() const { return draft_model_.get(); }
  // Forgets all prefixes.
  void DropPrefixes() { prefixes_->Clear(); }
  // Prefixes of an earlier run, from a file of SavePrefixes: how many blocks. A file that is missing, damaged, or of another model or KV
  // type gives none, and a notice.
  // InvalidArgument: the file is something else.
  Result<size_t> LoadPrefixes(Disk& disk, const std::string& path);
  // For the next run, if there are any. The file is replaced when all of the new one is there.
  Status SavePrefixes(Disk& disk, const std::string& path) const;
  // Asks what watches the machine, if the last time was half a second ago, and does what that asks for; without waiting. Whoever owns the
  // engine calls it again and again, whether there is work or not.
  static constexpr int64_t kLookNs = 500'000'000;
  bool watched() const { return options_.watch || options_.adaptive; }
  void Look();
  // What the machine says of its memory (PressureGauge). High: prefixes go and none are kept; critical: nothing new is taken. Those that
  // run have their memory, and go on.
  void SetPressure(Pressure pressure);
  // What was measured since the last call goes to EngineOptions::adaptive, and what that changes happens.
  void Adapt(const MemoryPressure& memory, std::optional<double> watts);
  Pressure pressure() const { return pressure_; }

 private:
  struct Choice;
  struct Live;

  Engine(const Setup& setup, const Resources& resources, Sink sink);
  void Apply(const AdaptiveSettings& settings);
  Digest RootOf(const Request& request) const;
  // ---- Memory (engine_memory.cc) ----
  bool TakesNarrow(const Request& request) const;
  KvCache& CacheOf(const Live& live);
  const KvCache& CacheOf(const Live& live) const;
  // So many blocks of a request's as blocks of the plan's: what the policy counts in.
  size_t PlannedBlocks(const Live& live, size_t blocks) const;
  size_t BlocksToBegin(const Choice& choice) const;
  Result<std::unique_ptr<Choice>> MakeChoice(Live& live, size_t index);
  Result<std::shared_ptr<const Adapter>> FindAdapter(const std::string& name) const;
  void ExpireDeadlines(int64_t now_ns);
  void EndFromOutside(Live& live, StopReason reason);
  void AddUsage(const Live& live, Usage* usage) const;
  // ---- Drafts (engine_drafts.cc) ----
  void ProposeDrafts();
  // Tokens that a draft may have.
  size_t DraftRoom(const Choice& choice) const;
  // Of sequences that decode and are most important, those for which nothing was found in the text.
  std::vector<Choice*> WithoutDraft(int64_t now_ns) const;
  // `rows` are in the step anyway, and `outputs` logits are left.
  void ProposeByModel(size_t rows, size_t outputs);
  void ObserveDraft(Choice& choice, size_t accepted);
  // ---- Beam search (engine_beams.cc) ----
  Status CheckBeams(const Request& request) const;
  // What may follow a beam, from the logits of its newest token.
  void Weigh(Choice& choice, std::span<const float> logits);
  std::unique_ptr<Choice> CopyBeam(const Choice& from, size_t* places);
  // An answer that ended: `sum` of the logarithms of `tokens` probabilities.
  void AddHypothesis(Live& live, double sum, size_t tokens, Event event, const Generation& generation);
  Status TakeTokens(Live& live, const std::vector<BeamCandidate>& running);
  // A step further, if all beams have their logits.
  void AdvanceBeams(Live& live);
  void EndBeams(Live& live, StopReason reason);
  static Finish Missing(const Live& live, std::optional<StopReason> cut);
  // `cut`: why, where it was not the end of the search.
  void FinishBeams(Live& live, std::optional<StopReason> cut);
  // ---- Early exit (engine_exits.cc) ----
  // Rows that the layers behind the exit read, and what those before made of them: [rows][width].
  struct ExitRows {
    std::vector<StepRow> rows = {};
    std::vector<float> streams = {};
    std::vector<uint32_t> outputs = {};
  };
  // So many tokens of a sequence are skipped at most before the layers behind the exit read them.
  static constexpr size_t kSkippedMax = 8;
  static Result<ExitPoints> FindExit(const Program& program, size_t layer);
  Status CheckExit(const Request& request) const;
  bool AsksEarly(const Choice& choice) const;
  bool MayExit(const Choice& choice, size_t tokens) const;
  size_t SkippedTokens(const Choice& choice) const;
  void AddSkipped(Choice& choice, ExitRows* rest) const;
  void RunRest(const ExitRows& rest);
  std::vector<float> RunFirst(std::span<const uint32_t> candidates);
  void StepWithExits(const std::vector<Grant>& grants, const std::vector<Choice*>& choices, int64_t begin_ns);
  Live* Ahead(const Choice& choice, int64_t now_ns) const;
  PolicyOptions PolicyNow() const;
  PolicySnapshot Snapshot(int64_t now_ns, std::vector<Choice*>* choices);
  // Takes blocks for the grants, from caches and then from victims; returns those that have them.
  std::vector<Grant> Reserve(const StepPlan& plan, const PolicySnapshot& snapshot, const std::vector<Choice*>& choices);
  bool PreemptFor(size_t index, const StepPlan& plan, const std::vector<Choice*>& choices, std::span<const Grant> reserved);
  // Room for a sequence of this length, from caches. False: there is none.
  bool FreeFor(const Choice& choice, size_t length);
  // Gives it a place, and a prefix that is kept, if there is one.
  void Begin(Choice& choice);
  void Preempt(Choice& choice);
  bool Keeps(const Choice& choice) const;
  void Keep(const Choice& choice);
  // Gives its KV back, to the prefixes if they want it.
  void Release(Choice& choice);
  // The same, and nothing is kept for others.
  void Drop(Choice& choice);
  size_t CutAtCheckpoint(const Choice& choice, size_t tokens) const;
  void AddRows(Choice& choice, size_t tokens);
  StepRow RowOf(const Choice& choice, size_t position, uint32_t token) const;
  bantam::Step StepOf(std::span<const StepRow> rows, std::span<const uint32_t> outputs) const;
  // Logits that are wanted of so many tokens more.
  size_t OutputsOf(const Choice& choice, size_t tokens) const;
  void DescribePrompt(const Choice& choice, size_t tokens, size_t output);
  void CommitGrant(const Grant& grant, Choice& choice, size_t output, int64_t begin_ns);
  void Commit(const std::vector<Grant>& grants, const std::vector<Choice*>& choices, int64_t begin_ns);
  // Takes tokens from the logits of its newest token, and of its drafts behind it, from `output` on.
  void Advance(Choice& choice, size_t output);
  void Fork(Live& live, size_t output);
  // KV for one that begins as `from` is, if there is one of `places` for it.
  void ShareKv(const Choice& from, Choice* to, size_t* places);
  size_t FreePlaces() const;
  // With usage and what is said of confidence.
  Finish Finished(const Live& live, Finish finish);
  void FinishChoice(Choice& choice, Event event, std::optional<Error> error);
  void NoteTokens(Choice& choice, uint64_t tokens);
  void RemoveFinished();
  std::span<const float> Logits(size_t output) const {
    return {executor_->logits() + output * model_.program.vocabulary, model_.program.vocabulary};
  }
  // Internal where the holders of a block are not those that are counted.
  Status CheckHolders() const;
  Status CheckHolders(const KvCache& cache, KvPart part, std::vector<uint32_t> held, uint64_t* taken) const;

  const Model& model_;
  const Tokenizer& tokenizer_;
  const MemoryPlan plan_;
  const Clock& clock_;
  EngineOptions options_;
  PolicyOptions policy_;           // of now
  AdaptiveSettings settings_;      // where somebody adapts
  std::vector<int64_t> token_ns_;  // from token to token, since the last look
  MemoryBudget& budget_;
  Sink sink_;
  const size_t ring_;
  const size_t window_;
  KvCache kv_;
  std::optional<KvCache> narrow_kv_;  // in the memory of kv_
  std::unique_ptr<PrefixCache> prefixes_;
  std::unique_ptr<Executor> executor_;
  CandidateList candidates_;
  size_t end_tokens_ = 0;  // of the vocabulary, that end a turn
  StepCost cost_;
  std::optional<ExitPoints> exits_;  // where exit_layer is set
  MemoryBudget::Reservation exit_bytes_;
  std::unique_ptr<DraftModel> draft_model_;  // or none
  DraftPlanner draft_planner_;
  int64_t drafting_ns_ = 0;                            // that the draft model took in this step
  double answer_tokens_ = EngineLoad().answer_tokens;  // a moving average
  PressureGauge gauge_;
  int64_t next_look_ns_ = 0;
  Pressure pressure_ = Pressure::kCalm;
  EngineCounters counters_;
  std::map<std::string, std::shared_ptr<const Adapter>> adapters_;
  std::map<RequestId, std::unique_ptr<Live>> requests_;  // in order of arrival
  struct Client {
    double service = 0;   // in tokens
    size_t requests = 0;  // that wait or run
  };
  std::map<std::string, Client, std::less<>> clients_;
  RequestId next_id_ = 1;
  std::vector<StepRow> rows_;
  std::vector<uint32_t> output_rows_;
};

// NotFound: names those that there are.
Error NoSuchAdapter(const std::string& name, const std::vector<std::string>& known);

}  // namespace bantam
