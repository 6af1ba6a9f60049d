// Automata over characters: what regular expressions, formats, names of members and numbers become before they are bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "text/structured/code_ranges.h"

namespace bantam {

inline constexpr uint32_t kNoState = UINT32_MAX;

// Non-deterministic; Thompson's form: a state has edges without a character, or one with.
class CharNfa {
 public:
  enum class Edge : uint8_t {
    kEmpty,
    kBegin,  // only before the first character of the text
    kEnd     // only behind the last one
  };

  uint32_t Add() {
    states_.emplace_back();
    return static_cast<uint32_t>(states_.size() - 1);
  }
  void Link(uint32_t from, uint32_t to, Edge edge = Edge::kEmpty) { states_[from].edges.push_back({to, edge}); }
  void Read(uint32_t from, CodeRanges chars, uint32_t to);
  size_t size() const { return states_.size(); }

  uint32_t start = 0;
  uint32_t final = 0;

 private:
  friend class Determiniser;
  struct State {
    std::vector<std::pair<uint32_t, Edge>> edges;
    uint32_t set = kNoState;
    uint32_t next = kNoState;
  };
  std::vector<State> states_;
  std::vector<CodeRanges> sets_;
};

// Bounds on what a foreign expression may cost.
struct AutomatonLimits {
  uint32_t states_max = 20'000;
  uint64_t work_max = 20'000'000;  // steps of one construction; about a second at most
  // Steps of several constructions, counted in *spent where that is set.
  uint64_t work_max_in_all = 400'000'000;
  uint64_t* spent = nullptr;

  // Exhausted when the allowance is used up.
  Status Spend(uint64_t work) const;
};

// Deterministic. State 0 is the start; a missing edge is kNoState. Characters that no edge tells apart share a class.
class CharDfa {
 public:
  // The language of nothing.
  CharDfa() : CharDfa(CodeRanges::All()) {}

  static Result<CharDfa> FromNfa(const CharNfa& nfa, const AutomatonLimits& limits);
  // All texts of characters of the set.
  static CharDfa AllOf(const CodeRanges& chars);
  static CharDfa Anything() { return AllOf(CodeRanges::All()); }
  // Exactly these UTF-8 texts.
  static CharDfa Texts(const std::vector<std::string>& texts);

  enum class Product : uint8_t { kBoth, kFirstOnly, kEither };
  // The intersection, the first without the second, or the union. Exhausted past the limits. Dead states are gone.
  static Result<CharDfa> Combine(const CharDfa& a, const CharDfa& b, Product product, const AutomatonLimits& limits);
  // Those texts of `a` that have `least` to `most` characters, as states. Exhausted past the limits.
  static Result<CharDfa> WithLength(const CharDfa& a, uint64_t least, uint64_t most, const AutomatonLimits& limits);

  bool empty() const { return !live_; }
  uint32_t size() const { return static_cast<uint32_t>(accepting_.size()); }
  bool accepts(uint32_t state) const { return accepting_[state] != 0; }
  uint32_t Next(uint32_t state, char32_t code) const { return next_[state * classes_ + ClassOf(code)]; }
  bool Matches(std::string_view text) const;  // of well-formed UTF-8

  // The edges of a state as ranges of code points, in order, neighbours with one target joined.
  struct Edge {
    char32_t first;
    char32_t last;
    uint32_t target;
  };
  std::vector<Edge> EdgesOf(uint32_t state) const;

  // Characters to the nearest accepting state, per state.
  std::vector<uint32_t> Distances() const;
  // Whether every accepting state has a character that leads to another one: then longer texts always exist.
  bool Extensible() const;
  // States from which every text of these characters stays inside; with `inner`, without a place where it may end.
  std::vector<uint8_t> UniversalOver(const CodeRanges& chars, bool inner) const;

  // Fewer states and classes for the same language.
  void Minimize();

 private:
  friend class Determiniser;
  explicit CharDfa(const CodeRanges& chars);
  struct Boundary {
    char32_t first;
    uint32_t char_class;
  };
  uint32_t ClassOf(char32_t code) const;
  uint32_t AddState(bool accepting);
  // Makes boundaries and classes from sets: equal characters share one. Returns the classes of each set.
  std::vector<std::vector<uint32_t>> Classify(const std::vector<CodeRanges>& sets);
  void MergeClasses();
  void Trim();
  bool RefineOnce(std::vector<uint32_t>* group, uint32_t* groups) const;

  std::vector<Boundary> boundaries_;  // sorted, the first at 0; class kNoState: in no set (surrogates)
  uint32_t classes_ = 0;
  std::vector<uint32_t> next_;  // [states][classes]
  std::vector<uint8_t> accepting_;
  bool live_ = false;
};

}  // namespace bantam
