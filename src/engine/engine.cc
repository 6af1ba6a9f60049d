#include "engine/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/check.h"
#include "engine/engine_choice.h"

namespace bantam {

namespace {

// A client's or a tenant's name.
constexpr size_t kNameBytesMax = 256;
constexpr size_t kLogitBiasesMax = 1024;
// Text of a token, and of a details' list beside the numbers: on average.
constexpr uint64_t kTextBytesPerToken = 16;
// Grows when what is computed of the same tokens changes by a bit.
constexpr uint32_t kNumericsVersion = 1;

// Keys and values depend on more than the model: some rotations on the context, roundings on the kernels.
Digest DigestOf(const Digest& model, const PlanOptions& options, std::string_view kernels) {
  Sha256 sha;
  sha.Update(std::as_bytes(std::span(model)));
  const uint64_t numbers[] = {kNumericsVersion, options.context};
  sha.Update(std::as_bytes(std::span(numbers)));
  sha.Update(std::as_bytes(std::span(kernels)));
  return sha.Finish();
}

}  // namespace

void PlanSequences(size_t sequences, PlanOptions* options) {
  options->sequences = sequences;
  options->step_outputs = sequences + kDraftTokensMax;
  options->checkpoints = std::min(sequences, kCheckpointsMax);
}

Engine::Engine(const Setup& setup, const Resources& resources, Sink sink)
    : model_(setup.model),
      tokenizer_(setup.tokenizer),
      plan_(setup.plan),
      clock_(setup.clock),
      options_(setup.options),
      budget_(resources.budget),
      sink_(std::move(sink)),
      ring_(KvBlocks(setup.model.program, setup.plan.options)[KvPart::kWindowed]),
      window_(WindowMax(setup.model.program)),
      candidates_(setup.model.program.vocabulary) {
  options_.policy.residents_max = plan_.options.sequences;
  options_.policy.step_tokens = plan_.options.step_tokens;
  options_.policy.step_outputs = plan_.options.step_outputs;
  policy_ = options_.policy;
  settings_.sequences = plan_.options.sequences;
  if (options_.adaptive) {
    settings_ = options_.adaptive->settings();
    policy_.residents_max = std::clamp<size_t>(settings_.sequences, 1, plan_.options.sequences);
  }
  options_.model_digest = DigestOf(options_.model_digest, plan_.options, setup.model.kernels->name);
  for (uint32_t token = 0; token < tokenizer_.size(); ++token) end_tokens_ += tokenizer_.EndsTurn(token) ? 1 : 0;
  rows_.reserve(plan_.options.step_tokens);
  output_rows_.reserve(plan_.options.step_outputs);
}

Engine::~Engine() = default;

Result<std::unique_ptr<Engine>> Engine::Make(const Setup& setup, const Resources& resources, Sink sink) {
  const Program& program = setup.model.program;
  const PlanOptions& options = setup.plan.options;
  CHECK(!program.whole_texts && options.sequences >= 1 && options.step_outputs >= options.sequences);
  std::unique_ptr<Engine> engine(new Engine(setup, resources, std::move(sink)));
  const StateSizes states = {program.state_floats, options.sequences + options.checkpoints};
  BANTAM_ASSIGN(engine->kv_, KvCache::Make(PlannedKv(program, options), PoolBlocks(program, options), states, resources.budget));
  if (options.narrow_kv && IsFloat(options.kv_type)) {
    BANTAM_ASSIGN(engine->narrow_kv_, engine->kv_.MakeBeside(NarrowKv(program, options)));
  }
  BANTAM_ASSIGN(engine->executor_, Executor::Make({program, setup.model.weights, *setup.model.kernels, options}, resources));
  engine->prefixes_ = std::make_unique<PrefixCache>(engine->kv_, engine->window_);
  if (setup.options.exit_layer > 0) {
    BANTAM_ASSIGN(engine->exits_, FindExit(program, setup.options.exit_layer));
    BANTAM_ASSIGN(engine->exit_bytes_, resources.budget.Reserve(ExitBytes(program, options), "early exit"));
  }
  if (setup.draft != nullptr) {
    const DraftModel::Setup draft = {*setup.draft, setup.draft_plan, setup.tokenizer, setup.clock, program.vocabulary, setup.options.fail};
    BANTAM_ASSIGN(engine->draft_model_, DraftModel::Make(draft, resources).With("draft model"));
  }
  return engine;
}

Status Engine::Check(const Request& request) const {
  const size_t vocabulary = model_.program.vocabulary;
  if (request.tokens.empty()) return Error(Code::kInvalidArgument, "the prompt has no tokens; give at least one");
  for (const uint32_t token : request.tokens) {
    if (token < vocabulary) continue;
    return Error(Code::kInvalidArgument, fmt::format("token {}: expected an id below the vocabulary size {}", token, vocabulary));
  }
  if (request.tokens.size() >= plan_.options.context) {
    return Error(Code::kExhausted,
                 fmt::format("the prompt has {} tokens, and the context {}: it leaves no room for an answer; shorten it or "
                             "raise --context",
                             request.tokens.size(), plan_.options.context));
  }
  if (request.prompt_details && (request.beams > 0 || request.exit_confidence > 0)) {
    return Error(Code::kUnsupported, "probabilities of a prompt's tokens: not with beams or early exit; ask for one of both");
  }
  if ((request.tokens_max == 0 && !request.prompt_details) || request.tokens_min > request.tokens_max) {
    return Error(Code::kInvalidArgument, fmt::format("tokens_max {}: expected at least 1, and not less than tokens_min {}",
                                                     request.tokens_max, request.tokens_min));
  }
  if (request.choices == 0 || request.choices > kChoicesMax) {
    return Error(Code::kInvalidArgument, fmt::format("choices {}: expected 1 to {}", request.choices, kChoicesMax));
  }
  if (request.top_logprobs > kTopLogprobsMax) {
    return Error(Code::kInvalidArgument, fmt::format("top_logprobs {}: expected at most {}", request.top_logprobs, kTopLogprobsMax));
  }
  if (!(request.confidence_min >= 0 && request.confidence_min <= 1)) {
    return Error(Code::kInvalidArgument, fmt::format("confidence_min {}: expected 0 to 1", request.confidence_min));
  }
  if (request.deadline_ns < 0 || request.first_token_max_ns < 0) {
    return Error(Code::kInvalidArgument, "a deadline or a limit of the wait is negative; give 0 for none");
  }
  if (request.client.size() > kNameBytesMax || request.tenant.size() > kNameBytesMax) {
    return Error(Code::kInvalidArgument, fmt::format("a client's or tenant's name of more than {} bytes; shorten it", kNameBytesMax));
  }
  if (request.sampler.logit_bias.size() > kLogitBiasesMax) {
    return Error(Code::kInvalidArgument,
                 fmt::format("logit_bias for {} tokens: expected at most {}", request.sampler.logit_bias.size(), kLogitBiasesMax));
  }
  BANTAM_TRY(CheckBeams(request));
  BANTAM_TRY(CheckExit(request));
  if (request.kv_type && *request.kv_type != plan_.options.kv_type && !(narrow_kv_ && *request.kv_type == KvType::kInt8)) {
    return Error(Code::kInvalidArgument, fmt::format("kv {}: the engine has {}{}", KvTypeName(*request.kv_type),
                                                     KvTypeName(plan_.options.kv_type), narrow_kv_ ? " and q8" : " only"));
  }
  BANTAM_TRY(CheckSamplerOptions(request.sampler));
  const auto stops = StopStrings::Make(request.stops);
  return stops.ok() ? Ok() : Status(stops.error());
}

uint64_t Engine::BytesOf(const Request& request) const {
  const uint64_t answer = std::min(request.tokens_max, plan_.options.context);
  const uint64_t details = request.token_details ? sizeof(TokenInfo) + request.top_logprobs * sizeof(TokenLogprob) : 0;
  const uint64_t tables = kKvParts * KvBlockCount(plan_.options.context) * sizeof(uint32_t);
  const uint64_t guesses = draft_model_ == nullptr ? 0 : draft_model_->SequenceBytes();
  const uint64_t skipped =
      exits_ && request.exit_confidence > 0 ? kSkippedMax * model_.program.buffers[exits_->stream].width * sizeof(float) : 0;
  const uint64_t per_choice = guesses + skipped + sizeof(Choice) + Generation::Bytes(request, model_.program.vocabulary) + tables +
                              (request.tokens.size() + answer) * sizeof(uint32_t) + answer * (kTextBytesPerToken + details);
  const uint64_t of_prompt = request.prompt_details ? request.tokens.size() * details : 0;
  const uint64_t echo = (1 + request.choices + 3 * request.beams) * request.echo.size() + (1 + request.choices) * of_prompt;
  // Beams, those that come from them, and answers that ended before.
  const size_t texts = request.beams > 0 ? 3 * request.beams : request.choices;
  return sizeof(Live) + request.tokens.size() * sizeof(uint32_t) + echo + texts * per_choice;
}

void Engine::CancelAll() {
  for (const auto& [id, live] : requests_) EndFromOutside(*live, StopReason::kCancelled);
  RemoveFinished();
}

EngineLoad Engine::load() const {
  EngineLoad load;
  load.step_tokens = plan_.options.step_tokens;
  load.places = policy_.residents_max;
  load.answer_tokens = answer_tokens_;
  load.short_of_memory = pressure_ == Pressure::kCritical;
  load.cost = cost_;
  load.requests = requests_.size();
  for (const auto& [id, live] : requests_) {
    load.bytes += live->held.bytes();
    EngineLoad::Class& of = load.classes[static_cast<size_t>(live->request.priority)];
    for (const auto& choice : live->choices) {
      if (choice->ended()) continue;
      ++of.answers;
      if (choice->decoding()) {
        ++of.decoding;
      } else {
        of.prompt_tokens += choice->pending();
        load.tokens += choice->pending();
      }
    }
  }
  return load;
}

Result<RequestId> Engine::Submit(Request request, int64_t arrival_ns) {
  BANTAM_TRY(Check(request));
  if (!request.adapter.empty()) BANTAM_TRY(FindAdapter(request.adapter));
  const uint64_t bytes = BytesOf(request);
  const size_t cached = options_.prefix_cache && request.cache && !request.prompt_details && !TakesNarrow(request)
                            ? prefixes_->Find(RootOf(request), request.tokens)
                            : 0;
  const Status admitted = Admit(options_.admission, options_.policy, load(), request, bytes, cached);
  if (!admitted.ok()) ++counters_.refusals;
  BANTAM_TRY(Status(admitted));
  Result<MemoryBudget::Reservation> held = budget_.Reserve(bytes, "a request");
  if (!held.ok()) {
    ++counters_.refusals;
    // What others hold comes back.
    return Error(requests_.empty() ? Code::kExhausted : Code::kUnavailable, held.error().message());
  }
  return Accept(std::move(request), arrival_ns, std::move(held).value());
}

Result<RequestId> Engine::Accept(Request request, int64_t arrival_ns, MemoryBudget::Reservation held) {
  auto live = std::make_unique<Live>();
  if (!request.adapter.empty()) {
    BANTAM_ASSIGN(live->adapter, FindAdapter(request.adapter));
  }
  live->root = RootOf(request);
  live->narrow = TakesNarrow(request);
  if (live->narrow && !request.kv_type) ++counters_.narrowed;
  live->held = std::move(held);
  live->id = next_id_;
  live->request = std::move(request);
  if (live->request.prompt_details) {
    live->request.cache = false;  // a prefix that is kept has no logits
    live->prompt.push_back({{live->request.tokens[0], std::numeric_limits<float>::quiet_NaN()}, {}});
  }
  live->request.tokens_max = std::min(live->request.tokens_max, settings_.answer_tokens);
  live->request.tokens_min = std::min(live->request.tokens_min, live->request.tokens_max);
  live->arrival_ns = arrival_ns;
  BANTAM_ASSIGN(std::unique_ptr<Choice> first, MakeChoice(*live, /*index=*/0));
  live->choices.push_back(std::move(first));
  // Who comes new has had as much as who had least.
  const auto [client, added] = clients_.try_emplace(live->request.client);
  if (added) {
    double least = -1;
    for (const auto& [name, other] : clients_) {
      if (other.requests > 0 && (least < 0 || other.service < least)) least = other.service;
    }
    client->second.service = std::max(least, 0.0);
  }
  ++client->second.requests;
  requests_.emplace(next_id_, std::move(live));
  return next_id_++;
}

Result<std::unique_ptr<Engine::Choice>> Engine::MakeChoice(Live& live, size_t index) {
  BANTAM_ASSIGN(auto generation, Generation::Make(live.request, index, tokenizer_, &candidates_));
  auto choice = std::make_unique<Choice>(Choice{.live = &live,
                                                .index = index,
                                                .known = live.request.tokens,
                                                .kv = KvSequence(plan_.options.context, ring_, window_),
                                                .generation = std::move(generation),
                                                .draft = {},
                                                .text_drafts = {},
                                                .model_drafts = {},
                                                .guesses = nullptr,
                                                .waiting_since_ns = live.arrival_ns});
  if (live.request.beams > 0) choice->beam.emplace();
  return choice;
}

Error NoSuchAdapter(const std::string& name, const std::vector<std::string>& known) {
  return Error(Code::kNotFound, fmt::format("adapter {}: {}", name,
                                            known.empty() ? std::string("none is loaded")
                                                          : fmt::format("not among those that are loaded: {}", fmt::join(known, ", "))));
}

Result<std::shared_ptr<const Adapter>> Engine::FindAdapter(const std::string& name) const {
  const auto found = adapters_.find(name);
  if (found != adapters_.end()) return found->second;
  std::vector<std::string> known;
  for (const auto& [other, adapter] : adapters_) known.push_back(other);
  return NoSuchAdapter(name, known);
}

Status Engine::AddAdapter(const std::string& name, std::shared_ptr<const Adapter> adapter) {
  CHECK(adapter->model == &model_);
  if (name.empty() || name.size() > kAdapterNameMax) {
    return Error(Code::kInvalidArgument, fmt::format("an adapter's name of {} bytes: expected 1 to {}", name.size(), kAdapterNameMax));
  }
  if (adapters_.size() == kAdaptersMax && !adapters_.contains(name)) {
    return Error(Code::kExhausted, fmt::format("adapter {}: {} are loaded already; unload one first", name, kAdaptersMax));
  }
  BANTAM_TRY(executor_->RoomForRank(adapter->updates.rank_max(), budget_).With(fmt::format("adapter {}", name)));
  adapters_[name] = std::move(adapter);
  return Ok();
}

Status Engine::RemoveAdapter(const std::string& name) {
  BANTAM_TRY(FindAdapter(name));
  adapters_.erase(name);
  return Ok();
}

bool Engine::Cancel(RequestId id) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return false;
  EndFromOutside(*found->second, StopReason::kCancelled);
  RemoveFinished();
  return true;
}

void Engine::ExpireDeadlines(int64_t now_ns) {
  for (const auto& [id, live] : requests_) {
    if (live->request.deadline_ns == 0 || now_ns - live->arrival_ns < live->request.deadline_ns) continue;
    EndFromOutside(*live, StopReason::kDeadline);
  }
  RemoveFinished();
}

void Engine::EndFromOutside(Live& live, StopReason reason) {
  if (live.request.beams > 0) return EndBeams(live, reason);
  for (const auto& choice : live.choices) {
    if (choice->ended()) continue;
    Event event = {.request = live.id, .choice = choice->index};
    choice->generation->End(reason, &event);
    FinishChoice(*choice, std::move(event), std::nullopt);
  }
  // Those that were to begin with the first one's prompt.
  for (size_t index = live.choices.size(); index < live.request.choices; ++index) {
    Finish finish = {.reason = reason};
    AddUsage(live, &finish.usage);
    sink_({.request = live.id, .choice = index, .text = live.request.echo, .finish = std::move(finish)});
  }
}

// The one that computes what this prompt begins with, too, if waiting for that is worth a step; null: none does.
Engine::Live* Engine::Ahead(const Choice& choice, int64_t now_ns) const {
  const Request& request = choice.live->request;
  // Who has a deadline does not depend on others.
  if (choice.resident || choice.generation->tokens() > 0 || !Keeps(choice) || request.deadline_ns > 0) return nullptr;
  const std::span<const uint32_t> tokens(choice.known);
  const auto aged = [&](const Choice& one) {
    return Aged(policy_, {.priority = one.live->request.priority, .waiting_since_ns = one.waiting_since_ns}, now_ns);
  };
  const auto service = [&](const Live& live) { return clients_.at(live.request.client).service; };
  for (const auto& [id, other] : requests_) {
    const Choice& first = *other->choices[0];
    if (!first.resident || first.ended() || first.generation->tokens() > 0 || !Keeps(first) || other->root != choice.live->root) continue;
    // Nobody waits for one that comes later by itself.
    if (aged(first) > aged(choice) || service(*other) > service(*choice.live)) continue;
    const std::span<const uint32_t> ahead(first.known);
    const auto differs = std::mismatch(tokens.begin(), tokens.end() - 1, ahead.begin(), ahead.end()).first;
    const size_t common = static_cast<size_t>(differs - tokens.begin()) / kKvBlockTokens * kKvBlockTokens;
    // Windows and states are kept where a prompt ends, and nowhere else.
    const size_t last = (ahead.size() - 1) / kKvBlockTokens * kKvBlockTokens;
    if (first.kv.length() >= common || ((kv_.recurrent() || window_ > 0) && common < last)) continue;
    if (prefixes_->Find(choice.live->root, tokens) + kWorthwhile <= common) return other.get();
  }
  return nullptr;
}

PolicySnapshot Engine::Snapshot(int64_t now_ns, std::vector<Choice*>* choices) {
  PolicySnapshot snapshot = {.now_ns = now_ns, .sequences = {}, .blocks_available = 0, .cost = &cost_};
  bool any_waits = false;
  for (const auto& [id, live] : requests_) {
    for (const auto& choice : live->choices) {
      if (choice->ended()) continue;
      choices->push_back(choice.get());
      Live* const ahead = Ahead(*choice, now_ns);
      if (ahead != nullptr) ahead->followed = true;
      any_waits |= !choice->resident;
      snapshot.sequences.push_back(
          {.priority = live->request.priority,
           // Beams age together, or one could not take the place of another that waits for it.
           .waiting_since_ns = choice->beam ? live->arrival_ns : choice->waiting_since_ns,
           .arrival = id,
           .deadline_ns = live->request.deadline_ns == 0 ? INT64_MAX : live->arrival_ns + live->request.deadline_ns,
           .service = clients_.at(live->request.client).service,
           .resident = choice->resident,
           .begun = choice->beam && !choice->resident && choice->pending() > 0 && live->residents() > 0,
           .decoding = choice->decoding(),
           .waits = ahead != nullptr,
           .pending = choice->pending(),
           .blocks = choice->resident ? 0 : BlocksToBegin(*choice),
           .held = PlannedBlocks(*live, choice->kv.blocks(KvPart::kFull).size())});
    }
  }
  if (any_waits) snapshot.blocks_available = kv_.free_blocks(KvPart::kFull) + prefixes_->Freeable(KvPart::kFull);
  return snapshot;
}

std::vector<Grant> Engine::Reserve(const StepPlan& plan, const PolicySnapshot& snapshot, const std::vector<Choice*>& choices) {
  for (const size_t victim : plan.displaced) Preempt(*choices[victim]);
  std::vector<Grant> reserved;
  size_t outputs = 0;
  for (const Grant& grant : plan.grants) {
    Choice& choice = *choices[grant.sequence];
    const bool was_resident = choice.resident;
    // It made way for one in front of it: what it lost it computes in a later step.
    if (!was_resident && snapshot.sequences[grant.sequence].resident) continue;
    if (!was_resident) Begin(choice);
    size_t tokens = CutAtCheckpoint(choice, std::min(grant.tokens, choice.pending()));
    // With a prefix that is kept it may be further than the plan knew.
    if (choice.decoding() || choice.describes_prompt()) {
      tokens = std::min(tokens, plan_.options.step_outputs - outputs);
    } else if (tokens == choice.pending() && outputs == plan_.options.step_outputs) {
      --tokens;
    }
    while (tokens > 0 && !FreeFor(choice, choice.kv.length() + tokens)) {
      if (!PreemptFor(grant.sequence, plan, choices, reserved)) tokens /= 2;
    }
    if (tokens == 0) {
      if (!was_resident) Release(choice);
      continue;
    }
    const Status extended = choice.kv.Extend(CacheOf(*choice.live), choice.kv.length() + tokens);
    CHECK(extended.ok());
    outputs += OutputsOf(choice, tokens);
    reserved.push_back({grant.sequence, tokens});
  }
  return reserved;
}

// The least important resident below `index` that has no blocks for this step yet goes.
bool Engine::PreemptFor(size_t index, const StepPlan& plan, const std::vector<Choice*>& choices, std::span<const Grant> reserved) {
  for (auto at = plan.ranked.rbegin(); *at != index; ++at) {
    const bool runs = std::any_of(reserved.begin(), reserved.end(), [&](const Grant& grant) { return grant.sequence == *at; });
    if (runs || !choices[*at]->resident || choices[*at]->kv.length() == 0) continue;
    Preempt(*choices[*at]);
    return true;
  }
  return false;
}

void Engine::Preempt(Choice& choice) {
  Release(choice);
  choice.waiting_since_ns = clock_.NowNs();
  choice.draft.clear();
  ++counters_.preemptions;
}

void Engine::Apply(const AdaptiveSettings& settings) {
  if (settings.precision != settings_.precision && options_.use_precision) options_.use_precision(settings.precision);
  if (!settings.prefixes && settings_.prefixes) prefixes_->Clear();
  settings_ = settings;
  policy_.residents_max = std::clamp<size_t>(settings.sequences, 1, plan_.options.sequences);
}

PolicyOptions Engine::PolicyNow() const {
  PolicyOptions policy = policy_;
  // Beams that take turns compute their texts again and again: a search that runs keeps its width.
  for (const auto& [id, live] : requests_) policy.residents_max = std::max(policy.residents_max, live->request.beams);
  return policy;
}

void Engine::NoteTokens(Choice& choice, uint64_t tokens) {
  constexpr size_t kNotedMax = 4096;
  if (!options_.adaptive || tokens == 0) return;
  const int64_t now_ns = clock_.NowNs();
  const int64_t before_ns = std::exchange(choice.token_ns, now_ns);
  if (before_ns >= 0 && token_ns_.size() < kNotedMax) token_ns_.push_back((now_ns - before_ns) / static_cast<int64_t>(tokens));
}

void Engine::Adapt(const MemoryPressure& memory, std::optional<double> watts) {
  if (!options_.adaptive) return;
  AdaptiveView view = {.now_ns = clock_.NowNs(), .token_ns = {}, .watts = watts, .memory_share = {}};
  if (!token_ns_.empty()) {
    const auto at = token_ns_.begin() + static_cast<std::ptrdiff_t>(token_ns_.size() * 95 / 100);
    std::nth_element(token_ns_.begin(), at, token_ns_.end());
    view.token_ns = *at;
    token_ns_.clear();
  }
  if (memory.limit_bytes != UINT64_MAX && memory.limit_bytes > 0) {
    view.memory_share = 1 - std::min(1.0, static_cast<double>(memory.left_bytes) / static_cast<double>(memory.limit_bytes));
  }
  for (const auto& [id, live] : requests_) view.running += live->residents();
  if (const std::optional<std::string> change = options_.adaptive->Update(view)) {
    Apply(options_.adaptive->settings());
    if (options_.notice) options_.notice(*change);
  }
  // What those that ended have left goes back to the system.
  if (!settings_.prefixes) kv_.ReleaseFree();
}

void Engine::AddRows(Choice& choice, size_t tokens) {
  const size_t length = choice.kv.length();
  const bool all = choice.decoding() || choice.describes_prompt();
  const size_t drafted = length + tokens - std::min(length + tokens, choice.known.size());
  if (drafted < choice.draft.size()) {
    choice.draft.resize(drafted);
    choice.refused = 0;
  }
  for (size_t i = length; i < length + tokens; ++i) {
    const uint32_t token = i < choice.known.size() ? choice.known[i] : choice.draft[i - choice.known.size()];
    if (all || i + 1 == choice.known.size()) output_rows_.push_back(static_cast<uint32_t>(rows_.size()));
    rows_.push_back(RowOf(choice, i, token));
  }
}

StepRow Engine::RowOf(const Choice& choice, size_t position, uint32_t token) const {
  StepRow row = {token, static_cast<uint32_t>(position), choice.kv.tables(), choice.kv.state(kv_), choice.kv.next_state(kv_)};
  row.narrow = choice.live->narrow;
  if (choice.live->adapter != nullptr) row.adapter = &choice.live->adapter->updates;
  return row;
}

bantam::Step Engine::StepOf(std::span<const StepRow> rows, std::span<const uint32_t> outputs) const {
  bantam::Step step = {rows, outputs, kv_.base()};
  if (narrow_kv_) step.narrow_kv_base = narrow_kv_->base();
  return step;
}

Result<bool> Engine::Step() {
  const int64_t begin_ns = clock_.NowNs();
  ExpireDeadlines(begin_ns);
  if (requests_.empty()) return false;
  ProposeDrafts();
  std::vector<Choice*> choices;
  const PolicySnapshot snapshot = Snapshot(begin_ns, &choices);
  const PolicyOptions policy = PolicyNow();
  const StepPlan plan = PlanStep(policy, snapshot);
  if (options_.check) {
    const std::string_view wrong = CheckPlan(policy, snapshot, plan);
    if (!wrong.empty()) return Error(Code::kInternal, fmt::format("the plan of a step: {}", wrong));
  }
  const std::vector<Grant> grants = Reserve(plan, snapshot, choices);
  if (grants.empty()) {
    if (options_.fail) return true;
    return Error(Code::kInternal, "no sequence can go on, though the first alone would fit");
  }
  rows_.clear();
  output_rows_.clear();
  for (const Grant& grant : grants) AddRows(*choices[grant.sequence], grant.tokens);
  CHECK(output_rows_.size() <= plan_.options.step_outputs);
  if (std::any_of(grants.begin(), grants.end(), [&](const Grant& grant) { return MayExit(*choices[grant.sequence], grant.tokens); })) {
    StepWithExits(grants, choices, begin_ns);
  } else {
    const bool ran = executor_->Run(StepOf(rows_, output_rows_));
    CHECK(ran);
    Commit(grants, choices, begin_ns);
  }
  const int64_t end_ns = clock_.NowNs();
  cost_.Observe(rows_.size(), end_ns - begin_ns - drafting_ns_);
  ++counters_.steps;
  counters_.rows += rows_.size();
  RemoveFinished();
  if (options_.check) return CheckHolders().ok() ? Result<bool>(true) : Result<bool>(CheckHolders().error());
  return true;
}

void Engine::Commit(const std::vector<Grant>& grants, const std::vector<Choice*>& choices, int64_t begin_ns) {
  size_t output = 0;
  for (const Grant& grant : grants) {
    Choice& choice = *choices[grant.sequence];
    const size_t outputs = OutputsOf(choice, grant.tokens);
    CommitGrant(grant, choice, output, begin_ns);
    output += outputs;
  }
  for (const auto& [id, live] : requests_) {
    if (live->request.beams > 0) AdvanceBeams(*live);
  }
}

size_t Engine::OutputsOf(const Choice& choice, size_t tokens) const {
  if (choice.decoding() || choice.describes_prompt()) return tokens;
  return tokens == choice.pending() ? 1 : 0;
}

// What the logits of `tokens` of the prompt, from `output` on, say of those behind each.
void Engine::DescribePrompt(const Choice& choice, size_t tokens, size_t output) {
  Live& live = *choice.live;
  const std::vector<uint32_t>& prompt = live.request.tokens;
  for (size_t i = 0; i < tokens; ++i) {
    // One that was displaced computes again what is known.
    const size_t next = choice.kv.length() + i + 1;
    if (next == live.prompt.size() && next < prompt.size()) {
      live.prompt.push_back(DescribeToken(Logits(output + i), prompt[next], live.request.top_logprobs));
    }
  }
}

void Engine::CommitGrant(const Grant& grant, Choice& choice, size_t output, int64_t begin_ns) {
  Live& live = *choice.live;
  if (live.first_step_ns < 0) live.first_step_ns = begin_ns;
  clients_.at(live.request.client).service += static_cast<double>(grant.tokens);
  const bool decoding = choice.decoding();
  if (choice.describes_prompt()) {
    DescribePrompt(choice, grant.tokens, output);
    output += grant.tokens - 1;
  }
  choice.kv.Commit(choice.kv.length() + grant.tokens);
  const bool whole = decoding || choice.kv.length() == choice.known.size();
  if (!decoding) {
    counters_.prompt_tokens += grant.tokens;
    const bool shared = live.followed && window_ == 0 && !kv_.recurrent();
    if (whole || shared || (kv_.recurrent() && choice.kv.length() % kKvBlockTokens == 0)) Keep(choice);
  }
  if (!whole) return;
  if (choice.beam) return Weigh(choice, Logits(output));
  if (!decoding && choice.generation->tokens() == 0 && live.choices.size() < live.request.choices) Fork(live, output);
  const uint64_t before = counters_.generated_tokens;
  Advance(choice, output);
  if (decoding) NoteTokens(choice, counters_.generated_tokens - before);
}

// The other answers to the prompt that the first one has computed begin with its KV, where there is a place for them.
void Engine::Fork(Live& live, size_t output) {
  const Choice& first = *live.choices[0];
  size_t places = FreePlaces();
  for (size_t index = 1; index < live.request.choices; ++index) {
    Result<std::unique_ptr<Choice>> made = MakeChoice(live, index);
    CHECK(made.ok());  // the first one's options were good
    Choice& choice = **made;
    choice.waiting_since_ns = first.waiting_since_ns;
    ShareKv(first, &choice, &places);
    live.choices.push_back(std::move(*made));
    Advance(choice, output);
  }
}

void Engine::Advance(Choice& choice, size_t output) {
  Live& live = *choice.live;
  const size_t before = choice.known.size();
  Event event = {.request = live.id, .choice = choice.index};
  if (choice.generation->tokens() == 0) event.prompt = live.prompt;
  if (live.request.tokens_max == 0) {
    choice.generation->End(StopReason::kLength, &event);
    return FinishChoice(choice, std::move(event), std::nullopt);
  }
  std::optional<Error> error;
  size_t accepted = 0;
  for (size_t i = 0; i <= choice.draft.size(); ++i) {
    if (choice.known.size() == plan_.options.context) {
      choice.generation->End(StopReason::kContextFull, &event);
      break;
    }
    Result<std::optional<uint32_t>> next = choice.generation->Next(Logits(output + i), &event);
    if (!next.ok()) {
      error = std::move(next).error();
      choice.generation->End(StopReason::kError, &event);
      break;
    }
    if (!*next) break;
    choice.known.push_back(**next);
    if (choice.ended() || i == choice.draft.size()) break;
    if (**next != choice.draft[i]) break;
    ++accepted;
  }
  if (event.token_count > 0 && live.first_token_ns < 0) live.first_token_ns = clock_.NowNs();
  counters_.generated_tokens += event.token_count;
  counters_.drafted_tokens += choice.draft.size();
  counters_.accepted_tokens += accepted;
  live.drafted_tokens += choice.draft.size();
  live.accepted_tokens += accepted;
  ObserveDraft(choice, accepted);
  choice.draft.clear();
  // Of the drafts that were wrong nothing stays.
  const size_t computed = before + accepted;
  if (choice.resident && choice.kv.length() > computed) choice.kv.Truncate(CacheOf(live), computed);
  if (choice.ended()) {
    FinishChoice(choice, std::move(event), std::move(error));
  } else if (!event.text.empty() || event.token_count > 0) {
    sink_(std::move(event));
  }
}

void Engine::AddUsage(const Live& live, Usage* usage) const {
  usage->prompt_tokens = live.request.tokens.size();
  usage->cached_tokens = live.cached_tokens;
  usage->exited_tokens = live.exited_tokens;
  usage->kv_type = live.narrow ? KvType::kInt8 : plan_.options.kv_type;
  usage->drafted_tokens = live.drafted_tokens;
  usage->accepted_tokens = live.accepted_tokens;
  const int64_t now_ns = clock_.NowNs();
  usage->queued_ns = (live.first_step_ns < 0 ? now_ns : live.first_step_ns) - live.arrival_ns;
  usage->first_token_ns = live.first_token_ns < 0 ? 0 : live.first_token_ns - live.arrival_ns;
  usage->total_ns = now_ns - live.arrival_ns;
}

Finish Engine::Finished(const Live& live, Finish finish) {
  // No number is no confidence.
  if (finish.confidence && std::isnan(*finish.confidence)) {
    finish.confidence = 0;
    finish.low_confidence = live.request.confidence_min > 0;
  }
  if (options_.calibration && finish.confidence) {
    finish.computed_confidence = std::exchange(finish.confidence, options_.calibration->Map(*finish.confidence));
    finish.low_confidence = *finish.confidence < live.request.confidence_min;
  }
  AddUsage(live, &finish.usage);
  constexpr double kNewest = 0.05;
  answer_tokens_ += kNewest * (static_cast<double>(finish.usage.generated_tokens) - answer_tokens_);
  return finish;
}

void Engine::FinishChoice(Choice& choice, Event event, std::optional<Error> error) {
  Finish finish = choice.generation->finish();
  finish.error = std::move(error);
  event.finish = Finished(*choice.live, std::move(finish));
  Release(choice);
  sink_(std::move(event));
}

void Engine::RemoveFinished() {
  for (auto at = requests_.begin(); at != requests_.end();) {
    const Live& live = *at->second;
    if (!live.ended()) {
      ++at;
      continue;
    }
    const auto client = clients_.find(live.request.client);
    if (--client->second.requests == 0) clients_.erase(client);
    at = requests_.erase(at);
  }
}

}  // namespace bantam
