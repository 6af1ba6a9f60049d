// SentencePiece-BPE merging, apart from the vocabulary's storage so that it can be tested alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

namespace bantam {

struct SpmPiece {
  uint32_t token;
  float score;
};

// Splits `text` into characters and joins neighbours, always the pair whose joined text has the highest score (of equal ones
// the leftmost), until no joined text is a piece. Calls `emit` for each remaining part in order: with its token, or nullopt
// for a character that is no piece. O(n log n). Texts are below 2 GiB.
void MergeSpm(std::string_view text, const std::function<std::optional<SpmPiece>(std::string_view)>& find,
              const std::function<void(std::string_view, std::optional<uint32_t>)>& emit);

}  // namespace bantam
