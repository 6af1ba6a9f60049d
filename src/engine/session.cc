#include "engine/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "text/stop_strings.h"

namespace bantam {

Session::Session(const Model& model, const MemoryPlan& plan)
    : model_(model),
      plan_(plan),
      layout_(PlannedKv(model.program, plan.options)),
      sequence_(plan.options.context, KvBlocks(model.program, plan.options)[KvPart::kWindowed], WindowMax(model.program)) {}

Result<std::unique_ptr<Session>> Session::Make(const Model& model, const MemoryPlan& plan, const Resources& resources) {
  CHECK(!model.program.whole_texts);
  std::unique_ptr<Session> session(new Session(model, plan));
  BANTAM_ASSIGN(session->cache_, KvCache::Make(session->layout_, KvBlocks(model.program, plan.options),
                                               {model.program.state_floats, /*sequences=*/1}, resources.budget));
  BANTAM_ASSIGN(session->executor_, Executor::Make({model.program, model.weights, *model.kernels, plan.options}, resources));
  session->tokens_.reserve(plan.options.context);
  session->rows_.reserve(plan.options.step_tokens);
  session->output_rows_.reserve(plan.options.step_outputs);
  return session;
}

Status Session::Use(std::shared_ptr<const Adapter> adapter, MemoryBudget& budget) {
  CHECK(tokens_.empty() && adapter->model == &model_);
  BANTAM_TRY(executor_->RoomForRank(adapter->updates.rank_max(), budget));
  adapter_ = std::move(adapter);
  return Ok();
}

Status Session::Check(std::span<const uint32_t> tokens) const {
  if (tokens.empty()) return Error(Code::kInvalidArgument, "no tokens to read; give at least one");
  for (const uint32_t token : tokens) {
    if (token >= vocabulary()) {
      return Error(Code::kInvalidArgument, fmt::format("token {}: expected an id below the vocabulary size {}", token, vocabulary()));
    }
  }
  if (tokens.size() > context() - tokens_.size()) {
    return Error(Code::kExhausted, fmt::format("{} tokens after {} do not fit the context of {}; raise --context or shorten the text",
                                               tokens.size(), tokens_.size(), context()));
  }
  return Ok();
}

Status Session::RunStep(std::span<const uint32_t> tokens, bool all_outputs, const Cancelled& cancelled) {
  const size_t begin = tokens_.size();
  BANTAM_TRY(sequence_.Extend(cache_, begin + tokens.size()));
  rows_.clear();
  output_rows_.clear();
  for (size_t i = 0; i < tokens.size(); ++i) {
    rows_.push_back(
        {tokens[i], static_cast<uint32_t>(begin + i), sequence_.tables(), sequence_.state(cache_), sequence_.next_state(cache_)});
    if (adapter_ != nullptr) rows_.back().adapter = &adapter_->updates;
    if (all_outputs || i + 1 == tokens.size()) output_rows_.push_back(static_cast<uint32_t>(i));
  }
  if (!executor_->Run({rows_, output_rows_, cache_.base(), cancelled ? &cancelled : nullptr, profile_})) {
    return Error(Code::kCancelled, "reading the prompt was interrupted");
  }
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  sequence_.Commit(tokens_.size());
  last_output_ = output_rows_.size() - 1;
  return Ok();
}

Status Session::Append(std::span<const uint32_t> tokens, const Progress& progress) {
  BANTAM_TRY(Check(tokens));
  size_t done = 0;
  Cancelled cancelled;
  if (progress) cancelled = [&] { return !progress("reading the prompt", done, tokens.size()); };
  while (done < tokens.size()) {
    const size_t n = std::min(plan_.options.step_tokens, tokens.size() - done);
    BANTAM_TRY(RunStep(tokens.subspan(done, n), /*all_outputs=*/false, cancelled));
    done += n;
  }
  return Ok();
}

Status Session::AppendForLogits(std::span<const uint32_t> tokens, const LogitsSink& sink, const Cancelled& cancelled) {
  CHECK(plan_.options.step_outputs == plan_.options.step_tokens);
  BANTAM_TRY(Check(tokens));
  for (size_t done = 0; done < tokens.size();) {
    const size_t n = std::min(plan_.options.step_tokens, tokens.size() - done);
    BANTAM_TRY(RunStep(tokens.subspan(done, n), /*all_outputs=*/true, cancelled));
    done += n;
    BANTAM_TRY(sink({executor_->logits(), n * vocabulary()}));
  }
  return Ok();
}

size_t Session::Truncate(size_t length) {
  CHECK(length <= tokens_.size());
  tokens_.resize(sequence_.Truncate(cache_, length));
  return tokens_.size();
}

namespace {

// The sampler takes what is no number for the least likely: where it chose such a token, no logit of the step is a number, or one is beyond
// all numbers.
Status CheckChosen(float logit, size_t position) {
  if (std::isfinite(logit)) return Ok();
  return Error(
      Code::kCorrupt,
      fmt::format("the logits behind token {} of the context are no numbers, so that nothing can be chosen by them: the model's file is "
                  "damaged (fetch it again), or its numbers are too large for --kv f16 (try --kv f32)",
                  position));
}

}  // namespace

Result<GenerateResult> Generate(Session& session, Sampler& sampler, const Tokenizer& tokenizer, const Clock& clock,
                                const GenerateOptions& options) {
  GenerateResult result;
  result.reason = StopReason::kLength;
  sampler.Observe(session.tokens());
  TokenStream stream(tokenizer);
  BANTAM_ASSIGN(StopStrings stops, StopStrings::Make(options.stops));
  const auto emit = [&](const std::string& text) {
    if (text.empty()) return;
    if (options.on_text) options.on_text(text);
    result.text += text;
  };
  while (result.tokens < options.tokens_max) {
    if (options.cancelled && options.cancelled()) {
      result.reason = StopReason::kCancelled;
      break;
    }
    const uint32_t token = sampler.Sample(session.logits());
    BANTAM_TRY(CheckChosen(session.logits()[token], session.tokens().size()));
    if (tokenizer.EndsTurn(token)) {
      result.reason = StopReason::kEndOfTurn;
      break;
    }
    if (session.tokens().size() == session.context()) {
      result.reason = StopReason::kContextFull;
      break;
    }
    sampler.Accept(token);
    ++result.tokens;
    emit(stops.Push(stream.Push(token)));
    if (stops.stopped()) {
      result.reason = StopReason::kStopString;
      break;
    }
    if (result.tokens == options.tokens_max) break;  // nobody needs the logits after the last token
    result.kv_read_bytes += session.KvReadBytes(session.tokens().size() + 1);
    const int64_t begin = clock.NowNs();
    BANTAM_TRY(session.Append(std::span(&token, 1)));
    result.decode_ns += clock.NowNs() - begin;
    ++result.decode_steps;
  }
  emit(stops.Push(stream.Finish()));
  if (stops.stopped()) result.reason = StopReason::kStopString;
  emit(stops.Finish());
  return result;
}

}  // namespace bantam
