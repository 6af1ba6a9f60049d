// Rotary position embedding (Su et al., "RoFormer", 2021): which angles, and the known ways to stretch them over a longer context.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace bantam {

enum class RopeLayout : uint8_t {
  kInterleaved,  // pairs (0, 1), (2, 3), ...
  kHalves,       // pairs (0, n/2), (1, n/2 + 1), ...
};

enum class RopeScaling : uint8_t {
  kNone,
  kLinear,      // positions / factor (Chen et al., "Extending context window via position interpolation", 2023)
  kNtk,         // base * factor^(n / (n - 2)) (bloc97, "NTK-aware scaled RoPE", 2023)
  kDynamicNtk,  // the same with the factor that the context needs (emozilla, "Dynamically scaled RoPE", 2023)
  kYarn,        // Peng et al., "YaRN: efficient context window extension of large language models", 2023
  kLongRope,    // divisors per pair, others beyond the trained context (Ding et al., "LongRoPE", 2024)
  kLlama3,      // low frequencies / factor, high ones kept (Meta's reference code of Llama 3.1, 2024)
};
// "none", "linear", "ntk", "dynamic", "yarn", "longrope", "llama3".
std::string_view RopeScalingName(RopeScaling scaling);
std::optional<RopeScaling> RopeScalingFromName(std::string_view name);

// What a model says of its rotary embedding. Data only: angles depend on the context that a run is planned for.
struct RopeSpec {
  RopeLayout layout = RopeLayout::kInterleaved;
  size_t rotated_dimensions = 0;  // n, even
  double base = 10000;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1;
  size_t original_context = 0;  // positions seen before scaling: of dynamic, YaRN, LongRoPE and Llama 3
  double attention_factor = 1;  // multiplies cosines and sines
  // YaRN: rotations over the original context above which a pair is kept, and below which it is interpolated.
  double beta_fast = 32;
  double beta_slow = 1;
  double extrapolation = 1;   // how much of the kept part is mixed in
  bool truncate = true;       // the two pairs that these are, to whole numbers
  double log_multiplier = 0;  // of the magnitude's correction; 0: none given
  // Llama 3: wavelengths above original_context / low_frequency_factor are divided by the factor whole, those below
  // original_context / high_frequency_factor not at all.
  double low_frequency_factor = 1;
  double high_frequency_factor = 4;
  // Divisors of the n / 2 frequencies, or empty. Llama 3's and LongRoPE's scaling come as such tables in GGUF files.
  std::vector<float> divisors;
  std::vector<float> long_divisors;  // LongRoPE, when the context passes the original one

  size_t pairs() const { return rotated_dimensions / 2; }
};

// Angles of a run: position * inverse_frequency[i], i < pairs; cosines and sines are multiplied by the magnitude.
struct RopeAngles {
  std::vector<double> inverse_frequency;
  double magnitude = 1;
};

// Whether angles are others for longer contexts.
bool DependsOnContext(const RopeSpec& spec);

// For a run whose sequences have at most `context` tokens.
RopeAngles ResolveRope(const RopeSpec& spec, size_t context);

}  // namespace bantam
