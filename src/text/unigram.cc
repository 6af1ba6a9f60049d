// The unigram model: of all ways to cut a word into pieces, the one whose scores (log probabilities) sum highest (Kudo, 2018; Viterbi).
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "text/trie.h"
#include "text/utf8.h"
#include "text/word_encoder.h"

namespace bantam {
namespace {

// SentencePiece's penalty of an unknown character below the lowest score.
constexpr double kUnknownPenalty = 10.0;

class Unigram final : public WordEncoder {
 public:
  Unigram(const TokenizerSpec& spec, std::span<const uint32_t> byte_tokens, uint64_t seed)
      : spec_(spec), byte_tokens_(byte_tokens.begin(), byte_tokens.end()), trie_(seed) {
    double lowest = std::numeric_limits<double>::max();
    double highest = static_cast<double>(std::numeric_limits<float>::min());  // of SentencePiece too, though scores are below 0
    for (uint32_t token = 0; token < spec.size(); ++token) {
      const std::string_view text = spec.Text(token);
      const bool usable = spec.types[token] != TokenType::kUnused && IsMergeable(spec.types[token], spec.added_apart);
      if (!usable || text.empty()) continue;
      trie_.Add(text, token);
      if (spec.types[token] != TokenType::kNormal) continue;
      lowest = std::min(lowest, spec.scores[token]);
      highest = std::max(highest, spec.scores[token]);
    }
    unknown_score_ = (lowest == std::numeric_limits<double>::max() ? 0 : lowest) - kUnknownPenalty;
    highest_ = static_cast<float>(highest);
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
        propose(at, end, token, ScoreOf(token, end - at));
      }
      if (!single) propose(at, at + character, kNoToken, unknown_score_);
      at += character;
    }
    Emit(word, work, tokens);
  }

  uint64_t bytes() const override { return sizeof(*this) + trie_.bytes() + byte_tokens_.capacity() * sizeof(uint32_t); }

 private:
  // The score of a token where it stands, `bytes` long. User-defined ones are taken whatever the others score.
  double ScoreOf(uint32_t token, size_t bytes) const {
    if (spec_.types[token] != TokenType::kUserDefined) return spec_.scores[token];
    return spec_.symbols_within ? static_cast<double>(static_cast<float>(bytes) * highest_) - 0.1 : 0.0;
  }

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
      if (spec_.byte_fallback && AppendByteTokens(byte_tokens_, character, tokens)) {
        after_unknown = false;
      } else if (spec_.unknown && !(after_unknown && spec_.fuse_unknown)) {
        tokens->push_back(*spec_.unknown);
        after_unknown = true;
      }
    }
  }

  const TokenizerSpec& spec_;
  std::vector<uint32_t> byte_tokens_;
  Trie trie_;
  double unknown_score_ = 0;
  float highest_ = 0;  // score of an ordinary token
};

}  // namespace

Result<std::unique_ptr<const WordEncoder>> MakeUnigram(const TokenizerSpec& spec, std::span<const uint32_t> byte_tokens, uint64_t seed) {
  if (!spec.unknown && !spec.byte_fallback) {
    return Error(Code::kCorrupt, "the vocabulary has neither an unknown token nor byte tokens; convert the model again");
  }
  return std::unique_ptr<const WordEncoder>(std::make_unique<Unigram>(spec, byte_tokens, seed));
}

}  // namespace bantam
