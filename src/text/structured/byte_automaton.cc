#include "text/structured/byte_automaton.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "text/structured/token_slices.h"

namespace bantam {
namespace {

struct Escape {
  char32_t code;
  unsigned char letter;
};
constexpr std::array kShortEscapes =
    std::to_array<Escape>({{'"', '"'}, {'\\', '\\'}, {'\b', 'b'}, {'\f', 'f'}, {'\n', 'n'}, {'\r', 'r'}, {'\t', 't'}});

class ByteBuilder {
 public:
  ByteBuilder(const CharDfa& chars, Quoting quoting, uint32_t states_max)
      : chars_(chars), json_(quoting == Quoting::kJson), states_max_(states_max), boundary_of_(chars.size(), kNoState) {}

  Result<ByteAutomaton> Build() {
    for (size_t slice = 0; slice < kCharacterSlices; ++slice) {
      const auto all = chars_.UniversalOver(CharactersOf(static_cast<TokenSlice>(slice)), /*inner=*/!json_);
      universal_.resize(all.size(), 0);
      for (size_t i = 0; i < all.size(); ++i) universal_[i] |= static_cast<uint8_t>(all[i] << slice);
    }
    if (json_) {
      const uint32_t start = Add(0);
      end_ = Add(ByteAutomaton::kAccepting);
      Link(start, '"', '"', BoundaryOf(0));
    } else {
      BoundaryOf(0);
    }
    for (size_t i = 0; i < queue_.size(); ++i) {
      Expand(queue_[i]);
      if (edges_.size() > states_max_) {
        return Error(Code::kExhausted, fmt::format("more than {} states of bytes are needed; simplify the expression", states_max_));
      }
    }
    return Finish();
  }

 private:
  struct ByteEdge {
    uint8_t first;
    uint8_t last;
    uint32_t target;
  };

  uint32_t Add(uint8_t flags) {
    edges_.emplace_back();
    flags_.push_back(flags);
    return static_cast<uint32_t>(edges_.size() - 1);
  }
  void Link(uint32_t from, uint32_t first, uint32_t last, uint32_t to) {
    edges_[from].push_back({static_cast<uint8_t>(first), static_cast<uint8_t>(last), to});
  }
  uint32_t BoundaryOf(uint32_t state) {
    if (boundary_of_[state] != kNoState) return boundary_of_[state];
    uint8_t flags = ByteAutomaton::kBoundary;
    if (!json_ && chars_.accepts(state)) flags |= ByteAutomaton::kAccepting;
    boundary_of_[state] = Add(flags);
    queue_.push_back(state);
    return boundary_of_[state];
  }

  void Expand(uint32_t state) {
    const uint32_t from = boundary_of_[state];
    if (json_ && chars_.accepts(state)) Link(from, '"', '"', end_);
    std::vector<CharDfa::Edge> edges = chars_.EdgesOf(state);
    for (CharDfa::Edge& edge : edges) edge.target = BoundaryOf(edge.target);
    for (const CharDfa::Edge& edge : edges) {
      if (edge.first < 0x80) LinkAscii(from, edge.first, std::min<char32_t>(edge.last, 0x7f), edge.target);
    }
    if (json_) LinkEscapes(from, state);
    LinkLeads(from, edges, {0xc2, 0xdf, /*level=*/1, 0x80, 0x7ff});
    LinkLeads(from, edges, {0xe0, 0xef, /*level=*/2, 0x800, 0xffff});
    LinkLeads(from, edges, {0xf0, 0xf4, /*level=*/3, 0x10000, kCodePointMax});
  }

  void LinkAscii(uint32_t from, char32_t first, char32_t last, uint32_t target) {
    if (!json_) return Link(from, first, last, target);
    const auto part = [&](char32_t low, char32_t high) {
      low = std::max(low, first);
      high = std::min(high, last);
      if (low <= high) Link(from, low, high, target);
    };
    part(0x20, '"' - 1);
    part('"' + 1, '\\' - 1);
    part('\\' + 1, 0x7f);
  }

  void LinkEscapes(uint32_t from, uint32_t state) {
    const auto target_of = [&](char32_t code) {
      const uint32_t target = chars_.Next(state, code);
      return target == kNoState ? kNoState : BoundaryOf(target);
    };
    std::vector<ByteEdge> letters;
    std::array<std::vector<ByteEdge>, 2> digits;  // behind \u000 and \u001
    for (char32_t code = 0; code < 0x80; ++code) {
      const auto* found = std::find_if(kShortEscapes.begin(), kShortEscapes.end(), [&](const Escape& e) { return e.code == code; });
      if (found == kShortEscapes.end() && code >= 0x20) continue;
      const uint32_t target = target_of(code);
      if (target == kNoState) continue;
      if (found != kShortEscapes.end()) {
        letters.push_back({found->letter, found->letter, target});
      } else {
        const auto digit = static_cast<uint8_t>("0123456789abcdef"[code % 16]);
        digits[code / 16].push_back({digit, digit, target});
      }
    }
    if (letters.empty() && digits[0].empty() && digits[1].empty()) return;
    const uint32_t escape = Add(0);
    Link(from, '\\', '\\', escape);
    edges_[escape] = std::move(letters);
    if (digits[0].empty() && digits[1].empty()) return;
    const uint32_t zeros[3] = {Add(0), Add(0), Add(0)};
    Link(escape, 'u', 'u', zeros[0]);
    Link(zeros[0], '0', '0', zeros[1]);
    Link(zeros[1], '0', '0', zeros[2]);
    for (uint32_t i = 0; i < 2; ++i) {
      if (digits[i].empty()) continue;
      const uint32_t last = Add(0);
      Link(zeros[2], '0' + i, '0' + i, last);
      edges_[last] = std::move(digits[i]);
    }
  }

  struct Leads {
    uint32_t first;
    uint32_t last;
    uint32_t level;  // bytes behind the lead
    char32_t code_min;
    char32_t code_max;
  };
  void LinkLeads(uint32_t from, const std::vector<CharDfa::Edge>& edges, const Leads& leads) {
    std::vector<CharDfa::Edge> within;
    for (const CharDfa::Edge& edge : edges) {
      // What has no encoding.
      for (const auto& [low, high] : {std::pair<char32_t, char32_t>(0, 0xd7ff), std::pair<char32_t, char32_t>(0xe000, kCodePointMax)}) {
        const char32_t first = std::max({edge.first, leads.code_min, low});
        const char32_t last = std::min({edge.last, leads.code_max, high});
        if (first <= last) within.push_back({first, last, edge.target});
      }
    }
    if (within.empty()) return;
    std::vector<uint32_t> key = {leads.level};
    for (const CharDfa::Edge& edge : within) key.insert(key.end(), {edge.first, edge.last, edge.target});
    const auto [found, added] = leads_.emplace(std::move(key), std::vector<ByteEdge>());
    if (added) {
      const uint32_t mask = leads.level == 1 ? 0x1f : leads.level == 2 ? 0x0f : 0x07;
      for (uint32_t lead = leads.first; lead <= leads.last; ++lead) {
        const uint32_t target = Block(leads.level, (lead & mask) << (6 * leads.level), within);
        if (target != kNoState) found->second.push_back({static_cast<uint8_t>(lead), static_cast<uint8_t>(lead), target});
      }
    }
    edges_[from].insert(edges_[from].end(), found->second.begin(), found->second.end());
  }

  // The state that reads the last `level` bytes of the characters of a block: 64^level of them from `base` on.
  uint32_t Block(uint32_t level, char32_t base, const std::vector<CharDfa::Edge>& edges) {
    if (level == 0) {
      for (const CharDfa::Edge& edge : edges) {
        if (edge.first <= base && base <= edge.last) return edge.target;
      }
      return kNoState;
    }
    const char32_t size = char32_t{1} << (6 * level);
    std::vector<CharDfa::Edge> within;
    for (const CharDfa::Edge& edge : edges) {
      if (edge.first < base + size && edge.last >= base) {
        within.push_back({std::max(edge.first, base) - base, std::min<char32_t>(edge.last, base + size - 1) - base, edge.target});
      }
    }
    if (within.empty()) return kNoState;
    std::vector<uint32_t> key = {level};
    for (const CharDfa::Edge& edge : within) key.insert(key.end(), {edge.first, edge.last, edge.target});
    const auto found = blocks_.find(key);
    if (found != blocks_.end()) return found->second;
    const uint32_t state = Add(0);
    for (uint32_t i = 0; i < 64; ++i) {
      const uint32_t target = Block(level - 1, i << (6 * (level - 1)), within);
      if (target != kNoState) Link(state, 0x80 + i, 0x80 + i, target);
    }
    blocks_.emplace(std::move(key), state);
    return state;
  }

  ByteAutomaton Finish() {
    // Columns of bytes that no state tells apart become one class.
    std::array<std::vector<uint32_t>, 256> columns;
    for (uint32_t state = 0; state < edges_.size(); ++state) {
      for (const ByteEdge& edge : edges_[state]) {
        for (uint32_t byte = edge.first; byte <= edge.last; ++byte) {
          columns[byte].push_back(state);
          columns[byte].push_back(edge.target);
        }
      }
    }
    ByteAutomaton automaton;
    std::map<std::vector<uint32_t>, uint8_t> classes;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      automaton.class_of[byte] = classes.emplace(columns[byte], static_cast<uint8_t>(classes.size())).first->second;
    }
    automaton.classes = static_cast<uint32_t>(classes.size());
    automaton.flags = flags_;
    automaton.next.assign(edges_.size() * classes.size(), kNoState);
    for (const auto& [column, char_class] : classes) {
      for (size_t i = 0; i < column.size(); i += 2) automaton.next[size_t{column[i]} * classes.size() + char_class] = column[i + 1];
    }
    automaton.universal.assign(edges_.size(), 0);
    for (uint32_t state = 0; state < boundary_of_.size(); ++state) {
      if (boundary_of_[state] != kNoState) automaton.universal[boundary_of_[state]] = universal_[state];
    }
    automaton.live.assign(edges_.size(), {});
    for (uint32_t state = 0; state < edges_.size(); ++state) {
      for (const ByteEdge& edge : edges_[state]) {
        for (uint32_t byte = edge.first; byte <= edge.last; ++byte) automaton.live[state][byte / 64] |= uint64_t{1} << (byte % 64);
      }
      if (edges_[state].empty()) automaton.flags[state] |= ByteAutomaton::kStuck;
    }
    return automaton;
  }

  const CharDfa& chars_;
  bool json_;
  uint32_t states_max_;
  std::vector<uint32_t> boundary_of_;  // per state of characters
  std::vector<uint32_t> queue_;
  std::vector<uint8_t> universal_;
  std::vector<std::vector<ByteEdge>> edges_;
  std::vector<uint8_t> flags_;
  std::map<std::vector<uint32_t>, uint32_t> blocks_;
  std::map<std::vector<uint32_t>, std::vector<ByteEdge>> leads_;  // of a state, by its edges
  uint32_t end_ = kNoState;
};

// Of every state: the characters that it lacks, those that have begun not counted.
std::vector<uint32_t> DistancesOf(const ByteAutomaton& automaton) {
  std::vector<uint32_t> distance(automaton.size(), kNoState);
  const uint8_t quote = automaton.class_of['"'];
  for (uint32_t state = 0; state < automaton.size(); ++state) {
    if (automaton.Accepts(state)) distance[state] = 0;
  }
  for (bool changed = true; changed;) {
    changed = false;
    for (uint32_t state = automaton.size(); state-- > 0;) {
      for (uint32_t c = 0; c < automaton.classes; ++c) {
        const uint32_t to = automaton.next[size_t{state} * automaton.classes + c];
        if (to == kNoState || distance[to] == kNoState) continue;
        const bool counts = (automaton.flags[state] & ByteAutomaton::kBoundary) != 0 && c != quote;
        const uint32_t through = distance[to] + (counts ? 1 : 0);
        if (through >= distance[state]) continue;
        distance[state] = through;
        changed = true;
      }
    }
  }
  return distance;
}

}  // namespace

Result<ByteAutomaton> ToBytes(const CharDfa& chars, Quoting quoting, uint32_t states_max) {
  CHECK(!chars.empty());
  return ByteBuilder(chars, quoting, states_max).Build();
}

Result<ByteAutomaton> ToCountedBytes(const CharDfa& chars, uint64_t least, uint64_t most, uint32_t states_max) {
  BANTAM_ASSIGN(ByteAutomaton automaton, ToBytes(chars, Quoting::kJson, states_max));
  automaton.counted = true;
  automaton.least = least;
  automaton.most = most;
  automaton.distance = DistancesOf(automaton);
  automaton.farthest = automaton.distance;
  for (bool changed = true; changed;) {
    changed = false;
    for (uint32_t state = automaton.size(); state-- > 0;) {
      for (uint32_t c = 0; c < automaton.classes; ++c) {
        const uint32_t to = automaton.next[size_t{state} * automaton.classes + c];
        if (to == kNoState || automaton.farthest[to] <= automaton.farthest[state]) continue;
        automaton.farthest[state] = automaton.farthest[to];
        changed = true;
      }
    }
  }
  automaton.distance_max = *std::max_element(automaton.distance.begin(), automaton.distance.end());
  return automaton;
}

}  // namespace bantam
