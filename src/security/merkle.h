// Merkle trees over chunks of a byte sequence (RFC 6962, section 2.1: leaves and nodes are hashed with different first bytes).
#pragma once

#include <cstddef>
#include <span>

#include "security/sha256.h"

namespace bantam {

Digest MerkleLeaf(std::span<const std::byte> chunk);

// The root of at least one leaf.
Digest MerkleRoot(std::span<const Digest> leaves);

}  // namespace bantam
