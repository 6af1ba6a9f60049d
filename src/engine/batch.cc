#include "engine/batch.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace bantam {
namespace {

constexpr size_t kReadBytes = size_t{64} << 10;
// The output survives a power cut up to here, at the latest.
constexpr size_t kLinesPerSync = 32;
constexpr size_t kNameDigits = 16;
// Of a line that was written: many choices with the likeliest tokens of each place are long.
constexpr size_t kAnswerBytesMax = size_t{1} << 30;

// What is known of a line until it is written.
struct Pending {
  size_t index = 0;
  std::string name = {};
  Json id;  // null: the line has none
  std::vector<ChoiceResult> choices;
  size_t unfinished = 0;
  std::optional<Error> error;
};

class Batch {
 public:
  explicit Batch(const BatchRun& run) : run_(run), reader_(run.input) {}

  Result<BatchSummary> Run(const MakeBatchEngine& make_engine);

 private:
  // The next line that is to be answered goes to the engine. False at the end of the input.
  Result<bool> Begin();
  Result<Request> Read(const LineReader::Line& line, Pending* pending);
  // Asks the engine. False: not now, so it stays in `waiting_`.
  bool Submit(Request request);
  void Take(Event event);
  Status WriteReady();

  const BatchRun& run_;
  LineReader reader_;
  std::unique_ptr<Engine> engine_;
  std::deque<Pending> pending_;        // in the order of lines; at most `ahead`
  std::optional<Request> waiting_;     // that of the last of them, which the engine has no room for yet
  std::vector<std::string> answered_;  // names of lines that were before
  std::map<RequestId, size_t> lines_;
  size_t next_index_ = 0;
  size_t since_sync_ = 0;
  std::string why_waiting_;
  BatchSummary summary_;
};

Result<Request> Batch::Read(const LineReader::Line& line, Pending* pending) {
  if (line.too_long) return Error(Code::kExhausted, fmt::format("a line of more than {} bytes; shorten it", kBatchLineBytesMax));
  BANTAM_ASSIGN(Json json, ParseJson(line.text));
  for (const char* name : {"custom_id", "id"}) {
    if (const Json& id = JsonMember(json, name); !id.is_null()) pending->id = id;
  }
  if (const Json& inner = JsonMember(json, "body"); inner.is_object()) return ReadJsonRequest(inner, run_.context);
  if (json.is_object()) {
    json.erase("custom_id");
    json.erase("id");
  }
  return ReadJsonRequest(json, run_.context);
}

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
    pending.error = std::move(id).error();
    return true;
  }
  lines_[*id] = pending.index;
  pending.choices.resize(choices);
  pending.unfinished = choices;
  return true;
}

Result<bool> Batch::Begin() {
  BANTAM_ASSIGN(const std::optional<LineReader::Line> line, reader_.Next());
  if (!line) return false;
  const size_t index = next_index_++;
  if (index < summary_.resumed) {
    if (answered_[index] == LineName(line->text)) return true;
    return Error(Code::kInvalidArgument,
                 fmt::format("line {} of the input is not the one that was answered; give another output", index + 1));
  }
  pending_.push_back({.index = index, .name = LineName(line->text), .id = nullptr, .choices = {}, .unfinished = 0, .error = std::nullopt});
  Result<Request> request = Read(*line, &pending_.back());
  if (!request.ok()) {
    pending_.back().error = std::move(request).error();
  } else if (!Submit(*request)) {
    waiting_ = std::move(request).value();
    pending_.back().unfinished = 1;
  }
  return true;
}

void Batch::Take(Event event) {
  const auto line = lines_.find(event.request);
  CHECK(line != lines_.end());
  Pending& pending = pending_[line->second - pending_.front().index];
  if (event.finish && --pending.unfinished == 0) lines_.erase(line);
  const size_t choice = event.choice;
  pending.choices[choice].Add(std::move(event));
}

Status Batch::WriteReady() {
  while (!pending_.empty() && pending_.front().unfinished == 0) {
    const Pending& pending = pending_.front();
    Json line = {{"index", pending.index}, {"request", pending.name}};
    if (!pending.id.is_null()) line["id"] = pending.id;
    const auto failed = std::find_if(pending.choices.begin(), pending.choices.end(),
                                     [](const ChoiceResult& choice) { return choice.finish->error.has_value(); });
    if (pending.error || failed != pending.choices.end()) {
      line["error"] = WriteError(pending.error ? *pending.error : *failed->finish->error);
      ++summary_.errors;
    } else {
      line.update(WriteAnswer(pending.choices, run_.context.tokenizer));
    }
    const std::string text = DumpJson(line, /*indent=*/-1) + "\n";
    BANTAM_TRY(run_.output.Append(std::as_bytes(std::span(text))));
    ++summary_.lines;
    pending_.pop_front();
    if (++since_sync_ < kLinesPerSync) continue;
    since_sync_ = 0;
    BANTAM_TRY(run_.output.Sync());
  }
  return Ok();
}

Result<BatchSummary> Batch::Run(const MakeBatchEngine& make_engine) {
  BANTAM_ASSIGN(answered_, ResumeBatch(run_.output));
  summary_.resumed = answered_.size();
  BANTAM_ASSIGN(engine_, make_engine([this](Event event) { Take(std::move(event)); }));
  bool more = true;
  while (true) {
    if (run_.progress && !run_.progress("answering", reader_.bytes_read(), run_.input.size())) {
      BANTAM_TRY(run_.output.Sync());
      return Error(Code::kCancelled,
                   fmt::format("stopped after {} lines; the same command goes on there", summary_.resumed + summary_.lines));
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
      BANTAM_TRY(run_.output.Sync());
      return Error(Code::kUnavailable,
                   fmt::format("{}; nothing runs that could end, so it stopped after {} lines; the same command goes on there",
                               why_waiting_, summary_.resumed + summary_.lines));
    }
  }
  if (next_index_ < summary_.resumed) {
    return Error(Code::kInvalidArgument, fmt::format("the output has {} lines and the input {}: it is another batch's; give another file",
                                                     summary_.resumed, next_index_));
  }
  BANTAM_TRY(run_.output.Sync());
  return summary_;
}

}  // namespace

Result<std::optional<LineReader::Line>> LineReader::Next() {
  Line line;
  while (true) {
    const size_t end = buffer_.find('\n');
    if (end == std::string::npos && !at_end_) {
      if (buffer_.size() > line_bytes_max_) {
        consumed_ += buffer_.size();
        buffer_.clear();
        line.too_long = true;
      }
      const size_t had = buffer_.size();
      buffer_.resize(had + kReadBytes);
      BANTAM_ASSIGN(const size_t got, file_.Read(offset_, std::as_writable_bytes(std::span(buffer_).subspan(had))));
      buffer_.resize(had + got);
      offset_ += got;
      at_end_ = got == 0;
      continue;
    }
    const size_t size = std::min(end, buffer_.size());
    if (size == 0 && end == std::string::npos && !line.too_long) return std::optional<Line>();
    line.text = buffer_.substr(0, size);
    line.too_long |= size > line_bytes_max_;
    const size_t taken = end == std::string::npos ? size : size + 1;
    buffer_.erase(0, taken);
    consumed_ += taken;
    if (!line.too_long && line.text.find_first_not_of(" \t\r") == std::string::npos) continue;
    if (line.too_long) line.text.clear();
    return std::optional<Line>(std::move(line));
  }
}

std::string LineName(std::string_view line) { return HexOf(Sha256Of(std::as_bytes(std::span(line)))).substr(0, kNameDigits); }

Result<std::vector<std::string>> ResumeBatch(PartFile& output) {
  LineReader reader(output, kAnswerBytesMax);
  std::vector<std::string> lines;
  uint64_t whole = 0;
  while (true) {
    const uint64_t before = reader.bytes_read();
    BANTAM_ASSIGN(const std::optional<LineReader::Line> line, reader.Next());
    if (!line) break;
    std::array<std::byte, 1> last{};
    BANTAM_ASSIGN(const size_t got, output.Read(reader.bytes_read() - 1, last));
    const std::string begin = fmt::format("{{\"index\":{},\"request\":\"", lines.size());
    const bool unfinished = got == 1 && last[0] != std::byte{'\n'};
    // It was being written when the program ended.
    if (unfinished && (line->text.starts_with(begin) || begin.starts_with(line->text))) break;
    if (unfinished || !line->text.starts_with(begin) || line->text.size() < begin.size() + kNameDigits) {
      return Error(Code::kCorrupt,
                   fmt::format("line {} (byte {}) is not that of a batch with \"index\" {}; give another file, or remove it",
                               lines.size() + 1, before, lines.size()));
    }
    lines.push_back(line->text.substr(begin.size(), kNameDigits));
    whole = reader.bytes_read();
  }
  if (whole < output.size()) BANTAM_TRY(output.Truncate(whole));
  return lines;
}

Result<BatchSummary> RunBatch(const BatchRun& run, const MakeBatchEngine& make_engine) { return Batch(run).Run(make_engine); }

}  // namespace bantam
