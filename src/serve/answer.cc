#include "serve/answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "engine/json_request.h"

namespace bantam {
namespace {

double Seconds(int64_t ns) { return static_cast<double>(ns) * 1e-9; }

bool Empty(const Output& output) { return output.content.empty() && output.reasoning.empty() && output.tool_calls.empty(); }

void Append(Output more, Output* all) {
  all->content += more.content;
  all->reasoning += more.reasoning;
  all->tool_calls.insert(all->tool_calls.end(), more.tool_calls.begin(), more.tool_calls.end());
}

}  // namespace

std::string AnswerWriter::WholeBody(std::span<const AnswerChoice> choices, const AnswerUsage& usage) {
  return DumpJson(Whole(choices, usage), /*indent=*/-1);
}

// How it ended where that is none of OpenAI's words stands beside it.
std::string_view FinishReasonOf(const Finish& finish, bool called) {
  if (finish.reason == StopReason::kDeadline) return "length";
  return called && finish.reason == StopReason::kEndOfTurn ? "tool_calls" : FinishReasonName(finish.reason);
}

std::optional<ToolCall> ReadForcedCall(const std::string& text) {
  const Result<Json> json = ParseJson(text);
  if (!json.ok()) return std::nullopt;
  const auto name = JsonText(*json, "name");
  if (!name) return std::nullopt;
  return ToolCall{"", *name, DumpJson(JsonMember(*json, "arguments"), /*indent=*/-1)};
}

Answer::Answer(Parts parts) : parts_(std::move(parts)) {
  choices_.resize(parts_.prompts * parts_.choices);
  prompt_counted_.resize(parts_.prompts);
  for (Choice& choice : choices_) {
    if (!parts_.parse.parsed || parts_.parse.forced_call) continue;
    choice.parser = std::make_unique<OutputParser>(parts_.model->dialect, OutputOptions{parts_.parse.prompt_end, parts_.parse.tools});
  }
}

void Answer::Start(std::vector<EngineThread::Ticket> tickets) {
  tickets_ = std::move(tickets);
  started_ = true;
  Call& call = *parts_.call;
  call.on_gone = [weak = weak_from_this()] {
    if (const auto self = weak.lock()) {
      self->Cancel();
      if (self->written_) self->parts_.writer->Abandon();
      self->parts_.call->EndGone();
      self->End();
    }
  };
  call.on_taken = [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->Pump();
  };
  if (call.gone) return std::exchange(call.on_gone, nullptr)();
  Pump();
}

void Answer::Cancel() {
  if (!started_ || ended_) return;
  for (const EngineThread::Ticket& ticket : tickets_) parts_.model->engine->Cancel(ticket.id);
}

std::optional<Event> Answer::Next() {
  for (size_t prompt = 0; prompt < tickets_.size(); ++prompt) {
    std::optional<Event> event = tickets_[prompt].answer->Next(/*timeout_ns=*/0);
    if (!event) continue;
    event->choice += prompt * parts_.choices;
    return event;
  }
  return std::nullopt;
}

void Answer::Pump() {
  const auto self = shared_from_this();
  while (started_ && !ended_) {
    // What the client does not take waits in the answer's stream, where it is as large as the answer at most.
    if (parts_.stream && parts_.call->exchange->unsent_bytes() > HttpExchange::kUnsentBytesMax) return;
    std::optional<Event> event = Next();
    if (!event) {
      if (std::all_of(tickets_.begin(), tickets_.end(), [](const auto& ticket) { return ticket.answer->ended(); })) Finish();
      return;
    }
    Take(std::move(*event));
  }
}

void Answer::Observe(const Event& event) {
  const int64_t now_ns = parts_.clock.NowNs();
  if (last_event_ns_ >= 0 && event.token_count > 0) {
    parts_.metrics.ObserveTokenGap(parts_.model->name, PriorityName(parts_.priority), Seconds(now_ns - last_event_ns_), event.token_count);
  }
  if (event.token_count > 0) last_event_ns_ = now_ns;
  seen_tokens_ += event.token_count;
  parts_.call->record.generated_tokens = seen_tokens_;
}

void Answer::AddUsage(size_t prompt, const bantam::Finish& finish) {
  if (!prompt_counted_[prompt]) {
    prompt_counted_[prompt] = true;
    usage_.prompt_tokens += finish.usage.prompt_tokens;
    usage_.cached_tokens += finish.usage.cached_tokens;
  }
  usage_.generated_tokens += finish.usage.generated_tokens;
  usage_.queued_ns = finish.usage.queued_ns;
  usage_.first_token_ns = finish.usage.first_token_ns;
  usage_.total_ns = std::max(usage_.total_ns, finish.usage.total_ns);
  CallRecord& record = parts_.call->record;
  record.finish = StopReasonName(finish.reason);
  record.prompt_tokens = usage_.prompt_tokens;
  record.cached_tokens = usage_.cached_tokens;
  record.generated_tokens = std::max(seen_tokens_, usage_.generated_tokens);
  record.queued_ns = usage_.queued_ns;
  record.first_token_ns = usage_.first_token_ns;
}

// What is more than may be is left out; the others get ids.
void Answer::LimitCalls(Choice& choice, Output* output) const {
  if (parts_.parse.one_call) output->tool_calls.resize(std::min<size_t>(output->tool_calls.size(), choice.calls == 0 ? 1 : 0));
  choice.calls += output->tool_calls.size();
  for (ToolCall& call : output->tool_calls) {
    if (call.id.empty()) call.id = RandomId("call_");
  }
}

Output Answer::Parse(Choice& choice, const Event& event) {
  Output output;
  if (parts_.parse.forced_call) {
    choice.forced += event.text;
    if (event.finish) {
      auto call = ReadForcedCall(choice.forced);
      if (call) {
        output.tool_calls.push_back(std::move(*call));
      } else {
        output.content = choice.forced;
      }
    }
  } else if (choice.parser == nullptr) {
    output.content = event.text;
  } else {
    output = choice.parser->Push(event.text);
    if (event.finish) Append(choice.parser->Finish(), &output);
  }
  LimitCalls(choice, &output);
  return output;
}

void Answer::Take(Event event) {
  Observe(event);
  if (event.finish) {
    AddUsage(event.choice / parts_.choices, *event.finish);
    const StopReason reason = event.finish->reason;
    if (reason == StopReason::kError) {
      // A grammar with too many readings, or fewer answers than were asked for, are the request's; damaged logits are not.
      const Error error = event.finish->error.value_or(Error(Code::kInternal, "the engine failed"));
      const bool of_request = error.code() == Code::kUnsupported || error.code() == Code::kInvalidArgument ||
                              (parts_.beams && error.code() == Code::kExhausted);
      return Fail(of_request && !parts_.model->engine->failed() ? ApiErrorOf(error) : EngineFailed(error));
    }
    if (reason == StopReason::kCancelled) {
      return Fail({.status = 503, .code = "cancelled", .message = "the server ended this answer: it stops", .retry_after_s = 1});
    }
    if (reason == StopReason::kDeadline && usage_.generated_tokens == 0 && !written_) {
      return Fail({.status = 504, .code = "deadline_exceeded", .message = "the deadline passed before the first token"});
    }
  }
  Choice& choice = choices_[event.choice];
  AnswerDelta delta = {.choice = event.choice, .output = Parse(choice, event), .tokens = event.tokens, .prompt = event.prompt};
  delta.token_count = event.token_count;
  delta.finish = event.finish ? &*event.finish : nullptr;
  delta.first = !std::exchange(choice.begun, true);
  choice.called = choice.called || !delta.output.tool_calls.empty();
  delta.called = choice.called;
  if (parts_.stream) {
    if (Empty(delta.output) && delta.tokens.empty() && delta.prompt.empty() && delta.finish == nullptr && !delta.first) return;
    Call& call = *parts_.call;
    if (!std::exchange(written_, true)) call.Begin(parts_.writer->stream_type(), parts_.writer->Begin());
    call.exchange->Write(parts_.writer->Add(delta));
    return;
  }
  Append(std::move(delta.output), &choice.all.output);
  choice.all.prompt.insert(choice.all.prompt.end(), event.prompt.begin(), event.prompt.end());
  choice.all.tokens.insert(choice.all.tokens.end(), event.tokens.begin(), event.tokens.end());
  if (event.finish) choice.all.finish = std::move(*event.finish);
}

void Answer::Fail(const ApiError& error) {
  Cancel();
  Call& call = *parts_.call;
  if (written_) {
    call.record.finish = error.code;
    call.exchange->Write(parts_.writer->Break(error).value_or(call.route->dialect.error_event(error)));
    call.End();
  } else {
    call.Fail(error);
  }
  End();
}

void Answer::Finish() {
  if (parts_.stream) {
    parts_.call->exchange->Write(parts_.writer->End(usage_));
    parts_.call->End();
  } else {
    std::vector<AnswerChoice> all;
    for (Choice& choice : choices_) all.push_back(std::move(choice.all));
    parts_.call->Respond({.fields = {{"Content-Type", "application/json"}}, .body = parts_.writer->WholeBody(all, usage_)});
  }
  End();
}

void Answer::End() {
  if (std::exchange(ended_, true)) return;
  // What ended before its time has none to show.
  if (usage_.total_ns > 0)
    parts_.metrics.ObserveAnswer(parts_.model->name, PriorityName(parts_.priority),
                                 {.queued_s = Seconds(usage_.queued_ns),
                                  .first_token_s = Seconds(usage_.first_token_ns),
                                  .total_s = Seconds(usage_.total_ns),
                                  .prompt_tokens = usage_.prompt_tokens,
                                  .cached_tokens = usage_.cached_tokens,
                                  .generated_tokens = usage_.generated_tokens,
                                  .operation = parts_.parse.parsed ? "chat" : "text_completion"});
  parts_.call->on_gone = nullptr;
  parts_.call->on_taken = nullptr;
  parts_.ended(shared_from_this());
}

}  // namespace bantam
