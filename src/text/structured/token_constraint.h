// TokenConstraint: which tokens may come next, so that an answer belongs to a Grammar (docs/structured-output.md).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "text/structured/grammar.h"
#include "text/structured/grammar_matcher.h"
#include "text/structured/token_vocabulary.h"

namespace bantam {

// What a terminal allows in a state, whatever stands around it.
struct TerminalMask {
  std::vector<uint32_t> bits;  // tokens that stay within the terminal, or end with it
  // Nodes of the slices' tries where the terminal ends and tokens go on.
  std::array<std::vector<uint32_t>, kTokenSlices> exits;
  bool has_exits = false;
};

// A grammar together with a vocabulary: shared by all sequences that follow it, on any threads. Masks are kept once they are made.
class TokenMasks {
 public:
  static std::shared_ptr<TokenMasks> Make(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const TokenVocabulary> vocabulary);

  const Grammar& grammar() const { return *grammar_; }
  const TokenVocabulary& vocabulary() const { return *vocabulary_; }
  // A place of a terminal.
  struct At {
    uint32_t terminal;
    uint32_t state;
    uint64_t missing;  // characters until a counted terminal may end
    uint64_t left;     // those that it may still have
  };
  // Adds to `walked` how many nodes of the tries were looked at; none for a mask that is kept.
  std::shared_ptr<const TerminalMask> Get(const At& at, uint64_t* walked);

  // Kept masks are thrown away when they take more.
  static constexpr uint64_t kBytesMax = 16 << 20;

 private:
  TokenMasks(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const TokenVocabulary> vocabulary)
      : grammar_(std::move(grammar)), vocabulary_(std::move(vocabulary)) {}

  struct Key {
    uint32_t terminal;
    uint32_t state;
    uint32_t missing;
    uint32_t left;
    bool operator==(const Key&) const = default;
  };
  struct HashOfKey {
    size_t operator()(const Key& key) const;
  };
  TerminalMask Build(const Key& key, uint64_t* walked) const;
  void AddUniversal(const Key& key, TokenSlice slice, TerminalMask* mask) const;
  bool Survives(const Key& key, const std::string& text) const;
  uint64_t Walk(const Key& key, TokenSlice slice, TerminalMask* mask) const;

  std::shared_ptr<const Grammar> grammar_;
  std::shared_ptr<const TokenVocabulary> vocabulary_;
  std::mutex mutex_;
  std::unordered_map<Key, std::shared_ptr<const TerminalMask>, HashOfKey> kept_;
  uint64_t kept_bytes_ = 0;
};

// One sequence. A copy is a place to go back to; it costs as much as a few hundred bytes do.
class TokenConstraint {
 public:
  explicit TokenConstraint(std::shared_ptr<TokenMasks> masks);
  TokenConstraint(const TokenConstraint& other);
  TokenConstraint& operator=(const TokenConstraint& other);
  TokenConstraint(TokenConstraint&&) = default;
  TokenConstraint& operator=(TokenConstraint&&) = default;

  // Bit id % 32 of word id / 32 is set for the ids that may come next; `bits` has vocabulary().words() words. Never empty. Unsupported for
  // a grammar that can be read in too many ways here: after kMaskWorkMax looks at readings nobody waits for it any longer.
  Status Mask(std::span<uint32_t> bits);
  static constexpr uint64_t kMaskWorkMax = 4'000'000;
  // InvalidArgument, and nothing has changed, for an id that Mask does not allow. Unsupported as Mask.
  Status Accept(uint32_t id);
  // The same for text, which need not be tokens.
  Status AcceptText(std::string_view text);
  // The text that has to come next, whole characters of it; empty when there is a choice. At most kForcedBytesMax.
  std::string Forced() const;
  static constexpr size_t kForcedBytesMax = 4096;
  // Whether the answer may end here.
  bool MayEnd() const { return position_.may_end; }
  bool ended() const { return ended_; }
  const TokenVocabulary& vocabulary() const { return masks_->vocabulary(); }
  const GrammarPosition& position() const { return position_; }

 private:
  GrammarMatcher& matcher() const;
  bool IsKept(const GrammarPlace& place) const;
  void AddTerminal(std::span<const GrammarPlace> places, std::span<uint32_t> bits);
  void WalkBelow(const TokenTrie& trie, uint32_t node, size_t level, std::span<uint32_t> bits);

  std::shared_ptr<TokenMasks> masks_;
  GrammarPosition position_;
  bool ended_ = false;
  // Memory to work in, made when it is needed and not copied.
  mutable std::unique_ptr<GrammarMatcher> matcher_;
  std::vector<GrammarPlace> kept_;
  std::vector<std::vector<GrammarPlace>> levels_;  // places by bytes of the token that is being walked
  size_t walked_ = 0;                              // places on these levels, down to the one that is being walked
};

}  // namespace bantam
