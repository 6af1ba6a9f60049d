// What verbs share that read whole texts with an encoder: where texts come from, and the steps from a model's name to what reads them.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/load.h"
#include "engine/text_model.h"

namespace bantam {

struct TextsOptions {
  std::string model;
  std::vector<std::string> texts;  // of the command line
  std::string file;                // with a text on each line
  bool truncate = false;
  bool json = false;
  std::string pooling;     // of --pooling, which a verb adds with words of its own
  std::string activation;  // of --activation
  RunOptions run;
};
void AddTextsOptions(CLI::App& verb, TextsOptions* options);
// Those of them that say nothing of texts.
void AddTextLimitOptions(CLI::App& verb, TextsOptions* options);
// --activation, and what it says; nothing where it is not given.
void AddActivationOption(CLI::App& verb, TextsOptions* options);
Result<std::optional<ClassActivation>> ReadActivationName(const TextsOptions& options);

// mean, cls, last or none; nothing where it is not given.
Result<std::optional<Pooling>> ReadPoolingName(const TextsOptions& options);

// Those of the command line, of --file, or of standard input.
Result<std::vector<std::string>> ReadTexts(FileSystem& files, const TextsOptions& options);

// A model before its weights are read.
struct OpenedEncoder {
  std::string path;
  ModelFile file;
  TextModel model;
  TextLimit limit;  // of a text
};
Result<OpenedEncoder> OpenEncoder(FileSystem& files, const TextsOptions& options);

// Says so where the model does not say what its classifier reads, and neither does its user.
void NoteClassifierPooling(const OpenedEncoder& opened, const std::optional<Pooling>& asked);

// What memory is planned for.
struct TextsShape {
  size_t longest = 1;  // tokens of a text
  size_t total = 0;    // of all of them
  size_t texts = 1;
  uint64_t bytes = 0;  // that the verb keeps of them
};
TextsShape ShapeOf(std::span<const TextTokens> texts);

struct ReadyEncoder {
  Loaded loaded;
  std::unique_ptr<TextEncoder> encoder;
};
// Takes the file.
Result<ReadyEncoder> MakeEncoder(FileSystem& files, OpenedEncoder& opened, const TextsOptions& options, const TextsShape& texts,
                                 const TextOptions& use);

// How many tokens were read, how fast, and in how much memory.
std::string EncodingStats(const ReadyEncoder& ready, std::span<const TextTokens> texts, int64_t ns);

}  // namespace bantam
