// TokenVocabulary: the texts of all ids as a trie, in the order in which it is walked.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/structured/token_slices.h"

namespace bantam {

// Preorder: the children of node i are i + 1, end of that one, and so on below the end of i.
struct TokenTrie {
  struct Node {
    uint32_t end;          // behind the last node below this one
    uint32_t first_token;  // of `tokens`, up to that of the next node
    uint16_t depth;        // bytes from the root to this node's, 0 for the root
    uint8_t byte;
  };
  std::vector<Node> nodes;  // and one behind the last, for its first_token
  std::vector<uint32_t> tokens;

  bool HasChildren(uint32_t node) const { return nodes[node].end > node + 1; }
};

class TokenVocabulary {
 public:
  // texts[id]: the bytes that an id adds to an answer; empty for control tokens and whatever else never may be generated within it.
  // `ends` are the ids that end an answer. Unsupported when a byte has no token of its own: texts could come to a dead end.
  static Result<std::shared_ptr<const TokenVocabulary>> Make(std::vector<std::string> texts, std::vector<uint32_t> ends);

  size_t size() const { return texts_.size(); }
  size_t words() const { return (texts_.size() + 31) / 32; }  // of a mask
  const std::string& TextOf(uint32_t id) const { return texts_[id]; }
  const std::vector<uint32_t>& ends() const { return ends_; }
  bool IsEnd(uint32_t id) const;

  const TokenTrie& trie() const { return trie_; }
  // Each token of trie() is in one slice.
  const TokenTrie& trie(TokenSlice slice) const { return slices_[static_cast<size_t>(slice)]; }
  const std::vector<uint32_t>& MaskOf(TokenSlice slice) const { return masks_[static_cast<size_t>(slice)]; }
  // The tokens of a slice before kMarked with `least` to `most` characters.
  std::span<const uint32_t> WithLength(TokenSlice slice, uint64_t least, uint64_t most) const;
  // Characters of its longest token.
  uint64_t LongestOf(TokenSlice slice) const;

  // Tokens that make the text, each the longest that there is; as far as there is one.
  std::vector<uint32_t> Spell(std::string_view text) const;

  uint32_t longest() const { return longest_; }  // bytes
  uint64_t bytes() const;

 private:
  TokenVocabulary() = default;

  std::vector<std::string> texts_;
  std::vector<uint32_t> ends_;  // sorted
  TokenTrie trie_;
  std::array<TokenTrie, kTokenSlices> slices_;
  std::array<std::vector<uint32_t>, kTokenSlices> masks_;
  // The tokens of a slice by their characters: of n and more from begins[n] on.
  struct Lengths {
    std::vector<uint32_t> ids;
    std::vector<uint32_t> begins;
  };
  std::array<Lengths, kCharacterSlices> lengths_;
  uint32_t longest_ = 0;
};

}  // namespace bantam
