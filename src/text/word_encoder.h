// WordEncoder: the models of tokenization. Each turns one part of the text that the pre-tokenizer made into tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/tokenizer_spec.h"
#include "text/vocabulary_index.h"

namespace bantam {

// Memory of the models that is used again from word to word, and a count of their work.
struct EncodeWork {
  std::vector<uint32_t> symbols;
  std::vector<uint32_t> next;
  std::vector<uint32_t> previous;
  std::vector<uint64_t> queue;
  std::vector<double> scores;
  std::vector<uint32_t> choices;
  uint64_t steps = 0;  // symbols, pairs and pieces looked at
};

class WordEncoder {
 public:
  virtual ~WordEncoder() = default;

  // Appends the tokens of a word of any bytes, at least one and below 2^31. Time is n log n in its length, times the longest piece.
  virtual void Encode(std::string_view word, EncodeWork* work, std::vector<uint32_t>* tokens) const = 0;

  // Memory held, besides spec and index.
  virtual uint64_t bytes() const = 0;

  // The model that `spec` names. `spec` and `index` outlive it. `byte_tokens` are the 256 byte tokens, kNoToken where one is missing.
  // Corrupt when the spec lacks what the model needs.
  static Result<std::unique_ptr<const WordEncoder>> Make(const TokenizerSpec& spec, const VocabularyIndex& index,
                                                         std::span<const uint32_t> byte_tokens, uint64_t seed);
};

// Adds the byte tokens of a character when each of its bytes has one; false otherwise.
bool AppendByteTokens(std::span<const uint32_t> byte_tokens, std::string_view character, std::vector<uint32_t>* tokens);

// What Make chooses from; each in a file of its own.
Result<std::unique_ptr<const WordEncoder>> MakeBpe(const TokenizerSpec& spec, const VocabularyIndex& index,
                                                   std::span<const uint32_t> byte_tokens, uint64_t seed);
Result<std::unique_ptr<const WordEncoder>> MakeUnigram(const TokenizerSpec& spec, std::span<const uint32_t> byte_tokens, uint64_t seed);

}  // namespace bantam
