#include "engine/text_batch.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace bantam {
namespace {

// Lines are read together until they have so many tokens, which fill a few steps, or answers of so many bytes.
constexpr size_t kTokensTogether = 2048;
constexpr uint64_t kBytesTogether = kTextAnswerBytesMax / 4;
constexpr uint64_t kBytesPerNumber = 16;

struct Asked {
  BatchFiles::Line line;
  TextRequest request = {};
  size_t first = 0;  // of its texts among all
};

class TextBatch {
 public:
  explicit TextBatch(const TextBatchRun& run) : run_(run), files_(run.input, run.output) {}

  Result<BatchSummary> Run() {
    BANTAM_TRY(files_.Resume());
    while (true) {
      if (!GoOn()) return Stop();
      BANTAM_TRY(ReadTogether());
      if (asked_.empty()) break;
      Status answered = Answer();
      if (!answered.ok() && answered.error().code() == Code::kCancelled) return Stop();
      BANTAM_TRY(std::move(answered));
    }
    BANTAM_TRY(files_.Sync());
    return files_.summary();
  }

 private:
  bool GoOn() const { return !run_.progress || run_.progress("answering", files_.bytes_read(), files_.size_bytes()); }
  Error Stop() {
    const Status synced = files_.Sync();
    return synced.ok() ? files_.Stopped(Code::kCancelled, "") : synced.error();
  }

  Status ReadTogether() {
    asked_.clear();
    texts_.clear();
    size_t tokens = 0;
    uint64_t bytes = 0;
    while (tokens < kTokensTogether && bytes < kBytesTogether) {
      BANTAM_ASSIGN(std::optional<BatchFiles::Line> line, files_.Next());
      if (!line) return Ok();
      asked_.push_back({.line = std::move(*line)});
      Asked& asked = asked_.back();
      if (!asked.line.error) {
        Result<TextRequest> request = ReadTextRequest(asked.line.request, run_.context);
        asked.line.request = nullptr;
        if (!request.ok()) asked.line.error = std::move(request).error();
        if (request.ok()) asked.request = std::move(request).value();
      }
      tokens += asked.request.tokens + 1;
      bytes += asked.request.texts.size() * run_.context.width * kBytesPerNumber;
      asked.first = texts_.size();
      for (TextTokens& text : asked.request.texts) texts_.push_back(std::move(text));
      ends_.resize(asked_.size());
      ends_.back() = texts_.size();
    }
    return Ok();
  }

  // Writes each line as soon as its last text is computed.
  Status Answer() {
    next_ = 0;
    answer_.reset();
    BANTAM_TRY(WriteUpTo(/*texts=*/0));
    const auto sink = [&](size_t text, std::span<float> values) -> Status {
      Asked& asked = asked_[next_];
      if (!answer_) answer_.emplace(asked.request, run_.context);
      if (!asked.line.error) {
        Status added = answer_->Add(values).With("text " + std::to_string(text - asked.first));
        if (!added.ok()) asked.line.error = std::move(added).error();
      }
      return WriteUpTo(text + 1);
    };
    return run_.encoder.Encode(texts_, sink, [&] { return !GoOn(); });
  }

  // The lines whose texts are all among the first `texts`.
  Status WriteUpTo(size_t texts) {
    for (; next_ < asked_.size() && ends_[next_] <= texts; ++next_) {
      const Asked& asked = asked_[next_];
      BANTAM_TRY(asked.line.error ? files_.Write(asked.line, *asked.line.error) : files_.Write(asked.line, answer_->Finish()));
      answer_.reset();
    }
    return Ok();
  }

  const TextBatchRun& run_;
  BatchFiles files_;
  std::vector<Asked> asked_;  // in the order of lines
  std::vector<size_t> ends_;  // of their texts
  std::vector<TextTokens> texts_;
  size_t next_ = 0;  // line that is not written
  std::optional<TextAnswer> answer_;
};

}  // namespace

Result<BatchSummary> RunTextBatch(const TextBatchRun& run) { return TextBatch(run).Run(); }

}  // namespace bantam
