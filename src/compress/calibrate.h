// Statistics of what the products of a model read on a text: the importance of columns, and Gram matrices for error feedback.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/progress.h"
#include "compress/gram.h"
#include "compress/importance.h"
#include "compress/window_runner.h"

namespace bantam {

// Windows of a text that models are calibrated on: so many tokens each, spread evenly over the text.
struct CalibrationWindows {
  std::vector<std::vector<uint32_t>> windows;

  size_t tokens() const;
};
struct WindowSizes {
  size_t window = 512;        // tokens
  size_t tokens_max = 0;      // of all windows together; 0: the whole text
  uint32_t bos = UINT32_MAX;  // takes the place of each window's first token, unless UINT32_MAX
};
// A text that does not fill a window, or has fewer than kCalibrationTokensMin tokens, is refused with InvalidArgument: statistics of less
// are those of a few sentences.
inline constexpr size_t kCalibrationTokensMin = 256;
Result<CalibrationWindows> CutWindows(std::span<const uint32_t> tokens, const WindowSizes& sizes);

// What a pass over the windows is to gather. Errors: Cancelled, those of the runner, Corrupt (activations that are no numbers).
class Calibrator {
 public:
  // All outlive it.
  Calibrator(const Model& model, WindowRunner& runner, const CalibrationWindows& windows, ThreadPool& pool, Progress progress)
      : model_(model), runner_(runner), windows_(windows), pool_(pool), progress_(std::move(progress)) {}

  // Of every product of the model, that with the output matrix too.
  Result<Importance> MeasureImportance();

  // Gram matrices of what the named matrices are multiplied with. Those that read the same share one. Experts have none: what an expert
  // reads is too little, and their matrices are too many. Other names that no product has are left out.
  using Grams = std::map<std::string, std::shared_ptr<UpperPanels>, std::less<>>;
  Result<Grams> MeasureGrams(const std::vector<std::string>& names);

  // The largest magnitude of each column that a product reads, by the names of its matrices; experts have none.
  using Ranges = std::map<std::string, std::vector<float>, std::less<>>;
  Result<Ranges> MeasureRanges();

  // From here on what the named matrices are multiplied with counts as divided, column by column: of a model whose activations are scaled.
  // Matrices that read the same have the same divisors.
  void Divide(std::map<std::string, std::vector<float>, std::less<>> divisors) { divisors_ = std::move(divisors); }

  // Memory of the Gram matrices of these names together.
  uint64_t GramBytes(const std::vector<std::string>& names) const;

 private:
  Status Pass(ProductObserver& observer, bool outputs, std::string_view step);

  const Model& model_;
  WindowRunner& runner_;
  const CalibrationWindows& windows_;
  ThreadPool& pool_;
  const Progress progress_;
  std::map<std::string, std::vector<float>, std::less<>> divisors_;
};

}  // namespace bantam
