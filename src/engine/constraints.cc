#include "engine/constraints.h"

#include <utility>
#include <vector>

#include "text/structured/json_schema.h"
#include "text/structured/text_grammar.h"

namespace bantam {
namespace {

// Of a token in the vocabulary's tries and lists (measured: 120 to 190 bytes).
constexpr uint64_t kBytesPerToken = 200;
// Grammars whose masks a plan leaves room for.
constexpr uint64_t kPlannedGrammars = 2;

Result<std::shared_ptr<const Grammar>> Compile(ConstraintKind kind, std::string_view source) {
  switch (kind) {
    case ConstraintKind::kJsonSchema:
      return CompileJsonSchema(source);
    case ConstraintKind::kJsonObject:
      return CompileAnyJsonObject();
    case ConstraintKind::kGbnf:
      return CompileGbnf(source);
    case ConstraintKind::kRegex:
      return CompileRegex(source);
  }
  return Error(Code::kInternal, "no such kind of constraint");
}

Digest NameOf(ConstraintKind kind, std::string_view source) {
  Sha256 sha;
  sha.Update(std::as_bytes(std::span(&kind, 1)));
  sha.Update(std::as_bytes(std::span(source)));
  return sha.Finish();
}

// Masks with the room that was reserved for them.
struct Held {
  MemoryBudget::Reservation bytes = {};
  std::shared_ptr<TokenMasks> masks = {};
};

}  // namespace

uint64_t ConstraintsBytes(size_t vocabulary) { return vocabulary * kBytesPerToken + kPlannedGrammars * TokenMasks::kBytesMax; }

Result<std::shared_ptr<const TokenVocabulary>> Constraints::Vocabulary() {
  const std::lock_guard lock(mutex_);
  if (vocabulary_) return vocabulary_;
  std::vector<std::string> texts(tokenizer_.size());
  std::vector<uint32_t> ends;
  for (uint32_t id = 0; id < tokenizer_.size(); ++id) {
    if (tokenizer_.EndsTurn(id)) {
      ends.push_back(id);
      continue;
    }
    std::string bytes;
    tokenizer_.AppendRaw(id, /*special=*/false, &bytes);
    texts[id] = tokenizer_.Unmark(bytes);
  }
  if (ends.empty()) {
    return Error(Code::kUnsupported, "the model has no token that ends an answer, so what an answer is cannot be constrained");
  }
  BANTAM_ASSIGN(std::shared_ptr<const TokenVocabulary> vocabulary, TokenVocabulary::Make(std::move(texts), std::move(ends)));
  BANTAM_ASSIGN(vocabulary_bytes_, budget_.Reserve(vocabulary->bytes(), "tries of the vocabulary, for structured output"));
  vocabulary_ = std::move(vocabulary);
  return vocabulary_;
}

Result<std::shared_ptr<TokenMasks>> Constraints::Get(ConstraintKind kind, std::string_view source) {
  BANTAM_ASSIGN(std::shared_ptr<const TokenVocabulary> vocabulary, Vocabulary());
  const Digest name = NameOf(kind, source);
  {
    const std::lock_guard lock(mutex_);
    for (auto at = kept_.begin(); at != kept_.end(); ++at) {
      if (at->name != name) continue;
      kept_.splice(kept_.begin(), kept_, at);
      return kept_.front().masks;
    }
  }
  BANTAM_ASSIGN(std::shared_ptr<const Grammar> grammar, Compile(kind, source));
  const uint64_t bytes = grammar->bytes() + TokenMasks::kBytesMax;
  auto held = std::make_shared<Held>();
  held->masks = TokenMasks::Make(std::move(grammar), vocabulary);
  // The first mask is needed by every answer; that there is one is seen here.
  std::vector<uint32_t> first(vocabulary->words());
  BANTAM_TRY(TokenConstraint(held->masks).Mask(first));
  const std::lock_guard lock(mutex_);
  Result<MemoryBudget::Reservation> reserved = budget_.Reserve(bytes, "masks of a grammar");
  // Those that nobody follows any more make room.
  for (auto at = kept_.end(); !reserved.ok() && at != kept_.begin();) {
    --at;
    if (at->masks.use_count() > 1) continue;
    at = kept_.erase(at);
    reserved = budget_.Reserve(bytes, "masks of a grammar");
  }
  if (!reserved.ok()) return std::move(reserved).error();
  held->bytes = std::move(reserved).value();
  std::shared_ptr<TokenMasks> masks(held, held->masks.get());
  kept_.push_front({name, masks});
  if (kept_.size() > kKeptMax) kept_.pop_back();
  return masks;
}

}  // namespace bantam
