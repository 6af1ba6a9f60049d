// The files of a batch: a request on each line of one, its answer on the line of the same number of the other, where a run that ended early
// is gone on with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/disk.h"
#include "base/json.h"
#include "base/result.h"

namespace bantam {

// A longer line is answered with an error, and not kept.
inline constexpr size_t kBatchLineBytesMax = size_t{4} << 20;

// Lines of a file, read piece by piece. Empty ones are left out.
class LineReader {
 public:
  explicit LineReader(PartFile& file, size_t line_bytes_max = kBatchLineBytesMax) : file_(file), line_bytes_max_(line_bytes_max) {}
  struct Line {
    std::string text;
    bool too_long = false;  // its beginning is left away
  };
  // Nothing at the end.
  Result<std::optional<Line>> Next();
  uint64_t bytes_read() const { return consumed_; }

 private:
  PartFile& file_;
  const size_t line_bytes_max_;
  std::string buffer_;
  uint64_t offset_ = 0;    // of the file, behind the buffer
  uint64_t consumed_ = 0;  // by lines that were given out
  bool at_end_ = false;
};

// What a request's line is known by in the output ("request"): the first 16 digits of its SHA-256.
std::string LineName(std::string_view line);

// The names of the lines that are answered already. A line that was being written when the program ended is cut off. Corrupt, and nothing
// is changed, where these are no lines of a batch, counted from 0 ("index").
Result<std::vector<std::string>> ResumeBatch(PartFile& output);

struct BatchSummary {
  size_t lines = 0;    // answered now
  size_t resumed = 0;  // answered before
  size_t errors = 0;   // of the lines answered now
};

// Each line of the input is a request, or an object with "custom_id" or "id", which comes back, and "body". Each line of the output is
// {"index", "request", "id", ...} with what was answered, or with "error".
class BatchFiles {
 public:
  BatchFiles(PartFile& input, PartFile& output) : input_(input), output_(output), reader_(input) {}

  // Before anything else. Errors: those of ResumeBatch.
  Status Resume();

  struct Line {
    size_t index = 0;
    std::string name = {};
    Json id = nullptr;  // null: the line has none
    Json request = nullptr;
    std::optional<Error> error = std::nullopt;  // it is no request
  };
  // The next line that is to be answered; nothing at the end. InvalidArgument where an answered line is another, or is not there.
  Result<std::optional<Line>> Next();

  // Appends its answer, whose members are written as JSON. Lines are written in their order.
  Status Write(const Line& line, std::string_view members);
  Status Write(const Line& line, const Error& error);

  Status Sync() { return output_.Sync(); }
  // What a run that stops here ends with, once the lines that are written are safe.
  Error Stopped(Code code, std::string_view why) const;

  uint64_t bytes_read() const { return reader_.bytes_read(); }
  uint64_t size_bytes() const { return input_.size(); }
  const BatchSummary& summary() const { return summary_; }

 private:
  PartFile& input_;
  PartFile& output_;
  LineReader reader_;
  std::vector<std::string> answered_;  // names of lines that were before
  size_t next_index_ = 0;
  size_t since_sync_ = 0;
  BatchSummary summary_;
};

}  // namespace bantam
