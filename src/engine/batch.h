// A batch: a file of requests, one JSON object on each line, answered in their order by many at once, in memory that does not grow with the
// file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/disk.h"
#include "base/progress.h"
#include "base/result.h"
#include "engine/engine.h"
#include "engine/json_request.h"

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

// Each line of `input` is a request (ReadJsonRequest), or an object with "custom_id" or "id", which comes back, and "body". Each line of
// `output` is {"index", "request", "id", "choices", "usage"} or {"index", "request", "id", "error"}. `make_engine` gets where events go.
// What is refused only for now is asked again. Errors: Cancelled, or Unavailable where nothing runs and the machine is short of memory,
// with whole lines written, to be gone on with; those of files.
struct BatchRun {
  PartFile& input;
  PartFile& output;
  const JsonRequestContext& context;
  size_t ahead = 16;  // lines that are read before the oldest of them is answered
  Progress progress = nullptr;
};
using MakeBatchEngine = std::function<Result<std::unique_ptr<Engine>>(Engine::Sink)>;
Result<BatchSummary> RunBatch(const BatchRun& run, const MakeBatchEngine& make_engine);

}  // namespace bantam
