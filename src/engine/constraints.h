// Constraints: what answers have to be (docs/structured-output.md), compiled once and kept.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "base/memory_budget.h"
#include "base/result.h"
#include "security/sha256.h"
#include "text/structured/token_constraint.h"
#include "text/tokenizer.h"

namespace bantam {

enum class ConstraintKind : uint8_t { kJsonSchema, kJsonObject, kGbnf, kRegex };

// Any thread may ask; compiling is done by the one that asks, and never by the engine's.
class Constraints {
 public:
  // The tokenizer and the budget outlive it, and what it gave out.
  Constraints(const Tokenizer& tokenizer, MemoryBudget& budget) : tokenizer_(tokenizer), budget_(budget) {}

  // Errors: those of the compilers (Unsupported, naming what cannot be guaranteed; InvalidArgument), Exhausted when the budget cannot hold
  // the vocabulary's tries, the grammar, or its masks.
  Result<std::shared_ptr<TokenMasks>> Get(ConstraintKind kind, std::string_view source);

  // So many are kept for requests to come.
  static constexpr size_t kKeptMax = 8;

 private:
  Result<std::shared_ptr<const TokenVocabulary>> Vocabulary();

  const Tokenizer& tokenizer_;
  MemoryBudget& budget_;
  std::mutex mutex_;
  MemoryBudget::Reservation vocabulary_bytes_;
  std::shared_ptr<const TokenVocabulary> vocabulary_;
  struct Kept {
    Digest name;
    std::shared_ptr<TokenMasks> masks;
  };
  std::list<Kept> kept_;  // last used first
};

// What a plan leaves for constraints where it can: the tries of a vocabulary of so many tokens, and the masks of some grammars.
uint64_t ConstraintsBytes(size_t vocabulary);

}  // namespace bantam
