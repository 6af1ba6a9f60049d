// How keys and values lie in KV blocks. A block holds 16 tokens of every attention layer, so that a sequence's state is a
// list of blocks that can be shared, evicted and saved.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace bantam {

inline constexpr size_t kKvBlockTokens = 16;

// In the order of kernels::KernelSet::attention.
enum class KvType : uint8_t {
  kF32,
  kF16,
  kInt8,  // with one f32 scale per token, head, and K or V
};
std::string_view KvTypeName(KvType type);  // "f32", "f16", "q8"
std::optional<KvType> KvTypeFromName(std::string_view name);

struct KvHeads {
  size_t heads = 0;
  size_t head_dim = 0;
};

// Within a block: layers one after another, in each its heads, in each K [head_dim][16], V [16][head_dim], and for int8 the
// scales of K [16] and V [16] as f32. Heads start on 64-byte boundaries.
class KvLayout {
 public:
  KvLayout(KvType type, const std::vector<KvHeads>& layers);

  KvType type() const { return type_; }
  size_t block_bytes() const { return block_bytes_; }
  size_t head_dim(uint32_t layer) const { return layers_[layer].head_dim; }
  size_t heads(uint32_t layer) const { return layers_[layer].heads; }
  // Of a head's K within a block.
  size_t HeadOffset(uint32_t layer, size_t head) const { return layers_[layer].offset + head * layers_[layer].head_bytes; }

  // Stores one token's key and value [head_dim] of one head at `slot` (0..15) of a block.
  void Store(uint8_t* block, uint32_t layer, size_t head, size_t slot, const float* key, const float* value) const;

  // Bytes that attention reads for one token position over all layers.
  size_t bytes_per_token() const { return block_bytes_ / kKvBlockTokens; }

 private:
  struct Layer {
    size_t heads, head_dim, offset, head_bytes;
  };
  KvType type_;
  std::vector<Layer> layers_;
  size_t block_bytes_ = 0;
};

}  // namespace bantam
