// How keys and values lie in KV blocks. A block holds 16 tokens of every attention layer, so that a sequence's state is a
// list of blocks that can be shared, evicted and saved.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "program/block_sparse.h"

namespace bantam {

// In the order of their numbers in files (docs/formats/prefixes.md).
enum class KvType : uint8_t {
  kF32,
  kF16,
  kInt8,      // with one f32 scale per token, head, and K or V
  kInt8Int4,  // the same, but 4 bits for values: codes of IQ4_NL's table
  // The same of keys and values that were rotated first (program/hadamard.h), as queries are then, and outputs are turned back.
  kInt8Rotated,
  kInt8Int4Rotated,
};
inline constexpr std::array kAllKvTypes = {KvType::kF32,      KvType::kF16,         KvType::kInt8,
                                           KvType::kInt8Int4, KvType::kInt8Rotated, KvType::kInt8Int4Rotated};
std::string_view KvTypeName(KvType type);  // "f32", "f16", "q8", "q8-q4", "q8-rotate", "q8-q4-rotate"
std::optional<KvType> KvTypeFromName(std::string_view name);
std::string KvTypeNames();  // "f32, f16, ... or q8-q4-rotate", for messages
bool IsRotated(KvType type);
bool IsFloat(KvType type);
// Which of kernels::KernelSet::attention reads it.
size_t KvFormOf(KvType type);
// The next type that loses less: rotated where that takes no more memory, else of more bits; none behind f16.
std::optional<KvType> BetterKvType(KvType type);

struct KvHeads {
  size_t heads = 0;
  size_t head_dim = 0;
  size_t window = 0;  // tokens that a query sees, itself included; 0: all
  BlockSparse sparse = {};
};

// Layers that see the whole context and layers with a window keep their blocks apart: the latter need few and reuse them as a ring.
enum class KvPart : uint8_t { kFull, kWindowed };
inline constexpr size_t kKvParts = 2;
inline constexpr std::array<KvPart, kKvParts> kAllKvParts = {KvPart::kFull, KvPart::kWindowed};

// One value per part.
template <typename T>
class PerKvPart {
 public:
  T& operator[](KvPart part) { return values_[static_cast<size_t>(part)]; }
  const T& operator[](KvPart part) const { return values_[static_cast<size_t>(part)]; }

 private:
  std::array<T, kKvParts> values_{};
};

// Where a sequence's blocks are: table[b] is the block that holds tokens 16 b to 16 b + 15 (of a ring, if it still does).
using KvTables = PerKvPart<const uint32_t*>;

// Within a block: the part's layers one after another, in each its heads, in each K [head_dim][16], V [16][head_dim], and for integers the
// scales of K [16] and V [16] as f32. Heads start on 64-byte boundaries.
class KvLayout {
 public:
  // Blocks are of a multiple of `block_multiple` bytes.
  KvLayout(KvType type, const std::vector<KvHeads>& layers, size_t block_multiple = 1);

  KvType type() const { return type_; }
  size_t block_bytes(KvPart part) const { return block_bytes_[part]; }
  KvPart part(uint32_t layer) const { return layers_[layer].window == 0 ? KvPart::kFull : KvPart::kWindowed; }
  size_t window(uint32_t layer) const { return layers_[layer].window; }
  const BlockSparse& sparse(uint32_t layer) const { return layers_[layer].sparse; }
  size_t head_dim(uint32_t layer) const { return layers_[layer].head_dim; }
  size_t heads(uint32_t layer) const { return layers_[layer].heads; }
  // Of a head's K within a block.
  size_t HeadOffset(uint32_t layer, size_t head) const { return layers_[layer].offset + head * layers_[layer].head_bytes; }

  // Stores one token's key and value [head_dim], which the caller has rotated where the type is, of one head at `slot` (0..15) of a block.
  void Store(uint8_t* block, uint32_t layer, size_t head, size_t slot, const float* key, const float* value) const;

  // Bytes that attention reads for one query over `context` tokens, all layers together.
  uint64_t ReadBytes(size_t context) const;

 private:
  struct Layer {
    size_t heads, head_dim, window;
    BlockSparse sparse;
    size_t offset, head_bytes;
  };
  KvType type_;
  std::vector<Layer> layers_;
  PerKvPart<size_t> block_bytes_;
};

}  // namespace bantam
