#include "text/structured/grammar.h"

#include <fmt/format.h>

#include <algorithm>

namespace bantam {

uint64_t Grammar::bytes() const {
  uint64_t total =
      states.capacity() * sizeof(State) + rules.capacity() * sizeof(Rule) + targets.capacity() * sizeof(uint32_t) + literals.capacity();
  for (const ByteAutomaton& terminal : terminals) {
    total += sizeof(terminal) + (terminal.next.capacity() + terminal.distance.capacity()) * sizeof(uint32_t) + terminal.flags.capacity();
  }
  return total;
}

uint32_t GrammarBuilder::DeclareRule() {
  grammar_.rules.emplace_back();
  return static_cast<uint32_t>(grammar_.rules.size() - 1);
}

uint32_t GrammarBuilder::Add(const Grammar::State& state) {
  grammar_.states.push_back(state);
  return static_cast<uint32_t>(grammar_.states.size() - 1);
}

uint32_t GrammarBuilder::Literal(std::string_view bytes, uint32_t next) {
  if (bytes.empty()) return next;
  const auto offset = static_cast<uint32_t>(grammar_.literals.size());
  grammar_.literals += bytes;
  return Add({Grammar::Op::kLiteral, false, offset, static_cast<uint32_t>(bytes.size()), next, 0});
}

uint32_t GrammarBuilder::Split(const std::vector<uint32_t>& targets) {
  const uint32_t split = Add({Grammar::Op::kSplit, false, 0, 0, 0, 0});
  SetTargets(split, targets);
  return split;
}

void GrammarBuilder::SetTargets(uint32_t split, const std::vector<uint32_t>& targets) {
  Grammar::State& state = grammar_.states[split];
  state.a = static_cast<uint32_t>(grammar_.targets.size());
  state.b = static_cast<uint32_t>(targets.size());
  grammar_.targets.insert(grammar_.targets.end(), targets.begin(), targets.end());
}

uint32_t GrammarBuilder::AddTerminal(ByteAutomaton automaton) {
  terminal_bytes_ += (automaton.next.size() + automaton.distance.size()) * sizeof(uint32_t) + automaton.flags.size();
  grammar_.terminals.push_back(std::move(automaton));
  return static_cast<uint32_t>(grammar_.terminals.size() - 1);
}

Status GrammarBuilder::CheckLimits() const {
  const auto exhausted = [](std::string_view what, uint64_t limit) {
    return Error(Code::kExhausted, fmt::format("the grammar needs more than {} {}", limit, what));
  };
  if (grammar_.states.size() > limits_.states) return exhausted("states", limits_.states);
  if (grammar_.rules.size() > limits_.rules) return exhausted("rules", limits_.rules);
  if (terminal_bytes_ > limits_.terminal_bytes) return exhausted("bytes of automata", limits_.terminal_bytes);
  return Ok();
}

void GrammarBuilder::FindNullable() {
  std::vector<uint8_t> nullable(grammar_.states.size(), 0);
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = 0; i < grammar_.states.size(); ++i) {
      if (nullable[i] != 0) continue;
      const Grammar::State& state = grammar_.states[i];
      bool is = false;
      switch (state.op) {
        case Grammar::Op::kLiteral:
          break;
        case Grammar::Op::kTerminal:
          is = grammar_.terminals[state.a].Accepts(0) && nullable[state.next] != 0;
          break;
        case Grammar::Op::kCall:
          is = grammar_.rules[state.a].nullable && nullable[state.next] != 0;
          break;
        case Grammar::Op::kSplit:
          for (uint32_t t = 0; t < state.b; ++t) is = is || nullable[grammar_.targets[state.a + t]] != 0;
          break;
        case Grammar::Op::kCount:
        case Grammar::Op::kNeed:
          is = nullable[state.next] != 0;
          break;
        // An empty text is no repetition, so nothing has been counted.
        case Grammar::Op::kGuard:
          is = state.a == 0 && nullable[state.next] != 0;
          break;
        case Grammar::Op::kEnd:
          is = true;
          break;
      }
      if (!is) continue;
      nullable[i] = 1;
      changed = true;
    }
    for (Grammar::Rule& rule : grammar_.rules) rule.nullable = nullable[rule.start] != 0;
  }
}

bool GrammarBuilder::UpdateNeed(Grammar::State* state) const {
  const auto need_of = [&](uint32_t index) { return grammar_.states[index].need; };
  const auto within = [&](uint32_t rule) {
    const uint32_t need = need_of(grammar_.rules[rule].start);
    return need == Grammar::kNever ? need : need + (state->tail ? 0 : 1);
  };
  uint32_t need = Grammar::kNever;
  switch (state->op) {
    case Grammar::Op::kLiteral:
    case Grammar::Op::kTerminal:
    case Grammar::Op::kCount:
    case Grammar::Op::kGuard:
      need = need_of(state->next);
      break;
    case Grammar::Op::kCall:
    case Grammar::Op::kNeed:
      need = std::max(within(state->a), need_of(state->next));
      break;
    case Grammar::Op::kSplit:
      for (uint32_t t = 0; t < state->b; ++t) need = std::min(need, need_of(grammar_.targets[state->a + t]));
      break;
    case Grammar::Op::kEnd:
      need = 0;
      break;
  }
  if (need >= state->need) return false;
  state->need = need;
  return true;
}

void GrammarBuilder::FindNeeds() {
  for (Grammar::State& state : grammar_.states) {
    state.need = Grammar::kNever;
    if (state.op == Grammar::Op::kCall) state.tail = grammar_.states[state.next].op == Grammar::Op::kEnd;
  }
  // What follows a state is mostly made before it.
  for (bool changed = true; changed;) {
    changed = false;
    for (Grammar::State& state : grammar_.states) changed = UpdateNeed(&state) || changed;
  }
  for (Grammar::Rule& rule : grammar_.rules) rule.need = grammar_.states[rule.start].need;
}

Result<std::shared_ptr<const Grammar>> GrammarBuilder::Finish() {
  BANTAM_TRY(CheckLimits());
  FindNullable();
  FindNeeds();
  if (grammar_.rules[0].need == Grammar::kNever) return Error(Code::kInvalidArgument, "no text can satisfy it");
  if (grammar_.rules[0].need > limits_.depth) {
    return Error(Code::kExhausted, fmt::format("every text nests more than {} levels deep", limits_.depth));
  }
  grammar_.depth_max = limits_.depth;
  return std::make_shared<const Grammar>(std::move(grammar_));
}

}  // namespace bantam
