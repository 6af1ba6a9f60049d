// The dtype table: the only place that lists the weight formats of files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "base/result.h"
#include "tensor/panel.h"

namespace bantam {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ8_0,
  kQ4_0,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kQ2_K,
  kIQ2_XXS,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ3_K,
  kIQ2_XS,
  kIQ2_S,
  kIQ3_XXS,
  kIQ3_S,
  kIQ1_S,
  kIQ1_M,
  kIQ4_NL,
  kIQ4_XS,
  kTQ1_0,
  kTQ2_0,
  kMXFP4,
  kNVFP4,
  kQ1_0,
  kQ2_0,
  kNF4,
  kInt3,   // 3 bits, f16 scale per 32
  kInt3M,  // and f16 minimum
};
inline constexpr size_t kDTypes = 31;
// Ids from here on are our own: in a GGUF file, no other program knows them.
inline constexpr uint32_t kOwnFormats = 1u << 30;

struct DTypeInfo {
  DType dtype;
  std::string_view name;
  uint32_t gguf_id;
  size_t block_elements;
  size_t block_bytes;
  PanelKind panel;
  // Codes of the block's n-th group (of its panel kind, in a row of block_elements / group_columns); null for floats, whose
  // panels hold the file's bytes.
  void (*decode)(const uint8_t* block, size_t group, BlockCodes* codes);
  // The table that codes index; null for kinds without one.
  const PanelTable* table;
  // One block of floats (block_pack.h); null for floats and for formats that are read only.
  void (*pack)(const float* x, const float* w, uint8_t* block);
  // A block of one group to row `row` of a panel's group at once, where that is worth code of its own; else null.
  void (*write)(const uint8_t* block, size_t row, uint8_t* group);
  // The reverse of decode; null for floats, and for formats whose panels take much more than their blocks.
  void (*encode)(const BlockCodes& codes, size_t group, uint8_t* block);
};

const DTypeInfo& Info(DType dtype);
std::optional<DType> DTypeFromGguf(uint32_t gguf_id);

// The table that goes with panels of this dtype (an empty one for kinds without).
const PanelTable& TableOf(DType dtype);

// `elements` is a multiple of the block's.
inline size_t RowBytes(DType dtype, size_t elements) { return elements / Info(dtype).block_elements * Info(dtype).block_bytes; }

// Unpacks `elements` weights (a multiple of the block's elements) to floats, equal to the format's definition to the last bit.
void Unpack(DType dtype, const uint8_t* blocks, size_t elements, float* values);

// Packs one row (a whole number of blocks) of RowBytes(dtype, values.size()) bytes. `importance`, as long as the row or empty, weighs
// the squared error of each value and makes formats search for their scales (block_pack.h). Errors: Unsupported (a format that
// is only read), Corrupt (a value that is not finite or too large), InvalidArgument (a negative importance); they name the element.
Status PackRow(DType dtype, std::span<const float> values, std::span<const float> importance, uint8_t* blocks);

// The errors of PackRow.
Status CheckPackable(DType dtype, std::span<const float> values, std::span<const float> importance);

// Packs 16 rows of `columns` elements into one panel of Info(dtype).panel. Row pointers are null for padding rows, which
// become zeros. `panel` holds PanelBytes bytes.
void PackPanel(DType dtype, const uint8_t* const rows[kPanelRows], size_t columns, uint8_t* panel);

// Whether panels take at least a fifth more than the blocks that they are made of: IQ1, IQ2, IQ3, TQ and Q1_0. Of others, blocks can be
// made of panels again.
bool PanelsAreLarge(DType dtype);

// Row `row` (0..15) of a panel as RowBytes(dtype, columns) bytes of blocks: those that were packed, but where a format has two spellings of
// one value. Not where PanelsAreLarge. Any bytes are taken.
void UnpackPanelBlocks(DType dtype, const uint8_t* panel, size_t row, size_t columns, uint8_t* blocks);

}  // namespace bantam
