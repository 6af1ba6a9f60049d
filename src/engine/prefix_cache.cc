#include "engine/prefix_cache.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "base/check.h"

namespace bantam {
namespace {

// A block at this position costs twice what the first one does: attention to all that is in front of it.
constexpr double kDoubleCostTokens = 2048;
// More uses than this make nothing worth more: what was popular once must go some day.
constexpr uint32_t kUsesMax = 16;

}  // namespace

Digest PrefixNameOf(const Digest& parent, std::span<const uint32_t> tokens) {
  std::array<std::byte, kDigestBytes + kKvBlockTokens * sizeof(uint32_t)> bytes;
  CHECK(tokens.size() == kKvBlockTokens);
  std::memcpy(bytes.data(), parent.data(), kDigestBytes);
  std::memcpy(bytes.data() + kDigestBytes, tokens.data(), tokens.size_bytes());
  return Sha256Of(bytes);
}

size_t PrefixCache::HashOf::operator()(const Digest& digest) const {
  size_t hash = 0;
  std::memcpy(&hash, digest.data(), sizeof(hash));
  return hash;
}

Digest PrefixCache::RootOf(const PrefixOwner& owner) {
  Sha256 sha;
  const auto add = [&](std::string_view text) {
    const uint64_t size = text.size();
    sha.Update(std::as_bytes(std::span(&size, 1)));
    sha.Update(std::as_bytes(std::span(text)));
  };
  sha.Update(std::as_bytes(std::span(owner.model)));
  add(KvTypeName(owner.kv_type));
  add(owner.adapter);
  add(owner.tenant);
  return sha.Finish();
}

PrefixCache::Path PrefixCache::Walk(const Digest& root, std::span<const uint32_t> tokens, size_t blocks_max) const {
  Path path;
  Digest name = root;
  for (size_t b = 0; b < blocks_max; ++b) {
    name = PrefixNameOf(name, tokens.subspan(b * kKvBlockTokens, kKvBlockTokens));
    const auto node = nodes_.find(name);
    if (node == nodes_.end()) break;
    path.names.push_back(name);
    if (!needs_checkpoints_ || node->second.checkpoint) path.usable = b + 1;
  }
  return path;
}

size_t PrefixCache::Find(const Digest& root, std::span<const uint32_t> tokens) const {
  return tokens.empty() ? 0 : kKvBlockTokens * Walk(root, tokens, (tokens.size() - 1) / kKvBlockTokens).usable;
}

Result<size_t> PrefixCache::Adopt(const Digest& root, std::span<const uint32_t> tokens, KvSequence* sequence) {
  if (tokens.empty()) return size_t{0};
  const Path path = Walk(root, tokens, (tokens.size() - 1) / kKvBlockTokens);
  if (path.usable == 0) return size_t{0};
  KvCheckpoint from = {.length = path.usable * kKvBlockTokens};
  std::vector<uint32_t> full;
  for (size_t b = 0; b < path.usable; ++b) {
    Node& node = nodes_.at(path.names[b]);
    Use(node, path.names[b]);
    if (node.block != KvSequence::kNoBlock) full.push_back(node.block);
  }
  from.full = full;
  if (const std::optional<Checkpoint>& checkpoint = nodes_.at(path.names[path.usable - 1]).checkpoint) {
    from.windowed = checkpoint->windowed;
    if (checkpoint->states) from.state = cache_.State(*checkpoint->states, /*which=*/0);
  }
  BANTAM_TRY(sequence->Adopt(cache_, from));
  return from.length;
}

double PrefixCache::WorthOf(const Node& node) const {
  const double cost = 1 + static_cast<double>(node.depth * kKvBlockTokens) / kDoubleCostTokens;
  return inflation_ + cost * std::min(node.uses, kUsesMax);
}

void PrefixCache::Use(Node& node, const Digest& name) {
  by_worth_.erase({node.worth, name});
  ++node.uses;
  node.worth = WorthOf(node);
  by_worth_.insert({node.worth, name});
}

std::optional<PrefixCache::Checkpoint> PrefixCache::Keepable(const KvSequence& sequence, size_t length) {
  Checkpoint kept;
  if (cache_.recurrent()) {
    if (sequence.length() != length) return std::nullopt;
    Result<uint32_t> pair = cache_.TakeStates();
    if (!pair.ok() && FreeStates()) pair = cache_.TakeStates();
    if (!pair.ok()) return std::nullopt;
    kept.states = *pair;
  }
  const KvCheckpoint now = sequence.Checkpoint(cache_, length);
  if (std::find(now.windowed.begin(), now.windowed.end(), KvSequence::kNoBlock) != now.windowed.end()) {
    Drop(&kept);
    return std::nullopt;
  }
  if (kept.states) std::memcpy(cache_.State(*kept.states, /*which=*/0), now.state, cache_.state_floats() * sizeof(float));
  for (const uint32_t block : now.windowed) {
    cache_.Share(KvPart::kWindowed, block);
    kept.windowed.push_back(block);
  }
  return kept;
}

void PrefixCache::Keep(const Digest& root, std::span<const uint32_t> tokens, const KvSequence& sequence) {
  const size_t blocks = std::min(tokens.size(), sequence.length()) / kKvBlockTokens;
  if (blocks == 0) return;
  const Path path = Walk(root, tokens, blocks);
  if (path.usable == blocks) return;
  std::optional<Checkpoint> checkpoint;
  if (needs_checkpoints_) {
    checkpoint = Keepable(sequence, blocks * kKvBlockTokens);
    if (!checkpoint) return;
  }
  const std::span<const uint32_t> full = sequence.blocks(KvPart::kFull);
  Digest name = root;
  for (size_t b = 0; b < blocks; ++b) {
    const Digest parent = name;
    name = PrefixNameOf(parent, tokens.subspan(b * kKvBlockTokens, kKvBlockTokens));
    auto at = nodes_.find(name);
    if (at == nodes_.end()) {
      Node added = {.parent = parent, .depth = b + 1, .block = full.empty() ? KvSequence::kNoBlock : full[b], .checkpoint = {}};
      std::copy_n(tokens.begin() + static_cast<std::ptrdiff_t>(b * kKvBlockTokens), kKvBlockTokens, added.tokens.begin());
      if (!full.empty()) cache_.Share(KvPart::kFull, added.block);
      Insert(name, std::move(added));
      at = nodes_.find(name);
    }
    if (b + 1 == blocks) at->second.checkpoint = std::move(checkpoint);
  }
}

PrefixCache::Node& PrefixCache::Insert(const Digest& name, Node node) {
  if (node.depth > 1) ++nodes_.at(node.parent).children;
  node.worth = WorthOf(node);
  by_worth_.insert({node.worth, name});
  return nodes_.emplace(name, std::move(node)).first->second;
}

void PrefixCache::Drop(Checkpoint* checkpoint) {
  for (const uint32_t block : checkpoint->windowed) cache_.Give(KvPart::kWindowed, block);
  if (checkpoint->states) cache_.GiveStates(*checkpoint->states);
}

void PrefixCache::Remove(const Digest& name) {
  Digest at = name;
  while (true) {
    const auto found = nodes_.find(at);
    Node& node = found->second;
    CHECK(node.children == 0);
    inflation_ = std::max(inflation_, node.worth);
    if (node.checkpoint) Drop(&*node.checkpoint);
    if (node.block != KvSequence::kNoBlock) cache_.Give(KvPart::kFull, node.block);
    by_worth_.erase({node.worth, at});
    const Digest parent = node.parent;
    const bool first = node.depth == 1;
    nodes_.erase(found);
    if (first) return;
    Node& before = nodes_.at(parent);
    --before.children;
    // Only a checkpoint further on could have begun here.
    if (!needs_checkpoints_ || before.children > 0 || before.checkpoint) return;
    at = parent;
  }
}

bool PrefixCache::Free(KvPart part) {
  if (part == KvPart::kWindowed) {
    return FreeCheckpoint([&](const Checkpoint& checkpoint) {
      return std::any_of(checkpoint.windowed.begin(), checkpoint.windowed.end(),
                         [&](uint32_t block) { return cache_.holders(part, block) == 1; });
    });
  }
  // A leaf that a sequence holds too frees nothing, but keeps what is in front of it.
  for (const bool held : {false, true}) {
    for (const auto& [worth, name] : by_worth_) {
      const Node& node = nodes_.at(name);
      if (node.children > 0 || (node.block != KvSequence::kNoBlock && cache_.holders(part, node.block) > 1) != held) continue;
      Remove(Digest(name));
      return true;
    }
  }
  return false;
}

bool PrefixCache::FreeStates() {
  return FreeCheckpoint([](const Checkpoint& checkpoint) { return checkpoint.states.has_value(); });
}

template <typename Frees>
bool PrefixCache::FreeCheckpoint(const Frees& frees) {
  for (const bool any : {false, true}) {
    for (const auto& [worth, name] : by_worth_) {
      Node& node = nodes_.at(name);
      if (!node.checkpoint || !(any || frees(*node.checkpoint))) continue;
      if (node.children == 0) {
        Remove(Digest(name));
      } else {
        Drop(&*node.checkpoint);
        node.checkpoint.reset();
      }
      return true;
    }
  }
  return false;
}

void PrefixCache::Clear() {
  for (auto& [name, node] : nodes_) {
    if (node.checkpoint) Drop(&*node.checkpoint);
    if (node.block != KvSequence::kNoBlock) cache_.Give(KvPart::kFull, node.block);
  }
  nodes_.clear();
  by_worth_.clear();
}

size_t PrefixCache::Freeable(KvPart part) const {
  const std::vector<uint32_t> held = Held(part);
  size_t count = 0;
  for (size_t block = 0; block < held.size(); ++block) {
    count += held[block] > 0 && held[block] == cache_.holders(part, static_cast<uint32_t>(block)) ? 1 : 0;
  }
  return count;
}

std::vector<uint32_t> PrefixCache::Held(KvPart part) const {
  std::vector<uint32_t> held(cache_.blocks(part));
  for (const auto& [name, node] : nodes_) {
    if (part == KvPart::kFull && node.block != KvSequence::kNoBlock) ++held[node.block];
    if (part == KvPart::kWindowed && node.checkpoint) {
      for (const uint32_t block : node.checkpoint->windowed) ++held[block];
    }
  }
  return held;
}

}  // namespace bantam
