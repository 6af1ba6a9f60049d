// What quantize and compare measure of two models, and how they tell it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "cli/load.h"
#include "compress/compare.h"
#include "compress/picture.h"
#include "compress/window_runner.h"

namespace bantam {

// A model that reads windows of text.
struct WindowModel {
  std::string path;
  uint64_t size_bytes = 0;     // of its files
  uint64_t weights_bytes = 0;  // of its tensors
  uint64_t elements = 0;
  size_t rounded_products = 0;  // by fixed steps
  Loaded loaded;
  std::unique_ptr<WindowRunner> runner;

  double bits_per_weight() const { return elements == 0 ? 0 : 8 * static_cast<double>(weights_bytes) / static_cast<double>(elements); }
};

// The tokens of a text, with the one that begins texts in front where the model has it.
struct WindowText {
  std::vector<uint32_t> tokens;
  std::optional<uint32_t> bos;
};
Result<WindowText> ReadWindowText(FileSystem& files, const Tokenizer& tokenizer, const std::string& path);

// Loads a model whose windows have options.context tokens (0: kWindowTokens, or what it was trained on if that is less), and the tokenizer
// where it is asked for.
inline constexpr size_t kWindowTokens = 512;
inline constexpr size_t kWindowMin = 4;
// What a window of that model has where nobody says.
Result<size_t> WindowOf(FileSystem& files, const std::string& path, size_t most = kWindowTokens);
Result<WindowModel> LoadWindowModel(FileSystem& files, const std::string& path, RunOptions options, std::unique_ptr<Tokenizer>* tokenizer);
// The same of one whose activations are rounded by fixed steps (SetStaticSteps).
Result<WindowModel> LoadRoundedModel(FileSystem& files, const std::string& path, const RunOptions& options, const StaticSteps& steps);

struct MeasuredPair {
  Comparison comparison;
  double base_tokens_per_s = 0;  // one token after another
  double tokens_per_s = 0;
};
// With a progress line; ends early, with what is known, on Ctrl-C.
Result<MeasuredPair> MeasurePair(WindowModel& base, WindowModel& candidate, const WindowText& text, size_t windows);

// How far what products read is from the base's, by name, on the first windows of a text; for pictures.
using LayerErrors = std::vector<std::pair<std::string, double>>;
Result<LayerErrors> LayerErrorsOf(WindowModel& base, WindowModel& candidate, const WindowText& text);
Json LayerErrorsJson(const LayerErrors& errors);
BarChart ChartOfLayerErrors(const LayerErrors& errors);
// InvalidArgument where there is no chart.
Status WritePicture(FileSystem& files, const std::string& path, const std::vector<BarChart>& charts);

std::string PairText(const WindowModel& base, const WindowModel& candidate, const MeasuredPair& pair);
Json PairJson(const WindowModel& base, const WindowModel& candidate, const MeasuredPair& pair);

}  // namespace bantam
