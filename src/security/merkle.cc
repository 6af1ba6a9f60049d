#include "security/merkle.h"

#include <bit>

#include "base/check.h"

namespace bantam {
namespace {

constexpr std::byte kLeaf{0};
constexpr std::byte kNode{1};

}  // namespace

Digest MerkleLeaf(std::span<const std::byte> chunk) {
  Sha256 hash;
  hash.Update({&kLeaf, 1});
  hash.Update(chunk);
  return hash.Finish();
}

Digest MerkleRoot(std::span<const Digest> leaves) {
  CHECK(!leaves.empty());
  if (leaves.size() == 1) return leaves[0];
  const size_t left = std::bit_floor(leaves.size() - 1);
  const Digest children[] = {MerkleRoot(leaves.first(left)), MerkleRoot(leaves.subspan(left))};
  Sha256 hash;
  hash.Update({&kNode, 1});
  hash.Update(std::as_bytes(std::span(children)));
  return hash.Finish();
}

}  // namespace bantam
