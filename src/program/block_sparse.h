// Block-sparse attention: queries and keys are taken in blocks, and a block of queries sees some blocks of keys (Abdin et al., "Phi-3
// technical report", 2024, section 2). What no query of a block sees is not read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace bantam {

inline constexpr size_t kKvBlockTokens = 16;

// Query block i sees key block j <= i where i - j < local_blocks, or where j + 1 is a multiple of global_stride.
struct BlockSparse {
  size_t block_tokens = 0;   // a multiple of kKvBlockTokens; 0: everything is seen
  size_t local_blocks = 0;   // at least 1: the query's own
  size_t global_stride = 0;  // 0: none is seen from everywhere

  bool operator==(const BlockSparse&) const = default;
};

// Tokens that the query at `position` sees, itself included.
size_t SeenTokens(const BlockSparse& sparse, size_t position);

// KV blocks that queries of the block of `position`, up to it, see, rising. `numbers` has room for SeenTokens / kKvBlockTokens, rounded up.
std::span<const uint32_t> SeenBlocks(const BlockSparse& sparse, size_t position, uint32_t* numbers);

}  // namespace bantam
