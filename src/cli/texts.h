// What verbs share that read whole texts with an encoder: where texts come from, and the steps from a model's name to what reads them.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/load.h"
#include "engine/text_encoder.h"
#include "model/text_rules.h"

namespace bantam {

struct TextsOptions {
  std::string model;
  std::vector<std::string> texts;  // of the command line
  std::string file;                // with a text on each line
  bool truncate = false;
  bool json = false;
  std::string pooling;  // of --pooling, which a verb adds with words of its own
  RunOptions run;
};
void AddTextsOptions(CLI::App& verb, TextsOptions* options);

// mean, cls, last or none; nothing where it is not given.
Result<std::optional<Pooling>> ReadPoolingName(const TextsOptions& options);

// Those of the command line, of --file, or of standard input.
Result<std::vector<std::string>> ReadTexts(FileSystem& files, const TextsOptions& options);

// An encoder before its weights are read.
struct OpenedEncoder {
  std::string path;
  ModelFile file;
  Config config;
  TextRules rules;
  Tokenizer tokenizer;
  TextLimit limit;  // of a text
};
Result<OpenedEncoder> OpenEncoder(FileSystem& files, const TextsOptions& options);

// Of texts that are tokenised: its memory is planned for the longest of them.
struct ReadyEncoder {
  Loaded loaded;
  std::unique_ptr<TextEncoder> encoder;
};
Result<ReadyEncoder> MakeEncoder(FileSystem& files, OpenedEncoder opened, const TextsOptions& options, std::span<const TextTokens> texts,
                                 const TextOptions& use);

// How many tokens were read, how fast, and in how much memory.
std::string EncodingStats(const ReadyEncoder& ready, std::span<const TextTokens> texts, int64_t ns);

}  // namespace bantam
