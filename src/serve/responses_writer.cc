#include "serve/responses_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <utility>

#include "serve/token_json.h"

namespace bantam {
namespace {

Json UsageJson(const AnswerUsage& usage, size_t reasoning_tokens) {
  return {{"input_tokens", usage.prompt_tokens},
          {"input_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
          {"output_tokens", usage.generated_tokens},
          {"output_tokens_details", {{"reasoning_tokens", reasoning_tokens}}},
          {"total_tokens", usage.prompt_tokens + usage.generated_tokens}};
}

bool IsCutOff(const Finish& finish) {
  switch (finish.reason) {
    case StopReason::kEndOfTurn:
    case StopReason::kStopString:
      return false;
    case StopReason::kLength:
    case StopReason::kContextFull:
    case StopReason::kDeadline:
    case StopReason::kCancelled:
    case StopReason::kError:
      return true;
  }
  return true;
}

}  // namespace

ResponsesWriter::ResponsesWriter(ResponsesWriterSetup setup)
    : setup_(std::move(setup)), id_(RandomId("resp_")), created_s_(std::time(nullptr)) {}

std::string ResponsesWriter::Event(std::string_view type, Json members) {
  Json event = {{"type", type}, {"sequence_number", sequence_number_++}};
  event.update(members);
  return fmt::format("event: {}\ndata: {}\n\n", type, DumpJson(event, /*indent=*/-1));
}

Json ResponsesWriter::Place(bool with_part) const {
  Json place = {{"item_id", output_.back()["id"]}, {"output_index", output_.size() - 1}};
  if (with_part) place["content_index"] = 0;
  return place;
}

Json ResponsesWriter::Response(std::string_view status) const {
  Json response = {{"id", id_},           {"object", "response"}, {"created_at", created_s_},     {"status", status},
                   {"background", false}, {"error", nullptr},     {"incomplete_details", nullptr}};
  response["model"] = setup_.model->name;
  response["output"] = output_;
  response.update(setup_.echo);
  response["store"] = setup_.store != nullptr;
  response["service_tier"] = "default";
  response["usage"] = nullptr;
  return response;
}

std::string ResponsesWriter::Begin() {
  const Json response = Response("in_progress");
  std::string events = Event("response.created", {{"response", response}});
  return events += Event("response.in_progress", {{"response", response}});
}

// ---- Items ----

std::string ResponsesWriter::OpenItem(Open what) {
  std::string events = Close();
  open_ = what;
  const bool reasoning = what == Open::kReasoning;
  Json item = {{"id", RandomId(reasoning ? "rs_" : "msg_")}, {"type", reasoning ? "reasoning" : "message"}, {"status", "in_progress"}};
  item[reasoning ? "summary" : "role"] = reasoning ? Json::array() : Json("assistant");
  item["content"] = Json::array();
  output_.push_back(item);
  events += Event("response.output_item.added", {{"output_index", output_.size() - 1}, {"item", std::move(item)}});
  Json part = {{"type", reasoning ? "reasoning_text" : "output_text"}, {"text", ""}};
  if (!reasoning) part.update({{"annotations", Json::array()}, {"logprobs", Json::array()}});
  Json added = Place(/*with_part=*/true);
  added["part"] = std::move(part);
  return events += Event("response.content_part.added", std::move(added));
}

std::string ResponsesWriter::AddText(Open what, const std::string& text, const Json& logprobs) {
  std::string events;
  if (open_ != what) events = OpenItem(what);
  text_ += text;
  Json delta = Place(/*with_part=*/true);
  delta["delta"] = text;
  if (what == Open::kReasoning) return events += Event("response.reasoning_text.delta", std::move(delta));
  logprobs_.insert(logprobs_.end(), logprobs.begin(), logprobs.end());
  delta["logprobs"] = logprobs;
  return events += Event("response.output_text.delta", std::move(delta));
}

std::string ResponsesWriter::Close() {
  if (open_ == Open::kNothing) return "";
  const bool reasoning = std::exchange(open_, Open::kNothing) == Open::kReasoning;
  Json part = {{"type", reasoning ? "reasoning_text" : "output_text"}, {"text", std::exchange(text_, {})}};
  Json done = Place(/*with_part=*/true);
  done["text"] = part["text"];
  if (!reasoning) {
    part["annotations"] = Json::array();
    part["logprobs"] = std::exchange(logprobs_, Json::array());
    done["logprobs"] = part["logprobs"];
  }
  std::string events = Event(reasoning ? "response.reasoning_text.done" : "response.output_text.done", std::move(done));
  Json part_done = Place(/*with_part=*/true);
  part_done["part"] = part;
  events += Event("response.content_part.done", std::move(part_done));
  Json& item = output_.back();
  item["content"].push_back(std::move(part));
  item["status"] = finish_ && IsCutOff(*finish_) ? "incomplete" : "completed";
  return events += Event("response.output_item.done", {{"output_index", output_.size() - 1}, {"item", item}});
}

std::string ResponsesWriter::AddCall(const ToolCall& call) {
  std::string events = Close();
  output_.push_back({{"id", RandomId("fc_")},
                     {"type", "function_call"},
                     {"status", "in_progress"},
                     {"call_id", call.id},
                     {"name", call.name},
                     {"arguments", ""}});
  Json& item = output_.back();
  events += Event("response.output_item.added", {{"output_index", output_.size() - 1}, {"item", item}});
  Json delta = Place(/*with_part=*/false);
  delta["delta"] = call.arguments;
  events += Event("response.function_call_arguments.delta", std::move(delta));
  Json done = Place(/*with_part=*/false);
  done["name"] = call.name;
  done["arguments"] = call.arguments;
  events += Event("response.function_call_arguments.done", std::move(done));
  item["arguments"] = call.arguments;
  item["status"] = "completed";
  return events += Event("response.output_item.done", {{"output_index", output_.size() - 1}, {"item", item}});
}

std::string ResponsesWriter::Add(const AnswerDelta& delta) {
  std::string events;
  if (setup_.logprobs) {
    for (Json& token : LogprobsJson(*setup_.model->tokenizer, delta.tokens)) waiting_logprobs_.push_back(std::move(token));
  }
  const Output& output = delta.output;
  if (!output.reasoning.empty()) {
    events += AddText(Open::kReasoning, output.reasoning, {});
    if (output.content.empty()) waiting_logprobs_ = Json::array();
  }
  if (!output.content.empty()) events += AddText(Open::kText, output.content, std::exchange(waiting_logprobs_, Json::array()));
  for (const ToolCall& call : output.tool_calls) events += AddCall(call);
  if (delta.finish == nullptr) return events;
  finish_ = *delta.finish;
  // An answer without a word is one message all the same.
  if (output_.empty()) events += OpenItem(Open::kText);
  return events += Close();
}

// ---- The end ----

size_t ResponsesWriter::ReasoningTokens(size_t generated) const {
  size_t tokens = 0;
  for (const Json& item : output_) {
    if (item["type"] != "reasoning") continue;
    for (const Json& part : item["content"]) {
      const auto encoded = setup_.model->tokenizer->Encode(part["text"].get<std::string>(), /*special=*/false);
      tokens += encoded.ok() ? encoded->size() : 0;
    }
  }
  return std::min(tokens, generated);
}

void ResponsesWriter::Keep(const Json& response) const {
  if (setup_.store == nullptr) return;
  setup_.store->Put(setup_.owner, id_, {DumpJson(response, /*indent=*/-1), DumpJson(setup_.items, /*indent=*/-1)});
}

std::string ResponsesWriter::CutOff() {
  finish_ = bantam::Finish{.reason = StopReason::kCancelled};
  return Close();
}

Json ResponsesWriter::Finish(const AnswerUsage& usage) {
  const bool cut_off = finish_ && IsCutOff(*finish_);
  Json response = Response(cut_off ? "incomplete" : "completed");
  if (cut_off) response["incomplete_details"] = {{"reason", "max_output_tokens"}};
  if (finish_ && finish_->reason == StopReason::kDeadline) response["stop_reason"] = "deadline";
  if (finish_ && finish_->confidence) {
    response["confidence"] = *finish_->confidence;
    response["low_confidence"] = finish_->low_confidence;
  }
  response["usage"] = UsageJson(usage, ReasoningTokens(usage.generated_tokens));
  Keep(response);
  return response;
}

std::string ResponsesWriter::End(const AnswerUsage& usage) {
  Json response = Finish(usage);
  const std::string type = fmt::format("response.{}", response["status"].get<std::string>());
  return Event(type, {{"response", std::move(response)}});
}

std::optional<std::string> ResponsesWriter::Break(const ApiError& error) {
  std::string events = CutOff();
  Json response = Response("failed");
  response["error"] = {{"code", error.status >= 500 ? "server_error" : error.code}, {"message", error.message}};
  Keep(response);
  return events += Event("response.failed", {{"response", std::move(response)}});
}

void ResponsesWriter::Abandon() {
  (void)CutOff();
  Keep(Response("cancelled"));
}

Json ResponsesWriter::Whole(std::span<const AnswerChoice> choices, const AnswerUsage& usage) {
  const AnswerChoice& choice = choices[0];
  // The events go nowhere; what they build is the answer.
  Add({.output = choice.output, .tokens = choice.tokens, .finish = &choice.finish});
  return Finish(usage);
}

}  // namespace bantam
