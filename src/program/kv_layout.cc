#include "program/kv_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "kernels/kernel_types.h"
#include "tensor/arena.h"
#include "tensor/dtype.h"
#include "tensor/half.h"

namespace bantam {
namespace {

static_assert(kKvBlockTokens == kernels::kKvTokens);

// Of a token's key.
size_t KeyBytes(KvType type, size_t head_dim) {
  if (type == KvType::kF32) return 4 * head_dim;
  return type == KvType::kF16 ? 2 * head_dim : head_dim;
}
size_t ValueBytes(KvType type, size_t head_dim) {
  return KvFormOf(type) == KvFormOf(KvType::kInt8Int4) ? (head_dim + 1) / 2 : KeyBytes(type, head_dim);
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

// The code whose value is nearest to each whole number from -128 on.
std::array<uint8_t, 256> NearestCodes() {
  const auto& values = TableOf(DType::kIQ4_NL).value;
  std::array<uint8_t, 256> nearest;
  for (int x = -128; x < 128; ++x) {
    size_t best = 0;
    for (size_t code = 1; code < values.size(); ++code) {
      if (std::abs(x - values[code]) < std::abs(x - values[best])) best = code;
    }
    nearest[static_cast<size_t>(x + 128)] = static_cast<uint8_t>(best);
  }
  return nearest;
}

// The largest magnitude becomes the table's; the scale is then the one that leaves the smallest squares.
void StoreInt4(uint8_t* base, const float* x, size_t n, uint8_t* scale_at) {
  static const std::array<uint8_t, 256> nearest = NearestCodes();
  const auto& values = TableOf(DType::kIQ4_NL).value;
  float largest = 0;
  for (size_t i = 0; i < n; ++i) largest = std::fabs(x[i]) > std::fabs(largest) ? x[i] : largest;
  const bool zeros = !(std::fabs(largest) >= kQuantizedMin);
  const float inverse = zeros ? 0.0f : static_cast<float>(values[0]) / largest;
  float products = 0;
  float squares = 0;
  std::memset(base, 0, (n + 1) / 2);
  for (size_t i = 0; i < n; ++i) {
    const uint8_t code = nearest[static_cast<size_t>(RoundToInt8(x[i] * inverse) + 128)];
    const auto value = static_cast<float>(values[code]);
    products += value * x[i];
    squares += value * value;
    base[i / 2] = static_cast<uint8_t>(base[i / 2] | code << (i % 2 * 4));
  }
  const float scale = zeros ? 0.0f : products / squares;
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
    case KvType::kInt8Int4:
      return "q8-q4";
    case KvType::kInt8Rotated:
      return "q8-rotate";
    case KvType::kInt8Int4Rotated:
      return "q8-q4-rotate";
  }
  return "f32";
}

std::string KvTypeNames() {
  std::string names;
  for (const KvType type : kAllKvTypes) {
    names += fmt::format("{}{}", type == kAllKvTypes.front() ? "" : type == kAllKvTypes.back() ? " or " : ", ", KvTypeName(type));
  }
  return names;
}

bool IsRotated(KvType type) { return type == KvType::kInt8Rotated || type == KvType::kInt8Int4Rotated; }
bool IsFloat(KvType type) { return type == KvType::kF32 || type == KvType::kF16; }

size_t KvFormOf(KvType type) {
  switch (type) {
    case KvType::kF32:
      return 0;
    case KvType::kF16:
      return 1;
    case KvType::kInt8:
    case KvType::kInt8Rotated:
      return 2;
    case KvType::kInt8Int4:
    case KvType::kInt8Int4Rotated:
      return 3;
  }
  return 0;
}

std::optional<KvType> BetterKvType(KvType type) {
  switch (type) {
    case KvType::kF32:
    case KvType::kF16:
      return std::nullopt;
    case KvType::kInt8Int4:
      return KvType::kInt8Int4Rotated;
    case KvType::kInt8Int4Rotated:
    case KvType::kInt8:
      return KvType::kInt8Rotated;
    case KvType::kInt8Rotated:
      return KvType::kF16;
  }
  return std::nullopt;
}

std::optional<KvType> KvTypeFromName(std::string_view name) {
  for (const KvType type : kAllKvTypes) {
    if (name == KvTypeName(type)) return type;
  }
  return std::nullopt;
}

KvLayout::KvLayout(KvType type, const std::vector<KvHeads>& layers, size_t block_multiple) : type_(type) {
  for (const KvHeads& heads : layers) {
    size_t head_bytes = kKvBlockTokens * (KeyBytes(type, heads.head_dim) + ValueBytes(type, heads.head_dim));
    if (!IsFloat(type)) head_bytes += 2 * kKvBlockTokens * sizeof(float);
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
  uint8_t* keys = block + HeadOffset(layer, head) + slot * KeyBytes(type_, 1);
  uint8_t* head_values = block + HeadOffset(layer, head) + kKvBlockTokens * KeyBytes(type_, n);
  uint8_t* values = head_values + slot * ValueBytes(type_, n);
  uint8_t* scales = head_values + kKvBlockTokens * ValueBytes(type_, n);
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
    case KvType::kInt8Rotated:
      StoreInt8(keys, key, n, kKvBlockTokens, scales + slot * sizeof(float));
      StoreInt8(values, value, n, /*stride=*/1, scales + (kKvBlockTokens + slot) * sizeof(float));
      return;
    case KvType::kInt8Int4:
    case KvType::kInt8Int4Rotated:
      StoreInt8(keys, key, n, kKvBlockTokens, scales + slot * sizeof(float));
      StoreInt4(values, value, n, scales + (kKvBlockTokens + slot) * sizeof(float));
      return;
  }
}

}  // namespace bantam
