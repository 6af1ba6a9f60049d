// The batches of texts that become vectors, classes or rankings.
#pragma once

#include <optional>
#include <string>

#include "base/disk.h"
#include "cli/texts.h"

namespace bantam {

struct TextBatchOptions {
  TextsOptions common;
  std::optional<std::string> judge;  // --template
};
// Those that mean nothing to batches of answers.
void AddTextBatchOptions(CLI::App& verb, TextBatchOptions* options);

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
