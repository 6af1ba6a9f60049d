// The unigram model: of all ways to cut a word into pieces, the one whose scores (log probabilities) sum highest (Kudo, 2018; Viterbi).
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "text/utf8.h"
#include "text/word_encoder.h"

namespace bantam {
namespace {

// SentencePiece's penalty of an unknown character below the lowest score.
constexpr double kUnknownPenalty = 10.0;

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

class Unigram final : public WordEncoder {
 public:
  Unigram(const TokenizerSpec& spec, std::span<const uint32_t> byte_tokens, uint64_t seed)
      : spec_(spec), byte_tokens_(byte_tokens.begin(), byte_tokens.end()), trie_(seed) {
    double lowest = std::numeric_limits<double>::max();
    for (uint32_t token = 0; token < spec.size(); ++token) {
      const std::string_view text = spec.Text(token);
      const bool usable = spec.types[token] == TokenType::kNormal || spec.types[token] == TokenType::kUserDefined;
      if (!usable || text.empty()) continue;
      trie_.Add(text, token);
      if (spec.types[token] == TokenType::kNormal) lowest = std::min(lowest, static_cast<double>(spec.scores[token]));
    }
    unknown_score_ = (lowest == std::numeric_limits<double>::max() ? 0 : lowest) - kUnknownPenalty;
    if (spec.single_precision) unknown_score_ = static_cast<double>(static_cast<float>(unknown_score_));
  }

  void Encode(std::string_view word, EncodeWork* work, std::vector<uint32_t>* tokens) const override {
    const size_t n = word.size();
    constexpr double kLowest = -std::numeric_limits<double>::infinity();
    auto& best = work->scores;     // [n + 1] of the best way to each place
    auto& last = work->choices;    // [n + 1] the token that ends there
    auto& begin = work->previous;  // [n + 1] and where it begins
    best.assign(n + 1, kLowest);
    last.assign(n + 1, kNoToken);
    begin.assign(n + 1, 0);
    best[0] = 0;
    const auto propose = [&](size_t from, size_t to, uint32_t token, double score) {
      ++work->steps;
      // Rounding decides between ways that would be equal (the same pieces in another order), so it has to be that of the
      // original: SentencePiece compares in 64 bits with what it keeps in 32, but for unknown characters.
      double sum = best[from] + score;
      const auto rounded = static_cast<double>(static_cast<float>(sum));
      if (spec_.single_precision && token == kNoToken) sum = rounded;
      if (sum <= best[to]) return;
      best[to] = spec_.single_precision ? rounded : sum;
      last[to] = token;
      begin[to] = static_cast<uint32_t>(from);
    };
    for (size_t at = 0; at < n;) {
      const size_t character = DecodeUtf8(word, at).size;
      bool single = false;
      uint32_t node = 0;
      for (size_t end = at; end < n;) {
        node = trie_.Child(node, static_cast<unsigned char>(word[end++]));
        if (node == Trie::kNoNode) break;
        const uint32_t token = trie_.TokenAt(node);
        if (token == kNoToken) continue;
        single = single || end - at == character;
        // What the user defined is taken whatever the other scores.
        propose(at, end, token, spec_.types[token] == TokenType::kUserDefined ? 0.0 : static_cast<double>(spec_.scores[token]));
      }
      if (!single) propose(at, at + character, kNoToken, unknown_score_);
      at += character;
    }
    Emit(word, work, tokens);
  }

  uint64_t bytes() const override { return sizeof(*this) + trie_.bytes() + byte_tokens_.capacity() * sizeof(uint32_t); }

 private:
  // Back from the end of the word, then forth.
  void Emit(std::string_view word, EncodeWork* work, std::vector<uint32_t>* tokens) const {
    auto& ends = work->symbols;
    ends.clear();
    for (auto at = static_cast<uint32_t>(word.size()); at > 0; at = work->previous[at]) ends.push_back(at);
    bool after_unknown = false;
    for (size_t i = ends.size(); i-- > 0;) {
      const uint32_t token = work->choices[ends[i]];
      if (token != kNoToken) {
        tokens->push_back(token);
        after_unknown = false;
        continue;
      }
      const std::string_view character = word.substr(work->previous[ends[i]], ends[i] - work->previous[ends[i]]);
      if (AddByteTokens(character, tokens)) {
        after_unknown = false;
      } else if (spec_.unknown && !(after_unknown && spec_.fuse_unknown)) {
        tokens->push_back(*spec_.unknown);
        after_unknown = true;
      }
    }
  }

  bool AddByteTokens(std::string_view character, std::vector<uint32_t>* tokens) const {
    if (!spec_.byte_fallback) return false;
    for (const char byte : character) {
      if (byte_tokens_[static_cast<unsigned char>(byte)] == kNoToken) return false;
    }
    for (const char byte : character) tokens->push_back(byte_tokens_[static_cast<unsigned char>(byte)]);
    return true;
  }

  const TokenizerSpec& spec_;
  std::vector<uint32_t> byte_tokens_;
  Trie trie_;
  double unknown_score_ = 0;
};

}  // namespace

Result<std::unique_ptr<const WordEncoder>> MakeUnigram(const TokenizerSpec& spec, std::span<const uint32_t> byte_tokens, uint64_t seed) {
  if (!spec.unknown && !spec.byte_fallback) {
    return Error(Code::kCorrupt, "the vocabulary has neither an unknown token nor byte tokens; convert the model again");
  }
  return std::unique_ptr<const WordEncoder>(std::make_unique<Unigram>(spec, byte_tokens, seed));
}

}  // namespace bantam
