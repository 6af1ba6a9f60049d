// PrefixCache: what sequences have computed, kept for others that begin with the same tokens.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/disk.h"
#include "base/result.h"
#include "model/kv_cache.h"
#include "security/sha256.h"

namespace bantam {

// What must be equal beside tokens for KV to be the same: and whose it is, for a tenant must not learn from times what others asked.
struct PrefixOwner {
  Digest model{};
  KvType kv_type = KvType::kF16;
  std::string_view adapter = {};  // empty: none
  std::string_view tenant = {};
};

// The name of a block of 16 tokens behind the one of that name, or behind a root.
Digest PrefixNameOf(const Digest& parent, std::span<const uint32_t> tokens);

// A tree of blocks of 16 tokens, named by a chained SHA-256: of the owner, then of the parent's name and the block's tokens. A node holds
// its block of layers that see everything. Layers with a window or a recurrent state can go on only from a checkpoint, which some nodes
// have. Who needs room takes it from what is worth least (GreedyDual-Size with frequencies; Cherkasova, "Improving WWW proxies performance
// with Greedy-Dual-Size-Frequency caching policy", 1998): blocks are of one size, cost more to compute the further behind they stand, and
// count as often as they were used.
class PrefixCache {
 public:
  // The KV cache outlives it. `window`: the widest of layers that have one, 0: none has.
  PrefixCache(KvCache& cache, size_t window) : cache_(cache), window_(window), needs_checkpoints_(window > 0 || cache.recurrent()) {}
  ~PrefixCache() { Clear(); }
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  static Digest RootOf(const PrefixOwner& owner);

  // How many of these tokens are kept, at most all but the last, whose logits nobody has.
  size_t Find(const Digest& root, std::span<const uint32_t> tokens) const;
  // The same, and an empty sequence begins with them. Exhausted when no pair of states is free.
  Result<size_t> Adopt(const Digest& root, std::span<const uint32_t> tokens, KvSequence* sequence);

  // Keeps the whole blocks of a sequence that has computed these tokens, with a checkpoint at the last of them if the sequence stands there
  // (recurrent) or still holds what a window sees. Without a checkpoint where one is needed, nothing is kept.
  void Keep(const Digest& root, std::span<const uint32_t> tokens, const KvSequence& sequence);

  // Forgets what is worth least, first of what nobody else holds: then a block of a part, or a pair of states, is free. Where a sequence
  // holds what stands behind it, that goes first, and nothing is free yet. False: there is nothing left to forget.
  bool Free(KvPart part);
  bool FreeStates();
  void Clear();

  size_t nodes() const { return nodes_.size(); }
  // Blocks of a part that Free could give back, all in all.
  size_t Freeable(KvPart part) const;

  // Writes all of it to a file (docs/formats/prefixes.md), and reads what of one fits: blocks that are free, and no others. `model` and
  // `kv_type` are the owner's; a file of others is NotFound, one that is damaged Corrupt, and nothing of it stays. Returns the nodes read.
  struct FileOf {
    Digest model{};
    KvType kv_type = KvType::kF16;
  };
  Status Save(PartFile& file, const FileOf& of) const;
  Result<size_t> Load(PartFile& file, const FileOf& of);

  // How often each block is held by the cache; for the validator. [blocks of the part]
  std::vector<uint32_t> Held(KvPart part) const;

 private:
  struct Node;
  struct HashOf {
    size_t operator()(const Digest& digest) const;
  };
  using Nodes = std::unordered_map<Digest, Node, HashOf>;
  struct Checkpoint {
    std::vector<uint32_t> windowed;
    std::optional<uint32_t> states;  // pair, of which the first is used
  };
  struct Node {
    Digest parent{};
    std::array<uint32_t, kKvBlockTokens> tokens{};
    size_t depth = 0;  // blocks in front of it and itself
    uint32_t block = KvSequence::kNoBlock;
    size_t children = 0;
    uint32_t uses = 1;
    double worth = 0;
    std::optional<Checkpoint> checkpoint;
  };
  struct Path {
    std::vector<Digest> names;  // of nodes that are there, from the first block on
    size_t usable = 0;          // of them: up to one that a sequence can begin with
  };
  friend class PrefixWriter;
  friend class PrefixReader;
  // A node that is not there yet, behind its parent's.
  Node& Insert(const Digest& name, Node node);
  Path Walk(const Digest& root, std::span<const uint32_t> tokens, size_t blocks_max) const;
  double WorthOf(const Node& node) const;
  void Use(Node& node, const Digest& name);
  std::optional<Checkpoint> Keepable(const KvSequence& sequence, size_t length);
  void Drop(Checkpoint* checkpoint);
  // A node without children, and those in front of it that are then of no use.
  void Remove(const Digest& name);
  // Removes the cheapest checkpoint that `frees`, or the leaf below it.
  template <typename Frees>
  bool FreeCheckpoint(const Frees& frees);

  KvCache& cache_;
  const size_t window_;
  const bool needs_checkpoints_;
  Nodes nodes_;
  std::set<std::pair<double, Digest>> by_worth_;  // all nodes
  double inflation_ = 0;                          // the worth of what went last
};

}  // namespace bantam
