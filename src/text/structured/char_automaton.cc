#include "text/structured/char_automaton.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <unordered_map>

#include "text/utf8.h"

namespace bantam {
namespace {

Error TooComplex(std::string_view what, uint64_t limit) {
  return {Code::kExhausted, fmt::format("more than {} {} are needed; simplify the expression", limit, what)};
}

struct HashOfWords {
  size_t operator()(const std::vector<uint32_t>& words) const {
    uint64_t hash = 0x9e3779b97f4a7c15ULL;
    for (const uint32_t word : words) hash = (hash ^ word) * 0x100000001b3ULL + (hash >> 29);
    return hash;
  }
};

uint64_t PairOf(uint32_t a, uint32_t b) { return uint64_t{a} << 32 | b; }

}  // namespace

Status AutomatonLimits::Spend(uint64_t work) const {
  if (spent == nullptr) return Ok();
  *spent += work;
  return *spent > work_max_in_all ? Status(TooComplex("steps in all", work_max_in_all)) : Ok();
}

void CharNfa::Read(uint32_t from, CodeRanges chars, uint32_t to) {
  // A state reads one set; another one gets a state of its own.
  if (states_[from].set != kNoState) {
    const uint32_t reader = Add();
    Link(from, reader);
    from = reader;
  }
  const auto found = std::find(sets_.begin(), sets_.end(), chars);
  states_[from].set = static_cast<uint32_t>(found - sets_.begin());
  if (found == sets_.end()) sets_.push_back(std::move(chars));
  states_[from].next = to;
}

// Subset construction.
class Determiniser {
 public:
  Determiniser(const CharNfa& nfa, const AutomatonLimits& limits) : nfa_(nfa), limits_(limits), seen_(nfa.size(), 0) {}

  Result<CharDfa> Run() {
    class_lists_ = dfa_.Classify(nfa_.sets_);
    dfa_.accepting_.clear();
    dfa_.next_.clear();
    std::vector<uint32_t> start = Closure({nfa_.start}, /*begin=*/true, /*end=*/false);
    dfa_.AddState(Accepts(start, /*begin=*/true));
    subsets_.push_back(std::move(start));
    for (uint32_t state = 0; state < subsets_.size(); ++state) {
      BANTAM_TRY(Expand(state));
    }
    dfa_.Trim();
    // Making it minimal is as much work again.
    BANTAM_TRY(limits_.Spend(2 * work_ + 4 * dfa_.next_.size()));
    return std::move(dfa_);
  }

 private:
  std::vector<uint32_t> Closure(std::vector<uint32_t> states, bool begin, bool end) {
    ++epoch_;
    for (const uint32_t state : states) seen_[state] = epoch_;
    for (size_t i = 0; i < states.size(); ++i) {
      for (const auto& [to, edge] : nfa_.states_[states[i]].edges) {
        ++work_;
        const bool open = edge == CharNfa::Edge::kEmpty || (edge == CharNfa::Edge::kBegin ? begin : end);
        if (!open || seen_[to] == epoch_) continue;
        seen_[to] = epoch_;
        states.push_back(to);
      }
    }
    work_ += states.size();
    std::sort(states.begin(), states.end());
    return states;
  }
  bool Accepts(const std::vector<uint32_t>& subset, bool begin) {
    const std::vector<uint32_t> all = Closure(subset, begin, /*end=*/true);
    return std::binary_search(all.begin(), all.end(), nfa_.final);
  }
  Status Expand(uint32_t state) {
    std::vector<std::vector<uint32_t>> targets(dfa_.classes_);
    for (const uint32_t member : subsets_[state]) {
      const auto& from = nfa_.states_[member];
      if (from.set == kNoState) continue;
      for (const uint32_t char_class : class_lists_[from.set]) targets[char_class].push_back(from.next);
      work_ += class_lists_[from.set].size();
    }
    // Classes often lead to the same states.
    std::map<std::vector<uint32_t>, uint32_t> known;
    for (uint32_t char_class = 0; char_class < dfa_.classes_; ++char_class) {
      if (targets[char_class].empty()) continue;
      std::vector<uint32_t>& raw = targets[char_class];
      std::sort(raw.begin(), raw.end());
      raw.erase(std::unique(raw.begin(), raw.end()), raw.end());
      const auto same = known.find(raw);
      if (same != known.end()) {
        dfa_.next_[state * dfa_.classes_ + char_class] = same->second;
        continue;
      }
      const uint32_t target = StateOf(Closure(raw, /*begin=*/false, /*end=*/false));
      known.emplace(std::move(raw), target);
      dfa_.next_[state * dfa_.classes_ + char_class] = target;
      if (subsets_.size() > limits_.states_max) return TooComplex("states", limits_.states_max);
      if (work_ > limits_.work_max) return TooComplex("steps", limits_.work_max);
    }
    return Ok();
  }
  uint32_t StateOf(std::vector<uint32_t> subset) {
    const auto found = index_.find(subset);
    if (found != index_.end()) return found->second;
    const uint32_t state = dfa_.AddState(Accepts(subset, /*begin=*/false));
    index_.emplace(subset, state);
    subsets_.push_back(std::move(subset));
    return state;
  }

  const CharNfa& nfa_;
  const AutomatonLimits& limits_;
  CharDfa dfa_;
  std::vector<std::vector<uint32_t>> class_lists_;  // of each set
  std::vector<std::vector<uint32_t>> subsets_;
  std::unordered_map<std::vector<uint32_t>, uint32_t, HashOfWords> index_;
  std::vector<uint32_t> seen_;
  uint32_t epoch_ = 0;
  uint64_t work_ = 0;
};

Result<CharDfa> CharDfa::FromNfa(const CharNfa& nfa, const AutomatonLimits& limits) {
  if (nfa.size() > limits.states_max) return TooComplex("states", limits.states_max);
  BANTAM_ASSIGN(CharDfa dfa, Determiniser(nfa, limits).Run());
  dfa.Minimize();
  return dfa;
}

CharDfa::CharDfa(const CodeRanges& chars) {
  Classify({chars});
  AddState(/*accepting=*/false);
}

CharDfa CharDfa::AllOf(const CodeRanges& chars) {
  CharDfa dfa(chars);
  const std::vector<std::vector<uint32_t>> classes = dfa.Classify({chars});
  dfa.next_.assign(dfa.classes_, kNoState);
  for (const uint32_t char_class : classes[0]) dfa.next_[char_class] = 0;
  dfa.accepting_[0] = 1;
  dfa.live_ = true;
  return dfa;
}

CharDfa CharDfa::Texts(const std::vector<std::string>& texts) {
  CharDfa dfa;
  std::map<char32_t, uint32_t> codes;
  for (const std::string& text : texts) {
    for (size_t at = 0; at < text.size(); at += DecodeUtf8(text, at).size) codes.emplace(DecodeUtf8(text, at).code, 0);
  }
  std::vector<CodeRanges> sets;
  for (auto& [code, set] : codes) {
    set = static_cast<uint32_t>(sets.size());
    sets.emplace_back(code, code);
  }
  const std::vector<std::vector<uint32_t>> classes = dfa.Classify(sets);
  dfa.next_.clear();
  dfa.accepting_.clear();
  dfa.AddState(/*accepting=*/false);
  for (const std::string& text : texts) {
    uint32_t state = 0;
    for (size_t at = 0; at < text.size();) {
      const Utf8Character character = DecodeUtf8(text, at);
      at += character.size;
      const size_t slot = state * dfa.classes_ + classes[codes[character.code]][0];
      if (dfa.next_[slot] == kNoState) {
        const uint32_t added = dfa.AddState(/*accepting=*/false);
        dfa.next_[slot] = added;
      }
      state = dfa.next_[slot];
    }
    dfa.accepting_[state] = 1;
  }
  dfa.live_ = !texts.empty();
  return dfa;
}

Result<CharDfa> CharDfa::Combine(const CharDfa& a, const CharDfa& b, Product product, const AutomatonLimits& limits) {
  CharDfa dfa;
  // Classes of the product are the pairs of classes that occur.
  std::map<std::pair<uint32_t, uint32_t>, uint32_t> pairs;
  dfa.boundaries_.clear();
  for (size_t i = 0, j = 0; i < a.boundaries_.size() || j < b.boundaries_.size();) {
    const char32_t at = std::min(i < a.boundaries_.size() ? a.boundaries_[i].first : UINT32_MAX,
                                 j < b.boundaries_.size() ? b.boundaries_[j].first : UINT32_MAX);
    if (i < a.boundaries_.size() && a.boundaries_[i].first == at) ++i;
    if (j < b.boundaries_.size() && b.boundaries_[j].first == at) ++j;
    const std::pair<uint32_t, uint32_t> pair(a.boundaries_[i - 1].char_class, b.boundaries_[j - 1].char_class);
    dfa.boundaries_.push_back({at, pairs.emplace(pair, static_cast<uint32_t>(pairs.size())).first->second});
  }
  dfa.classes_ = static_cast<uint32_t>(pairs.size());
  dfa.next_.clear();
  dfa.accepting_.clear();
  std::unordered_map<uint64_t, uint32_t> index;
  std::vector<std::pair<uint32_t, uint32_t>> states;
  const auto state_of = [&](uint32_t x, uint32_t y) {
    const auto [found, added] = index.emplace(PairOf(x, y), static_cast<uint32_t>(states.size()));
    if (added) {
      states.emplace_back(x, y);
      const bool first = x != kNoState && a.accepts(x);
      const bool second = y != kNoState && b.accepts(y);
      dfa.AddState(product == Product::kBoth ? first && second : product == Product::kEither ? first || second : first && !second);
    }
    return found->second;
  };
  state_of(0, 0);
  for (uint32_t state = 0; state < states.size(); ++state) {
    for (const auto& [pair, char_class] : pairs) {
      const auto [x, y] = states[state];
      const uint32_t to_x = x == kNoState ? kNoState : a.next_[x * a.classes_ + pair.first];
      const uint32_t to_y = y == kNoState ? kNoState : b.next_[y * b.classes_ + pair.second];
      const bool first_ends = to_x == kNoState && (product != Product::kEither || to_y == kNoState);
      if (first_ends || (product == Product::kBoth && to_y == kNoState)) continue;
      const uint32_t target = state_of(to_x, to_y);
      dfa.next_[state * dfa.classes_ + char_class] = target;
    }
    if (states.size() > limits.states_max) return TooComplex("states", limits.states_max);
    if (uint64_t{state} * pairs.size() > limits.work_max) return TooComplex("steps", limits.work_max);
  }
  dfa.Trim();
  BANTAM_TRY(limits.Spend(uint64_t{4} * states.size() * pairs.size()));
  return dfa;
}

Result<CharDfa> CharDfa::WithLength(const CharDfa& a, uint64_t least, uint64_t most, const AutomatonLimits& limits) {
  const bool bounded = most != UINT64_MAX;
  const uint64_t counts = (bounded ? most : least) + 1;
  if (counts > limits.states_max || counts * a.size() > limits.states_max) return TooComplex("states", limits.states_max);
  CharDfa dfa = a;
  const auto size = static_cast<uint32_t>(a.size());
  dfa.next_.assign(counts * a.next_.size(), kNoState);
  dfa.accepting_.assign(counts * size, 0);
  for (uint32_t count = 0; count < counts; ++count) {
    const bool last = count + 1 == counts;
    for (uint32_t state = 0; state < size; ++state) {
      dfa.accepting_[count * size + state] = a.accepts(state) && count >= least;
      if (last && bounded) continue;
      for (uint32_t c = 0; c < a.classes_; ++c) {
        const uint32_t to = a.next_[state * a.classes_ + c];
        if (to != kNoState) dfa.next_[(size_t{count} * size + state) * a.classes_ + c] = (last ? count : count + 1) * size + to;
      }
    }
  }
  dfa.Trim();
  return dfa;
}

bool CharDfa::Matches(std::string_view text) const {
  uint32_t state = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Character character = DecodeUtf8(text, at);
    at += character.size;
    state = Next(state, character.code);
    if (state == kNoState) return false;
  }
  return accepts(state);
}

std::vector<CharDfa::Edge> CharDfa::EdgesOf(uint32_t state) const {
  std::vector<Edge> edges;
  for (size_t i = 0; i < boundaries_.size(); ++i) {
    const uint32_t target = next_[state * classes_ + boundaries_[i].char_class];
    if (target == kNoState) continue;
    const char32_t last = i + 1 < boundaries_.size() ? boundaries_[i + 1].first - 1 : kCodePointMax;
    if (!edges.empty() && edges.back().target == target && edges.back().last + 1 == boundaries_[i].first) {
      edges.back().last = last;
    } else {
      edges.push_back({boundaries_[i].first, last, target});
    }
  }
  return edges;
}

std::vector<uint32_t> CharDfa::Distances() const {
  std::vector<std::vector<uint32_t>> sources(size());
  for (uint32_t state = 0; state < size(); ++state) {
    for (uint32_t c = 0; c < classes_; ++c) {
      const uint32_t to = next_[state * classes_ + c];
      if (to != kNoState && (sources[to].empty() || sources[to].back() != state)) sources[to].push_back(state);
    }
  }
  std::vector<uint32_t> distances(size(), kNoState);
  std::vector<uint32_t> queue;
  for (uint32_t state = 0; state < size(); ++state) {
    if (!accepts(state)) continue;
    distances[state] = 0;
    queue.push_back(state);
  }
  for (size_t i = 0; i < queue.size(); ++i) {
    for (const uint32_t source : sources[queue[i]]) {
      if (distances[source] != kNoState) continue;
      distances[source] = distances[queue[i]] + 1;
      queue.push_back(source);
    }
  }
  return distances;
}

bool CharDfa::Extensible() const {
  for (uint32_t state = 0; state < size(); ++state) {
    if (!accepts(state)) continue;
    const auto* begin = next_.data() + size_t{state} * classes_;
    if (std::none_of(begin, begin + classes_, [&](uint32_t to) { return to != kNoState && accepts(to); })) return false;
  }
  return true;
}

std::vector<uint8_t> CharDfa::UniversalOver(const CodeRanges& chars, bool inner) const {
  std::vector<uint8_t> wanted(classes_, 0);
  for (size_t i = 0; i < boundaries_.size(); ++i) {
    const char32_t last = i + 1 < boundaries_.size() ? boundaries_[i + 1].first - 1 : kCodePointMax;
    for (const CodeRange& range : chars.list()) {
      if (range.first <= last && range.last >= boundaries_[i].first) wanted[boundaries_[i].char_class] = 1;
    }
  }
  std::vector<uint8_t> universal(size(), 1);
  for (uint32_t state = 0; inner && state < size(); ++state) universal[state] = accepts(state) ? 0 : 1;
  for (bool changed = true; changed;) {
    changed = false;
    for (uint32_t state = 0; state < size(); ++state) {
      if (universal[state] == 0) continue;
      for (uint32_t c = 0; c < classes_; ++c) {
        if (wanted[c] == 0) continue;
        const uint32_t to = next_[state * classes_ + c];
        if (to != kNoState && universal[to] != 0) continue;
        universal[state] = 0;
        changed = true;
        break;
      }
    }
  }
  return universal;
}

uint32_t CharDfa::ClassOf(char32_t code) const {
  const auto after =
      std::upper_bound(boundaries_.begin(), boundaries_.end(), code, [](char32_t c, const Boundary& b) { return c < b.first; });
  return (after - 1)->char_class;
}

uint32_t CharDfa::AddState(bool accepting) {
  accepting_.push_back(accepting ? 1 : 0);
  next_.resize(next_.size() + classes_, kNoState);
  return size() - 1;
}

std::vector<std::vector<uint32_t>> CharDfa::Classify(const std::vector<CodeRanges>& sets) {
  // Where a set begins or ends.
  std::vector<std::pair<char32_t, uint32_t>> events;
  for (uint32_t set = 0; set < sets.size(); ++set) {
    for (const CodeRange& range : sets[set].list()) {
      events.emplace_back(range.first, set);
      events.emplace_back(range.last + 1, set);
    }
  }
  std::sort(events.begin(), events.end());
  std::map<std::vector<uint32_t>, uint32_t> classes;  // by the sets that a character is in
  std::vector<uint32_t> in;
  boundaries_.clear();
  const auto cut = [&](char32_t at) {
    const uint32_t char_class = classes.emplace(in, static_cast<uint32_t>(classes.size())).first->second;
    if (!boundaries_.empty() && boundaries_.back().char_class == char_class) return;
    boundaries_.push_back({at, char_class});
  };
  if (events.empty() || events[0].first > 0) cut(0);
  for (size_t i = 0; i < events.size();) {
    const char32_t at = events[i].first;
    for (; i < events.size() && events[i].first == at; ++i) {
      const auto found = std::lower_bound(in.begin(), in.end(), events[i].second);
      if (found != in.end() && *found == events[i].second) {
        in.erase(found);
      } else {
        in.insert(found, events[i].second);
      }
    }
    if (at <= kCodePointMax) cut(at);
  }
  classes_ = static_cast<uint32_t>(classes.size());
  std::vector<std::vector<uint32_t>> of_set(sets.size());
  for (const auto& [members, char_class] : classes) {
    for (const uint32_t set : members) of_set[set].push_back(char_class);
  }
  return of_set;
}

void CharDfa::Trim() {
  const std::vector<uint32_t> distances = Distances();
  live_ = distances[0] != kNoState;
  std::vector<uint32_t> renamed(size(), kNoState);
  uint32_t kept = 0;
  for (uint32_t state = 0; state < size(); ++state) {
    if (state == 0 || distances[state] != kNoState) renamed[state] = kept++;
  }
  for (uint32_t state = 0; state < size(); ++state) {
    if (renamed[state] == kNoState) continue;
    accepting_[renamed[state]] = accepting_[state];
    for (uint32_t c = 0; c < classes_; ++c) {
      const uint32_t to = next_[size_t{state} * classes_ + c];
      const bool dead = to == kNoState || distances[to] == kNoState;
      next_[size_t{renamed[state]} * classes_ + c] = dead ? kNoState : renamed[to];
    }
  }
  accepting_.resize(kept);
  next_.resize(size_t{kept} * classes_);
}

// One round of Moore's algorithm: states of a group that lead to different groups part.
bool CharDfa::RefineOnce(std::vector<uint32_t>* group, uint32_t* groups) const {
  std::unordered_map<std::vector<uint32_t>, uint32_t, HashOfWords> index;
  std::vector<uint32_t> refined(size());
  std::vector<uint32_t> key(classes_ + 1);
  for (uint32_t state = 0; state < size(); ++state) {
    key[0] = (*group)[state];
    for (uint32_t c = 0; c < classes_; ++c) {
      const uint32_t to = next_[size_t{state} * classes_ + c];
      key[c + 1] = to == kNoState ? kNoState : (*group)[to];
    }
    refined[state] = index.emplace(key, static_cast<uint32_t>(index.size())).first->second;
  }
  const bool changed = index.size() != *groups;
  *groups = static_cast<uint32_t>(index.size());
  group->swap(refined);
  return changed;
}

void CharDfa::MergeClasses() {
  std::map<std::vector<uint32_t>, uint32_t> columns;
  std::vector<uint32_t> merged(classes_);
  std::vector<uint32_t> column(size());
  for (uint32_t c = 0; c < classes_; ++c) {
    for (uint32_t state = 0; state < size(); ++state) column[state] = next_[size_t{state} * classes_ + c];
    merged[c] = columns.emplace(column, static_cast<uint32_t>(columns.size())).first->second;
  }
  const auto fewer = static_cast<uint32_t>(columns.size());
  std::vector<uint32_t> next(size_t{size()} * fewer, kNoState);
  for (const auto& [edges, c] : columns) {
    for (uint32_t state = 0; state < size(); ++state) next[size_t{state} * fewer + c] = edges[state];
  }
  next_.swap(next);
  classes_ = fewer;
  std::vector<Boundary> boundaries;
  for (const Boundary& boundary : boundaries_) {
    const uint32_t char_class = merged[boundary.char_class];
    if (boundaries.empty() || boundaries.back().char_class != char_class) boundaries.push_back({boundary.first, char_class});
  }
  boundaries_.swap(boundaries);
}

void CharDfa::Minimize() {
  // A round costs states x classes, and a long chain takes as many rounds as it is long.
  constexpr uint64_t kWorkMax = 20'000'000;
  std::vector<uint32_t> group(accepting_.begin(), accepting_.end());
  uint32_t groups = 0;
  uint64_t work = 0;
  while (RefineOnce(&group, &groups)) {
    work += next_.size();
    if (work > kWorkMax) return;
  }
  // Groups are numbered in the order of their first states, so the start stays 0.
  std::vector<uint32_t> next(size_t{groups} * classes_, kNoState);
  std::vector<uint8_t> accepting(groups, 0);
  for (uint32_t state = 0; state < size(); ++state) {
    accepting[group[state]] = accepting_[state];
    for (uint32_t c = 0; c < classes_; ++c) {
      const uint32_t to = next_[size_t{state} * classes_ + c];
      next[size_t{group[state]} * classes_ + c] = to == kNoState ? kNoState : group[to];
    }
  }
  next_.swap(next);
  accepting_.swap(accepting);
  MergeClasses();
}

}  // namespace bantam
