// Tokenizer: text to token ids and back, from a TokenizerSpec that every vocabulary format is turned into.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/rng.h"
#include "text/added_tokens.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer_spec.h"
#include "text/vocabulary_index.h"
#include "text/word_encoder.h"

namespace bantam {

// A part of a prompt. In trusted parts (a chat template's own text) names of control tokens mean those tokens; in others
// (what a user or a document says) they are plain text.
struct PromptPiece {
  std::string text;
  bool trusted = false;
};

// How much work an encoding took, for tests that it grows with the text and not faster.
struct EncodeStats {
  uint64_t match_steps = 0;
  uint64_t model_steps = 0;
};

class Tokenizer {
 public:
  // Corrupt when the spec contradicts itself (no byte tokens and no unknown token, no tokens at all), Unsupported when it wants
  // what this build cannot do. `hash_seed` makes look-up times unpredictable to whoever made the vocabulary; it changes no result.
  static Result<Tokenizer> Make(TokenizerSpec spec, uint64_t hash_seed = RandomSeed());

  const TokenizerSpec& spec() const { return *spec_; }
  size_t size() const { return spec_->size(); }

  // Any bytes, below 2 GiB. Adds neither prefix nor suffix. The pieces are one text: nothing is inserted between them.
  // Exhausted when the vocabulary's own patterns take too long on this text.
  Result<std::vector<uint32_t>> Encode(std::span<const PromptPiece> pieces, EncodeStats* stats = nullptr) const;
  Result<std::vector<uint32_t>> Encode(std::string_view text, bool special) const;
  // With the vocabulary's prefix and suffix round it, unless the tokens have them already (templates write them).
  std::vector<uint32_t> WithPrefix(std::vector<uint32_t> tokens) const;

  // The token as the vocabulary writes it.
  std::string Name(uint32_t token) const;

  // The bytes of one token, spaces still marked as the vocabulary marks them: control tokens have none unless `special`, nor have
  // ids outside the vocabulary.
  void AppendRaw(uint32_t token, bool special, std::string* bytes) const;
  // `bytes` with spaces for the marks.
  std::string Unmark(std::string_view bytes) const;
  // Decode(Encode(x)) == x for any bytes when the vocabulary has byte tokens and no normalizer that loses something. Two exceptions
  // where spaces are marked: a literal mark reads as a space, and behind an added token stands the space that Encode puts there.
  std::string Decode(std::span<const uint32_t> tokens, bool special) const;

  bool EndsTurn(uint32_t token) const;

  // Bytes of the longest token: n bytes of text are at least n / longest_token() tokens. Where text can
  // vanish (runs of unknown characters, white space that the normalizer drops) it is the largest that a token may have.
  size_t longest_token() const { return longest_token_; }

  // Memory held, to the byte of its arrays.
  uint64_t bytes() const;

 private:
  explicit Tokenizer(TokenizerSpec spec);
  class Encoding;
  Status CheckTexts();
  Status BuildAdded();

  // Behind pointers, so that a Tokenizer can be moved while its parts refer to one another.
  std::unique_ptr<TokenizerSpec> spec_;
  std::unique_ptr<const VocabularyIndex> index_;
  std::unique_ptr<const WordEncoder> encoder_;
  std::unique_ptr<const AddedTokens> added_;       // found in the text as it comes
  std::unique_ptr<const AddedTokens> normalized_;  // found in normalized text
  const AddedTokens* kept_ = nullptr;              // those that the normalizer leaves alone, or null
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  std::vector<uint32_t> byte_tokens_;  // [256], or kNoToken
  size_t longest_token_ = 1;
  // No pattern cuts the text up, and no piece has a marked space behind another character: words can be encoded one by one.
  bool cut_at_marks_ = false;
  bool cut_at_symbols_ = true;  // normalized_ takes tokens out of the text
};

// Decodes a growing answer. Never emits half a character: bytes wait until their character is complete; bytes that can no
// longer become one are U+FFFD.
class TokenStream {
 public:
  // Control tokens have no text, but for those in `written`, which stand for their names (the markers of a dialect).
  explicit TokenStream(const Tokenizer& tokenizer, std::vector<uint32_t> written = {});
  // The text that this token completes, maybe none.
  std::string Push(uint32_t token);
  // What is left at the end.
  std::string Finish();

 private:
  const Tokenizer& tokenizer_;
  std::vector<uint32_t> written_;  // sorted
  std::string pending_;
};

}  // namespace bantam
