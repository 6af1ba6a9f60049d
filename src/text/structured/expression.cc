#include "text/structured/expression.h"

#include <fmt/format.h>

namespace bantam {
namespace {

Result<NfaPart> AddRepeat(const Expression& expression, const AutomatonLimits& limits, CharNfa* nfa) {
  const Expression& part = expression.parts[0];
  const NfaPart whole{nfa->Add(), nfa->Add()};
  uint32_t at = whole.start;
  for (uint32_t i = 0; i < expression.least; ++i) {
    BANTAM_ASSIGN(const NfaPart copy, AddToNfa(part, limits, nfa));
    nfa->Link(at, copy.start);
    at = copy.final;
  }
  if (expression.most == Expression::kUnbounded) {
    BANTAM_ASSIGN(const NfaPart copy, AddToNfa(part, limits, nfa));
    const uint32_t loop = nfa->Add();
    nfa->Link(at, loop);
    nfa->Link(loop, copy.start);
    nfa->Link(copy.final, loop);
    at = loop;
  } else {
    for (uint32_t i = expression.least; i < expression.most; ++i) {
      nfa->Link(at, whole.final);
      BANTAM_ASSIGN(const NfaPart copy, AddToNfa(part, limits, nfa));
      nfa->Link(at, copy.start);
      at = copy.final;
    }
  }
  nfa->Link(at, whole.final);
  return whole;
}

}  // namespace

// The parsers bound how deep expressions nest.
Result<NfaPart> AddToNfa(const Expression& expression, const AutomatonLimits& limits, CharNfa* nfa) {
  if (nfa->size() > limits.states_max) {
    return Error(Code::kExhausted, fmt::format("more than {} states are needed; use smaller numbers of repetitions", limits.states_max));
  }
  if (expression.kind == Expression::Kind::kRepeat) return AddRepeat(expression, limits, nfa);
  const NfaPart whole{nfa->Add(), nfa->Add()};
  switch (expression.kind) {
    case Expression::Kind::kChars:
      if (!expression.chars.empty()) nfa->Read(whole.start, expression.chars, whole.final);
      break;
    case Expression::Kind::kBegin:
      nfa->Link(whole.start, whole.final, CharNfa::Edge::kBegin);
      break;
    case Expression::Kind::kEnd:
      nfa->Link(whole.start, whole.final, CharNfa::Edge::kEnd);
      break;
    case Expression::Kind::kSequence: {
      uint32_t at = whole.start;
      for (const Expression& part : expression.parts) {
        BANTAM_ASSIGN(const NfaPart added, AddToNfa(part, limits, nfa));
        nfa->Link(at, added.start);
        at = added.final;
      }
      nfa->Link(at, whole.final);
      break;
    }
    case Expression::Kind::kAlternatives:
      for (const Expression& part : expression.parts) {
        BANTAM_ASSIGN(const NfaPart added, AddToNfa(part, limits, nfa));
        nfa->Link(whole.start, added.start);
        nfa->Link(added.final, whole.final);
      }
      break;
    case Expression::Kind::kRepeat:
    case Expression::Kind::kRule:
      CHECK(false);
  }
  return whole;
}

}  // namespace bantam
