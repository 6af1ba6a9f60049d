#include "tensor/panel.h"

#include <cstring>

#include "base/bytes.h"
#include "base/check.h"
#include "tensor/half.h"

namespace bantam {
namespace {

constexpr size_t RoundUp(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

constexpr PanelInfo FloatPanel(PanelKind kind, std::string_view name, size_t element_bytes) {
  PanelInfo info{};
  info.kind = kind;
  info.name = name;
  info.group_columns = 1;
  info.group_bytes = element_bytes * kPanelRows;
  return info;
}

struct CodeShape {
  size_t sub_columns;
  int low_bits;
  int high_bits = 0;
  int zero = 0;
  bool has_min = false;
  bool has_table = false;
  bool bf16_scale = false;
};

constexpr PanelInfo CodePanel(PanelKind kind, std::string_view name, const CodeShape& s) {
  PanelInfo info{};
  info.kind = kind;
  info.name = name;
  info.bytes_per_32 = kPanelRows * 32 * static_cast<size_t>(s.low_bits + s.high_bits) / 8;
  info.sub_columns = s.sub_columns;
  info.zero = s.zero;
  info.low_bits = s.low_bits;
  info.high_bits = s.high_bits;
  info.has_min = s.has_min;
  info.has_table = s.has_table;
  info.bf16_scale = s.bf16_scale;
  return info;
}

// A group of 32 columns: 16 scales (and 16 minima, or the scales of the second 16 columns), then the planes.
constexpr PanelInfo BlockPanel(PanelKind kind, std::string_view name, const CodeShape& s) {
  PanelInfo info = CodePanel(kind, name, s);
  info.group_columns = 32;
  info.data_offset = s.has_min || s.bf16_scale ? 64 : 32;
  info.group_bytes = info.data_offset + info.bytes_per_32;
  return info;
}

// A group of 256 columns: 16 f16 scales (and minima), 16 int8 sub-scales (and sub-minima) per sub-block, padding to 64
// bytes, then the planes of 8 x 32 columns.
constexpr PanelInfo SuperPanel(PanelKind kind, std::string_view name, const CodeShape& s) {
  PanelInfo info = CodePanel(kind, name, s);
  const size_t fields = s.has_min ? 2 : 1;
  info.group_columns = 256;
  info.has_sub_scale = true;
  info.data_offset = RoundUp(fields * (2 * kPanelRows + 256 / s.sub_columns * kPanelRows), 64);
  info.group_bytes = info.data_offset + 8 * info.bytes_per_32;
  return info;
}

constexpr std::array<PanelInfo, kPanelKinds> kInfo = {
    FloatPanel(PanelKind::kF32, "f32", 4),
    FloatPanel(PanelKind::kF16, "f16", 2),
    FloatPanel(PanelKind::kBF16, "bf16", 2),
    BlockPanel(PanelKind::kQ8, "q8", {.sub_columns = 32, .low_bits = 8}),
    BlockPanel(PanelKind::kQ4, "q4", {.sub_columns = 32, .low_bits = 4, .zero = 8}),
    SuperPanel(PanelKind::kLut4, "lut4", {.sub_columns = 32, .low_bits = 4, .has_table = true}),
    SuperPanel(PanelKind::kQ4S, "q4s", {.sub_columns = 32, .low_bits = 4, .has_min = true}),
    SuperPanel(PanelKind::kQ5S, "q5s", {.sub_columns = 32, .low_bits = 4, .high_bits = 1, .has_min = true}),
    SuperPanel(PanelKind::kQ6S, "q6s", {.sub_columns = 16, .low_bits = 4, .high_bits = 2, .zero = 32}),
    SuperPanel(PanelKind::kQ2S, "q2s", {.sub_columns = 16, .low_bits = 2, .has_min = true}),
    BlockPanel(PanelKind::kQ4M, "q4m", {.sub_columns = 32, .low_bits = 4, .has_min = true}),
    BlockPanel(PanelKind::kQ5, "q5", {.sub_columns = 32, .low_bits = 4, .high_bits = 1, .zero = 16}),
    BlockPanel(PanelKind::kQ5M, "q5m", {.sub_columns = 32, .low_bits = 4, .high_bits = 1, .has_min = true}),
    SuperPanel(PanelKind::kQ3S, "q3s", {.sub_columns = 16, .low_bits = 2, .high_bits = 1, .zero = 4}),
    BlockPanel(PanelKind::kQ2, "q2", {.sub_columns = 32, .low_bits = 2, .zero = 1}),
    SuperPanel(PanelKind::kLut4H, "lut4h", {.sub_columns = 16, .low_bits = 4, .has_table = true}),
    BlockPanel(PanelKind::kLut4B, "lut4b", {.sub_columns = 32, .low_bits = 4, .has_table = true}),
    BlockPanel(PanelKind::kFp4, "fp4", {.sub_columns = 16, .low_bits = 4, .has_table = true, .bf16_scale = true}),
    BlockPanel(PanelKind::kQ3, "q3", {.sub_columns = 32, .low_bits = 2, .high_bits = 1, .zero = 4}),
    BlockPanel(PanelKind::kQ3M, "q3m", {.sub_columns = 32, .low_bits = 2, .high_bits = 1, .has_min = true}),
};

constexpr bool InOrder() {
  for (size_t i = 0; i < kInfo.size(); ++i) {
    if (static_cast<size_t>(kInfo[i].kind) != i) return false;
  }
  return true;
}
static_assert(InOrder(), "kInfo is indexed by PanelKind");

// Offsets of the header fields of a group with sub-scales.
struct HeaderOffsets {
  size_t dmin, sub_scale, sub_min;
};
constexpr HeaderOffsets Offsets(const PanelInfo& info) {
  const size_t subs = 256 / (info.sub_columns == 0 ? 256 : info.sub_columns);
  const size_t dmin = 2 * kPanelRows;
  const size_t sub_scale = dmin + (info.has_min ? 2 * kPanelRows : 0);
  return {dmin, sub_scale, sub_scale + subs * kPanelRows};
}

// Where column k (0..31) of a row lies within the planes of 32 columns. Four columns of a row are neighbours (one
// 32-bit lane), the 16 rows follow one another, and a plane below 8 bits holds several such 64-byte vectors at once.
struct Place {
  size_t byte;
  int shift;
};
constexpr Place PlaceOf(int bits, size_t row, size_t k) {
  const size_t lane_byte = row * 4 + k % 4;
  const size_t vector = k / 4;  // 0..7
  if (bits == 8) return {vector * 64 + lane_byte, 0};
  if (bits == 4) return {vector / 2 * 64 + lane_byte, static_cast<int>(vector % 2) * 4};
  if (bits == 2) return {vector / 4 * 64 + lane_byte, static_cast<int>(vector % 4) * 2};
  return {vector * 8 + lane_byte / 8, static_cast<int>(lane_byte % 8)};  // 1 bit: a 64-bit mask per vector
}

// Spreads 32 codes of a row over a plane of 1, 2, 4 or 8 bits, which holds zeros in their places. The loops below are
// PlaceOf() turned inside out, four codes at once: loading a model writes every weight once.
void PutPlane(uint8_t* plane, int bits, size_t row, const uint8_t* codes, int shift) {
  const uint32_t mask = 0x01010101u * ((1u << bits) - 1u);
  const auto four = [&](size_t vector) { return (LoadUnaligned<uint32_t>(codes + 4 * vector) >> shift) & mask; };
  uint8_t* lane = plane + 4 * row;
  const auto put = [&](size_t v, uint32_t word) { std::memcpy(lane + 64 * v, &word, 4); };
  switch (bits) {
    case 8:
      for (size_t v = 0; v < 8; ++v) put(v, four(v));
      return;
    case 4:
      for (size_t v = 0; v < 4; ++v) put(v, four(2 * v) | four(2 * v + 1) << 4);
      return;
    case 2:
      for (size_t v = 0; v < 2; ++v) put(v, four(4 * v) | four(4 * v + 1) << 2 | four(4 * v + 2) << 4 | four(4 * v + 3) << 6);
      return;
    default:
      // Two rows share a byte.
      for (size_t v = 0; v < 8; ++v) {
        const uint32_t word = four(v);
        const uint32_t nibble = (word | word >> 7 | word >> 14 | word >> 21) & 15u;
        plane[8 * v + row / 2] = static_cast<uint8_t>(plane[8 * v + row / 2] | nibble << (row % 2 * 4));
      }
  }
}

unsigned GetBits(const uint8_t* plane, int bits, size_t row, size_t k) {
  const Place place = PlaceOf(bits, row, k);
  return (plane[place.byte] >> place.shift) & ((1u << bits) - 1u);
}

size_t LowPlaneBytes(const PanelInfo& info) { return kPanelRows * 32 * static_cast<size_t>(info.low_bits) / 8; }

bool HasSecondField(const PanelInfo& info) { return info.has_min || info.bf16_scale; }

float LoadFloat(PanelKind kind, const uint8_t* element) {
  if (kind == PanelKind::kF32) return LoadUnaligned<float>(element);
  const uint16_t bits = LoadUnaligned<uint16_t>(element);
  return kind == PanelKind::kF16 ? F16ToF32(bits) : BF16ToF32(bits);
}

}  // namespace

const PanelInfo& Info(PanelKind kind) { return kInfo[static_cast<size_t>(kind)]; }

void WriteGroupRow(PanelKind kind, const BlockCodes& codes, size_t row, uint8_t* group) {
  const PanelInfo& info = Info(kind);
  DCHECK(info.low_bits != 0 && row < kPanelRows);
  const HeaderOffsets at = Offsets(info);
  std::memcpy(group + 2 * row, &codes.d, 2);
  if (HasSecondField(info)) std::memcpy(group + at.dmin + 2 * row, &codes.dmin, 2);
  if (info.has_sub_scale) {
    for (size_t s = 0; s < 256 / info.sub_columns; ++s) {
      group[at.sub_scale + s * kPanelRows + row] = static_cast<uint8_t>(codes.sub_scale[s]);
      if (info.has_min) group[at.sub_min + s * kPanelRows + row] = codes.sub_min[s];
    }
  }
  const size_t low_bytes = LowPlaneBytes(info);
  for (size_t k = 0; k < info.group_columns; k += 32) {
    uint8_t* planes = group + info.data_offset + k / 32 * info.bytes_per_32;
    PutPlane(planes, info.low_bits, row, codes.code.data() + k, /*shift=*/0);
    if (info.high_bits != 0) PutPlane(planes + low_bytes, info.high_bits, row, codes.code.data() + k, info.low_bits);
  }
}

BlockCodes ReadGroupRow(PanelKind kind, const uint8_t* group, size_t row) {
  const PanelInfo& info = Info(kind);
  BlockCodes codes;
  const HeaderOffsets at = Offsets(info);
  codes.d = LoadUnaligned<uint16_t>(group + 2 * row);
  if (HasSecondField(info)) codes.dmin = LoadUnaligned<uint16_t>(group + at.dmin + 2 * row);
  if (info.has_sub_scale) {
    for (size_t s = 0; s < 256 / info.sub_columns; ++s) {
      codes.sub_scale[s] = static_cast<int8_t>(group[at.sub_scale + s * kPanelRows + row]);
      if (info.has_min) codes.sub_min[s] = group[at.sub_min + s * kPanelRows + row];
    }
  }
  const size_t low_bytes = LowPlaneBytes(info);
  for (size_t k = 0; k < info.group_columns; ++k) {
    const uint8_t* planes = group + info.data_offset + k / 32 * info.bytes_per_32;
    unsigned code = GetBits(planes, info.low_bits, row, k % 32);
    if (info.high_bits != 0) code |= GetBits(planes + low_bytes, info.high_bits, row, k % 32) << info.low_bits;
    codes.code[k] = static_cast<uint8_t>(code);
  }
  return codes;
}

void UnpackCodes(PanelKind kind, const BlockCodes& codes, const PanelTable& table, float* values) {
  const PanelInfo& info = Info(kind);
  const float d = info.bf16_scale ? BF16ToF32(codes.d) : F16ToF32(codes.d);
  const float second = info.bf16_scale ? BF16ToF32(codes.dmin) : F16ToF32(codes.dmin);
  for (size_t k = 0; k < info.group_columns; ++k) {
    const size_t s = k / info.sub_columns;
    int value = codes.code[k] - info.zero;
    if (kind == PanelKind::kQ8) value = static_cast<int8_t>(codes.code[k]);
    if (info.has_table) value = table.value[codes.code[k]];
    float scale = info.bf16_scale && s == 1 ? second : d;
    if (info.has_sub_scale) scale = d * table.multiplier * static_cast<float>(codes.sub_scale[s]);
    const float minimum = info.has_sub_scale ? second * static_cast<float>(codes.sub_min[s]) : second;
    const float weight = scale * static_cast<float>(value);
    values[k] = info.has_min ? weight - minimum : weight;
  }
}

void UnpackPanelRow(PanelKind kind, const PanelTable& table, const uint8_t* panel, size_t row, size_t columns, float* values) {
  const PanelInfo& info = Info(kind);
  DCHECK(columns % info.group_columns == 0 && row < kPanelRows);
  if (info.low_bits == 0) {
    const size_t element_bytes = info.group_bytes / kPanelRows;
    for (size_t k = 0; k < columns; ++k) values[k] = LoadFloat(kind, panel + k * info.group_bytes + row * element_bytes);
    return;
  }
  for (size_t k = 0; k < columns; k += info.group_columns, panel += info.group_bytes) {
    UnpackCodes(kind, ReadGroupRow(kind, panel, row), table, values + k);
  }
}

}  // namespace bantam
