// WordCache: what the words of one text became, since most words come again.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>
#include <vector>

namespace bantam {

class WordCache {
 public:
  static constexpr size_t kWordMax = 23;  // bytes; longer words are encoded each time

  struct Tokens {
    uint32_t begin;  // in the tokens of the text
    uint32_t count;
  };
  struct Slot {
    std::array<uint64_t, 3> key = {};  // the word and its length
    Tokens tokens = {};                // count 0: empty
  };

  // For a text of that many bytes. Short texts repeat too little to be worth a cache.
  explicit WordCache(size_t text_bytes) {
    size_t slots = 0;
    if (text_bytes >= kTextMin) slots = 64;
    while (slots != 0 && slots < kSlotsMax && slots * 8 < text_bytes) slots *= 2;
    slots_.resize(slots);
  }

  // The slot of a word, or null when words like it are not kept. The word is there if `found`.
  Slot* Find(std::string_view word, bool* found) {
    *found = false;
    if (slots_.empty() || word.size() > kWordMax) return nullptr;
    std::array<uint64_t, 3> key = {};
    std::memcpy(key.data(), word.data(), word.size());
    key[2] |= static_cast<uint64_t>(word.size()) << 56;
    const uint64_t hash = (key[0] * kMix[0]) ^ (key[1] * kMix[1]) ^ (key[2] * kMix[2]);
    // One place for each word: whoever comes later takes it.
    Slot& slot = slots_[(hash >> 40 ^ hash >> 20) & (slots_.size() - 1)];
    *found = slot.key == key && slot.tokens.count != 0;
    slot.key = key;
    if (!*found) slot.tokens.count = 0;
    return &slot;
  }

 private:
  static constexpr size_t kTextMin = 256;
  static constexpr size_t kSlotsMax = 16384;
  static constexpr uint64_t kMix[3] = {0x9e3779b97f4a7c15ULL, 0xbf58476d1ce4e5b9ULL, 0x94d049bb133111ebULL};
  std::vector<Slot> slots_;
};

}  // namespace bantam
