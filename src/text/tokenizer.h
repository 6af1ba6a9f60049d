// Tokenizer: text to token ids and back, from a TokenizerSpec that every model format is turned into.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/rng.h"

namespace bantam {

// Longest text of a token, and of one that is looked for at every byte of a text (control and user-defined tokens).
inline constexpr size_t kTokenBytesMax = 1024;
inline constexpr size_t kAddedTokenBytesMax = 256;

enum class TokenType : uint8_t { kNormal, kUnknown, kControl, kUserDefined, kUnused, kByte };

// SentencePiece-BPE: pieces merged by score, with byte fallback (Kudo and Richardson, "SentencePiece", 2018).
struct TokenizerSpec {
  std::string texts;                // all token texts, one after another
  std::vector<uint32_t> text_ends;  // of token i in `texts`; tokens are numbered from 0
  std::vector<float> scores;        // per token
  std::vector<TokenType> types;     // per token
  std::optional<uint32_t> bos;
  std::optional<uint32_t> eos;
  std::optional<uint32_t> unknown;
  std::vector<uint32_t> end_of_turn;  // tokens that end an answer, eos included
  bool add_bos = true;
  bool add_space_prefix = true;  // a space is put in front of the text

  size_t size() const { return text_ends.size(); }
  void Add(std::string_view text, TokenType type, float score) {
    texts += text;
    text_ends.push_back(static_cast<uint32_t>(texts.size()));
    types.push_back(type);
    scores.push_back(score);
  }
  std::string_view Text(uint32_t token) const {
    const uint32_t begin = token == 0 ? 0 : text_ends[token - 1];
    return std::string_view(texts).substr(begin, text_ends[token] - begin);
  }
};

// A part of a prompt. In trusted parts (a chat template's own text) names of control tokens mean those tokens; in others
// (what a user or a document says) they are plain text.
struct PromptPiece {
  std::string text;
  bool trusted = false;
};

class Tokenizer {
 public:
  // Corrupt when the spec contradicts itself (no byte tokens and no unknown token, no tokens at all).
  // `hash_seed` makes look-up times unpredictable to whoever made the vocabulary; it changes no result.
  static Result<Tokenizer> Make(TokenizerSpec spec, uint64_t hash_seed = RandomSeed());

  const TokenizerSpec& spec() const { return spec_; }
  size_t size() const { return spec_.size(); }

  // Any bytes. Adds neither bos nor eos. The pieces are one text: nothing is inserted between them.
  std::vector<uint32_t> Encode(std::span<const PromptPiece> pieces) const;
  std::vector<uint32_t> Encode(std::string_view text, bool special) const;

  // The bytes of one token, spaces still marked as U+2581: control tokens have none unless `special`, nor have ids outside
  // the vocabulary.
  void AppendRaw(uint32_t token, bool special, std::string* bytes) const;
  // Decode(Encode(x)) == x for any bytes when the vocabulary has byte tokens. Two exceptions: a literal U+2581 reads as a
  // space, and behind a control or user-defined token stands the space that Encode puts there.
  std::string Decode(std::span<const uint32_t> tokens, bool special) const;

  bool EndsTurn(uint32_t token) const;

  // Bytes of the longest token: n bytes of text are at least n / longest_token() tokens.
  size_t longest_token() const { return longest_token_; }

  // Memory held, to the byte of its arrays.
  uint64_t bytes() const;

 private:
  struct Fragment {
    std::string text;                 // plain text, or
    std::optional<uint32_t> special;  // one token
  };
  std::vector<Fragment> Split(std::span<const PromptPiece> pieces) const;
  // The longest control or user-defined token that `text` starts with.
  std::optional<uint32_t> MatchAdded(std::string_view text, bool trusted) const;
  void EncodeWord(std::string_view text, std::vector<uint32_t>* tokens) const;
  void EncodePlain(std::string_view text, std::vector<uint32_t>* tokens) const;
  std::optional<uint32_t> Find(std::string_view text) const;
  uint64_t HashOf(std::string_view text) const;
  void BuildIndex();
  void BuildAdded();

  TokenizerSpec spec_;
  std::vector<uint32_t> index_;        // open-addressed hash of the texts that plain text can become: token + 1, or 0
  std::vector<uint32_t> added_;        // control and user-defined tokens, sorted by text
  std::vector<uint32_t> byte_tokens_;  // [256], or kNoToken
  uint64_t hash_seed_ = 0;
  size_t longest_token_ = 1;
  // No piece has a space behind another character: words can be encoded one by one.
  bool words_are_apart_ = true;
};

// Decodes a growing answer. Never emits half a character: bytes wait until their character is complete; bytes that can no
// longer become one are U+FFFD.
class TokenStream {
 public:
  explicit TokenStream(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  // The text that this token completes, maybe none.
  std::string Push(uint32_t token);
  // What is left at the end.
  std::string Finish();

 private:
  const Tokenizer& tokenizer_;
  std::string pending_;
};

}  // namespace bantam
