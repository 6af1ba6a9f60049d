#include "text/word_encoder.h"

#include <algorithm>
#include <string>

#include "text/spm.h"
#include "text/trie.h"
#include "text/utf8.h"

namespace bantam {
namespace {

class SpmBpe final : public WordEncoder {
 public:
  SpmBpe(const TokenizerSpec& spec, const VocabularyIndex& index, std::span<const uint32_t> byte_tokens)
      : spec_(spec), index_(index), byte_tokens_(byte_tokens.begin(), byte_tokens.end()) {}

  void Encode(std::string_view word, EncodeWork* work, std::vector<uint32_t>* tokens) const override {
    const auto find = [&](std::string_view part) -> std::optional<SpmPiece> {
      ++work->steps;
      const auto token = index_.Find(part);
      if (!token) return std::nullopt;
      return SpmPiece{*token, static_cast<float>(spec_.scores[*token])};
    };
    bool after_unknown = false;
    MergeSpm(word, find, [&](std::string_view part, std::optional<uint32_t> token) {
      if (token) {
        tokens->push_back(*token);
      } else if (!AppendByteTokens(byte_tokens_, part, tokens)) {
        // Neighbours that are unknown are one.
        if (!after_unknown) tokens->push_back(*spec_.unknown);
        after_unknown = true;
        return;
      }
      after_unknown = false;
    });
  }

  uint64_t bytes() const override { return sizeof(*this) + byte_tokens_.capacity() * sizeof(uint32_t); }

 private:
  const TokenizerSpec& spec_;
  const VocabularyIndex& index_;
  std::vector<uint32_t> byte_tokens_;
};

// The longest piece first; a word with a part that is no piece is unknown as a whole.
class WordPiece final : public WordEncoder {
 public:
  WordPiece(const TokenizerSpec& spec, uint64_t seed) : spec_(spec), first_(seed), inside_(seed) {
    for (uint32_t token = 0; token < spec.size(); ++token) {
      std::string_view text = spec.Text(token);
      if (!IsMergeable(spec.types[token], spec.added_apart) || (text.empty() && spec.word_inside.empty())) continue;
      const bool begins = !spec.pieces_anywhere && text.starts_with(kSpaceMark) && text.size() > kSpaceMark.size();
      if (begins) text.remove_prefix(kSpaceMark.size());
      if (!text.empty()) (begins ? first_ : inside_).Add(text, token);
      if (spec.pieces_anywhere) first_.Add(text, token);
      // A word may begin with the very characters that mark a piece which goes on.
      if (!begins && !spec.word_inside.empty()) first_.Add(spec.word_inside + std::string(text), token);
    }
  }

  void Encode(std::string_view word, EncodeWork* work, std::vector<uint32_t>* tokens) const override {
    const size_t before = tokens->size();
    bool known = !TooLong(word);
    for (size_t at = 0; known && at < word.size();) {
      const Trie& pieces = at == 0 ? first_ : inside_;
      uint32_t longest = kNoToken;
      size_t behind = at;
      uint32_t node = 0;
      for (size_t end = at; end < word.size();) {
        ++work->steps;
        node = pieces.Child(node, static_cast<unsigned char>(word[end++]));
        if (node == Trie::kNoNode) break;
        if (pieces.TokenAt(node) == kNoToken) continue;
        longest = pieces.TokenAt(node);
        behind = end;
      }
      known = longest != kNoToken;
      if (known) tokens->push_back(longest);
      at = behind;
    }
    if (known) return;
    tokens->resize(before);
    tokens->push_back(*spec_.unknown);
  }

  uint64_t bytes() const override { return sizeof(*this) + first_.bytes() + inside_.bytes(); }

 private:
  bool TooLong(std::string_view word) const {
    if (word.size() <= spec_.word_characters_max) return false;
    size_t characters = 0;
    for (size_t at = 0; at < word.size(); at += DecodeUtf8(word, at).size) ++characters;
    return characters > spec_.word_characters_max;
  }

  const TokenizerSpec& spec_;
  Trie first_;   // pieces that begin a word
  Trie inside_;  // and those that go on with one
};

class WordLevel final : public WordEncoder {
 public:
  WordLevel(const TokenizerSpec& spec, const VocabularyIndex& index) : spec_(spec), index_(index) {}

  void Encode(std::string_view word, EncodeWork* work, std::vector<uint32_t>* tokens) const override {
    ++work->steps;
    tokens->push_back(index_.Find(word).value_or(*spec_.unknown));
  }

  uint64_t bytes() const override { return sizeof(*this); }

 private:
  const TokenizerSpec& spec_;
  const VocabularyIndex& index_;
};

}  // namespace

bool AppendByteTokens(std::span<const uint32_t> byte_tokens, std::string_view character, std::vector<uint32_t>* tokens) {
  for (const char byte : character) {
    if (byte_tokens[static_cast<unsigned char>(byte)] == kNoToken) return false;
  }
  for (const char byte : character) tokens->push_back(byte_tokens[static_cast<unsigned char>(byte)]);
  return true;
}

Result<std::unique_ptr<const WordEncoder>> WordEncoder::Make(const TokenizerSpec& spec, const VocabularyIndex& index,
                                                             std::span<const uint32_t> byte_tokens, uint64_t seed) {
  using Encoder = std::unique_ptr<const WordEncoder>;
  const bool needs_unknown =
      spec.model == TokenizerModel::kWordPiece || spec.model == TokenizerModel::kWordLevel ||
      (spec.model == TokenizerModel::kSpmBpe && std::find(byte_tokens.begin(), byte_tokens.end(), kNoToken) != byte_tokens.end());
  if (needs_unknown && !spec.unknown) {
    return Error(Code::kCorrupt, "the vocabulary has neither a token for every byte nor an unknown token; convert the model again");
  }
  switch (spec.model) {
    case TokenizerModel::kSpmBpe:
      return Encoder(std::make_unique<SpmBpe>(spec, index, byte_tokens));
    case TokenizerModel::kBpe:
      return MakeBpe(spec, index, byte_tokens, seed);
    case TokenizerModel::kUnigram:
      return MakeUnigram(spec, byte_tokens, seed);
    case TokenizerModel::kWordPiece:
      return Encoder(std::make_unique<WordPiece>(spec, seed));
    case TokenizerModel::kWordLevel:
      break;
  }
  return Encoder(std::make_unique<WordLevel>(spec, index));
}

}  // namespace bantam
