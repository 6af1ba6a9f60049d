#include "tensor/dtype.h"

#include <array>
#include <cstring>

#include "base/bytes.h"
#include "base/check.h"
#include "tensor/block_codes.h"
#include "tensor/half.h"

namespace bantam {
namespace {

constexpr std::array kTable = {
    DTypeInfo{DType::kF32, "F32", 0, 1, 4, PanelKind::kF32, nullptr, nullptr},
    DTypeInfo{DType::kF16, "F16", 1, 1, 2, PanelKind::kF16, nullptr, nullptr},
    DTypeInfo{DType::kBF16, "BF16", 30, 1, 2, PanelKind::kBF16, nullptr, nullptr},
    DTypeInfo{DType::kQ8_0, "Q8_0", 8, 32, 34, PanelKind::kQ8, DecodeQ8_0, nullptr},
    DTypeInfo{DType::kQ4_0, "Q4_0", 2, 32, 18, PanelKind::kQ4, DecodeQ4_0, nullptr},
    DTypeInfo{DType::kQ4_K, "Q4_K", 12, 256, 144, PanelKind::kQ4S, DecodeQ4_K, nullptr},
    DTypeInfo{DType::kQ5_K, "Q5_K", 13, 256, 176, PanelKind::kQ5S, DecodeQ5_K, nullptr},
    DTypeInfo{DType::kQ6_K, "Q6_K", 14, 256, 210, PanelKind::kQ6S, DecodeQ6_K, nullptr},
    DTypeInfo{DType::kQ2_K, "Q2_K", 10, 256, 84, PanelKind::kQ2S, DecodeQ2_K, nullptr},
    DTypeInfo{DType::kIQ2_XXS, "IQ2_XXS", 16, 256, 66, PanelKind::kLut4, DecodeIQ2_XXS, &kIQ2Table},
};

constexpr bool InOrder() {
  for (size_t i = 0; i < kTable.size(); ++i) {
    if (static_cast<size_t>(kTable[i].dtype) != i) return false;
  }
  return true;
}
static_assert(InOrder(), "kTable is indexed by DType");

const PanelTable kNoTable;

void PackFloatPanel(size_t element_bytes, const uint8_t* const rows[kPanelRows], size_t columns, uint8_t* panel) {
  for (size_t r = 0; r < kPanelRows; ++r) {
    for (size_t k = 0; k < columns; ++k) {
      uint8_t* target = panel + (k * kPanelRows + r) * element_bytes;
      if (rows[r] == nullptr) {
        std::memset(target, 0, element_bytes);
      } else {
        std::memcpy(target, rows[r] + k * element_bytes, element_bytes);
      }
    }
  }
}

}  // namespace

const DTypeInfo& Info(DType dtype) { return kTable[static_cast<size_t>(dtype)]; }

std::optional<DType> DTypeFromGguf(uint32_t gguf_id) {
  for (const DTypeInfo& info : kTable) {
    if (info.gguf_id == gguf_id) return info.dtype;
  }
  return std::nullopt;
}

const PanelTable& TableOf(DType dtype) { return Info(dtype).table == nullptr ? kNoTable : *Info(dtype).table; }

void Unpack(DType dtype, const uint8_t* blocks, size_t elements, float* values) {
  const DTypeInfo& info = Info(dtype);
  DCHECK(elements % info.block_elements == 0);
  if (dtype == DType::kF32) {
    if (elements != 0) std::memcpy(values, blocks, elements * sizeof(float));
    return;
  }
  if (info.decode == nullptr) {
    for (size_t i = 0; i < elements; ++i) {
      const uint16_t bits = LoadUnaligned<uint16_t>(blocks + 2 * i);
      values[i] = dtype == DType::kF16 ? F16ToF32(bits) : BF16ToF32(bits);
    }
    return;
  }
  BlockCodes codes;
  for (size_t i = 0; i < elements; i += info.block_elements, blocks += info.block_bytes) {
    info.decode(blocks, &codes);
    UnpackCodes(info.panel, codes, TableOf(dtype), values + i);
  }
}

void PackPanel(DType dtype, const uint8_t* const rows[kPanelRows], size_t columns, uint8_t* panel) {
  const DTypeInfo& info = Info(dtype);
  const PanelInfo& layout = Info(info.panel);
  DCHECK(columns % info.block_elements == 0 && columns % layout.group_columns == 0);
  if (info.decode == nullptr) {
    PackFloatPanel(info.block_bytes, rows, columns, panel);
    return;
  }
  DCHECK(info.block_elements == layout.group_columns);
  std::memset(panel, 0, PanelBytes(info.panel, columns));
  BlockCodes codes;
  for (size_t r = 0; r < kPanelRows; ++r) {
    if (rows[r] == nullptr) continue;  // scales of zero make the row zero
    const uint8_t* block = rows[r];
    uint8_t* group = panel;
    for (size_t k = 0; k < columns; k += info.block_elements, block += info.block_bytes, group += layout.group_bytes) {
      info.decode(block, &codes);
      WriteGroupRow(info.panel, codes, r, group);
    }
  }
}

}  // namespace bantam
