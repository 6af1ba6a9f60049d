// Merkle trees over chunks of a byte sequence (RFC 6962, section 2.1: leaves and nodes are hashed with different first bytes).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "security/sha256.h"

namespace bantam {

Digest MerkleLeaf(std::span<const std::byte> chunk);

// Of two chunks, in less than twice the time where they have one length and the processor has instructions for it.
std::array<Digest, 2> MerkleLeaves(std::span<const std::byte> first, std::span<const std::byte> second);

// The root of at least one leaf.
Digest MerkleRoot(std::span<const Digest> leaves);

// The leaves of a sequence that comes piece by piece.
class ChunkHasher {
 public:
  explicit ChunkHasher(uint64_t chunk_bytes) : chunk_bytes_(chunk_bytes) {}
  void Update(std::span<const std::byte> bytes);
  // Of all bytes since the start; what follows is a new sequence.
  std::vector<Digest> Finish();

 private:
  const uint64_t chunk_bytes_;
  uint64_t filled_bytes_ = 0;  // of the current chunk
  Sha256 hash_;
  std::vector<Digest> leaves_;
};

}  // namespace bantam
