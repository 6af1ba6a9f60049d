// A batch of requests for vectors, classes or rankings of texts: a file of them, answered in order, in memory that does not grow with it.
#pragma once

#include <cstddef>

#include "base/disk.h"
#include "base/progress.h"
#include "base/result.h"
#include "engine/batch_files.h"
#include "engine/text_encoder.h"
#include "engine/text_request.h"

namespace bantam {

// Lines as BatchFiles has them, whose requests are those of ReadTextRequest. Texts of neighbouring lines share steps; no line changes
// another's answer. Errors: Cancelled (the progress says so), with whole lines written, to be gone on with; those of files and of
// computing.
struct TextBatchRun {
  PartFile& input;
  PartFile& output;
  const TextRequestContext& context;
  TextEncoder& encoder;
  Progress progress = nullptr;
};
Result<BatchSummary> RunTextBatch(const TextBatchRun& run);

// What lines that are read together hold beside the model, at most.
inline constexpr uint64_t kTextBatchBytes = 2 * kTextAnswerBytesMax;

}  // namespace bantam
