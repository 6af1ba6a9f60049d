// Byte-pair encoding by a list of merges, over bytes or characters.
#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "text/utf8.h"
#include "text/word_encoder.h"

namespace bantam {
namespace {

constexpr uint32_t kNoRank = UINT32_MAX;
// Up to this many symbols the best pair is looked for anew each time, which is faster than a queue.
constexpr size_t kShortWord = 48;

// From a pair of symbols to the rank of its merge.
class MergeTable {
 public:
  MergeTable(std::span<const Merge> merges, uint64_t seed) : merges_(merges), seed_(seed | 1) {
    slots_.assign(std::bit_ceil(merges.size() + merges.size() / 2 + 1), kNoRank);
    for (uint32_t rank = 0; rank < merges.size(); ++rank) {
      size_t at = Place(merges[rank].left, merges[rank].right);
      bool known = false;
      for (; slots_[at] != kNoRank; at = (at + 1) & (slots_.size() - 1)) {
        const Merge& other = merges[slots_[at]];
        known = known || (other.left == merges[rank].left && other.right == merges[rank].right);
      }
      if (!known) slots_[at] = rank;
    }
  }

  uint32_t Rank(uint32_t left, uint32_t right) const {
    for (size_t at = Place(left, right); slots_[at] != kNoRank; at = (at + 1) & (slots_.size() - 1)) {
      const Merge& merge = merges_[slots_[at]];
      if (merge.left == left && merge.right == right) return slots_[at];
    }
    return kNoRank;
  }
  uint32_t Joined(uint32_t rank) const { return merges_[rank].joined; }
  uint64_t bytes() const { return slots_.capacity() * sizeof(uint32_t); }

 private:
  size_t Place(uint32_t left, uint32_t right) const {
    __extension__ using Wide = unsigned __int128;
    const auto product = static_cast<Wide>((uint64_t{left} << 32 | right) ^ seed_) * 0x9e3779b97f4a7c15ULL;
    return static_cast<size_t>(static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64)) & (slots_.size() - 1);
  }

  std::span<const Merge> merges_;
  uint64_t seed_;
  std::vector<uint32_t> slots_;  // open addressing, a power of two
};

class Bpe final : public WordEncoder {
 public:
  Bpe(const TokenizerSpec& spec, const VocabularyIndex& index, std::span<const uint32_t> byte_tokens, uint64_t seed)
      : spec_(spec), index_(index), byte_tokens_(byte_tokens.begin(), byte_tokens.end()), table_(spec.merges, seed) {
    if (!spec.byte_level) return;
    // A byte without token stands in no text that is UTF-8; it becomes the replacement character, whose bytes do.
    for (const char byte : std::string_view("\xef\xbf\xbd")) replacement_.push_back(byte_tokens_[static_cast<unsigned char>(byte)]);
  }

  void Encode(std::string_view word, EncodeWork* work, std::vector<uint32_t>* tokens) const override {
    if (spec_.ignore_merges) {
      if (const auto whole = index_.Find(word)) {
        tokens->push_back(*whole);
        return;
      }
    }
    work->symbols.clear();
    if (spec_.byte_level) {
      AddBytes(word, &work->symbols);
    } else {
      AddCharacters(word, &work->symbols);
    }
    work->steps += work->symbols.size();
    if (work->symbols.size() <= kShortWord) {
      MergeShort(work);
    } else {
      MergeLong(work);
    }
    tokens->insert(tokens->end(), work->symbols.begin(), work->symbols.end());
  }

  uint64_t bytes() const override {
    return sizeof(*this) + table_.bytes() + (byte_tokens_.size() + replacement_.size()) * sizeof(uint32_t);
  }

 private:
  // The token of a symbol at its place in a word.
  std::optional<uint32_t> Symbol(std::string_view text, bool first, bool last) const {
    const bool inside = !first && !spec_.word_inside.empty();
    const bool ends = last && !spec_.word_end.empty();
    if (!inside && !ends) return index_.Find(text);
    return index_.Find((inside ? spec_.word_inside : std::string()) + std::string(text) + (ends ? spec_.word_end : std::string()));
  }

  void AddBytes(std::string_view word, std::vector<uint32_t>* symbols) const {
    const bool plain = spec_.word_end.empty() && spec_.word_inside.empty();
    for (size_t i = 0; i < word.size(); ++i) {
      const uint32_t token = plain ? byte_tokens_[static_cast<unsigned char>(word[i])]
                                   : Symbol(word.substr(i, 1), i == 0, i + 1 == word.size()).value_or(kNoToken);
      if (token != kNoToken) {
        symbols->push_back(token);
      } else if (spec_.unknown) {
        symbols->push_back(*spec_.unknown);
      } else {
        for (const uint32_t part : replacement_) {
          if (part != kNoToken) symbols->push_back(part);
        }
      }
    }
  }

  void AddCharacters(std::string_view word, std::vector<uint32_t>* symbols) const {
    bool after_unknown = false;
    for (size_t at = 0; at < word.size();) {
      const size_t size = DecodeUtf8(word, at).size;
      const std::string_view character = word.substr(at, size);
      const auto token = Symbol(character, at == 0, at + size == word.size());
      at += size;
      if (token) {
        symbols->push_back(*token);
      } else if (spec_.byte_fallback && AppendByteTokens(byte_tokens_, character, symbols)) {
        // Its bytes stand for it.
      } else {
        if (spec_.unknown && !(after_unknown && spec_.fuse_unknown)) symbols->push_back(*spec_.unknown);
        after_unknown = true;
        continue;
      }
      after_unknown = false;
    }
  }

  void MergeShort(EncodeWork* work) const {
    auto& symbols = work->symbols;
    uint32_t ranks[kShortWord];
    size_t n = symbols.size();
    for (size_t i = 0; i + 1 < n; ++i) ranks[i] = table_.Rank(symbols[i], symbols[i + 1]);
    while (n > 1) {
      const size_t best = static_cast<size_t>(std::min_element(ranks, ranks + n - 1) - ranks);
      if (ranks[best] == kNoRank) break;
      ++work->steps;
      symbols[best] = table_.Joined(ranks[best]);
      std::copy(symbols.begin() + static_cast<ptrdiff_t>(best) + 2, symbols.begin() + static_cast<ptrdiff_t>(n),
                symbols.begin() + static_cast<ptrdiff_t>(best) + 1);
      if (best + 2 < n) std::copy(ranks + best + 2, ranks + n - 1, ranks + best + 1);
      --n;
      if (best > 0) ranks[best - 1] = table_.Rank(symbols[best - 1], symbols[best]);
      if (best + 1 < n) ranks[best] = table_.Rank(symbols[best], symbols[best + 1]);
    }
    symbols.resize(n);
  }

  // A queue of pairs by rank, then from left to right. Pairs that changed since are seen by their rank, and skipped.
  void MergeLong(EncodeWork* work) const {
    auto& [symbols, next, previous, queue, scores, choices, steps] = *work;
    const auto n = static_cast<uint32_t>(symbols.size());
    next.resize(n);
    previous.resize(n);
    queue.clear();
    const auto later = [](uint64_t a, uint64_t b) { return a > b; };
    const auto rank_at = [&](uint32_t at) { return next[at] == n ? kNoRank : table_.Rank(symbols[at], symbols[next[at]]); };
    const auto propose = [&](uint32_t at) {
      const uint32_t rank = rank_at(at);
      ++steps;
      if (rank == kNoRank) return;
      queue.push_back(uint64_t{rank} << 32 | at);
      std::push_heap(queue.begin(), queue.end(), later);
    };
    for (uint32_t i = 0; i < n; ++i) {
      next[i] = i + 1;
      previous[i] = i == 0 ? n : i - 1;
    }
    for (uint32_t i = 0; i < n; ++i) {
      const uint32_t rank = rank_at(i);
      if (rank != kNoRank) queue.push_back(uint64_t{rank} << 32 | i);
    }
    std::make_heap(queue.begin(), queue.end(), later);
    while (!queue.empty()) {
      ++steps;
      std::pop_heap(queue.begin(), queue.end(), later);
      const auto rank = static_cast<uint32_t>(queue.back() >> 32);
      const auto at = static_cast<uint32_t>(queue.back());
      queue.pop_back();
      if (symbols[at] == kNoToken || rank_at(at) != rank) continue;
      const uint32_t right = next[at];
      symbols[at] = table_.Joined(rank);
      symbols[right] = kNoToken;
      next[at] = next[right];
      if (next[at] != n) previous[next[at]] = at;
      if (previous[at] != n) propose(previous[at]);
      propose(at);
    }
    symbols.erase(std::remove(symbols.begin(), symbols.end(), kNoToken), symbols.end());
  }

  const TokenizerSpec& spec_;
  const VocabularyIndex& index_;
  std::vector<uint32_t> byte_tokens_;
  std::vector<uint32_t> replacement_;
  MergeTable table_;
};

}  // namespace

Result<std::unique_ptr<const WordEncoder>> MakeBpe(const TokenizerSpec& spec, const VocabularyIndex& index,
                                                   std::span<const uint32_t> byte_tokens, uint64_t seed) {
  for (size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const Merge& merge = spec.merges[rank];
    if (merge.left < spec.size() && merge.right < spec.size() && merge.joined < spec.size()) continue;
    return Error(Code::kCorrupt, fmt::format("merge {}: joins tokens that the vocabulary does not have; convert the model again", rank));
  }
  return std::unique_ptr<const WordEncoder>(std::make_unique<Bpe>(spec, index, byte_tokens, seed));
}

}  // namespace bantam
