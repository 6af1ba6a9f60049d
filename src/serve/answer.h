// Answer: one request at an engine, or one for each of several prompts, from its events to what a dialect's writer makes of them. Belongs
// to the server's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "engine/engine_thread.h"
#include "serve/call.h"
#include "serve/chat_request.h"
#include "serve/metrics.h"
#include "serve/served_model.h"
#include "text/output_parser.h"

namespace bantam {

// What is new of one choice.
struct AnswerDelta {
  size_t choice = 0;
  Output output = {};  // taken apart; a text that is not is all content
  std::span<const TokenInfo> tokens = {};
  std::span<const TokenInfo> prompt = {};  // Event::prompt
  size_t token_count = 0;
  const Finish* finish = nullptr;  // null: it goes on
  bool first = false;              // nothing of this choice came before
  bool called = false;             // it called a tool, now or before
};

// All of one choice.
struct AnswerChoice {
  Output output = {};
  std::vector<TokenInfo> tokens = {};
  std::vector<TokenInfo> prompt = {};  // Event::prompt
  Finish finish = {};
};

struct AnswerUsage {
  size_t prompt_tokens = 0;
  size_t cached_tokens = 0;
  size_t generated_tokens = 0;
  int64_t queued_ns = 0;
  int64_t first_token_ns = 0;
  int64_t total_ns = 0;
};

// How a dialect writes an answer. A writer is one answer's own.
class AnswerWriter {
 public:
  virtual ~AnswerWriter() = default;
  // Piece by piece.
  virtual std::string_view stream_type() const { return "text/event-stream"; }
  virtual std::string Begin() { return ""; }
  virtual std::string Add(const AnswerDelta& delta) = 0;
  virtual std::string End(const AnswerUsage& usage) = 0;
  // What is written last where a stream breaks; nothing: what the dialect says.
  virtual std::optional<std::string> Break(const ApiError&) { return std::nullopt; }
  // Nobody takes what is written any more: the client went in the middle of a stream.
  virtual void Abandon() {}
  // Or all at once.
  virtual Json Whole(std::span<const AnswerChoice> choices, const AnswerUsage& usage) = 0;
  // As the body that is sent.
  virtual std::string WholeBody(std::span<const AnswerChoice> choices, const AnswerUsage& usage);
};

class Answer : public std::enable_shared_from_this<Answer> {
 public:
  struct Parts {
    std::shared_ptr<Call> call;
    std::shared_ptr<const ServedModel> model;
    std::unique_ptr<AnswerWriter> writer;
    bool stream = false;
    ParsePlan parse;
    size_t prompts = 1;
    size_t choices = 1;  // of each prompt
    bool beams = false;
    Priority priority = Priority::kNormal;
    Metrics& metrics;
    const Clock& clock;
    std::function<void(const std::shared_ptr<Answer>&)> ended;
  };
  explicit Answer(Parts parts);

  // The engine has taken it: a ticket for each prompt, whose choices stand one behind the other. At once, or in the end, `ended` is told.
  void Start(std::vector<EngineThread::Ticket> tickets);
  // Takes what came.
  void Pump();
  // Ends it where it stands: the server stops.
  void Cancel();

 private:
  struct Choice {
    std::unique_ptr<OutputParser> parser;  // or none
    std::string forced;                    // the text of a call that is forced
    bool begun = false;
    bool called = false;
    size_t calls = 0;
    AnswerChoice all = {};  // where nothing is streamed
  };
  // The next event of any prompt, its choice counted through; nothing: none has one.
  std::optional<Event> Next();
  void Take(Event event);
  Output Parse(Choice& choice, const Event& event);
  void LimitCalls(Choice& choice, Output* output) const;
  void Observe(const Event& event);
  void AddUsage(size_t prompt, const Finish& finish);
  // The whole request fails, for one of its choices did.
  void Fail(const ApiError& error);
  void Finish();
  void End();

  Parts parts_;
  std::vector<EngineThread::Ticket> tickets_;
  bool started_ = false;
  bool ended_ = false;
  bool written_ = false;  // the stream has begun
  std::vector<Choice> choices_;
  AnswerUsage usage_;
  std::vector<bool> prompt_counted_;  // whether its tokens are in usage_
  size_t seen_tokens_ = 0;
  int64_t last_event_ns_ = -1;
};

// "stop", "length", "tool_calls" and so on: how a choice ended, in the words that OpenAI's clients know.
std::string_view FinishReasonOf(const Finish& finish, bool called);

// How long what took, as llama.cpp's server tells it and its clients show it (llama_cpp.cc).
Json LlamaTimings(const AnswerUsage& usage);

// The call of a tool that a constrained answer is; nothing where it was cut off.
std::optional<ToolCall> ReadForcedCall(const std::string& text);

}  // namespace bantam
