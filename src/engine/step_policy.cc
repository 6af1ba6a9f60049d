#include "engine/step_policy.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <tuple>

#include "base/check.h"

namespace bantam {
namespace {

constexpr std::string_view kNames[kPriorities] = {"high", "normal", "low", "batch"};

// Logits are wanted of each draft, and of the last token of a prompt.
size_t Outputs(const SequenceView& sequence, size_t tokens) {
  if (sequence.decoding) return tokens;
  return tokens == sequence.pending ? 1 : 0;
}

// It has nothing to do until others of its request have done what is theirs.
bool Rests(const SequenceView& sequence) { return sequence.resident && sequence.pending == 0; }

// What a plan has given out so far.
class Giving {
 public:
  Giving(const PolicyOptions& options, const PolicySnapshot& snapshot) : options_(options), snapshot_(snapshot) {
    plan_.ranked = Rank(options, snapshot);
    for (auto at = plan_.ranked.rbegin(); at != plan_.ranked.rend(); ++at) {
      if (snapshot.sequences[*at].resident) residents_.push_back(*at);
    }
  }

  const std::vector<size_t>& ranked() const { return plan_.ranked; }

  size_t rows() const { return rows_; }
  StepPlan Take() { return std::move(plan_); }

  // A place and blocks for one that waits, against those behind it; nobody is displaced for it.
  void Hold(size_t index) {
    const SequenceView& sequence = snapshot_.sequences[index];
    const size_t staying = residents_.size() + admitted_ - plan_.displaced.size();
    if (sequence.resident || full_ || staying >= options_.residents_max) return;
    full_ = promised_ + sequence.blocks > BlocksFor(index);
    promised_ += full_ ? 0 : sequence.blocks;
    admitted_ += full_ ? 0 : 1;
  }

  // At most `tokens` of what the sequence has to compute. False: nothing could be given.
  bool Give(size_t index, size_t tokens) {
    const SequenceView& sequence = snapshot_.sequences[index];
    tokens = std::min({tokens, sequence.pending, options_.step_tokens - rows_});
    const size_t outputs_left = options_.step_outputs - outputs_;
    if (sequence.decoding) {
      tokens = std::min(tokens, outputs_left);
    } else if (tokens == sequence.pending && outputs_left == 0) {
      --tokens;
    }
    if (tokens == 0 || Displaced(index) || !Place(index)) return false;
    outputs_ += Outputs(sequence, tokens);
    plan_.grants.push_back({index, tokens});
    rows_ += tokens;
    return true;
  }

 private:
  // Residents keep places and blocks against equals, and lose them to what is higher.
  bool Place(size_t index) {
    const SequenceView& sequence = snapshot_.sequences[index];
    if (sequence.resident) return true;
    const size_t staying = residents_.size() + admitted_ - plan_.displaced.size();
    if (full_ || (staying > 0 && promised_ + sequence.blocks > BlocksFor(index))) {
      // It would be computed only to lose its blocks to those in front of it. Nobody behind it takes what it waits for.
      full_ = true;
      return false;
    }
    if (staying >= options_.residents_max) {
      // The least important of those that give way go: one, or more where there were more places before.
      std::vector<size_t> going;
      for (const size_t resident : residents_) {
        if (going.size() <= staying - options_.residents_max && !Displaced(resident) && GivesWay(resident, index))
          going.push_back(resident);
      }
      if (going.size() <= staying - options_.residents_max) return false;
      plan_.displaced.insert(plan_.displaced.end(), going.begin(), going.end());
    }
    promised_ += sequence.blocks;
    ++admitted_;
    return true;
  }
  bool GivesWay(size_t resident, size_t index) const {
    const bool lower = PriorityOf(resident) > PriorityOf(index);
    // It waits for those of its request, which must not wait for its place.
    const bool rests = Rests(snapshot_.sequences[resident]) && snapshot_.sequences[resident].arrival == snapshot_.sequences[index].arrival;
    return (lower || rests) && !Granted(resident);
  }
  Priority PriorityOf(size_t index) const { return Aged(options_, snapshot_.sequences[index], snapshot_.now_ns); }
  // Free blocks, and those of residents that give way.
  size_t BlocksFor(size_t index) const {
    size_t blocks = snapshot_.blocks_available;
    for (const size_t resident : residents_) blocks += GivesWay(resident, index) ? snapshot_.sequences[resident].held : 0;
    return blocks;
  }
  bool Granted(size_t index) const {
    return std::any_of(plan_.grants.begin(), plan_.grants.end(), [&](const Grant& grant) { return grant.sequence == index; });
  }

  bool Displaced(size_t index) const { return std::find(plan_.displaced.begin(), plan_.displaced.end(), index) != plan_.displaced.end(); }

  const PolicyOptions& options_;
  const PolicySnapshot& snapshot_;
  StepPlan plan_;
  std::vector<size_t> residents_;  // least important first
  size_t admitted_ = 0;
  size_t promised_ = 0;  // blocks, to those that were admitted
  bool full_ = false;    // somebody waits for blocks
  size_t rows_ = 0;
  size_t outputs_ = 0;
};

}  // namespace

std::string_view PriorityName(Priority priority) { return kNames[static_cast<size_t>(priority)]; }

std::optional<Priority> PriorityFromName(std::string_view name) {
  const auto* found = std::find(std::begin(kNames), std::end(kNames), name);
  if (found == std::end(kNames)) return std::nullopt;
  return static_cast<Priority>(found - std::begin(kNames));
}

Priority Aged(const PolicyOptions& options, const SequenceView& sequence, int64_t now_ns) {
  if (sequence.priority <= Priority::kNormal || options.ageing_ns <= 0) return sequence.priority;
  const int64_t steps = std::max<int64_t>(0, now_ns - sequence.waiting_since_ns) / options.ageing_ns;
  const int64_t aged = static_cast<int64_t>(sequence.priority) - steps;
  return static_cast<Priority>(std::max(aged, static_cast<int64_t>(Priority::kNormal)));
}

std::vector<size_t> Rank(const PolicyOptions& options, const PolicySnapshot& snapshot) {
  std::vector<size_t> order(snapshot.sequences.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto key = [&](size_t i) {
    const SequenceView& sequence = snapshot.sequences[i];
    // What was begun is finished first: its KV is there. Then who had least, then what is most urgent.
    const bool rests = Rests(sequence);
    return std::tuple(Aged(options, sequence, snapshot.now_ns), !sequence.decoding, !sequence.resident && !sequence.begun, sequence.service,
                      sequence.deadline_ns, sequence.arrival, rests);
  };
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return key(a) < key(b); });
  return order;
}

StepPlan PlanStep(const PolicyOptions& options, const PolicySnapshot& snapshot) {
  Giving giving(options, snapshot);
  const std::vector<size_t>& ranked = giving.ranked();
  const auto& all = snapshot.sequences;
  const auto first = std::find_if(ranked.begin(), ranked.end(), [&](size_t i) { return all[i].pending > 0 && !all[i].waits; });
  if (first == ranked.end()) return giving.Take();
  const auto aged = [&](size_t i) { return Aged(options, all[i], snapshot.now_ns); };
  const Priority top = aged(*first);
  for (const size_t i : ranked) {
    if (aged(i) == top && all[i].decoding && !all[i].waits) giving.Give(i, all[i].pending);
  }
  // A prompt goes on by a token at least, or it would wait for ever.
  size_t rows_max = options.step_tokens;
  if (giving.rows() > 0 && snapshot.cost != nullptr && snapshot.cost->known()) {
    rows_max = std::max(giving.rows() + 1, snapshot.cost->RowsWithin(giving.rows(), options.slowdown_max, options.step_tokens));
  }
  bool high_prompt = false;  // is read in this step
  for (const size_t i : ranked) {
    if (all[i].waits) giving.Hold(i);
    if (all[i].waits || all[i].pending == 0 || giving.rows() >= rows_max) continue;
    if (aged(i) == top ? all[i].decoding : high_prompt) continue;
    const size_t left = rows_max - giving.rows();
    // Drafts are dropped rather than the token in front of them.
    const bool given = giving.Give(i, all[i].decoding && left < all[i].pending ? 1 : left);
    high_prompt |= given && aged(i) == Priority::kHigh;
  }
  return giving.Take();
}

std::string_view CheckPlan(const PolicyOptions& options, const PolicySnapshot& snapshot, const StepPlan& plan) {
  std::vector<int> seen(snapshot.sequences.size());
  size_t rows = 0;
  size_t outputs = 0;
  size_t residents = 0;
  size_t admitted = 0;
  for (const SequenceView& sequence : snapshot.sequences) residents += sequence.resident ? 1 : 0;
  for (const Grant& grant : plan.grants) {
    if (grant.sequence >= seen.size() || seen[grant.sequence]++ > 0) return "a sequence has two grants";
    const SequenceView& sequence = snapshot.sequences[grant.sequence];
    if (sequence.waits) return "one that waits has a grant";
    if (grant.tokens == 0 || grant.tokens > sequence.pending) return "a grant of nothing, or of more than there is";
    rows += grant.tokens;
    outputs += Outputs(sequence, grant.tokens);
    admitted += sequence.resident ? 0 : 1;
  }
  for (const size_t victim : plan.displaced) {
    if (victim >= seen.size() || !snapshot.sequences[victim].resident || seen[victim]++ > 0) return "a displaced sequence runs";
    --residents;
  }
  if (rows > options.step_tokens) return "more rows than a step has";
  if (outputs > options.step_outputs) return "more logits than a step has";
  // There may have been more places before: then nobody comes, and who is there may stay.
  if (admitted > 0 && residents + admitted > options.residents_max) return "more residents than places";
  const bool work =
      std::any_of(snapshot.sequences.begin(), snapshot.sequences.end(), [](const auto& s) { return s.pending > 0 && !s.waits; });
  if (work && plan.grants.empty()) return "there is work, and nobody does it";
  return {};
}

}  // namespace bantam
