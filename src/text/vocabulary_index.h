// VocabularyIndex: from the text of a token to its number.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "text/tokenizer_spec.h"

namespace bantam {

class VocabularyIndex {
 public:
  // Of the tokens that plain text can become: not control, unknown and byte tokens by spelling out their names, and where added
  // tokens are apart not user-defined ones either. `spec` outlives the index. `seed` makes look-up times unpredictable to whoever
  // made the vocabulary; it changes no result.
  VocabularyIndex(const TokenizerSpec& spec, uint64_t seed);

  // Of tokens with one text the last counts, as in other readers.
  std::optional<uint32_t> Find(std::string_view text) const;

  // Many at once, which hides the memory's latency: tokens[i] of texts[i], or nothing.
  void FindAll(std::span<const std::string_view> texts, std::vector<std::optional<uint32_t>>* tokens) const;

  uint64_t bytes() const { return slots_.capacity() * sizeof(Slot); }

 private:
  struct Slot {
    uint32_t token;  // + 1, 0 in an empty slot
    uint32_t check;  // bits of the hash, so that most texts need not be compared
  };
  uint64_t HashOf(std::string_view text) const;
  std::optional<uint32_t> FindHashed(std::string_view text, uint64_t hash) const;

  const TokenizerSpec& spec_;
  uint64_t seed_;
  std::vector<Slot> slots_;  // open addressing, a power of two
};

// Whether plain text may become this token.
bool IsMergeable(TokenType type, bool added_apart);

}  // namespace bantam
