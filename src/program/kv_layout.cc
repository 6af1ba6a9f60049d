#include "program/kv_layout.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/kernel_types.h"
#include "tensor/arena.h"
#include "tensor/half.h"

namespace bantam {
namespace {

static_assert(kKvBlockTokens == kernels::kKvTokens);

size_t ElementBytes(KvType type) {
  switch (type) {
    case KvType::kF32:
      return 4;
    case KvType::kF16:
      return 2;
    case KvType::kInt8:
      return 1;
  }
  return 4;
}

// Element i of a token goes to base + i * stride, in elements.
void StoreFloats(uint8_t* base, const float* x, size_t n, size_t stride) {
  for (size_t i = 0; i < n; ++i) std::memcpy(base + 4 * i * stride, x + i, 4);
}
void StoreHalves(uint8_t* base, const float* x, size_t n, size_t stride) {
  for (size_t i = 0; i < n; ++i) {
    const uint16_t half = F32ToF16(x[i]);
    std::memcpy(base + 2 * i * stride, &half, 2);
  }
}
void StoreInt8(uint8_t* base, const float* x, size_t n, size_t stride, uint8_t* scale_at) {
  float largest = 0;
  for (size_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
  const bool zeros = !(largest >= kQuantizedMin);
  const float scale = zeros ? 0.0f : largest / 127.0f;
  const float inverse = zeros ? 0.0f : 127.0f / largest;
  for (size_t i = 0; i < n; ++i) base[i * stride] = static_cast<uint8_t>(RoundToInt8(x[i] * inverse));
  std::memcpy(scale_at, &scale, sizeof(scale));
}

}  // namespace

std::string_view KvTypeName(KvType type) {
  switch (type) {
    case KvType::kF32:
      return "f32";
    case KvType::kF16:
      return "f16";
    case KvType::kInt8:
      return "q8";
  }
  return "f32";
}

std::optional<KvType> KvTypeFromName(std::string_view name) {
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kInt8}) {
    if (name == KvTypeName(type)) return type;
  }
  return std::nullopt;
}

KvLayout::KvLayout(KvType type, const std::vector<KvHeads>& layers, size_t block_multiple) : type_(type) {
  for (const KvHeads& heads : layers) {
    size_t head_bytes = 2 * kKvBlockTokens * heads.head_dim * ElementBytes(type);
    if (type == KvType::kInt8) head_bytes += 2 * kKvBlockTokens * sizeof(float);
    head_bytes = AlignUp(head_bytes);
    size_t& block_bytes = block_bytes_[heads.window == 0 ? KvPart::kFull : KvPart::kWindowed];
    layers_.push_back({heads.heads, heads.head_dim, heads.window, heads.sparse, block_bytes, head_bytes});
    block_bytes += heads.heads * head_bytes;
  }
  for (const KvPart part : kAllKvParts) block_bytes_[part] = (block_bytes_[part] + block_multiple - 1) / block_multiple * block_multiple;
}

uint64_t KvLayout::ReadBytes(size_t context) const {
  uint64_t total = 0;
  for (const Layer& layer : layers_) {
    const size_t sparse = context == 0 ? 0 : SeenTokens(layer.sparse, context - 1);
    const size_t seen = layer.window == 0 ? sparse : std::min(sparse, layer.window);
    total += seen * (layer.heads * layer.head_bytes / kKvBlockTokens);
  }
  return total;
}

void KvLayout::Store(uint8_t* block, uint32_t layer, size_t head, size_t slot, const float* key, const float* value) const {
  const size_t n = layers_[layer].head_dim;
  const size_t element = ElementBytes(type_);
  uint8_t* keys = block + HeadOffset(layer, head) + slot * element;
  uint8_t* head_values = block + HeadOffset(layer, head) + kKvBlockTokens * n * element;
  uint8_t* values = head_values + slot * n * element;
  uint8_t* scales = head_values + kKvBlockTokens * n * element;
  switch (type_) {
    case KvType::kF32:
      StoreFloats(keys, key, n, kKvBlockTokens);
      StoreFloats(values, value, n, /*stride=*/1);
      return;
    case KvType::kF16:
      StoreHalves(keys, key, n, kKvBlockTokens);
      StoreHalves(values, value, n, /*stride=*/1);
      return;
    case KvType::kInt8:
      StoreInt8(keys, key, n, kKvBlockTokens, scales + slot * sizeof(float));
      StoreInt8(values, value, n, /*stride=*/1, scales + (kKvBlockTokens + slot) * sizeof(float));
      return;
  }
}

}  // namespace bantam
