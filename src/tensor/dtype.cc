#include "tensor/dtype.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/bytes.h"
#include "base/check.h"
#include "tensor/block_codes.h"
#include "tensor/block_encode.h"
#include "tensor/block_pack.h"
#include "tensor/half.h"
#include "tensor/iq_blocks.h"

namespace bantam {
namespace {

constexpr std::array<DTypeInfo, kDTypes> kTable = {{
    {DType::kF32, "F32", 0, 1, 4, PanelKind::kF32, nullptr, nullptr, nullptr, nullptr, nullptr},
    {DType::kF16, "F16", 1, 1, 2, PanelKind::kF16, nullptr, nullptr, nullptr, nullptr, nullptr},
    {DType::kBF16, "BF16", 30, 1, 2, PanelKind::kBF16, nullptr, nullptr, nullptr, nullptr, nullptr},
    {DType::kQ8_0, "Q8_0", 8, 32, 34, PanelKind::kQ8, DecodeQ8_0, nullptr, PackQ8_0, nullptr, EncodeQ8_0},
    {DType::kQ4_0, "Q4_0", 2, 32, 18, PanelKind::kQ4, DecodeQ4_0, nullptr, PackQ4_0, nullptr, EncodeQ4_0},
    {DType::kQ4_K, "Q4_K", 12, 256, 144, PanelKind::kQ4S, DecodeQ4_K, nullptr, PackQ4_K, nullptr, EncodeQ4_K},
    {DType::kQ5_K, "Q5_K", 13, 256, 176, PanelKind::kQ5S, DecodeQ5_K, nullptr, PackQ5_K, nullptr, EncodeQ5_K},
    {DType::kQ6_K, "Q6_K", 14, 256, 210, PanelKind::kQ6S, DecodeQ6_K, nullptr, PackQ6_K, nullptr, EncodeQ6_K},
    {DType::kQ2_K, "Q2_K", 10, 256, 84, PanelKind::kQ2S, DecodeQ2_K, nullptr, PackQ2_K, nullptr, EncodeQ2_K},
    {DType::kIQ2_XXS, "IQ2_XXS", 16, 256, 66, PanelKind::kLut4, DecodeIQ2_XXS, &kIQ2Table, nullptr, WriteIQ2_XXS, nullptr},
    {DType::kQ4_1, "Q4_1", 3, 32, 20, PanelKind::kQ4M, DecodeQ4_1, nullptr, PackQ4_1, nullptr, EncodeQ4_1},
    {DType::kQ5_0, "Q5_0", 6, 32, 22, PanelKind::kQ5, DecodeQ5_0, nullptr, PackQ5_0, nullptr, EncodeQ5_0},
    {DType::kQ5_1, "Q5_1", 7, 32, 24, PanelKind::kQ5M, DecodeQ5_1, nullptr, PackQ5_1, nullptr, EncodeQ5_1},
    {DType::kQ3_K, "Q3_K", 11, 256, 110, PanelKind::kQ3S, DecodeQ3_K, nullptr, PackQ3_K, nullptr, EncodeQ3_K},
    {DType::kIQ2_XS, "IQ2_XS", 17, 256, 74, PanelKind::kLut4H, DecodeIQ2_XS, &kIQ2Table, nullptr, WriteIQ2_XS, nullptr},
    {DType::kIQ2_S, "IQ2_S", 22, 256, 82, PanelKind::kLut4H, DecodeIQ2_S, &kIQ2Table, nullptr, WriteIQ2_S, nullptr},
    {DType::kIQ3_XXS, "IQ3_XXS", 18, 256, 98, PanelKind::kLut4, DecodeIQ3_XXS, &kIQ3XXSTable, nullptr, WriteIQ3_XXS, nullptr},
    {DType::kIQ3_S, "IQ3_S", 21, 256, 110, PanelKind::kLut4, DecodeIQ3_S, &kIQ3STable, nullptr, WriteIQ3_S, nullptr},
    {DType::kIQ1_S, "IQ1_S", 19, 256, 50, PanelKind::kLut4, DecodeIQ1_S, &kIQ1Table, nullptr, WriteIQ1_S, nullptr},
    {DType::kIQ1_M, "IQ1_M", 29, 256, 56, PanelKind::kLut4H, DecodeIQ1_M, &kIQ1Table, nullptr, WriteIQ1_M, nullptr},
    {DType::kIQ4_NL, "IQ4_NL", 20, 32, 18, PanelKind::kLut4B, DecodeIQ4_NL, &kIQ4Table, PackIQ4_NL, nullptr, EncodeIQ4_NL},
    {DType::kIQ4_XS, "IQ4_XS", 23, 256, 136, PanelKind::kLut4, DecodeIQ4_XS, &kIQ4Table, PackIQ4_XS, nullptr, EncodeIQ4_XS},
    {DType::kTQ1_0, "TQ1_0", 34, 256, 54, PanelKind::kQ2, DecodeTQ1_0, nullptr, PackTQ1_0, nullptr, nullptr},
    {DType::kTQ2_0, "TQ2_0", 35, 256, 66, PanelKind::kQ2, DecodeTQ2_0, nullptr, PackTQ2_0, nullptr, nullptr},
    {DType::kMXFP4, "MXFP4", 39, 32, 17, PanelKind::kFp4, DecodeMXFP4, &kFp4Table, PackMXFP4, nullptr, EncodeMXFP4},
    {DType::kNVFP4, "NVFP4", 40, 64, 36, PanelKind::kFp4, DecodeNVFP4, &kFp4Table, nullptr, nullptr, EncodeNVFP4},
    {DType::kQ1_0, "Q1_0", 41, 128, 18, PanelKind::kQ2, DecodeQ1_0, nullptr, nullptr, nullptr, nullptr},
    {DType::kQ2_0, "Q2_0", 42, 64, 18, PanelKind::kQ2, DecodeQ2_0, nullptr, nullptr, nullptr, EncodeQ2_0},
    {DType::kNF4, "NF4", kOwnFormats, 32, 18, PanelKind::kLut4B, DecodeIQ4_NL, &kNF4Table, PackNF4, nullptr, EncodeIQ4_NL},
    {DType::kInt3, "INT3", kOwnFormats + 1, 32, 14, PanelKind::kQ3, DecodeInt3, nullptr, PackInt3, nullptr, EncodeInt3},
    {DType::kInt3M, "INT3M", kOwnFormats + 2, 32, 16, PanelKind::kQ3M, DecodeInt3M, nullptr, PackInt3M, nullptr, EncodeInt3M},
}};

constexpr bool InOrder() {
  for (size_t i = 0; i < kTable.size(); ++i) {
    if (static_cast<size_t>(kTable[i].dtype) != i) return false;
  }
  return true;
}
static_assert(InOrder(), "kTable is indexed by DType");

const PanelTable kNoTable;

// Columns of 16 rows become rows of 16. A few columns at a time, so that what is written stays in the cache nearest.
template <typename Element>
void PackFloatPanel(const uint8_t* const rows[kPanelRows], size_t columns, uint8_t* panel) {
  constexpr size_t kAtOnce = 16;
  for (size_t begin = 0; begin < columns; begin += kAtOnce) {
    const size_t n = std::min(kAtOnce, columns - begin);
    Element block[kPanelRows][kAtOnce] = {};
    for (size_t r = 0; r < kPanelRows; ++r) {
      if (rows[r] != nullptr) std::memcpy(block[r], rows[r] + begin * sizeof(Element), n * sizeof(Element));
    }
    Element turned[kAtOnce][kPanelRows];
    for (size_t k = 0; k < kAtOnce; ++k) {
      for (size_t r = 0; r < kPanelRows; ++r) turned[k][r] = block[r][k];
    }
    std::memcpy(panel + begin * sizeof(turned[0]), turned, n * sizeof(turned[0]));
  }
}

Status CheckValues(DType dtype, std::span<const float> values) {
  // What F32 and BF16 hold, and an E8M0 scale; the other formats keep an f16.
  const bool wide = dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kMXFP4;
  // Bits without the sign are in the order of magnitudes: one maximum tells whether all is well.
  int32_t largest = 0;
  for (const float value : values) largest = std::max(largest, static_cast<int32_t>(std::bit_cast<uint32_t>(value) & 0x7fffffffu));
  if (largest <= std::bit_cast<int32_t>(wide ? std::numeric_limits<float>::max() : kF16Max)) return Ok();
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i]) || (!wide && std::fabs(values[i]) > kF16Max)) {
      return Error(Code::kCorrupt,
                   fmt::format("element {} is {}: expected a finite number{} to pack as {}; mend the weights or choose BF16", i, values[i],
                               wide ? "" : " up to 65504", Info(dtype).name));
    }
  }
  return Ok();
}

void PackFloats(DType dtype, std::span<const float> values, uint8_t* out) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::kF32) {
      std::memcpy(out + 4 * i, &values[i], 4);
    } else {
      const uint16_t bits = dtype == DType::kF16 ? F32ToF16(values[i]) : F32ToBF16(values[i]);
      std::memcpy(out + 2 * i, &bits, 2);
    }
  }
}

// Panels of at least a fifth more bytes.
constexpr bool AreLarge(uint64_t panel_bytes, uint64_t blocks_bytes) { return 5 * panel_bytes >= 6 * blocks_bytes; }

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
  const size_t group_columns = Info(info.panel).group_columns;
  BlockCodes codes;
  for (; elements != 0; elements -= info.block_elements, blocks += info.block_bytes) {
    for (size_t group = 0; group < info.block_elements / group_columns; ++group, values += group_columns) {
      info.decode(blocks, group, &codes);
      UnpackCodes(info.panel, codes, TableOf(dtype), values);
    }
  }
}

Status CheckPackable(DType dtype, std::span<const float> values, std::span<const float> importance) {
  const DTypeInfo& info = Info(dtype);
  CHECK(values.size() % info.block_elements == 0 && (importance.empty() || importance.size() == values.size()));
  if (info.decode != nullptr && info.pack == nullptr) {
    return Error(Code::kUnsupported, fmt::format("{} is read but not written; choose another format, such as Q4_K or IQ4_XS", info.name));
  }
  BANTAM_TRY(CheckValues(dtype, values));
  for (size_t i = 0; i < importance.size(); ++i) {
    if (!(importance[i] >= 0) || !std::isfinite(importance[i])) {
      return Error(Code::kInvalidArgument,
                   fmt::format("importance of element {} is {}, expected a finite number of at least 0", i, importance[i]));
    }
  }
  return Ok();
}

Status PackRow(DType dtype, std::span<const float> values, std::span<const float> importance, uint8_t* blocks) {
  const DTypeInfo& info = Info(dtype);
  BANTAM_TRY(CheckPackable(dtype, values, importance));
  if (info.decode == nullptr) {
    PackFloats(dtype, values, blocks);
    return Ok();
  }
  for (size_t i = 0; i < values.size(); i += info.block_elements, blocks += info.block_bytes) {
    info.pack(values.data() + i, importance.empty() ? nullptr : importance.data() + i, blocks);
  }
  return Ok();
}

void PackPanel(DType dtype, const uint8_t* const rows[kPanelRows], size_t columns, uint8_t* panel) {
  const DTypeInfo& info = Info(dtype);
  const PanelInfo& layout = Info(info.panel);
  DCHECK(columns % info.block_elements == 0 && columns % layout.group_columns == 0);
  if (info.decode == nullptr) {
    if (info.block_bytes == sizeof(uint32_t)) {
      PackFloatPanel<uint32_t>(rows, columns, panel);
    } else {
      PackFloatPanel<uint16_t>(rows, columns, panel);
    }
    return;
  }
  const size_t groups_per_block = info.block_elements / layout.group_columns;
  std::memset(panel, 0, PanelBytes(info.panel, columns));
  BlockCodes codes;
  for (size_t g = 0; g < columns / layout.group_columns; ++g) {
    const size_t block = g / groups_per_block * info.block_bytes;
    for (size_t r = 0; r < kPanelRows; ++r) {
      if (rows[r] == nullptr) continue;  // scales of zero make the row zero
      if (info.write != nullptr) {
        info.write(rows[r] + block, r, panel + g * layout.group_bytes);
        continue;
      }
      info.decode(rows[r] + block, g % groups_per_block, &codes);
      WriteGroupRow(info.panel, codes, r, panel + g * layout.group_bytes);
    }
  }
}

bool PanelsAreLarge(DType dtype) {
  const DTypeInfo& info = Info(dtype);
  const size_t columns = std::max(info.block_elements, Info(info.panel).group_columns);
  return AreLarge(PanelBytes(info.panel, columns), kPanelRows * RowBytes(dtype, columns));
}

void UnpackPanelBlocks(DType dtype, const uint8_t* panel, size_t row, size_t columns, uint8_t* blocks) {
  const DTypeInfo& info = Info(dtype);
  const PanelInfo& layout = Info(info.panel);
  DCHECK(columns % info.block_elements == 0 && columns % layout.group_columns == 0 && row < kPanelRows);
  if (info.decode == nullptr) {
    const size_t bytes = info.block_bytes;
    for (size_t k = 0; k < columns; ++k) std::memcpy(blocks + k * bytes, panel + k * layout.group_bytes + row * bytes, bytes);
    return;
  }
  CHECK(info.encode != nullptr);
  const size_t groups_per_block = info.block_elements / layout.group_columns;
  for (size_t g = 0; g < columns / layout.group_columns; ++g) {
    const BlockCodes codes = ReadGroupRow(info.panel, panel + g * layout.group_bytes, row);
    info.encode(codes, g % groups_per_block, blocks + g / groups_per_block * info.block_bytes);
  }
}

}  // namespace bantam
