#include "text/structured/grammar_matcher.h"

#include <algorithm>

namespace bantam {

GrammarPosition GrammarMatcher::Start() {
  GrammarPosition position;
  // The outermost frame returns nowhere: its end is the text's.
  position.frames.push_back({/*rule=*/0, /*depth=*/0, kNoState});
  std::vector<GrammarPlace> places;
  Begin(position, &places);
  Push(grammar_.rules[0].start, /*count=*/0, /*node=*/0);
  Run(&position, &places);
  position.places = std::move(places);
  position.may_end = may_end_;
  return position;
}

void GrammarMatcher::Begin(const GrammarPosition& position, std::vector<GrammarPlace>* to) {
  to->clear();
  tasks_.clear();
  task_index_.Clear();
  place_index_.Clear();
  called_.clear();
  called_index_.Clear();
  frames_before_ = position.frames.size();
  may_end_ = false;
}

void GrammarMatcher::Push(uint32_t state, uint32_t count, uint32_t node) {
  const Task task{state, count, node};
  if (tasks_.size() <= kGrammarPlacesMax && !task_index_.Has(task, tasks_)) tasks_.push_back(task);
}

void GrammarMatcher::Run(GrammarPosition* position, std::vector<GrammarPlace>* to) {
  for (size_t i = 0; i < tasks_.size() && Spend(1); ++i) {
    const Task task = tasks_[i];
    Visit(task, position, to);
  }
  if (tasks_.size() > kGrammarPlacesMax) exceeded_ = true;
  if (!exceeded_) return;
  to->clear();
  may_end_ = false;
}

void GrammarMatcher::Visit(const Task& task, GrammarPosition* position, std::vector<GrammarPlace>* to) {
  const Grammar::State& state = grammar_.states[task.state];
  // Too deep to come to an end.
  if (state.need == Grammar::kNever || position->frames[task.node].depth + state.need > grammar_.depth_max) return;
  switch (state.op) {
    case Grammar::Op::kTerminal:
      if (grammar_.terminals[state.a].Accepts(0)) Push(state.next, task.count, task.node);
      [[fallthrough]];
    case Grammar::Op::kLiteral:
      AddPlace({task.state, 0, task.count, 0, task.node}, to);
      break;
    case Grammar::Op::kCall:
      CallRule(task, state, position);
      break;
    case Grammar::Op::kSplit:
      for (uint32_t t = 0; t < state.b; ++t) Push(grammar_.targets[state.a + t], task.count, task.node);
      break;
    case Grammar::Op::kCount:
      Push(state.next, task.count + 1, task.node);
      break;
    case Grammar::Op::kNeed:
      Push(state.next, task.count, task.node);
      break;
    case Grammar::Op::kGuard:
      if (task.count >= state.a && task.count <= state.b) Push(state.next, task.count, task.node);
      break;
    case Grammar::Op::kEnd:
      if (task.node == 0) {
        may_end_ = true;
        break;
      }
      // Of a frame that was made in this step the text is empty: CallRule went on for it already.
      if (task.node >= frames_before_) break;
      for (uint32_t at = position->frames[task.node].link; at != kNoState; at = position->returns[at].next) {
        Push(position->returns[at].state, position->returns[at].count, position->returns[at].node);
      }
      break;
  }
}

void GrammarMatcher::CallRule(const Task& task, const Grammar::State& state, GrammarPosition* position) {
  const Grammar::Rule& rule = grammar_.rules[state.a];
  if (rule.nullable) Push(state.next, task.count, task.node);
  if (state.tail) {
    // Where it would return to, nothing is left to do: it takes this frame's place.
    Push(rule.start, /*count=*/0, task.node);
    return;
  }
  const Called called = {state.a, position->frames[task.node].depth + 1};
  const uint32_t found = called_index_.Find(called, called_);
  const auto node = static_cast<uint32_t>(frames_before_ + (found == kNoState ? called_.size() : found));
  if (found == kNoState) {
    called_.push_back(called);
    position->frames.push_back({called.rule, called.depth, kNoState});
    Push(rule.start, /*count=*/0, node);
  }
  position->returns.push_back({state.next, task.count, task.node, position->frames[node].link});
  position->frames[node].link = static_cast<uint32_t>(position->returns.size() - 1);
}

void GrammarMatcher::AddPlace(const GrammarPlace& place, std::vector<GrammarPlace>* to) {
  if (place_index_.Has(place, *to)) return;
  to->push_back(place);
  exceeded_ |= to->size() > kGrammarPlacesMax;
}

namespace {

// Whether a counted terminal with `chars` characters may take the edge; *chars becomes what it has then.
bool TakesEdge(const ByteAutomaton& terminal, uint32_t from, uint32_t to, uint32_t* chars) {
  const bool closing = terminal.Accepts(to);
  if (closing && *chars < terminal.least) return false;
  if (!closing && (terminal.flags[from] & ByteAutomaton::kBoundary) != 0) ++*chars;
  return *chars + uint64_t{terminal.distance[to]} <= terminal.most;
}

}  // namespace

void GrammarMatcher::StepTerminal(const GrammarPlace& place, uint8_t byte, std::vector<GrammarPlace>* to) {
  const Grammar::State& state = grammar_.states[place.state];
  const ByteAutomaton& terminal = grammar_.terminals[state.a];
  const uint32_t next = terminal.Next(place.position, byte);
  if (next == kNoState) return;
  uint32_t chars = place.chars;
  if (terminal.counted && !TakesEdge(terminal, place.position, next, &chars)) return;
  if (terminal.Accepts(next)) Push(state.next, place.count, place.node);
  if ((terminal.flags[next] & ByteAutomaton::kStuck) == 0) AddPlace({place.state, next, place.count, chars, place.node}, to);
}

void GrammarMatcher::Step(const std::vector<GrammarPlace>& from, uint8_t byte, GrammarPosition* position, std::vector<GrammarPlace>* to) {
  Begin(*position, to);
  if (!Spend(from.size())) return;
  for (const GrammarPlace& place : from) {
    const Grammar::State& state = grammar_.states[place.state];
    if (state.op == Grammar::Op::kTerminal) {
      StepTerminal(place, byte, to);
    } else if (static_cast<uint8_t>(grammar_.literals[state.a + place.position]) == byte) {
      if (place.position + 1 == state.b) {
        Push(state.next, place.count, place.node);
      } else {
        AddPlace({place.state, place.position + 1, place.count, 0, place.node}, to);
      }
    }
  }
  Run(position, to);
}

void GrammarMatcher::Leave(std::span<const GrammarPlace> places, GrammarPosition* position, std::vector<GrammarPlace>* to) {
  Begin(*position, to);
  if (!Spend(places.size())) return;
  for (const GrammarPlace& place : places) Push(grammar_.states[place.state].next, place.count, place.node);
  Run(position, to);
}

bool GrammarMatcher::Advance(uint8_t byte, GrammarPosition* position) {
  const size_t frames = position->frames.size();
  const size_t returns = position->returns.size();
  Step(position->places, byte, position, &stepped_);
  if (stepped_.empty() && !may_end_) {
    position->frames.resize(frames);
    position->returns.resize(returns);
    return false;
  }
  position->places.swap(stepped_);
  position->may_end = may_end_;
  return true;
}

void GrammarMatcher::Compact(GrammarPosition* position) {
  constexpr size_t kFramesMin = 32;
  if (position->frames.size() < kFramesMin) return;
  renamed_.assign(position->frames.size(), kNoState);
  std::vector<uint32_t> reached = {0};
  for (const GrammarPlace& place : position->places) reached.push_back(place.node);
  while (!reached.empty()) {
    const uint32_t node = reached.back();
    reached.pop_back();
    if (renamed_[node] != kNoState) continue;
    renamed_[node] = 0;
    for (uint32_t at = position->frames[node].link; at != kNoState; at = position->returns[at].next) {
      reached.push_back(position->returns[at].node);
    }
  }
  uint32_t kept = 0;
  for (uint32_t& name : renamed_) name = name == kNoState ? kNoState : kept++;
  std::vector<GrammarFrame> frames;
  std::vector<GrammarReturn> returns;
  for (size_t i = 0; i < position->frames.size(); ++i) {
    if (renamed_[i] == kNoState) continue;
    GrammarFrame frame = position->frames[i];
    uint32_t link = kNoState;
    for (uint32_t at = frame.link; at != kNoState; at = position->returns[at].next) {
      GrammarReturn back = position->returns[at];
      back.node = renamed_[back.node];
      back.next = link;
      link = static_cast<uint32_t>(returns.size());
      returns.push_back(back);
    }
    frame.link = link;
    frames.push_back(frame);
  }
  for (GrammarPlace& place : position->places) place.node = renamed_[place.node];
  position->frames.swap(frames);
  position->returns.swap(returns);
}

ByteSet GrammarMatcher::Allowed(const std::vector<GrammarPlace>& places) {
  ByteSet bytes = {};
  if (!Spend(places.size())) return bytes;
  for (const GrammarPlace& place : places) AddAllowed(place, &bytes);
  return bytes;
}

void GrammarMatcher::AddAllowed(const GrammarPlace& place, ByteSet* bytes) {
  const Grammar::State& state = grammar_.states[place.state];
  if (state.op == Grammar::Op::kLiteral) {
    const auto byte = static_cast<uint8_t>(grammar_.literals[state.a + place.position]);
    (*bytes)[byte / 64] |= uint64_t{1} << (byte % 64);
    return;
  }
  const ByteAutomaton& terminal = grammar_.terminals[state.a];
  const ByteSet& live = terminal.live[place.position];
  const bool near_bounds =
      terminal.counted && (place.chars < terminal.least || place.chars + 1 + uint64_t{terminal.distance_max} > terminal.most);
  // Each byte is tried.
  constexpr uint64_t kTrying = 32;
  if (near_bounds && !Spend(kTrying)) return;
  for (uint32_t i = 0; i < live.size(); ++i) {
    if (!near_bounds) (*bytes)[i] |= live[i];
    for (uint32_t bit = 0; near_bounds && bit < 64; ++bit) {
      if ((live[i] >> bit & 1) == 0) continue;
      uint32_t chars = place.chars;
      const uint32_t next = terminal.Next(place.position, static_cast<uint8_t>(64 * i + bit));
      if (TakesEdge(terminal, place.position, next, &chars)) (*bytes)[i] |= uint64_t{1} << bit;
    }
  }
}

}  // namespace bantam
