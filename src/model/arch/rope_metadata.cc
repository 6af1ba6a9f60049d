#include "model/arch/rope_metadata.h"

#include <fmt/format.h>

#include <cmath>

#include "base/bytes.h"

namespace bantam {
namespace {

constexpr double kFactorMin = 0.01;
constexpr double kFactorMax = 10'000;

// A divisor per pair of rotated dimensions, F32; empty when the tensor is absent.
Result<std::vector<float>> ReadDivisors(ModelFile& file, std::string_view name, size_t pairs) {
  const TensorInfo* tensor = file.directory.Find(name);
  if (tensor == nullptr) return std::vector<float>();
  if (tensor->dtype != DType::kF32 || tensor->elements() != pairs) {
    return Error(Code::kCorrupt, fmt::format("tensor {}: {} elements of {}, expected {} of F32", name, tensor->elements(),
                                             Info(tensor->dtype).name, pairs));
  }
  BANTAM_ASSIGN(const auto bytes, file.source->View(tensor->offset_bytes, tensor->size_bytes));
  std::vector<float> divisors(pairs);
  for (size_t i = 0; i < pairs; ++i) {
    divisors[i] = LoadUnaligned<float>(bytes.data() + 4 * i);
    if (divisors[i] == 0 || !std::isfinite(divisors[i])) {
      return Error(Code::kCorrupt, fmt::format("tensor {}: element {} is {}, expected a finite number but 0", name, i, divisors[i]));
    }
  }
  return divisors;
}

Status ReadScaling(const FamilyMetadata& metadata, const RopeDefaults& defaults, RopeSpec* rope) {
  BANTAM_ASSIGN(const std::string_view type, metadata.ReadText("rope.scaling.type", "linear"));
  BANTAM_ASSIGN(const double old_factor, metadata.ReadNumber("rope.scale_linear", 0));  // the key of early files
  BANTAM_ASSIGN(const double factor, metadata.ReadNumber("rope.scaling.factor", old_factor));
  const auto scaling = RopeScalingFromName(type);
  if (!scaling) {
    return Error(Code::kUnsupported, fmt::format("rotary scaling of type {} is not supported; this build knows linear, ntk, dynamic, yarn, "
                                                 "longrope and llama3",
                                                 type));
  }
  // A factor of 0 is how some converters write "none".
  const bool scaled = factor > 0 || *scaling == RopeScaling::kLongRope;
  rope->scaling = scaled ? *scaling : RopeScaling::kNone;
  rope->factor = factor > 0 ? factor : 1;
  const uint32_t trained = static_cast<uint32_t>(defaults.context_max);
  BANTAM_ASSIGN(rope->original_context, metadata.Read("rope.scaling.original_context_length", {1, kContextLengthMax}, trained));
  BANTAM_ASSIGN(rope->attention_factor, metadata.ReadNumber("rope.scaling.attn_factor", 1));
  BANTAM_ASSIGN(const double extrapolation, metadata.ReadNumber("rope.scaling.yarn_ext_factor", 1));
  rope->extrapolation = extrapolation < 0 ? 1 : extrapolation;  // files write -1 for "not set"
  BANTAM_ASSIGN(rope->beta_fast, metadata.ReadNumber("rope.scaling.yarn_beta_fast", 32));
  BANTAM_ASSIGN(rope->beta_slow, metadata.ReadNumber("rope.scaling.yarn_beta_slow", 1));
  BANTAM_ASSIGN(rope->truncate, metadata.ReadBool("rope.scaling.published_truncate", true));
  BANTAM_ASSIGN(rope->low_frequency_factor, metadata.ReadNumber("rope.scaling.low_freq_factor", 1));
  BANTAM_ASSIGN(rope->high_frequency_factor, metadata.ReadNumber("rope.scaling.high_freq_factor", 4));
  return Ok();
}

}  // namespace

Result<RopeSpec> ReadRope(ModelFile& file, const FamilyMetadata& metadata, const RopeDefaults& defaults) {
  RopeSpec rope;
  const uint32_t head_dim = static_cast<uint32_t>(defaults.head_dim);
  BANTAM_ASSIGN(rope.rotated_dimensions, metadata.Read("rope.dimension_count", {2, head_dim}, head_dim));
  BANTAM_ASSIGN(rope.base, metadata.ReadNumber("rope.freq_base", 10000));
  BANTAM_TRY(ReadScaling(metadata, defaults, &rope));
  const bool sane = rope.rotated_dimensions % 2 == 0 && rope.base > 1 && rope.factor >= kFactorMin && rope.factor <= kFactorMax &&
                    rope.attention_factor > 0 && rope.beta_fast > 0 && rope.beta_slow > 0 && rope.extrapolation <= 1 &&
                    rope.low_frequency_factor > 0 && rope.high_frequency_factor > rope.low_frequency_factor;
  if (!sane) {
    return Error(
        Code::kCorrupt,
        fmt::format(
            "rotary embedding of {} dimensions, base {}, factor {}, attention factor {}, beta {} and {}, extrapolation {}, frequency "
            "factors {} and {}: expected an even number, a base above 1, a factor from {} to {}, positive values, and an "
            "extrapolation of at most 1; convert the model again",
            rope.rotated_dimensions, rope.base, rope.factor, rope.attention_factor, rope.beta_fast, rope.beta_slow, rope.extrapolation,
            rope.low_frequency_factor, rope.high_frequency_factor, kFactorMin, kFactorMax));
  }
  BANTAM_ASSIGN(rope.divisors, ReadDivisors(file, "rope_freqs.weight", rope.pairs()));
  // The table is the rule of Llama 3, worked out.
  if (rope.scaling == RopeScaling::kLlama3 && !rope.divisors.empty()) rope.scaling = RopeScaling::kNone;
  // Older files of models with LongRoPE have its tables and do not name it.
  if (rope.scaling == RopeScaling::kNone && file.directory.Find("rope_factors_short.weight") != nullptr)
    rope.scaling = RopeScaling::kLongRope;
  if (rope.scaling == RopeScaling::kLongRope && rope.divisors.empty()) {
    BANTAM_ASSIGN(rope.divisors, ReadDivisors(file, "rope_factors_short.weight", rope.pairs()));
    BANTAM_ASSIGN(rope.long_divisors, ReadDivisors(file, "rope_factors_long.weight", rope.pairs()));
    if (rope.divisors.empty() || rope.long_divisors.empty()) {
      return Error(Code::kCorrupt,
                   "rotary scaling of type longrope without the tensors rope_factors_short.weight and "
                   "rope_factors_long.weight; convert the model again");
    }
  }
  return rope;
}

}  // namespace bantam
