#include "security/merkle.h"

#include <algorithm>
#include <bit>
#include <utility>

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

void ChunkHasher::Update(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    if (filled_bytes_ == 0) hash_.Update({&kLeaf, 1});
    const size_t count = static_cast<size_t>(std::min<uint64_t>(bytes.size(), chunk_bytes_ - filled_bytes_));
    hash_.Update(bytes.first(count));
    bytes = bytes.subspan(count);
    filled_bytes_ += count;
    if (filled_bytes_ < chunk_bytes_) continue;
    leaves_.push_back(hash_.Finish());
    filled_bytes_ = 0;
  }
}

std::vector<Digest> ChunkHasher::Finish() {
  if (filled_bytes_ != 0) leaves_.push_back(hash_.Finish());
  filled_bytes_ = 0;
  return std::exchange(leaves_, {});
}

}  // namespace bantam
