// Automata over the bytes of UTF-8: the terminals of a grammar.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "text/structured/char_automaton.h"

namespace bantam {

enum class Quoting : uint8_t {
  kPlain,
  kJson  // within quotes, with the escapes that JSON requires and no others
};

// Deterministic; state 0 is the start, a missing edge is kNoState, and every state leads to an accepting one.
struct ByteAutomaton {
  // Per state.
  static constexpr uint8_t kAccepting = 1;
  static constexpr uint8_t kBoundary = 2;  // a character is complete, and quotes are open
  static constexpr uint8_t kStuck = 4;     // no edge leads on

  std::array<uint8_t, 256> class_of = {};
  uint32_t classes = 0;
  std::vector<uint32_t> next;  // [states][classes]
  std::vector<uint8_t> flags;
  std::vector<uint8_t> universal;  // a bit per TokenSlice: all texts of its characters may follow, and the terminal does not end within
  std::vector<std::array<uint64_t, 4>> live;  // the bytes that a state has edges for

  // Where `counted`, a text has `least` to `most` characters, which whoever runs the automaton counts: edges that leave a boundary
  // are one character each, but for the closing quote. `distance` is what a state lacks until it may end.
  bool counted = false;
  uint64_t least = 0;
  uint64_t most = UINT64_MAX;
  std::vector<uint32_t> distance;
  uint32_t distance_max = 0;
  std::vector<uint32_t> farthest;  // the largest distance of the states that a state leads to

  uint32_t size() const { return static_cast<uint32_t>(flags.size()); }
  uint32_t Next(uint32_t state, uint8_t byte) const { return next[size_t{state} * classes + class_of[byte]]; }
  bool Accepts(uint32_t state) const { return (flags[state] & kAccepting) != 0; }
};

// The bytes of a character automaton's texts, which has some. Exhausted past `states_max`.
Result<ByteAutomaton> ToBytes(const CharDfa& chars, Quoting quoting, uint32_t states_max);

// The same for texts of `least` to `most` characters, counted: chars.Extensible() holds.
Result<ByteAutomaton> ToCountedBytes(const CharDfa& chars, uint64_t least, uint64_t most, uint32_t states_max);

}  // namespace bantam
