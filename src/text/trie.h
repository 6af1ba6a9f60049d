// Trie: the tokens that begin at a place of a text, found in one walk.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "text/tokenizer_spec.h"

namespace bantam {

// A trie as one hash table of edges: pieces that begin at a place of the text are found in one walk.
class Trie {
 public:
  explicit Trie(uint64_t seed) : seed_(seed | 1) { slots_.resize(1024); }

  void Add(std::string_view text, uint32_t token) {
    uint32_t node = 0;
    for (const char c : text) {
      if (2 * tokens_.size() >= slots_.size()) Grow();
      const uint64_t key = Key(node, static_cast<unsigned char>(c));
      size_t at = Place(key);
      while (slots_[at].key != 0 && slots_[at].key != key) at = (at + 1) & (slots_.size() - 1);
      if (slots_[at].key == 0) {
        slots_[at] = {key, static_cast<uint32_t>(tokens_.size())};
        tokens_.push_back(kNoToken);
      }
      node = slots_[at].child;
    }
    tokens_[node] = token;
  }

  static constexpr uint32_t kNoNode = UINT32_MAX;
  uint32_t Child(uint32_t node, unsigned char byte) const {
    const uint64_t key = Key(node, byte);
    for (size_t at = Place(key); slots_[at].key != 0; at = (at + 1) & (slots_.size() - 1)) {
      if (slots_[at].key == key) return slots_[at].child;
    }
    return kNoNode;
  }
  uint32_t TokenAt(uint32_t node) const { return tokens_[node]; }
  uint64_t bytes() const { return slots_.capacity() * sizeof(Slot) + tokens_.capacity() * sizeof(uint32_t); }

 private:
  struct Slot {
    uint64_t key;  // 0: empty
    uint32_t child;
  };
  static uint64_t Key(uint32_t node, unsigned char byte) { return (uint64_t{node} << 8 | byte) + 1; }
  size_t Place(uint64_t key) const {
    __extension__ using Wide = unsigned __int128;
    const auto product = static_cast<Wide>(key ^ seed_) * 0x9e3779b97f4a7c15ULL;
    return static_cast<size_t>(static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64)) & (slots_.size() - 1);
  }
  void Grow() {
    std::vector<Slot> old(2 * slots_.size());
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.key == 0) continue;
      size_t at = Place(slot.key);
      while (slots_[at].key != 0) at = (at + 1) & (slots_.size() - 1);
      slots_[at] = slot;
    }
  }

  uint64_t seed_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> tokens_ = {kNoToken};  // per node
};

}  // namespace bantam
