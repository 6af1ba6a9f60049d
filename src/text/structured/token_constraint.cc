#include "text/structured/token_constraint.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <tuple>
#include <utility>

#include "text/utf8.h"

namespace bantam {
namespace {

// A terminal that can go on with fewer bytes than this is walked with everything else: few tokens begin with them.
constexpr int kKeptBytesMin = 12;

void AddTokens(const TokenTrie& trie, uint32_t node, std::span<uint32_t> bits) {
  for (uint32_t t = trie.nodes[node].first_token; t < trie.nodes[node + 1].first_token; ++t)
    bits[trie.tokens[t] / 32] |= 1u << (trie.tokens[t] % 32);
}

Error TooAmbiguous() {
  return Error(
      Code::kUnsupported,
      fmt::format("the grammar can be read in too many ways at once (more than {}, or more than {} steps to find what may follow); "
                  "write it so that a text is read in one way, without repetitions of what may be repeated itself",
                  kGrammarPlacesMax, TokenConstraint::kMaskWorkMax));
}

// Readings along a token that is being walked, 24 bytes each.
constexpr size_t kPlacesWalkedMax = 400'000;
// Of the memory to work in, from one mask to the next.
constexpr size_t kPlacesKept = 2'000;

int CountBytes(const ByteSet& set) {
  int count = 0;
  for (const uint64_t word : set) count += std::popcount(word);
  return count;
}

}  // namespace

std::shared_ptr<TokenMasks> TokenMasks::Make(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const TokenVocabulary> vocabulary) {
  return std::shared_ptr<TokenMasks>(new TokenMasks(std::move(grammar), std::move(vocabulary)));
}

size_t TokenMasks::HashOfKey::operator()(const Key& key) const {
  uint64_t hash = uint64_t{key.terminal} << 32 | key.state;
  hash = (hash ^ (uint64_t{key.missing} << 16) ^ key.left) * 0x9e3779b97f4a7c15ULL;
  return static_cast<size_t>(hash ^ hash >> 32);
}

std::shared_ptr<const TerminalMask> TokenMasks::Get(const At& at, uint64_t* walked) {
  // More than a token can hold makes no difference.
  const ByteAutomaton& automaton = grammar_->terminals[at.terminal];
  const uint64_t most = uint64_t{vocabulary_->longest()} + automaton.distance_max + 1;
  const Key key{at.terminal, at.state, static_cast<uint32_t>(std::min(at.missing, most)), static_cast<uint32_t>(std::min(at.left, most))};
  {
    const std::lock_guard lock(mutex_);
    const auto found = kept_.find(key);
    if (found != kept_.end()) return found->second;
  }
  auto mask = std::make_shared<const TerminalMask>(Build(key, walked));
  uint64_t bytes = sizeof(TerminalMask) + mask->bits.size() * sizeof(uint32_t);
  for (const std::vector<uint32_t>& exits : mask->exits) bytes += exits.size() * sizeof(uint32_t);
  const std::lock_guard lock(mutex_);
  if (kept_bytes_ + bytes > kBytesMax) {
    kept_.clear();
    kept_bytes_ = 0;
  }
  if (kept_.emplace(key, mask).second) kept_bytes_ += bytes;
  return mask;
}

TerminalMask TokenMasks::Build(const Key& key, uint64_t* walked) const {
  const ByteAutomaton& automaton = grammar_->terminals[key.terminal];
  TerminalMask mask;
  mask.bits.assign(vocabulary_->words(), 0);
  const uint8_t universal = automaton.universal[key.state];
  const bool plain = (universal >> static_cast<unsigned>(TokenSlice::kPlain) & 1) != 0;
  for (size_t i = 0; i < kCharacterSlices; ++i) {
    const auto slice = static_cast<TokenSlice>(i);
    if (plain || (universal >> i & 1) != 0) {
      AddUniversal(key, slice, &mask);
    } else {
      *walked += Walk(key, slice, &mask);
    }
  }
  *walked += mask.bits.size() + Walk(key, TokenSlice::kMarked, &mask);
  return mask;
}

// A slice of which all tokens may follow, as far as there is room for their characters.
void TokenMasks::AddUniversal(const Key& key, TokenSlice slice, TerminalMask* mask) const {
  const ByteAutomaton& automaton = grammar_->terminals[key.terminal];
  const uint64_t longest = vocabulary_->LongestOf(slice);
  // So many characters leave room for whatever has to follow them.
  const uint64_t farthest = automaton.counted ? automaton.farthest[key.state] : 0;
  const uint64_t sure = !automaton.counted ? UINT64_MAX : key.left >= farthest ? key.left - farthest : 0;
  if (sure >= longest) {
    const std::vector<uint32_t>& all = vocabulary_->MaskOf(slice);
    for (size_t word = 0; word < all.size(); ++word) mask->bits[word] |= all[word];
    return;
  }
  for (const uint32_t id : vocabulary_->WithLength(slice, 0, sure)) mask->bits[id / 32] |= 1u << (id % 32);
  for (const uint32_t id : vocabulary_->WithLength(slice, sure + 1, key.left)) {
    if (Survives(key, vocabulary_->TextOf(id))) mask->bits[id / 32] |= 1u << (id % 32);
  }
}

// Whether a token of a counted terminal, which does not end within it, stays inside.
bool TokenMasks::Survives(const Key& key, const std::string& text) const {
  const ByteAutomaton& automaton = grammar_->terminals[key.terminal];
  uint32_t state = key.state;
  uint64_t chars = 0;
  for (const char c : text) {
    if ((automaton.flags[state] & ByteAutomaton::kBoundary) != 0) ++chars;
    state = automaton.Next(state, static_cast<uint8_t>(c));
    if (state == kNoState || chars + automaton.distance[state] > key.left) return false;
  }
  return true;
}

uint64_t TokenMasks::Walk(const Key& key, TokenSlice slice, TerminalMask* mask) const {
  const TokenTrie& trie = vocabulary_->trie(slice);
  const ByteAutomaton& automaton = grammar_->terminals[key.terminal];
  struct Level {
    uint32_t state;
    uint32_t chars;
  };
  std::vector<Level> levels(size_t{vocabulary_->longest()} + 1);
  levels[0] = {key.state, 0};
  const auto size = static_cast<uint32_t>(trie.nodes.size() - 1);
  uint64_t walked = 0;
  for (uint32_t node = 1; node < size; ++walked) {
    const TokenTrie::Node& at = trie.nodes[node];
    const Level from = levels[at.depth - 1];
    const uint32_t next = automaton.Next(from.state, at.byte);
    bool dead = next == kNoState;
    uint32_t chars = from.chars;
    if (!dead && automaton.counted) {
      const bool closing = automaton.Accepts(next);
      if (!closing && (automaton.flags[from.state] & ByteAutomaton::kBoundary) != 0) ++chars;
      dead = (closing && chars < key.missing) || chars + uint64_t{automaton.distance[next]} > key.left;
    }
    if (dead) {
      node = at.end;
      continue;
    }
    levels[at.depth] = {next, chars};
    AddTokens(trie, node, mask->bits);
    if (automaton.Accepts(next) && trie.HasChildren(node)) {
      mask->exits[static_cast<size_t>(slice)].push_back(node);
      mask->has_exits = true;
    }
    ++node;
  }
  return walked;
}

TokenConstraint::TokenConstraint(std::shared_ptr<TokenMasks> masks) : masks_(std::move(masks)) { position_ = matcher().Start(); }

TokenConstraint::TokenConstraint(const TokenConstraint& other) : masks_(other.masks_), position_(other.position_), ended_(other.ended_) {}

TokenConstraint& TokenConstraint::operator=(const TokenConstraint& other) {
  if (masks_ != other.masks_) matcher_.reset();
  masks_ = other.masks_;
  position_ = other.position_;
  ended_ = other.ended_;
  return *this;
}

GrammarMatcher& TokenConstraint::matcher() const {
  if (matcher_ == nullptr) matcher_ = std::make_unique<GrammarMatcher>(masks_->grammar());
  return *matcher_;
}

Status TokenConstraint::Mask(std::span<uint32_t> bits) {
  const TokenVocabulary& vocabulary = masks_->vocabulary();
  CHECK(bits.size() == vocabulary.words());
  std::fill(bits.begin(), bits.end(), 0);
  if (position_.may_end || ended_) {
    for (const uint32_t id : vocabulary.ends()) bits[id / 32] |= 1u << (id % 32);
  }
  if (ended_) return Ok();
  // Its beginning alone was too much.
  if (position_.places.empty() && !position_.may_end) return TooAmbiguous();
  matcher().Limit(kMaskWorkMax);
  if (levels_.size() < size_t{vocabulary.longest()} + 1) levels_.resize(size_t{vocabulary.longest()} + 1);
  levels_[0].clear();
  kept_.clear();
  walked_ = 0;
  for (const GrammarPlace& place : position_.places) (IsKept(place) ? kept_ : levels_[0]).push_back(place);
  if (!levels_[0].empty()) WalkBelow(vocabulary.trie(), /*node=*/0, /*level=*/0, bits);
  // Readings that are at the same place of a terminal differ only in what follows it.
  const auto key = [this](const GrammarPlace& place) {
    return std::tuple(masks_->grammar().states[place.state].a, place.position, place.chars);
  };
  std::sort(kept_.begin(), kept_.end(), [&](const GrammarPlace& a, const GrammarPlace& b) { return key(a) < key(b); });
  for (size_t begin = 0; begin < kept_.size() && !matcher().exceeded();) {
    size_t end = begin + 1;
    while (end < kept_.size() && key(kept_[end]) == key(kept_[begin])) ++end;
    AddTerminal(std::span(kept_).subspan(begin, end - begin), bits);
    begin = end;
  }
  // Of a mask that had many readings, what it needed goes: an answer holds what is counted for it.
  size_t places = 0;
  for (const std::vector<GrammarPlace>& level : levels_) places += level.capacity();
  if (places > kPlacesKept) levels_ = std::vector<std::vector<GrammarPlace>>(levels_.size());
  return matcher().exceeded() ? Status(TooAmbiguous()) : Ok();
}

// Whether the place is in a terminal whose masks are kept.
bool TokenConstraint::IsKept(const GrammarPlace& place) const {
  const Grammar::State& state = masks_->grammar().states[place.state];
  if (state.op != Grammar::Op::kTerminal) return false;
  return CountBytes(masks_->grammar().terminals[state.a].live[place.position]) >= kKeptBytesMin;
}

// The part of the mask that a terminal gives, at one place of which all of `places` are.
void TokenConstraint::AddTerminal(std::span<const GrammarPlace> places, std::span<uint32_t> bits) {
  const GrammarPlace& place = places[0];
  const uint32_t index = masks_->grammar().states[place.state].a;
  const ByteAutomaton& terminal = masks_->grammar().terminals[index];
  const uint64_t missing = place.chars < terminal.least ? terminal.least - place.chars : 0;
  uint64_t walked = 0;
  const auto mask = masks_->Get({index, place.position, missing, terminal.most - place.chars}, &walked);
  // A node of the vocabulary's tries costs less than a reading does.
  constexpr uint64_t kNodesPerStep = 8;
  if (!matcher().Spend(walked / kNodesPerStep)) return;
  for (size_t i = 0; i < bits.size(); ++i) bits[i] |= mask->bits[i];
  if (!mask->has_exits) return;
  const size_t frames = position_.frames.size();
  const size_t returns = position_.returns.size();
  matcher().Leave(places, &position_, &levels_[1]);
  for (size_t slice = 0; slice < kTokenSlices && !levels_[1].empty(); ++slice) {
    const TokenTrie& trie = masks_->vocabulary().trie(static_cast<TokenSlice>(slice));
    for (const uint32_t exit : mask->exits[slice]) WalkBelow(trie, exit, /*level=*/1, bits);
  }
  position_.frames.resize(frames);
  position_.returns.resize(returns);
}

// Adds the tokens below a node of the trie, whose places are levels_[level]. As deep as the longest token.
void TokenConstraint::WalkBelow(const TokenTrie& trie, uint32_t node, size_t level, std::span<uint32_t> bits) {
  const ByteSet allowed = matcher().Allowed(levels_[level]);
  const size_t frames = position_.frames.size();
  const size_t returns = position_.returns.size();
  if (levels_.size() <= level + 1) levels_.resize(level + 2);
  walked_ += levels_[level].size();
  if (walked_ > kPlacesWalkedMax) matcher().Exceed();
  for (uint32_t child = node + 1; child < trie.nodes[node].end; child = trie.nodes[child].end) {
    if (!HasByte(allowed, trie.nodes[child].byte)) continue;
    matcher().Step(levels_[level], trie.nodes[child].byte, &position_, &levels_[level + 1]);
    const bool lives = !levels_[level + 1].empty() || matcher().may_end();
    if (lives) AddTokens(trie, child, bits);
    if (!levels_[level + 1].empty() && trie.HasChildren(child)) WalkBelow(trie, child, level + 1, bits);
    position_.frames.resize(frames);
    position_.returns.resize(returns);
  }
  walked_ -= levels_[level].size();
  if (levels_[level + 1].capacity() > kPlacesKept) levels_[level + 1] = {};
}

Status TokenConstraint::Accept(uint32_t id) {
  const TokenVocabulary& vocabulary = masks_->vocabulary();
  if (vocabulary.IsEnd(id)) {
    if (!position_.may_end) return Error(Code::kInvalidArgument, fmt::format("the answer may not end here (token {})", id));
    ended_ = true;
    return Ok();
  }
  if (id >= vocabulary.size() || vocabulary.TextOf(id).empty() || ended_) {
    return Error(Code::kInvalidArgument, fmt::format("token {} cannot be part of a constrained answer", id));
  }
  return AcceptText(vocabulary.TextOf(id)).With(fmt::format("token {}", id));
}

Status TokenConstraint::AcceptText(std::string_view text) {
  const GrammarPosition before = position_;
  matcher().Limit(kMaskWorkMax);
  for (size_t i = 0; i < text.size(); ++i) {
    if (matcher().Advance(static_cast<uint8_t>(text[i]), &position_)) continue;
    position_ = before;
    if (matcher().exceeded()) return TooAmbiguous();
    return Error(Code::kInvalidArgument, fmt::format("byte {} of the text is not allowed here", i + 1));
  }
  matcher().Compact(&position_);
  return Ok();
}

std::string TokenConstraint::Forced() const {
  std::string text;
  GrammarPosition position = position_;
  matcher().Limit(kMaskWorkMax);
  while (!position.may_end && !ended_ && text.size() < kForcedBytesMax) {
    const ByteSet allowed = matcher().Allowed(position.places);
    if (CountBytes(allowed) != 1) break;
    uint8_t byte = 0;
    while (!HasByte(allowed, byte)) ++byte;
    if (!matcher().Advance(byte, &position)) break;
    text += static_cast<char>(byte);
  }
  text.resize(text.size() - IncompleteUtf8Tail(text));
  return text;
}

}  // namespace bantam
