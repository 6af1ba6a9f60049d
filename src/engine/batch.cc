#include "engine/batch.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace bantam {
namespace {

// What is known of a line until it is written.
struct Pending {
  BatchFiles::Line line;
  std::vector<ChoiceResult> choices = {};
  size_t unfinished = 0;
};

class Batch {
 public:
  explicit Batch(const BatchRun& run) : run_(run), files_(run.input, run.output) {}

  Result<BatchSummary> Run(const MakeBatchEngine& make_engine);

 private:
  // The next line that is to be answered goes to the engine. False at the end of the input.
  Result<bool> Begin();
  // Asks the engine. False: not now, so it stays in `waiting_`.
  bool Submit(Request request);
  void Take(Event event);
  Status WriteReady();

  const BatchRun& run_;
  BatchFiles files_;
  std::unique_ptr<Engine> engine_;
  std::deque<Pending> pending_;     // in the order of lines; at most `ahead`
  std::optional<Request> waiting_;  // that of the last of them, which the engine has no room for yet
  std::map<RequestId, size_t> lines_;
  std::string why_waiting_;
};

bool Batch::Submit(Request request) {
  Pending& pending = pending_.back();
  const size_t choices = request.choices;
  Result<RequestId> id = engine_->Submit(std::move(request));
  if (!id.ok() && id.error().code() == Code::kUnavailable) {
    why_waiting_ = id.error().message();
    return false;
  }
  pending.unfinished = 0;
  if (!id.ok()) {
    pending.line.error = std::move(id).error();
    return true;
  }
  lines_[*id] = pending.line.index;
  pending.choices.resize(choices);
  pending.unfinished = choices;
  return true;
}

Result<bool> Batch::Begin() {
  BANTAM_ASSIGN(std::optional<BatchFiles::Line> line, files_.Next());
  if (!line) return false;
  pending_.push_back({.line = std::move(*line)});
  Pending& pending = pending_.back();
  if (pending.line.error) return true;
  Result<Request> request = ReadJsonRequest(pending.line.request, run_.context);
  pending.line.request = nullptr;  // what the engine keeps is enough
  if (!request.ok()) {
    pending.line.error = std::move(request).error();
  } else if (!Submit(*request)) {
    waiting_ = std::move(request).value();
    pending.unfinished = 1;
  }
  return true;
}

void Batch::Take(Event event) {
  const auto line = lines_.find(event.request);
  CHECK(line != lines_.end());
  Pending& pending = pending_[line->second - pending_.front().line.index];
  if (event.finish && --pending.unfinished == 0) lines_.erase(line);
  const size_t choice = event.choice;
  pending.choices[choice].Add(std::move(event));
}

Status Batch::WriteReady() {
  for (; !pending_.empty() && pending_.front().unfinished == 0; pending_.pop_front()) {
    const Pending& pending = pending_.front();
    // What there is of several answers is worth something without the others, which say what became of them.
    const bool failed = std::all_of(pending.choices.begin(), pending.choices.end(),
                                    [](const ChoiceResult& choice) { return choice.finish->error.has_value(); });
    if (pending.line.error || failed) {
      BANTAM_TRY(files_.Write(pending.line, pending.line.error ? *pending.line.error : *pending.choices[0].finish->error));
      continue;
    }
    const std::string answer = DumpJson(WriteAnswer(pending.choices, run_.context.tokenizer), /*indent=*/-1);
    BANTAM_TRY(files_.Write(pending.line, std::string_view(answer).substr(1, answer.size() - 2)));
  }
  return Ok();
}

Result<BatchSummary> Batch::Run(const MakeBatchEngine& make_engine) {
  BANTAM_TRY(files_.Resume());
  BANTAM_ASSIGN(engine_, make_engine([this](Event event) { Take(std::move(event)); }));
  bool more = true;
  while (true) {
    if (run_.progress && !run_.progress("answering", files_.bytes_read(), files_.size_bytes())) {
      BANTAM_TRY(files_.Sync());
      return files_.Stopped(Code::kCancelled, "");
    }
    if (waiting_ && Submit(*waiting_)) waiting_.reset();
    while (more && !waiting_ && pending_.size() < run_.ahead) {
      BANTAM_ASSIGN(more, Begin());
    }
    BANTAM_TRY(WriteReady());
    if (!more && pending_.empty()) break;
    const Result<bool> stepped = engine_->Step();
    if (!stepped.ok()) return stepped.error();
    if (!*stepped && waiting_) {
      BANTAM_TRY(files_.Sync());
      return files_.Stopped(Code::kUnavailable, why_waiting_ + "; nothing runs that could end, so it ");
    }
  }
  BANTAM_TRY(files_.Sync());
  return files_.summary();
}

}  // namespace

Result<BatchSummary> RunBatch(const BatchRun& run, const MakeBatchEngine& make_engine) { return Batch(run).Run(make_engine); }

}  // namespace bantam
