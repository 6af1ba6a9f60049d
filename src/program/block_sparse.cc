#include "program/block_sparse.h"

namespace bantam {
namespace {

// The first of the local blocks of query block `block`, and how many in front of it are seen from everywhere.
struct Front {
  size_t first_local;
  size_t global;
};
Front FrontOf(const BlockSparse& sparse, size_t block) {
  const size_t first_local = block + 1 > sparse.local_blocks ? block + 1 - sparse.local_blocks : 0;
  return {first_local, sparse.global_stride == 0 ? 0 : first_local / sparse.global_stride};
}

}  // namespace

size_t SeenTokens(const BlockSparse& sparse, size_t position) {
  if (sparse.block_tokens == 0) return position + 1;
  const size_t block = position / sparse.block_tokens;
  const auto [first_local, global] = FrontOf(sparse, block);
  return (global + block - first_local) * sparse.block_tokens + position % sparse.block_tokens + 1;
}

std::span<const uint32_t> SeenBlocks(const BlockSparse& sparse, size_t position, uint32_t* numbers) {
  const size_t per_block = sparse.block_tokens / kKvBlockTokens;
  const auto [first_local, global] = FrontOf(sparse, position / sparse.block_tokens);
  size_t n = 0;
  for (size_t g = 1; g <= global; ++g) {
    const size_t block = g * sparse.global_stride - 1;
    for (size_t i = 0; i < per_block; ++i) numbers[n++] = static_cast<uint32_t>(block * per_block + i);
  }
  for (size_t kv = first_local * per_block; kv <= position / kKvBlockTokens; ++kv) numbers[n++] = static_cast<uint32_t>(kv);
  return {numbers, n};
}

}  // namespace bantam
