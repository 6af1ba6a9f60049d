// Beam search of an engine's requests: beams are choices that advance together, and share KV as far as they are alike.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "engine/beam_search.h"
#include "engine/engine.h"
#include "engine/engine_choice.h"

namespace bantam {

Status Engine::CheckBeams(const Request& request) const {
  if (request.beams == 0) return Ok();
  const size_t most = std::min(kBeamsMax, plan_.options.sequences);
  if (request.beams > most) {
    return Error(Code::kInvalidArgument,
                 fmt::format("beams {}: expected at most {}, as many answers as are computed at once", request.beams, most));
  }
  if (request.choices > request.beams) {
    return Error(Code::kInvalidArgument,
                 fmt::format("choices {}: {} beams give no more answers than that; ask for more beams", request.choices, request.beams));
  }
  if (!(request.length_penalty >= -kLengthPenaltyMax && request.length_penalty <= kLengthPenaltyMax)) {
    return Error(Code::kInvalidArgument,
                 fmt::format("length_penalty {}: expected {} to {}", request.length_penalty, -kLengthPenaltyMax, kLengthPenaltyMax));
  }
  const SamplerOptions& sampler = request.sampler;
  const bool changed = sampler.temperature != 0 || sampler.penalties.repetition != 1 || sampler.penalties.frequency != 0 ||
                       sampler.penalties.presence != 0 || sampler.dry.multiplier != 0 || sampler.mirostat.version != 0 ||
                       !sampler.logit_bias.empty();
  if (changed) {
    return Error(Code::kInvalidArgument,
                 "beams: the likeliest answers are looked for, by the model's own probabilities; leave out temperature, penalties and "
                 "logit_bias");
  }
  return Ok();
}

void Engine::Weigh(Choice& choice, std::span<const float> logits) {
  const Request& request = choice.live->request;
  Choice::Beam& beam = *choice.beam;
  Result<std::vector<TokenLogprob>> next = choice.generation->Likeliest(logits, std::max<size_t>(2, 1 + end_tokens_) * request.beams);
  beam.ready = true;
  if (!next.ok()) {
    choice.live->failed = std::move(next).error();
    return;
  }
  beam.next = std::move(next).value();
  if (request.token_details) beam.top = DescribeToken(logits, beam.next[0].token, request.top_logprobs).top;
}

std::unique_ptr<Engine::Choice> Engine::CopyBeam(const Choice& from, size_t* places) {
  auto copy = std::make_unique<Choice>(Choice{.live = from.live,
                                              .index = from.index,
                                              .known = from.known,
                                              .kv = KvSequence(plan_.options.context, ring_, window_),
                                              .generation = from.generation->Fork(),
                                              .draft = {},
                                              .text_drafts = {},
                                              .model_drafts = {},
                                              .guesses = nullptr,
                                              .beam = from.beam,
                                              .waiting_since_ns = from.waiting_since_ns,
                                              .token_ns = from.token_ns});
  if (from.resident) ShareKv(from, copy.get(), places);
  return copy;
}

void Engine::AddHypothesis(Live& live, double sum, size_t tokens, Event event, const Generation& generation) {
  event.finish = generation.finish();
  event.finish->beam_score = static_cast<float>(BeamScore(sum, tokens, live.request.length_penalty));
  auto& all = live.hypotheses;
  const auto place =
      std::find_if(all.begin(), all.end(), [&](const Event& other) { return *other.finish->beam_score < *event.finish->beam_score; });
  all.insert(place, std::move(event));
  if (all.size() > live.request.beams) all.pop_back();
}

// Each goes on with what was chosen for it; beginnings that nothing was chosen for are forgotten.
Status Engine::TakeTokens(Live& live, const std::vector<BeamCandidate>& running) {
  std::vector<std::unique_ptr<Choice>>& before = live.choices;
  std::vector<size_t> last(before.size(), SIZE_MAX);  // that goes on from each, and so in its place
  for (size_t i = 0; i < running.size(); ++i) last[running[i].beam] = i;
  for (size_t beam = 0; beam < before.size(); ++beam) {
    if (last[beam] == SIZE_MAX) Drop(*before[beam]);
  }
  size_t places = FreePlaces();
  std::vector<std::unique_ptr<Choice>> after(running.size());
  for (size_t i = 0; i < running.size(); ++i) {
    if (last[running[i].beam] != i) after[i] = CopyBeam(*before[running[i].beam], &places);
  }
  for (size_t i = 0; i < running.size(); ++i) {
    if (last[running[i].beam] == i) after[i] = std::move(before[running[i].beam]);
  }
  before = std::move(after);
  for (size_t i = 0; i < running.size(); ++i) {
    Choice& choice = *before[i];
    Choice::Beam& beam = *choice.beam;
    BANTAM_TRY(choice.generation->Take({{running[i].token, running[i].logprob}, std::exchange(beam.top, {})}, &beam.held));
    choice.index = i;
    choice.known.push_back(running[i].token);
    beam.sum = running[i].sum;
    beam.ready = false;
    ++counters_.generated_tokens;
  }
  return Ok();
}

void Engine::AdvanceBeams(Live& live) {
  if (live.finished || !std::all_of(live.choices.begin(), live.choices.end(), [](const auto& choice) { return choice->beam->ready; }))
    return;
  const size_t width = live.request.beams;
  if (!live.failed && live.choices[0]->known.size() == plan_.options.context) return EndBeams(live, StopReason::kContextFull);
  std::vector<BeamCandidate> candidates;
  for (size_t beam = 0; beam < live.choices.size(); ++beam) {
    const Choice::Beam& of = *live.choices[beam]->beam;
    for (const auto& [token, logprob] : of.next) {
      candidates.push_back({beam, token, logprob, of.sum + static_cast<double>(logprob), tokenizer_.EndsTurn(token)});
    }
  }
  const BeamSelection selection = SelectBeams(std::move(candidates), width);
  if (live.first_token_ns < 0) live.first_token_ns = clock_.NowNs();
  for (const BeamCandidate& ended : selection.ended) {
    const Choice& choice = *live.choices[ended.beam];
    const std::unique_ptr<Generation> generation = choice.generation->Fork();
    Event event = choice.beam->held;
    const Status taken = generation->Take({{ended.token, ended.logprob}, {}}, &event);
    if (!taken.ok()) live.failed = taken.error();
    if (taken.ok()) AddHypothesis(live, ended.sum, generation->tokens() + 1, std::move(event), *generation);
  }
  if (!live.failed) {
    const Status taken = TakeTokens(live, selection.running);
    if (!taken.ok()) live.failed = taken.error();
  }
  if (live.failed) return EndBeams(live, StopReason::kError);
  std::erase_if(live.choices, [&](const std::unique_ptr<Choice>& choice) {
    if (!choice->ended()) return false;
    AddHypothesis(live, choice->beam->sum, choice->generation->tokens(), std::move(choice->beam->held), *choice->generation);
    Drop(*choice);
    return true;
  });
  if (live.choices.empty()) return FinishBeams(live, std::nullopt);
  NoteTokens(*live.choices[0], /*tokens=*/1);
  if (live.hypotheses.size() < width) return;
  const Choice& best = *live.choices[0];
  const double attainable = BeamScore(best.beam->sum, best.generation->tokens(), live.request.length_penalty);
  if (static_cast<double>(*live.hypotheses.back().finish->beam_score) >= attainable) FinishBeams(live, std::nullopt);
}

void Engine::EndBeams(Live& live, StopReason reason) {
  if (live.finished) return;
  // What went wrong is no answer, nor is what came before it.
  if (reason == StopReason::kError) live.hypotheses.clear();
  for (const auto& choice : live.choices) {
    Event event = std::move(choice->beam->held);
    if (!choice->ended()) choice->generation->End(reason, &event);
    AddHypothesis(live, choice->beam->sum, choice->generation->tokens(), std::move(event), *choice->generation);
  }
  FinishBeams(live, reason);
}

// Of an answer that was asked for and is none.
Finish Engine::Missing(const Live& live, std::optional<StopReason> cut) {
  Finish finish;
  finish.reason = cut.value_or(StopReason::kError);
  if (!cut) {
    finish.error =
        Error(Code::kExhausted, fmt::format("there are only {} answers that may be given; ask for fewer choices", live.hypotheses.size()));
  }
  return finish;
}

void Engine::FinishBeams(Live& live, std::optional<StopReason> cut) {
  live.finished = true;
  for (const auto& choice : live.choices) Drop(*choice);
  live.choices.clear();
  for (size_t index = 0; index < live.request.choices; ++index) {
    const bool found = index < live.hypotheses.size();
    Finish finish = found ? std::move(*live.hypotheses[index].finish) : Missing(live, cut);
    if (live.failed) finish.error = live.failed;
    Event event = {.request = live.id, .choice = index, .text = live.request.echo};
    if (found) {
      event.text = std::move(live.hypotheses[index].text);
      event.tokens = std::move(live.hypotheses[index].tokens);
      event.token_count = live.hypotheses[index].token_count;
    }
    event.finish = Finished(live, std::move(finish));
    sink_(std::move(event));
  }
}

}  // namespace bantam
