// GrammarMatcher: follows a Grammar byte by byte, all readings of the text at once.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "text/structured/grammar.h"

namespace bantam {

// Where a reading of the text is.
struct GrammarPlace {
  uint32_t state;     // a literal or a terminal
  uint32_t position;  // bytes of the literal, or the automaton's state
  uint32_t count;     // of the frame
  uint32_t chars;     // of a counted terminal
  uint32_t node;      // the frame
  bool operator==(const GrammarPlace&) const = default;
  uint64_t Hash() const;
};

// A frame: a rule that was called somewhere in the text, by one or more others ("Generalised LL parsing", Scott and Johnstone 2010:
// a graph-structured stack). Frames of the same rule, place of the text and depth are one.
struct GrammarFrame {
  uint32_t rule;
  uint32_t depth;
  uint32_t link;  // the first of its returns, or kNoState
};
struct GrammarReturn {
  uint32_t state;
  uint32_t count;
  uint32_t node;
  uint32_t next;  // another return of the same frame
};

// Small, and copied to be rolled back to.
struct GrammarPosition {
  std::vector<GrammarPlace> places;
  std::vector<GrammarFrame> frames;
  std::vector<GrammarReturn> returns;
  bool may_end = false;
};

using ByteSet = std::array<uint64_t, 4>;
inline bool HasByte(const ByteSet& set, uint8_t byte) { return (set[byte / 64] >> (byte % 64) & 1) != 0; }

// Finds repetitions in a list that grows and is soon thrown away.
template <typename Item>
class ListIndex {
 public:
  void Clear() {
    if (++epoch_ == 0) std::fill(slots_.begin(), slots_.end(), Slot{});
    if (epoch_ == 0) epoch_ = 1;
  }
  // Where the item is in `list`; kNoState where it is not: then it is taken to be appended next.
  uint32_t Find(const Item& item, const std::vector<Item>& list) {
    if (2 * list.size() >= slots_.size()) Grow(list);
    size_t at = item.Hash() & (slots_.size() - 1);
    for (; slots_[at].epoch == epoch_; at = (at + 1) & (slots_.size() - 1)) {
      if (list[slots_[at].index] == item) return slots_[at].index;
    }
    slots_[at] = {epoch_, static_cast<uint32_t>(list.size())};
    return kNoState;
  }
  bool Has(const Item& item, const std::vector<Item>& list) { return Find(item, list) != kNoState; }

 private:
  struct Slot {
    uint32_t epoch = 0;
    uint32_t index = 0;
  };
  void Grow(const std::vector<Item>& list) {
    slots_.assign(2 * slots_.size(), Slot{});
    for (uint32_t i = 0; i < list.size(); ++i) {
      size_t at = list[i].Hash() & (slots_.size() - 1);
      while (slots_[at].epoch == epoch_) at = (at + 1) & (slots_.size() - 1);
      slots_[at] = {epoch_, i};
    }
  }
  std::vector<Slot> slots_ = std::vector<Slot>(128);  // a power of two
  uint32_t epoch_ = 1;
};

// Of two words.
inline uint64_t HashOfWords(uint64_t a, uint64_t b) {
  uint64_t hash = a * 0x9e3779b97f4a7c15ULL;
  hash = (hash ^ hash >> 29 ^ b) * 0xbf58476d1ce4e5b9ULL;
  return hash ^ hash >> 32;
}

inline uint64_t GrammarPlace::Hash() const {
  return HashOfWords(uint64_t{state} << 32 | position, HashOfWords(uint64_t{node} << 32 | count, chars));
}

class GrammarMatcher {
 public:
  // `grammar` outlives the matcher, whose memory serves any number of positions, one after the other.
  explicit GrammarMatcher(const Grammar& grammar) : grammar_(grammar) {}

  GrammarPosition Start();
  // From here on so many places and tasks may be looked at. Where they were not enough, or readings were more than kGrammarPlacesMax, no
  // places are given any more: exceeded() tells this from text that cannot follow.
  void Limit(uint64_t work) {
    work_left_ = work;
    exceeded_ = false;
  }
  bool exceeded() const { return exceeded_; }
  void Exceed() { exceeded_ = true; }
  // Whether so much is left, which is taken.
  bool Spend(uint64_t work) {
    exceeded_ |= work > work_left_;
    work_left_ -= exceeded_ ? 0 : work;
    return !exceeded_;
  }

  // The places behind `byte`, which are none when it cannot follow. Adds frames to `position`, whose own places stay.
  void Step(const std::vector<GrammarPlace>& from, uint8_t byte, GrammarPosition* position, std::vector<GrammarPlace>* to);
  // The places behind the end of the terminals or literals that `places` are in.
  void Leave(std::span<const GrammarPlace> places, GrammarPosition* position, std::vector<GrammarPlace>* to);
  // Whether the text may end where the last Step or Leave arrived.
  bool may_end() const { return may_end_; }
  // Steps for good. False, and nothing has changed, when the byte cannot follow.
  bool Advance(uint8_t byte, GrammarPosition* position);
  // Forgets frames that nothing returns to.
  void Compact(GrammarPosition* position);

  // The bytes that may come next; what that cost is spent.
  ByteSet Allowed(const std::vector<GrammarPlace>& places);

 private:
  struct Task {
    uint32_t state;
    uint32_t count;
    uint32_t node;
    bool operator==(const Task&) const = default;
    uint64_t Hash() const { return HashOfWords(uint64_t{state} << 32 | node, count); }
  };
  // A frame that this step made.
  struct Called {
    uint32_t rule;
    uint32_t depth;
    bool operator==(const Called&) const = default;
    uint64_t Hash() const { return HashOfWords(rule, depth); }
  };
  void AddAllowed(const GrammarPlace& place, ByteSet* bytes);
  void Begin(const GrammarPosition& position, std::vector<GrammarPlace>* to);
  void Push(uint32_t state, uint32_t count, uint32_t node);
  void Run(GrammarPosition* position, std::vector<GrammarPlace>* to);
  void Visit(const Task& task, GrammarPosition* position, std::vector<GrammarPlace>* to);
  void CallRule(const Task& task, const Grammar::State& state, GrammarPosition* position);
  void AddPlace(const GrammarPlace& place, std::vector<GrammarPlace>* to);
  void StepTerminal(const GrammarPlace& place, uint8_t byte, std::vector<GrammarPlace>* to);

  const Grammar& grammar_;
  std::vector<Task> tasks_;
  ListIndex<Task> task_index_;
  ListIndex<GrammarPlace> place_index_;
  std::vector<Called> called_;  // of frames from frames_before_ on
  ListIndex<Called> called_index_;
  uint64_t work_left_ = UINT64_MAX;
  bool exceeded_ = false;
  size_t frames_before_ = 0;  // frames from here on were made in this step
  bool may_end_ = false;
  std::vector<GrammarPlace> stepped_;
  std::vector<uint32_t> renamed_;
};

// Readings of a text at once. Only grammars that are ambiguous at every character have more: nobody waits for those.
inline constexpr size_t kGrammarPlacesMax = 20'000;

}  // namespace bantam
