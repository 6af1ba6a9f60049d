// Drafts of an engine's sequences: what constraints force, what the text has had before, what the draft model guesses.
#include <algorithm>
#include <utility>

#include "engine/engine.h"
#include "engine/engine_choice.h"

namespace bantam {
namespace {

// An answer that has got longer than most is expected to get so many more tokens.
constexpr double kRemainingMin = 16;

}  // namespace

size_t Engine::DraftRoom(const Choice& choice) const {
  return std::min(
      {kDraftTokensMax, plan_.options.context - choice.known.size(), choice.live->request.tokens_max - choice.generation->tokens()});
}

void Engine::ProposeDrafts() {
  drafting_ns_ = 0;
  // States of recurrent layers go back one step and no further: a draft that is wrong would cost them all.
  if (kv_.recurrent()) return;
  size_t rows = 0;
  size_t read = 0;  // prompts of residents: they may end in this step, and then want logits
  size_t waits = 0;
  for (const auto& [id, live] : requests_) {
    for (const auto& choice : live->choices) {
      if (choice->ended() || choice->pending() == 0) continue;
      ++(!choice->resident ? waits : choice->decoding() ? rows : read);
    }
  }
  // Those who have a place; others begin only in that of a resident.
  const size_t begin = std::min(waits, policy_.residents_max - std::min(policy_.residents_max, rows + read));
  const size_t room = plan_.options.step_outputs - std::min(plan_.options.step_outputs, rows + read + begin);
  size_t outputs = room;
  for (const auto& [id, live] : requests_) {
    for (const auto& choice : live->choices) {
      choice->draft.clear();
      choice->draft_source = DraftSource::kText;
      choice->refused = 0;
      if (choice->ended() || !choice->resident || !choice->decoding() || choice->beam || AsksEarly(*choice)) continue;
      const size_t left = std::min(outputs, DraftRoom(*choice));
      // What has to come next is read in one step, whatever it costs: it is nearly always right.
      choice->draft = choice->generation->Forced(left);
      outputs -= choice->draft.size();
      if (!choice->draft.empty()) choice->draft_source = DraftSource::kForced;
      if (!choice->draft.empty() || !live->request.speculate || !settings_.speculate) continue;
      const size_t length = left == 0 ? 0 : choice->text_drafts.Best(cost_, rows, left);
      if (length == 0) continue;
      choice->draft = LookUpDraft(choice->known, length);
      outputs -= choice->draft.size();
    }
  }
  if (draft_model_ == nullptr || rows == 0 || !settings_.speculate) return;
  // While a prompt is read it gets what a step may take longer.
  if (read + begin == 0) ProposeByModel(rows + room - outputs, outputs);
}

std::vector<Engine::Choice*> Engine::WithoutDraft(int64_t now_ns) const {
  std::vector<Choice*> found;
  Priority top = Priority::kBatch;
  for (const auto& [id, live] : requests_) {
    for (const auto& choice : live->choices) {
      if (choice->ended() || !choice->resident || !choice->decoding() || choice->beam || AsksEarly(*choice)) continue;
      // What is more important does not wait for guesses at what is less.
      const Priority priority = Aged(policy_, {.priority = live->request.priority, .waiting_since_ns = choice->waiting_since_ns}, now_ns);
      if (priority > top) continue;
      if (priority < top) found.clear();
      top = priority;
      if (choice->draft.empty() && live->request.speculate) found.push_back(choice.get());
    }
  }
  return found;
}

void Engine::ProposeByModel(size_t rows, size_t outputs) {
  const int64_t begin_ns = clock_.NowNs();
  std::vector<Choice*> choices;
  std::vector<DraftCandidate> candidates;
  for (Choice* choice : WithoutDraft(begin_ns)) {
    if (choice->guesses == nullptr) {
      choice->guesses = draft_model_->Begin();
      choice->model_drafts = draft_planner_.overall();
    }
    const size_t generated = choice->generation->tokens();
    const size_t left = choice->live->request.tokens_max - generated;
    // The last token needs no guess at what follows.
    const size_t tokens_max = std::min({DraftRoom(*choice), left - 1, draft_model_->Room(*choice->guesses, choice->known)});
    if (tokens_max == 0) continue;
    const double expected = std::max(answer_tokens_ - static_cast<double>(generated), kRemainingMin);
    candidates.push_back({.right = choice->model_drafts.right(),
                          .tokens_max = tokens_max,
                          .behind = draft_model_->Behind(*choice->guesses, choice->known),
                          .remaining = static_cast<size_t>(std::min(static_cast<double>(left), expected))});
    choices.push_back(choice);
  }
  const DraftWork work = draft_planner_.Next({.cost = cost_,
                                              .draft_cost = draft_model_->cost(),
                                              .rows = rows,
                                              .outputs = outputs,
                                              .step_tokens = draft_model_->step_tokens(),
                                              .slowdown_max = options_.policy.slowdown_max},
                                             candidates);
  std::vector<size_t> order;  // those that are nearly read first
  for (size_t i = 0; i < work.lengths.size(); ++i) {
    if (work.lengths[i] > 0) order.push_back(i);
  }
  if (order.empty()) return;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return candidates[a].behind < candidates[b].behind; });
  std::vector<DraftModel::Ask> asks;
  for (const size_t i : order) asks.push_back({choices[i]->guesses.get(), choices[i]->known, work.lengths[i], &choices[i]->draft});
  draft_model_->Propose(asks, work.rows_max);
  for (const size_t i : order) {
    Choice& choice = *choices[i];
    const size_t made = choice.draft.size();
    choice.draft.resize(choice.generation->Allows(choice.draft));
    choice.refused = made > choice.draft.size() ? 1 : 0;
    choice.draft_source = DraftSource::kModel;
  }
  counters_.draft_steps = draft_model_->steps();
  drafting_ns_ = clock_.NowNs() - begin_ns;
}

void Engine::ObserveDraft(Choice& choice, size_t accepted) {
  const size_t drafted = choice.draft.size();
  switch (choice.draft_source) {
    case DraftSource::kForced:
      return;
    case DraftSource::kText:
      choice.text_drafts.Observe(drafted, accepted);
      return;
    case DraftSource::kModel:
      choice.text_drafts.Observe(/*drafted=*/0, /*accepted=*/0);
      if (drafted + choice.refused > 0) choice.model_drafts.Observe(drafted + choice.refused, accepted);
      draft_planner_.Observe(drafted + choice.refused, accepted);
      counters_.model_drafted_tokens += drafted;
      counters_.model_accepted_tokens += accepted;
      return;
  }
}

}  // namespace bantam
