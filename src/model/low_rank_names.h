// Names of what stands for a matrix, or beside it, as a product of two (docs/formats/gguf.md).
#pragma once

#include <string_view>

namespace bantam {

// Behind the prefix of a product: PREFIX.low_rank_a.weight is A [rank, columns], PREFIX.low_rank_b.weight is B [rows, rank]. Where there is
// no PREFIX.weight, B A is the matrix; else it is added to that, for what quantisation took away.
inline constexpr std::string_view kLowRankA = ".low_rank_a";
inline constexpr std::string_view kLowRankB = ".low_rank_b";

// A tensor's name without that part: "blk.0.attn_q.weight" of "blk.0.attn_q.low_rank_a.weight". Other names are as they were.
inline std::string_view LowRankPart(std::string_view name) {
  for (const std::string_view part : {kLowRankA, kLowRankB}) {
    if (name.ends_with(".weight") && name.substr(0, name.size() - 7).ends_with(part)) return name.substr(0, name.size() - 7 - part.size());
  }
  return {};
}

}  // namespace bantam
