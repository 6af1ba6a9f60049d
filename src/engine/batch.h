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
#include "engine/batch_files.h"
#include "engine/engine.h"
#include "engine/json_request.h"

namespace bantam {

// Lines as BatchFiles has them, whose requests are those of ReadJsonRequest, and whose answers have "choices" and "usage". `make_engine`
// gets where events go. What is refused only for now is asked again. Errors: Cancelled, or Unavailable where nothing runs and the machine
// is short of memory, with whole lines written, to be gone on with; those of files.
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
