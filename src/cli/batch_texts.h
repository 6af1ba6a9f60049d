// The batches of texts that become vectors, classes or rankings.
#pragma once

#include <optional>
#include <string>

#include "base/disk.h"
#include "cli/texts.h"
#include "engine/text_request.h"

namespace bantam {

struct TextBatchOptions {
  TextsOptions common;
  std::optional<std::string> judge;  // --template
};
// Those that mean nothing to batches of answers.
void AddTextBatchOptions(CLI::App& verb, TextBatchOptions* options);

// Requests that come one after the other: what memory is planned for, what the program makes of texts, and what may be asked. `opened`
// outlives it; the context's width is the encoder's.
struct TextsPlan {
  TextOptions use = {};
  TextsShape shape = {};
  TextRequestContext context;
};
Result<TextsPlan> PlanTexts(const TextBatchOptions& options, OpenedEncoder& opened, bool scores);

// Where requests come from, and answers go.
struct BatchPlaces {
  PartFile& input;
  PartFile& output;
  const std::string& path;  // of the output
  bool force;               // what is there is written over
};

// Vectors, or with `scores` classes and rankings. Takes the model's file.
Status BatchOfTexts(FileSystem& files, const TextBatchOptions& options, OpenedEncoder& opened, bool scores, const BatchPlaces& places);

}  // namespace bantam
