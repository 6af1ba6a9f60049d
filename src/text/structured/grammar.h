// Grammar: what a schema, a GBNF text or a regular expression is compiled to. Immutable; any number of sequences follow one.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "text/structured/byte_automaton.h"

namespace bantam {

// A network of states with calls of rules between them; terminals are byte automata. A frame (one call of a rule) has a count, 0 at
// first, for repetitions.
struct Grammar {
  enum class Op : uint8_t {
    kLiteral,   // bytes literals[a, a + b), then next
    kTerminal,  // a text of terminal a, then next
    kCall,      // rule a, then next
    kSplit,     // one of targets[a, a + b)
    kCount,     // count + 1, then next
    kGuard,     // next where a <= count <= b
    kNeed,      // next where the depth that is left would do for rule a
    kEnd        // of the rule
  };
  struct State {
    Op op = Op::kEnd;
    bool tail = false;  // nothing follows within the rule: of a call
    uint32_t a = 0;
    uint32_t b = 0;
    uint32_t next = 0;
    // Frames within this one that are needed until the rule's end can be reached: kNever where it cannot.
    uint32_t need = 0;
  };
  struct Rule {
    uint32_t start = 0;
    bool nullable = false;  // the empty text is one of its texts
    uint32_t need = 0;      // of its start
  };
  static constexpr uint32_t kNever = UINT32_MAX;

  std::vector<State> states;
  std::vector<Rule> rules;  // rule 0 is the whole text
  std::vector<uint32_t> targets;
  std::string literals;
  std::vector<ByteAutomaton> terminals;
  uint32_t depth_max = 0;  // frames within frames

  uint64_t bytes() const;
};

struct GrammarLimits {
  size_t source_bytes = 4 << 20;  // of a schema or a GBNF text
  uint32_t states = 500'000;      // of the network
  uint32_t rules = 50'000;
  uint64_t terminal_bytes = 64 << 20;  // memory of all byte automata
  uint32_t depth = 256;                // frames within frames, when text is made
  AutomatonLimits automaton;           // of each pattern
};

// Builds a Grammar front to back. Rules are declared before they are defined, so that they can call each other.
class GrammarBuilder {
 public:
  explicit GrammarBuilder(const GrammarLimits& limits) : limits_(limits) {}

  uint32_t DeclareRule();
  void DefineRule(uint32_t rule, uint32_t start) { grammar_.rules[rule].start = start; }

  // Each gives the state that it made.
  uint32_t Literal(std::string_view bytes, uint32_t next);
  uint32_t Terminal(uint32_t terminal, uint32_t next) { return Add({Grammar::Op::kTerminal, false, terminal, 0, next, 0}); }
  uint32_t Call(uint32_t rule, uint32_t next) { return Add({Grammar::Op::kCall, false, rule, 0, next, 0}); }
  uint32_t Split(const std::vector<uint32_t>& targets);
  uint32_t Count(uint32_t next) { return Add({Grammar::Op::kCount, false, 0, 0, next, 0}); }
  uint32_t Guard(uint32_t least, uint32_t most, uint32_t next) { return Add({Grammar::Op::kGuard, false, least, most, next, 0}); }
  uint32_t Need(uint32_t rule, uint32_t next) { return Add({Grammar::Op::kNeed, false, rule, 0, next, 0}); }
  uint32_t End() { return Add({}); }
  // A split whose targets are set later, for loops.
  uint32_t Later() { return Split({}); }
  void SetTargets(uint32_t split, const std::vector<uint32_t>& targets);

  uint32_t AddTerminal(ByteAutomaton automaton);

  // Exhausted once a limit is passed; building goes on without harm meanwhile.
  Status CheckLimits() const;
  // InvalidArgument when no text belongs to the grammar.
  Result<std::shared_ptr<const Grammar>> Finish();

 private:
  uint32_t Add(const Grammar::State& state);
  void FindNullable();
  void FindNeeds();
  bool UpdateNeed(Grammar::State* state) const;

  GrammarLimits limits_;
  Grammar grammar_;
  uint64_t terminal_bytes_ = 0;
};

}  // namespace bantam
