// Early exit of an engine's answers: tokens that the first layers are sure of are taken from there. The layers behind them read what those
// leave out later, several tokens at a time, so that keys and values are what they would be anyway.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "engine/engine.h"
#include "engine/engine_choice.h"

namespace bantam {
namespace {

// The probability of the likeliest token.
double Surest(std::span<const float> logits) {
  return std::exp(static_cast<double>(*std::max_element(logits.begin(), logits.end())) - LogSumExp(logits));
}

}  // namespace

uint64_t ExitBytes(const Program& program, const PlanOptions& options) {
  const ExitPoints points = FindExitPoints(program);
  return points.layers.empty() ? 0 : 2 * options.step_tokens * program.buffers[points.stream].width * sizeof(float);
}

Result<ExitPoints> Engine::FindExit(const Program& program, size_t layer) {
  ExitPoints points = FindExitPoints(program);
  if (points.layers.empty()) {
    return Error(Code::kUnsupported,
                 "exit_layer: layers of this model hand on more than one stream (states, several streams, inputs of "
                 "their own), so it has no early exit; leave it out");
  }
  if (layer > points.layers.size()) {
    return Error(Code::kInvalidArgument, fmt::format("exit_layer {}: expected 1 to {}, for the model has {} layers", layer,
                                                     points.layers.size(), points.layers.size() + 1));
  }
  return points;
}

Status Engine::CheckExit(const Request& request) const {
  if (!(request.exit_confidence >= 0 && request.exit_confidence <= 1)) {
    return Error(Code::kInvalidArgument, fmt::format("exit_confidence {}: expected 0 to 1", request.exit_confidence));
  }
  if (request.exit_confidence == 0) return Ok();
  if (!exits_) return Error(Code::kUnsupported, "exit_confidence: the engine was opened without exit_layer; leave it out");
  if (request.beams > 0) return Error(Code::kUnsupported, "exit_confidence: beams are weighed by all layers; leave one of both out");
  return Ok();
}

bool Engine::AsksEarly(const Choice& choice) const { return exits_ && choice.live->request.exit_confidence > 0; }

// Whether the last of so many tokens may leave. The first token of an answer is what all layers say of the prompt; one that is computed
// anew, for its KV was lost, is asked as it was before.
bool Engine::MayExit(const Choice& choice, size_t tokens) const {
  return AsksEarly(choice) && choice.generation->tokens() > 0 && tokens == choice.pending();
}

size_t Engine::SkippedTokens(const Choice& choice) const {
  return choice.skipped.empty() ? 0 : choice.skipped.size() / model_.program.buffers[exits_->stream].width;
}

// What a choice skipped stands in front of what it computes now.
void Engine::AddSkipped(Choice& choice, ExitRows* rest) const {
  const size_t length = choice.kv.length();
  for (size_t i = length - SkippedTokens(choice); i < length; ++i) rest->rows.push_back(RowOf(choice, i, choice.known[i]));
  rest->streams.insert(rest->streams.end(), choice.skipped.begin(), choice.skipped.end());
  choice.skipped = {};  // of a sequence that was computed anew it may have been a whole step
}

// The layers behind the exit, and where logits are wanted the head.
void Engine::RunRest(const ExitRows& rest) {
  const size_t exit = exits_->layers[options_.exit_layer - 1];
  std::vector<OpRange> ranges = exits_->angles;
  ranges.push_back({exit, rest.outputs.empty() ? exits_->head : model_.program.ops.size()});
  for (size_t row = 0; row < rest.rows.size(); ++row) {
    const std::span<float> stream = executor_->Row(exits_->stream, row);
    std::memcpy(stream.data(), rest.streams.data() + row * stream.size(), stream.size_bytes());
  }
  bantam::Step step = StepOf(rest.rows, rest.outputs);
  step.ranges = ranges;
  const bool ran = executor_->Run(step);
  CHECK(ran);
}

// The first layers for all rows, and the head for those that may leave. Returns what the layers made: [rows][width].
std::vector<float> Engine::RunFirst(std::span<const uint32_t> candidates) {
  const OpRange ranges[] = {{0, exits_->layers[options_.exit_layer - 1]}, {exits_->head, model_.program.ops.size()}};
  bantam::Step step = StepOf(rows_, candidates);
  step.ranges = std::span(ranges).first(candidates.empty() ? 1 : 2);
  const bool ran = executor_->Run(step);
  CHECK(ran);
  std::vector<float> streams;
  streams.reserve(rows_.size() * model_.program.buffers[exits_->stream].width);
  for (size_t row = 0; row < rows_.size(); ++row) {
    const std::span<const float> stream = executor_->Row(exits_->stream, row);
    streams.insert(streams.end(), stream.begin(), stream.end());
  }
  return streams;
}

void Engine::StepWithExits(const std::vector<Grant>& grants, const std::vector<Choice*>& choices, int64_t begin_ns) {
  std::vector<uint32_t> candidates;
  uint32_t row = 0;
  for (const Grant& grant : grants) {
    row += static_cast<uint32_t>(grant.tokens);
    if (MayExit(*choices[grant.sequence], grant.tokens)) candidates.push_back(row - 1);
  }
  const std::vector<float> streams = RunFirst(candidates);
  const size_t width = model_.program.buffers[exits_->stream].width;
  ExitRows rest;
  std::vector<Grant> staying;
  size_t candidate = 0;
  row = 0;
  for (const Grant& grant : grants) {
    Choice& choice = *choices[grant.sequence];
    const auto own = std::span(streams).subspan(row * width, grant.tokens * width);
    const bool may = MayExit(choice, grant.tokens);
    const bool leaves = may && Surest(Logits(candidate)) >= static_cast<double>(choice.live->request.exit_confidence);
    if (leaves) {
      // None of its tokens is kept for others before all layers have read it.
      choice.skipped.insert(choice.skipped.end(), own.begin(), own.end());
      ++choice.live->exited_tokens;
      ++counters_.exited_tokens;
      CommitGrant(grant, choice, candidate, begin_ns);
    }
    const bool late = SkippedTokens(choice) >= kSkippedMax;
    // Where there is no room for all of it in one step, what was skipped has one of its own.
    if ((!leaves || late) && rest.rows.size() + SkippedTokens(choice) + rows_.size() - row > plan_.options.step_tokens) {
      ExitRows alone;
      AddSkipped(choice, &alone);
      if (!alone.rows.empty()) RunRest(alone);
    } else if (!leaves || late) {
      AddSkipped(choice, &rest);
    }
    if (!leaves) {
      const size_t outputs = OutputsOf(choice, grant.tokens);
      for (size_t i = grant.tokens - outputs; i < grant.tokens; ++i) rest.outputs.push_back(static_cast<uint32_t>(rest.rows.size() + i));
      rest.rows.insert(rest.rows.end(), rows_.begin() + row, rows_.begin() + row + static_cast<std::ptrdiff_t>(grant.tokens));
      rest.streams.insert(rest.streams.end(), own.begin(), own.end());
      staying.push_back(grant);
    }
    candidate += may ? 1 : 0;
    row += static_cast<uint32_t>(grant.tokens);
  }
  if (!rest.rows.empty()) RunRest(rest);
  Commit(staying, choices, begin_ns);
}

}  // namespace bantam
