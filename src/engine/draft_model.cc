#include "engine/draft_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/json.h"
#include "model/vocabulary.h"

namespace bantam {
namespace {

// Who found no room does not ask again for so long, and who was not asked for in so long may lose its KV to others.
constexpr uint64_t kPatience = 32;

std::string TextOf(const Tokenizer& tokenizer, uint32_t token) {
  std::string text;
  tokenizer.AppendRaw(token, /*special=*/true, &text);
  return text;
}

std::string IdText(std::optional<uint32_t> token) { return token ? fmt::format("token {}", *token) : std::string("no token"); }

// The draft's own options: those of its model's sequences, as far as it was trained.
PlanOptions DraftOptions(const Program& draft, const PlanOptions& options) {
  PlanOptions own = options;
  own.context = std::min(options.context, draft.context_max);
  own.step_outputs = options.sequences;
  own.kv_tokens = 0;
  own.checkpoints = 0;
  return own;
}

// The process is counted with its model.
uint64_t BytesBeside(const MemoryPlan& plan) { return plan.total_bytes() - plan.reserve_bytes; }

uint32_t Likeliest(std::span<const float> logits) {
  return static_cast<uint32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace

Status CheckSameVocabulary(const Tokenizer& model, const Tokenizer& draft) {
  const auto differ = [](const std::string& what) {
    return Error(Code::kInvalidArgument, fmt::format("{}; a draft model needs the vocabulary of the model that checks it", what));
  };
  const size_t common = std::min(model.size(), draft.size());
  for (uint32_t token = 0; token < common; ++token) {
    const std::string ours = TextOf(model, token);
    const std::string theirs = TextOf(draft, token);
    if (ours != theirs) return differ(fmt::format("token {} is {} in the model and {} here", token, ShortJson(ours), ShortJson(theirs)));
  }
  const Tokenizer& longer = model.size() > draft.size() ? model : draft;
  for (size_t token = common; token < longer.size(); ++token) {
    if (longer.spec().types[token] == TokenType::kUnused) continue;
    return differ(fmt::format("{} tokens here, {} in the model", draft.size(), model.size()));
  }
  const auto same = [&](std::string_view name, std::optional<uint32_t> ours, std::optional<uint32_t> theirs) -> Status {
    if (ours == theirs) return Ok();
    return differ(fmt::format("a text's {} is {} in the model and {} here", name, IdText(ours), IdText(theirs)));
  };
  BANTAM_TRY(same("beginning", model.spec().bos, draft.spec().bos));
  return same("end", model.spec().eos, draft.spec().eos);
}

Result<DraftOutline> OutlineDraft(ModelFile file, const Tokenizer& tokenizer, const ModelOutline& model) {
  const auto unsupported = [&](const std::string& why) {
    return Error(Code::kUnsupported, fmt::format("draft model {}: {}", file.path, why));
  };
  if (model.program.state_floats > 0) {
    return unsupported(fmt::format("a {} model has recurrent layers, which go back no further than a step: it checks no drafts",
                                   model.config.architecture));
  }
  BANTAM_ASSIGN(const Tokenizer own, ReadVocabulary(file));
  BANTAM_TRY(CheckSameVocabulary(tokenizer, own).With(fmt::format("draft model {}", file.path)));
  BANTAM_ASSIGN(ModelOutline outline, OutlineModel(file, *model.kernels));
  if (outline.config.whole_texts) {
    return unsupported(outline.config.later_tokens ? fmt::format("{} models write no text", outline.config.architecture)
                                                   : "it has no output matrix (lm_head.weight), so it guesses nothing");
  }
  if (outline.program.state_floats > 0) {
    return unsupported(fmt::format("{} models have recurrent layers, which go back no further than a step; take one with attention alone",
                                   outline.config.architecture));
  }
  return DraftOutline{std::move(file), std::move(outline)};
}

uint64_t DraftBytesMin(const DraftOutline& draft, const PlanOptions& options) {
  const Program& program = draft.outline.program;
  return BytesBeside(PlanMemory(program, DraftOptions(program, options), {.header = draft.file.held_bytes()}));
}

MemoryPlan PlanDraft(const DraftOutline& draft, uint64_t limit_bytes, MemoryPlan* plan) {
  const Program& program = draft.outline.program;
  MemoryPlan own = PlanMemory(program, DraftOptions(program, plan->options), {.header = draft.file.held_bytes()});
  plan->draft_bytes = 0;
  const uint64_t others = plan->total_bytes() - own.reserve_bytes;
  GrowPool(program, limit_bytes - std::min(limit_bytes, others), &own);
  plan->draft_bytes = BytesBeside(own);
  return own;
}

DraftModel::DraftModel(const Setup& setup, const Resources&)
    : model_(setup.model),
      plan_(setup.plan),
      tokenizer_(setup.tokenizer),
      clock_(setup.clock),
      vocabulary_(std::min(setup.vocabulary, setup.model.program.vocabulary)),
      fail_(setup.fail),
      ring_(KvBlocks(setup.model.program, setup.plan.options)[KvPart::kWindowed]),
      window_(WindowMax(setup.model.program)) {
  rows_.reserve(plan_.options.step_tokens);
  output_rows_.reserve(plan_.options.step_outputs);
  drafts_.reserve(plan_.options.step_outputs);
}

Result<std::unique_ptr<DraftModel>> DraftModel::Make(const Setup& setup, const Resources& resources) {
  const Program& program = setup.model.program;
  const PlanOptions& options = setup.plan.options;
  CHECK(!program.whole_texts && program.state_floats == 0 && options.step_outputs >= 1);
  std::unique_ptr<DraftModel> model(new DraftModel(setup, resources));
  BANTAM_ASSIGN(model->kv_, KvCache::Make(PlannedKv(program, options), PoolBlocks(program, options), {}, resources.budget));
  BANTAM_ASSIGN(model->executor_, Executor::Make({program, setup.model.weights, *setup.model.kernels, options}, resources));
  return model;
}

DraftModel::Sequence::~Sequence() {
  kv_.Truncate(of_.kv_, 0);
  std::erase(of_.sequences_, this);
}

std::unique_ptr<DraftModel::Sequence> DraftModel::Begin() {
  std::unique_ptr<Sequence> sequence(new Sequence(*this, plan_.options.context, ring_, window_));
  sequences_.push_back(sequence.get());
  return sequence;
}

uint64_t DraftModel::SequenceBytes() const {
  return sizeof(Sequence) + sizeof(Sequence*) + kKvParts * KvBlockCount(plan_.options.context) * sizeof(uint32_t);
}

// How long what it holds is what is known, but for the newest token, whose logits are wanted.
size_t DraftModel::Right(const Sequence& sequence, std::span<const uint32_t> known) const {
  size_t right = std::min(sequence.known_, sequence.kv_.length());
  for (const uint32_t guess : sequence.guesses_) {
    if (right >= known.size() || known[right] != guess) break;
    ++right;
  }
  return std::min(right, known.size() - 1);
}

void DraftModel::Correct(Sequence& sequence, std::span<const uint32_t> known) {
  const size_t right = Right(sequence, known);
  if (right < sequence.kv_.length()) sequence.kv_.Truncate(kv_, right);
  sequence.guesses_.clear();
  sequence.known_ = known.size();
}

size_t DraftModel::Behind(const Sequence& sequence, std::span<const uint32_t> known) const { return known.size() - Right(sequence, known); }

size_t DraftModel::Room(const Sequence& sequence, std::span<const uint32_t> known) const {
  const size_t context = plan_.options.context;
  if (uses_ < sequence.waits_until_ || known.size() > context) return 0;
  const auto unread = known.subspan(Right(sequence, known));
  const bool readable = std::all_of(unread.begin(), unread.end(), [&](uint32_t token) { return token < vocabulary_; });
  return readable ? context - known.size() + 1 : 0;  // the last guess is not read
}

bool DraftModel::ForgetOldest() {
  Sequence* oldest = nullptr;
  for (Sequence* sequence : sequences_) {
    if (sequence->kv_.length() == 0 || sequence->used_ + kPatience > uses_) continue;
    if (oldest == nullptr || sequence->used_ < oldest->used_) oldest = sequence;
  }
  if (oldest == nullptr) return false;
  oldest->kv_.Truncate(kv_, 0);
  oldest->guesses_.clear();
  return true;
}

bool DraftModel::Extend(Sequence& sequence, size_t length) {
  const auto make_room = [&] {
    if (fail_ && fail_()) return false;
    const PerKvPart<size_t> needs = sequence.kv_.Needs(kv_, length);
    for (const KvPart part : kAllKvParts) {
      while (kv_.free_blocks(part) < needs[part]) {
        if (!ForgetOldest()) return false;
      }
    }
    return true;
  };
  if (make_room()) {
    const Status extended = sequence.kv_.Extend(kv_, length);
    CHECK(extended.ok());
    return true;
  }
  // What it holds would keep others from their guesses, and has none itself.
  sequence.waits_until_ = uses_ + kPatience;
  return false;
}

void DraftModel::AddRow(const Sequence& sequence, uint32_t token, size_t position, std::vector<uint32_t>* draft) {
  if (rows_.size() == plan_.options.step_tokens || output_rows_.size() == plan_.options.step_outputs) Run();
  if (draft != nullptr) {
    output_rows_.push_back(static_cast<uint32_t>(rows_.size()));
    drafts_.push_back(draft);
  }
  rows_.push_back({token, static_cast<uint32_t>(position), sequence.kv_.tables()});
}

void DraftModel::Run() {
  if (rows_.empty()) return;
  const int64_t begin_ns = clock_.NowNs();
  const bool ran = executor_->Run({rows_, output_rows_, kv_.base()});
  CHECK(ran);
  for (size_t i = 0; i < drafts_.size(); ++i) {
    drafts_[i]->push_back(Likeliest({executor_->logits() + i * model_.program.vocabulary, vocabulary_}));
  }
  cost_.Observe(rows_.size(), clock_.NowNs() - begin_ns);
  ++steps_;
  rows_.clear();
  output_rows_.clear();
  drafts_.clear();
}

void DraftModel::Propose(std::span<const Ask> asks, size_t rows_max) {
  ++uses_;
  for (const Ask& ask : asks) ask.sequence->used_ = uses_;
  std::vector<std::pair<Sequence*, size_t>> lengths;  // that they have when the step is done
  const auto run = [&] {
    Run();
    for (const auto& [sequence, length] : lengths) sequence->kv_.Commit(length);
    lengths.clear();
  };
  std::vector<const Ask*> going;
  for (const Ask& ask : asks) {
    Sequence& sequence = *ask.sequence;
    Correct(sequence, ask.known);
    const size_t begin = sequence.kv_.length();
    const size_t end = begin + std::min({ask.known.size() - begin, rows_max, plan_.options.step_tokens});
    if (end == begin) continue;
    if (!Extend(sequence, end)) {
      sequence.kv_.Truncate(kv_, 0);
      continue;
    }
    rows_max -= end - begin;
    const bool whole = end == ask.known.size();
    for (size_t i = begin; i < end; ++i) AddRow(sequence, ask.known[i], i, whole && i + 1 == end ? ask.draft : nullptr);
    lengths.emplace_back(&sequence, end);
    if (whole) going.push_back(&ask);
  }
  run();
  while (!going.empty()) {
    std::erase_if(going, [&](const Ask* ask) {
      const uint32_t guess = ask->draft->back();
      if (tokenizer_.EndsTurn(guess)) {
        ask->draft->pop_back();
        return true;
      }
      Sequence& sequence = *ask->sequence;
      const size_t length = sequence.kv_.length();
      if (ask->draft->size() == ask->tokens || !Extend(sequence, length + 1)) return true;
      AddRow(sequence, guess, length, ask->draft);
      sequence.guesses_.push_back(guess);
      lengths.emplace_back(&sequence, length + 1);
      return false;
    });
    run();
  }
}

Status DraftModel::CheckHolders() const {
  for (const KvPart part : kAllKvParts) {
    std::vector<uint32_t> held(kv_.blocks(part));
    for (const Sequence* sequence : sequences_) {
      for (const uint32_t block : sequence->kv_.blocks(part)) {
        if (block != KvSequence::kNoBlock) ++held[block];
      }
    }
    size_t free = 0;
    for (uint32_t block = 0; block < held.size(); ++block) {
      free += held[block] == 0 ? 1 : 0;
      if (held[block] != kv_.holders(part, block) || held[block] > 1) {
        return Error(Code::kInternal, fmt::format("KV block {} of the draft model: {} hold it, and {} are counted", block, held[block],
                                                  kv_.holders(part, block)));
      }
    }
    if (free == kv_.free_blocks(part)) continue;
    return Error(Code::kInternal, fmt::format("{} KV blocks of the draft model are free, and {} are counted", free, kv_.free_blocks(part)));
  }
  return Ok();
}

}  // namespace bantam
