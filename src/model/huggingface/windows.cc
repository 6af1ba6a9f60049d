#include "model/huggingface/windows.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "model/config.h"

namespace bantam {
namespace {

// By letters such as LLLG, from the first layer on and again; the publisher's code lets the last layer see everything whatever its letter
// is.
Result<std::vector<uint32_t>> ReadLetters(const std::string& letters, uint32_t layers) {
  if (letters.empty() || letters.find_first_not_of("LG") != std::string::npos) {
    return Error(Code::kCorrupt, fmt::format("sliding_window_pattern: {}, expected the letters L and G, or a number", ShortJson(letters)));
  }
  std::vector<uint32_t> windowed;
  for (uint32_t i = 0; i < layers; ++i) windowed.push_back(letters[i % letters.size()] == 'L' ? 1 : 0);
  if (windowed.back() != 0) return NotRun(fmt::format("sliding_window_pattern {} whose last layer is an L", letters));
  return windowed;
}

Result<std::vector<uint32_t>> ReadWindowed(const HfConfig& config, uint32_t layers, uint32_t pattern) {
  if (!config.Member("layer_types").is_null()) return ReadLayerKinds(config, "sliding_attention", "full_attention");
  const Json& every = config.Member("sliding_window_pattern");
  if (every.is_string()) return ReadLetters(every.get<std::string>(), layers);
  BANTAM_ASSIGN(const auto said, config.Count({"sliding_window_pattern"}));
  pattern = said.value_or(pattern);
  std::vector<uint32_t> windowed;
  for (uint32_t i = 0; i < layers; ++i) windowed.push_back(pattern != 0 && (i + 1) % pattern == 0 ? 0 : 1);
  return windowed;
}

}  // namespace

Status DescribeWindows(const HfConfig& config, uint32_t pattern, Description* description) {
  BANTAM_ASSIGN(const auto window, config.Count({"sliding_window", "sliding_window_size"}));
  BANTAM_ASSIGN(const uint32_t layers, config.RequireCount({"num_hidden_layers"}));
  if (layers == 0 || layers > kLayersMax) return Ok();  // refused where layers are counted
  BANTAM_ASSIGN(auto windowed, ReadWindowed(config, layers, pattern));
  if (window.value_or(0) == 0) {
    if (std::find(windowed.begin(), windowed.end(), 1u) == windowed.end()) return Ok();
    return NotRun("a model in which layers have a window (layer_types, sliding_window_pattern) and sliding_window is no number above 0");
  }
  description->Count("attention.sliding_window", *window);
  description->Counts("attention.sliding_window_pattern", std::move(windowed));
  return Ok();
}

// The family has windows in models of 64 layers, and in those alone.
Status DescribeExaone4(const HfConfig& config, Description* description) {
  constexpr uint32_t kLayersOf32B = 64;
  BANTAM_ASSIGN(const auto window, config.Count({"sliding_window"}));
  BANTAM_ASSIGN(const uint32_t layers, config.RequireCount({"num_hidden_layers"}));
  const bool has_window = window.value_or(0) != 0;
  if (has_window && layers != kLayersOf32B) return NotRun(fmt::format("a window in a model of {} layers", layers));
  if (!has_window && layers == kLayersOf32B) return NotRun(fmt::format("a model of {} layers without a sliding_window", layers));
  const bool said = !config.Member("layer_types").is_null() || !config.Member("sliding_window_pattern").is_null();
  return has_window || said ? DescribeWindows(config, /*pattern=*/4, description) : Ok();
}

}  // namespace bantam
