#include "security/merkle.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "security/sha256_pair.h"

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

std::array<Digest, 2> MerkleLeaves(std::span<const std::byte> first, std::span<const std::byte> second) {
  constexpr size_t kHead = kSha256BlockBytes - 1;  // of a chunk, beside the byte in front of it
  const Sha256PairFunction pair = FindSha256Pair();
  const size_t size = first.size();
  if (pair == nullptr || second.size() != size || size < kHead) return {MerkleLeaf(first), MerkleLeaf(second)};
  std::array<Sha256State, 2> states = {kSha256Start, kSha256Start};
  // The blocks that are not the chunk's bytes alone: the first, and one or two with the end and the message's length (FIPS 180-4, 5.1.1).
  std::array<std::array<uint8_t, 3 * kSha256BlockBytes>, 2> own = {};
  const size_t whole = (size - kHead) / kSha256BlockBytes;
  const size_t rest = (size - kHead) % kSha256BlockBytes;
  const size_t ends = rest + 1 + sizeof(uint64_t) <= kSha256BlockBytes ? 1 : 2;
  std::array<const uint8_t*, 2> heads;
  std::array<const uint8_t*, 2> middles;
  std::array<const uint8_t*, 2> tails;
  for (size_t m = 0; m < 2; ++m) {
    const auto* bytes = reinterpret_cast<const uint8_t*>((m == 0 ? first : second).data());
    own[m][0] = static_cast<uint8_t>(kLeaf);
    std::memcpy(own[m].data() + 1, bytes, kHead);
    heads[m] = own[m].data();
    middles[m] = bytes + kHead;
    uint8_t* tail = own[m].data() + kSha256BlockBytes;
    std::memcpy(tail, bytes + size - rest, rest);
    tail[rest] = 0x80;
    StoreBigEndian(uint64_t{8} * (size + 1), tail + ends * kSha256BlockBytes - sizeof(uint64_t));
    tails[m] = tail;
  }
  pair(&states, heads, 1);
  pair(&states, middles, whole);
  pair(&states, tails, ends);
  std::array<Digest, 2> digests;
  for (size_t m = 0; m < 2; ++m) {
    for (size_t i = 0; i < states[m].size(); ++i) StoreBigEndian(states[m][i], digests[m].data() + 4 * i);
  }
  return digests;
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
