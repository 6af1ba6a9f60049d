#include "model/huggingface/quantized_tensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "base/bytes.h"
#include "base/json.h"
#include "model/config.h"
#include "tensor/block_codes.h"
#include "tensor/half.h"

namespace bantam {
namespace {

using Type = SafetensorsType;
using Types = std::initializer_list<Type>;
constexpr Types kWords = {Type::kI32, Type::kU32};
constexpr Types kFloats = {Type::kF16, Type::kBF16, Type::kF32};

// Where AWQ puts each of 8 neighbours within a word; bitsandbytes begins a byte with its upper half.
constexpr std::array<uint8_t, 8> kAwqPlaces = {0, 4, 1, 5, 2, 6, 3, 7};
constexpr std::array<uint8_t, 8> kUpperFirst = {1, 0, 3, 2, 5, 4, 7, 6};
constexpr size_t kStateBytesMax = size_t{1} << 16;

// What this build has no use for: activations are rounded as the kernels like it, not as the file says.
constexpr std::string_view kOfActivations[] = {
    ".input_scale", ".output_scale", ".activation_scale", ".input_scale_ub", ".kv_scale",         ".k_scale",          ".v_scale",
    ".q_scale",     ".k_zero_point", ".v_zero_point",     ".q_zero_point",   ".input_zero_point", ".output_zero_point"};

std::string TypeList(Types types) {
  std::vector<std::string_view> names;
  for (const Type type : types) names.push_back(SafetensorsTypeName(type));
  return fmt::format("{}", fmt::join(names, " or "));
}

ScaleType ScaleTypeOf(Type type) {
  if (type == Type::kF32) return ScaleType::kF32;
  return type == Type::kF16 ? ScaleType::kF16 : ScaleType::kBF16;
}

// A matrix that is being put together.
struct Made {
  std::string name;  // ends in ".weight", or is that of all experts
  uint64_t rows = 0;
  uint64_t columns = 0;
  QuantizedMatrix matrix = {};
  DType dtype = DType::kF16;
};

class Joiner {
 public:
  Joiner(std::vector<HfTensor> tensors, const HfQuantization& quantization, const Mappings& mappings)
      : tensors_(std::move(tensors)), quantization_(quantization), mappings_(mappings) {
    for (const HfTensor& tensor : tensors_) by_name_.emplace(tensor.tensor.name, &tensor);
  }

  Result<std::vector<HfTensor>> Join() {
    for (const HfTensor& tensor : tensors_) {
      BANTAM_TRY(JoinOne(tensor));
    }
    if (!joined_ && quantization_.method != QuantMethod::kNothing && !quantization_.of_kv_alone) {
      return Error(Code::kCorrupt,
                   fmt::format("quantization_config says {}, but no tensor is quantised so; fetch the files again", quantization_.name));
    }
    for (HfTensor& tensor : tensors_) {
      const std::string& name = tensor.tensor.name;
      const bool of_activations =
          quantization_.method != QuantMethod::kNothing &&
          std::any_of(std::begin(kOfActivations), std::end(kOfActivations), [&](std::string_view end) { return name.ends_with(end); });
      if (!of_activations && !used_.contains(name)) made_.push_back(std::move(tensor));
    }
    return std::move(made_);
  }

 private:
  // ---- Tensors by name, and what is expected of them ----

  const HfTensor* Find(const std::string& name) const {
    const auto at = by_name_.find(name);
    return at == by_name_.end() ? nullptr : at->second;
  }

  static Error Wrong(const HfTensor& tensor, std::string_view expected) {
    return Error(Code::kCorrupt, fmt::format("tensor {}: {} [{}], expected {}", tensor.tensor.name, SafetensorsTypeName(tensor.tensor.type),
                                             fmt::join(tensor.tensor.shape, ", "), expected));
  }
  static Status Expect(const HfTensor& tensor, Types types, const std::vector<uint64_t>& shape) {
    const bool typed = std::find(types.begin(), types.end(), tensor.tensor.type) != types.end();
    if (typed && tensor.tensor.shape == shape) return Ok();
    return Wrong(tensor, fmt::format("{} [{}]", TypeList(types), fmt::join(shape, ", ")));
  }
  static Status ExpectMatrix(const HfTensor& tensor, Types types) {
    const bool typed = std::find(types.begin(), types.end(), tensor.tensor.type) != types.end();
    if (typed && tensor.tensor.shape.size() == 2 && tensor.tensor.size_bytes != 0) return Ok();
    return Wrong(tensor, fmt::format("{} of 2 dimensions, and elements", TypeList(types)));
  }
  // A part of the matrix that `of` begins.
  Result<const HfTensor*> Take(const std::string& name, const HfTensor& of) {
    const HfTensor* tensor = Find(name);
    if (tensor == nullptr) {
      return Error(Code::kCorrupt, fmt::format("tensor {} is missing, which {} needs; fetch the files again", name, of.tensor.name));
    }
    used_.insert(name);
    return tensor;
  }
  Result<const HfTensor*> Take(const std::string& name, const HfTensor& of, Types types, const std::vector<uint64_t>& shape) {
    BANTAM_ASSIGN(const HfTensor* tensor, Take(name, of));
    BANTAM_TRY(Expect(*tensor, types, shape));
    return tensor;
  }
  const uint8_t* Bytes(const HfTensor& tensor) const {
    return reinterpret_cast<const uint8_t*>(mappings_[tensor.file]->bytes().data()) + tensor.tensor.offset_bytes;
  }

  // ---- Which tensor begins what ----

  Status JoinOne(const HfTensor& tensor) {
    const std::string& name = tensor.tensor.name;
    if (name.ends_with(".qweight")) return Words(tensor, name.substr(0, name.size() - 8));
    if (name.ends_with(".weight_packed")) return Packed(tensor, name.substr(0, name.size() - 14));
    if (name.ends_with("_blocks") && tensor.tensor.type == Type::kU8) return Microscaled(tensor, name.substr(0, name.size() - 7));
    if (!name.ends_with(".weight")) return Ok();
    const std::string prefix = name.substr(0, name.size() - 7);
    if (Find(name + ".absmax") != nullptr) return Normal4(tensor);
    if (Find(prefix + ".SCB") != nullptr) return Int8(tensor, prefix);
    if (tensor.tensor.type == Type::kI8) return Scaled(tensor, prefix);
    if (tensor.tensor.type == Type::kU8 && quantization_.method == QuantMethod::kBitNet) return Ternary(tensor, prefix);
    const bool floats8 = tensor.tensor.type == Type::kF8E4M3 || tensor.tensor.type == Type::kF8E5M2;
    return floats8 && tensor.tensor.shape.size() == 2 ? Scaled(tensor, prefix) : Ok();
  }

  Error Unnamed(const HfTensor& tensor, std::string_view method) const {
    return Error(Code::kCorrupt, fmt::format("tensor {} is packed as {} does, but quantization_config says {}", tensor.tensor.name, method,
                                             quantization_.method == QuantMethod::kNothing ? "nothing" : quantization_.name));
  }

  // ---- GPTQ and AWQ ----

  Status Words(const HfTensor& weight, const std::string& prefix) {
    if (quantization_.method != QuantMethod::kGptq && quantization_.method != QuantMethod::kAwq) return Unnamed(weight, "GPTQ or AWQ");
    BANTAM_TRY(ExpectMatrix(weight, kWords));
    used_.insert(weight.tensor.name);
    Made made = {.name = prefix + ".weight"};
    made.matrix.kind = CodeKind::kIntegers;
    made.matrix.codes.base = Bytes(weight);
    BANTAM_ASSIGN(const HfTensor* scales, Take(prefix + ".scales", weight));
    BANTAM_TRY(ExpectMatrix(*scales, kFloats));
    made.matrix.scales.type = ScaleTypeOf(scales->tensor.type);
    made.matrix.scales.base = Bytes(*scales);
    if (quantization_.method == QuantMethod::kGptq) return Gptq(weight, *scales, prefix, std::move(made));
    return quantization_.rows_packed ? AwqRows(weight, *scales, prefix, std::move(made)) : Awq(weight, *scales, prefix, std::move(made));
  }

  // The columns that share a scale: what quantization_config says, which the number of groups has to bear out.
  Status TakeGroups(const HfTensor& scales, uint64_t groups, Made* made) const {
    QuantizedMatrix& matrix = made->matrix;
    matrix.group_columns = quantization_.group == 0 ? made->columns : std::min<uint64_t>(quantization_.group, made->columns);
    if (quantization_.mixed && groups != 0 && made->columns % groups == 0) matrix.group_columns = made->columns / groups;
    const uint64_t expected = (made->columns + matrix.group_columns - 1) / matrix.group_columns;
    if (groups == expected) return Ok();
    return Wrong(scales, fmt::format("{} groups ({} columns in groups of {})", expected, made->columns, matrix.group_columns));
  }

  // qweight [columns * bits / 32, rows]: words go down the columns. qzeros [groups, rows * bits / 32], scales [groups, rows].
  Status Gptq(const HfTensor& weight, const HfTensor& scales, const std::string& prefix, Made made) {
    QuantizedMatrix& matrix = made.matrix;
    const uint64_t words = weight.tensor.shape[0];
    made.rows = weight.tensor.shape[1];
    const uint64_t groups = scales.tensor.shape[0];
    BANTAM_ASSIGN(const HfTensor* zeros, Take(prefix + ".qzeros", weight));
    uint32_t bits = quantization_.bits;
    if (quantization_.mixed && zeros->tensor.shape.size() == 2) {
      for (const uint32_t other : {2u, 3u, 4u, 8u}) {
        if (zeros->tensor.shape[1] * 32 == made.rows * other) bits = other;
      }
    }
    if (words * 32 % bits != 0 || made.rows * bits % 32 != 0) return Wrong(weight, fmt::format("whole words of {} bits", bits));
    made.columns = words * 32 / bits;
    BANTAM_TRY(Expect(scales, kFloats, {groups, made.rows}));
    BANTAM_TRY(Expect(*zeros, kWords, {groups, made.rows * bits / 32}));
    BANTAM_TRY(CheckSize(weight, made));
    BANTAM_TRY(TakeGroups(scales, groups, &made));
    matrix.codes = {.base = matrix.codes.base, .bits = bits, .unit_stride = 4 * made.rows, .line_stride = 4};
    matrix.zeros = {.base = Bytes(*zeros), .bits = bits, .line_stride = made.rows * bits / 8};
    matrix.zeros_by_groups = true;
    // 1 was subtracted from each by word, so that it has to be added by word too: a zero point of 0 borrows from its neighbour.
    if (quantization_.zero_less_one && bits != 3) matrix.zeros.more = UINT32_MAX / ((1u << bits) - 1u);
    matrix.zero = quantization_.zero_less_one && bits == 3 ? 1 : 0;
    matrix.scales.row_stride = 1;
    matrix.scales.group_stride = made.rows;
    if (Find(prefix + ".g_idx") != nullptr) {
      BANTAM_ASSIGN(const HfTensor* index, Take(prefix + ".g_idx", weight, kWords, {made.columns}));
      BANTAM_TRY(Order(*index, groups, quantization_.ordered || quantization_.mixed, &made));
    }
    return Finish(weight, std::move(made), bits);
  }

  // Each column's group. Where neighbours are not in one, columns are read group by group.
  Status Order(const HfTensor& index, uint64_t groups, bool allowed, Made* made) const {
    const uint8_t* numbers = Bytes(index);
    const uint64_t group_columns = made->matrix.group_columns;
    std::vector<std::vector<uint32_t>> members(groups);
    bool trivial = true;
    for (uint32_t c = 0; c < made->columns; ++c) {
      const auto group = LoadUnaligned<uint32_t>(numbers + 4 * c);
      if (group >= groups) {
        return Error(Code::kCorrupt, fmt::format("tensor {}: element {} is {}, expected less than {} groups", index.tensor.name, c,
                                                 static_cast<int32_t>(group), groups));
      }
      members[group].push_back(c);
      trivial = trivial && group == c / group_columns;
    }
    if (trivial) return Ok();
    if (!allowed) {
      return Error(
          Code::kCorrupt,
          fmt::format("tensor {}: columns of a group are not neighbours, but quantization_config says desc_act false", index.tensor.name));
    }
    for (uint64_t group = 0; group < groups; ++group) {
      const uint64_t expected = std::min(group_columns, made->columns - group * group_columns);
      if (members[group].size() != expected) {
        return Error(Code::kCorrupt, fmt::format("tensor {}: group {} has {} columns, expected {}", index.tensor.name, group,
                                                 members[group].size(), expected));
      }
      made->matrix.order.insert(made->matrix.order.end(), members[group].begin(), members[group].end());
    }
    return Ok();
  }

  // qweight [columns, rows / 8]: words go along the rows, in an order of their own; qzeros [groups, rows / 8] too. scales [groups, rows].
  Status Awq(const HfTensor& weight, const HfTensor& scales, const std::string& prefix, Made made) {
    QuantizedMatrix& matrix = made.matrix;
    made.columns = weight.tensor.shape[0];
    made.rows = weight.tensor.shape[1] * 8;
    const uint64_t groups = scales.tensor.shape[0];
    BANTAM_TRY(Expect(scales, kFloats, {groups, made.rows}));
    BANTAM_TRY(TakeGroups(scales, groups, &made));
    matrix.by_columns = true;
    matrix.codes = {.base = matrix.codes.base, .line_stride = made.rows / 2, .place = kAwqPlaces};
    if (Find(prefix + ".qzeros") == nullptr && quantization_.symmetric == true) {
      matrix.zero = 8;
    } else {
      BANTAM_ASSIGN(const HfTensor* zeros, Take(prefix + ".qzeros", weight, kWords, {groups, made.rows / 8}));
      matrix.zeros = {.base = Bytes(*zeros), .line_stride = made.rows / 2, .place = kAwqPlaces};
    }
    matrix.zeros_by_groups = true;
    matrix.scales.row_stride = 1;
    matrix.scales.group_stride = made.rows;
    return Finish(weight, std::move(made), /*bits=*/4);
  }

  // qweight [rows, columns / 8], qzeros [rows, words] and scales [rows, 8 * words]: as many words as the groups take, and some more.
  Status AwqRows(const HfTensor& weight, const HfTensor& scales, const std::string& prefix, Made made) {
    QuantizedMatrix& matrix = made.matrix;
    made.rows = weight.tensor.shape[0];
    made.columns = weight.tensor.shape[1] * 8;
    matrix.group_columns = quantization_.group == 0 ? made.columns : quantization_.group;
    const uint64_t groups = (made.columns + matrix.group_columns - 1) / matrix.group_columns;
    const uint64_t multiple = quantization_.group == 32 ? 4 : (quantization_.group == 64 ? 2 : 1);
    const uint64_t words = ((groups + 7) / 8 + multiple - 1) / multiple * multiple;
    BANTAM_TRY(Expect(scales, kFloats, {made.rows, words * 8}));
    BANTAM_ASSIGN(const HfTensor* zeros, Take(prefix + ".qzeros", weight, kWords, {made.rows, words}));
    matrix.codes = {.base = matrix.codes.base, .line_stride = made.columns / 2};
    matrix.zeros = {.base = Bytes(*zeros), .line_stride = 4 * words};
    matrix.scales.row_stride = words * 8;
    matrix.scales.group_stride = 1;
    return Finish(weight, std::move(made), /*bits=*/4);
  }

  // ---- compressed-tensors ----

  // Whether one of the file's schemes is meant.
  Status CheckScheme(const HfTensor& tensor, const QuantScheme& found) const {
    std::vector<std::string> known;
    const auto text = [](const QuantScheme& scheme) {
      return fmt::format("{} bits{}, {}{}{}", scheme.bits, scheme.floats ? " (floats)" : "", scheme.strategy,
                         scheme.strategy == "group" ? fmt::format(" {}", scheme.group) : "", scheme.symmetric ? "" : ", with zero points");
    };
    for (const QuantScheme& scheme : quantization_.schemes) {
      if (text(scheme) == text(found)) return Ok();
      known.push_back(text(scheme));
    }
    return Error(Code::kCorrupt,
                 fmt::format("tensor {} has {}, but quantization_config says {}", tensor.tensor.name, text(found), fmt::join(known, "; ")));
  }

  // weight_packed [rows, columns * bits / 32], weight_shape [2], weight_scale [rows, groups], weight_zero_point [rows * bits / 32, groups].
  Status Packed(const HfTensor& weight, const std::string& prefix) {
    if (quantization_.method != QuantMethod::kCompressedTensors) return Unnamed(weight, "compressed-tensors");
    BANTAM_TRY(ExpectMatrix(weight, kWords));
    used_.insert(weight.tensor.name);
    Made made = {.name = prefix + ".weight"};
    QuantizedMatrix& matrix = made.matrix;
    BANTAM_TRY(TakeShape(weight, prefix, &made));
    const uint64_t words = weight.tensor.shape[1];
    const auto bits = static_cast<uint32_t>(std::min<uint64_t>(words * 32 / made.columns, 32));
    if ((bits != 2 && bits != 4 && bits != 8) || words * 32 != made.columns * bits || weight.tensor.shape[0] != made.rows) {
      return Wrong(weight, fmt::format("{} rows of {} columns in 2, 4 or 8 bits", made.rows, made.columns));
    }
    BANTAM_ASSIGN(const uint64_t groups, TakeScales(weight, prefix + ".weight_scale", &made));
    matrix.codes = {.base = Bytes(weight), .bits = bits, .line_stride = 4 * words};
    matrix.zero = 1 << (bits - 1);
    QuantScheme found = {bits, false, true, groups == 1 ? "channel" : "group", static_cast<uint32_t>(matrix.group_columns)};
    if (Find(prefix + ".weight_zero_point") != nullptr) {
      const uint64_t lines = (made.rows * bits + 31) / 32;
      BANTAM_ASSIGN(const HfTensor* zeros, Take(prefix + ".weight_zero_point", weight, kWords, {lines, groups}));
      matrix.zeros = {.base = Bytes(*zeros), .bits = bits, .unit_stride = 4 * groups, .line_stride = 4};
      matrix.zeros_by_groups = true;
      matrix.zero = 0;
      found.symmetric = false;
    }
    BANTAM_TRY(CheckGroups(weight, groups, &found));
    if (Find(prefix + ".weight_g_idx") != nullptr) {
      BANTAM_ASSIGN(const HfTensor* index, Take(prefix + ".weight_g_idx", weight, kWords, {made.columns}));
      BANTAM_TRY(Order(*index, groups, /*allowed=*/true, &made));
    }
    return Finish(weight, std::move(made), bits);
  }

  // A row may be one group of the size that is said, and a matrix one row.
  Status CheckGroups(const HfTensor& weight, uint64_t groups, QuantScheme* found) const {
    for (const char* strategy : {"group", "channel"}) {
      if (groups != 1 || CheckScheme(weight, *found).ok()) break;
      QuantScheme one = *found;
      one.strategy = strategy;
      if (CheckScheme(weight, one).ok()) return Ok();
    }
    return CheckScheme(weight, *found);
  }

  Status TakeShape(const HfTensor& weight, const std::string& prefix, Made* made) {
    BANTAM_ASSIGN(const HfTensor* shape, Take(prefix + ".weight_shape", weight, {Type::kI64, Type::kI32}, {2}));
    const auto number = [&](size_t i) -> uint64_t {
      const uint8_t* bytes = Bytes(*shape);
      return shape->tensor.type == Type::kI64 ? LoadUnaligned<uint64_t>(bytes + 8 * i) : LoadUnaligned<uint32_t>(bytes + 4 * i);
    };
    made->rows = number(0);
    made->columns = number(1);
    if (made->rows == 0 || made->rows > kVocabularyMax || made->columns == 0 || made->columns > kWidthMax) {
      return Error(Code::kCorrupt, fmt::format("tensor {}: {} and {}, expected 1 to {} rows and 1 to {} columns", shape->tensor.name,
                                               made->rows, made->columns, kVocabularyMax, kWidthMax));
    }
    return Ok();
  }

  // One scale, one per row ([rows] or [rows, 1]), one per group of a row, or one per block. Gives the number of groups.
  Result<uint64_t> TakeScales(const HfTensor& weight, const std::string& name, Made* made) {
    BANTAM_ASSIGN(const HfTensor* tensor, Take(name, weight));
    const std::vector<uint64_t>& shape = tensor->tensor.shape;
    GroupScales& scales = made->matrix.scales;
    const bool typed = std::find(kFloats.begin(), kFloats.end(), tensor->tensor.type) != kFloats.end();
    scales.type = ScaleTypeOf(tensor->tensor.type);
    scales.base = Bytes(*tensor);
    made->matrix.group_columns = made->columns;
    const uint64_t elements = tensor->tensor.size_bytes / ElementBytes(tensor->tensor.type);
    if (typed && elements == 1 && made->rows > 1) return uint64_t{1};
    const auto shape_of = [&](const QuantBlock& block) {
      return std::vector<uint64_t>{(made->rows + block.rows - 1) / block.rows, (made->columns + block.columns - 1) / block.columns};
    };
    const auto block = std::find_if(quantization_.blocks.begin(), quantization_.blocks.end(),
                                    [&](const QuantBlock& one) { return shape == shape_of(one); });
    if (quantization_.method == QuantMethod::kFp8 && !quantization_.blocks.empty() && shape.size() == 2) {
      BANTAM_TRY(Expect(*tensor, kFloats, shape_of(quantization_.blocks[0])));
    }
    if (typed && block != quantization_.blocks.end()) {
      scales.rows = block->rows;
      made->matrix.group_columns = block->columns;
    } else {
      const bool shaped = (shape.size() == 1 || shape.size() == 2) && shape[0] == made->rows;
      const uint64_t groups = shaped && shape.size() == 2 ? shape[1] : 1;
      if (!typed || !shaped || groups == 0 || made->columns % groups != 0) {
        return Wrong(*tensor,
                     fmt::format("{} [1], [{}, 1], or a divisor of {} for each row", TypeList(kFloats), made->rows, made->columns));
      }
      made->matrix.group_columns = made->columns / groups;
    }
    scales.row_stride = shape.size() == 2 ? shape[1] : 1;
    scales.group_stride = 1;
    return scales.row_stride;
  }

  static std::string StrategyOf(const Made& made, uint64_t groups) {
    if (made.matrix.scales.rows != 1) return "block";
    if (made.matrix.scales.row_stride == 0) return "tensor";
    return groups == 1 ? "channel" : "group";
  }

  // weight [rows, columns] of 8-bit integers or floats, and scales: compressed-tensors, FP8; floats may have none.
  Status Scaled(const HfTensor& weight, const std::string& prefix) {
    BANTAM_TRY(ExpectMatrix(weight, {Type::kI8, Type::kF8E4M3, Type::kF8E5M2}));
    Made made = {.name = prefix + ".weight", .rows = weight.tensor.shape[0], .columns = weight.tensor.shape[1]};
    QuantizedMatrix& matrix = made.matrix;
    const bool integers = weight.tensor.type == Type::kI8;
    matrix.kind = integers ? CodeKind::kIntegers : (weight.tensor.type == Type::kF8E4M3 ? CodeKind::kE4M3 : CodeKind::kE5M2);
    matrix.codes = {.base = Bytes(weight), .bits = 8, .unit_bytes = 1, .unit_stride = 1, .line_stride = made.columns};
    if (integers) matrix.codes.flip = 0x80;
    matrix.group_columns = made.columns;
    const bool inverse = Find(prefix + ".weight_scale_inv") != nullptr;
    const bool scaled = inverse || integers || Find(prefix + ".weight_scale") != nullptr;
    if (scaled && quantization_.method != QuantMethod::kCompressedTensors && quantization_.method != QuantMethod::kFp8) {
      return Unnamed(weight, "compressed-tensors or FP8");
    }
    used_.insert(weight.tensor.name);
    if (!scaled) {
      const bool was_joined = joined_;
      BANTAM_TRY(Finish(weight, std::move(made), /*bits=*/8));
      joined_ = was_joined || quantization_.method == QuantMethod::kFp8;  // any model may have such
      return Ok();
    }
    BANTAM_ASSIGN(const uint64_t groups, TakeScales(weight, prefix + (inverse ? ".weight_scale_inv" : ".weight_scale"), &made));
    matrix.zero = 128;
    QuantScheme found = {8, !integers, Find(prefix + ".weight_zero_point") == nullptr, StrategyOf(made, groups),
                         static_cast<uint32_t>(matrix.group_columns)};
    if (quantization_.method == QuantMethod::kCompressedTensors) {
      BANTAM_TRY(CheckGroups(weight, groups, &found));
    }
    if (Find(prefix + ".weight_zero_point") != nullptr) {
      BANTAM_ASSIGN(const HfTensor* zeros, Take(prefix + ".weight_zero_point", weight));
      const uint64_t lines = matrix.scales.row_stride == 0 ? 1 : made.rows;
      const bool fits = zeros->tensor.type == Type::kI8 && zeros->tensor.size_bytes == lines * groups;
      if (!integers || !fits || matrix.scales.rows != 1) return Wrong(*zeros, fmt::format("I8, {} elements", lines * groups));
      matrix.zeros = {
          .base = Bytes(*zeros), .bits = 8, .unit_bytes = 1, .unit_stride = 1, .line_stride = lines == 1 ? 0 : groups, .flip = 0x80};
      matrix.zero = 0;
    }
    return Finish(weight, std::move(made), /*bits=*/8);
  }

  // ---- bitsandbytes ----

  // LLM.int8 (Dettmers et al., 2022): weight [rows, columns] of I8, SCB [rows] the largest magnitude of each row, which 127 stands for.
  Status Int8(const HfTensor& weight, const std::string& prefix) {
    if (quantization_.method != QuantMethod::kBitsAndBytes) return Unnamed(weight, "bitsandbytes");
    BANTAM_TRY(ExpectMatrix(weight, {Type::kI8}));
    used_.insert(weight.tensor.name);
    Made made = {.name = prefix + ".weight", .rows = weight.tensor.shape[0], .columns = weight.tensor.shape[1]};
    QuantizedMatrix& matrix = made.matrix;
    BANTAM_ASSIGN(const HfTensor* scales, Take(prefix + ".SCB", weight, {Type::kF32}, {made.rows}));
    if (const HfTensor* format = Find(prefix + ".weight_format"); format != nullptr) {
      // 0 is "row"; others are orders for one vendor's instructions.
      if (format->tensor.type != Type::kU8 || format->tensor.size_bytes != 1 || *Bytes(*format) != 0) {
        return Error(Code::kUnsupported, fmt::format("tensor {}: rows in another order than row by row (0)", format->tensor.name));
      }
      used_.insert(format->tensor.name);
    }
    matrix.codes = {.base = Bytes(weight), .bits = 8, .unit_bytes = 1, .unit_stride = 1, .line_stride = made.columns, .flip = 0x80};
    matrix.zero = 128;
    matrix.group_columns = made.columns;
    matrix.scales.type = ScaleType::kF32;
    matrix.scales.base = Bytes(*scales);
    matrix.scales.row_stride = 1;
    matrix.scale_multiplier = 1.0f / 127.0f;
    return Finish(weight, std::move(made), /*bits=*/8);
  }

  // NF4 (Dettmers et al., "QLoRA", 2023): codes in pairs, row by row; a magnitude per block of them, which may be quantised too.
  Status Normal4(const HfTensor& weight) {
    const std::string& name = weight.tensor.name;
    if (quantization_.method != QuantMethod::kBitsAndBytes) return Unnamed(weight, "bitsandbytes");
    used_.insert(name);
    if (Find(name + ".quant_state.bitsandbytes__fp4") != nullptr) {
      return Error(Code::kUnsupported, fmt::format("tensor {}: quant_type fp4 is not supported, only nf4; fetch the model as GGUF", name));
    }
    BANTAM_ASSIGN(const HfTensor* packed, Take(name + ".quant_state.bitsandbytes__nf4", weight));
    if (packed->tensor.type != Type::kU8 || packed->tensor.size_bytes > kStateBytesMax) return Wrong(*packed, "U8, JSON");
    const std::string_view text(reinterpret_cast<const char*>(Bytes(*packed)), packed->tensor.size_bytes);
    BANTAM_ASSIGN(const Json state, ParseJson(std::string(text)).With(packed->tensor.name));
    Made made = {.name = name};
    BANTAM_TRY(ReadState(*packed, state, &made));
    // Whatever type they are stored as (bnb_4bit_quant_storage).
    if (weight.tensor.size_bytes * 2 != made.rows * made.columns) {
      return Wrong(weight, fmt::format("{} bytes ({} rows of {} columns)", made.rows * made.columns / 2, made.rows, made.columns));
    }
    BANTAM_TRY(CheckQuantiles(weight));
    made.matrix.kind = CodeKind::kNF4;
    made.matrix.codes = {.base = Bytes(weight), .line_stride = made.columns / 2, .place = kUpperFirst};
    BANTAM_TRY(TakeMagnitudes(weight, state, &made));
    return Finish(weight, std::move(made), /*bits=*/4);
  }

  static Status ReadState(const HfTensor& packed, const Json& state, Made* made) {
    const Json& shape = JsonMember(state, "shape");
    const Json& block = JsonMember(state, "blocksize");
    const auto whole = [](const Json& value, uint64_t most) { return value.is_number_unsigned() && value > 0 && value <= most; };
    const bool shaped = shape.is_array() && shape.size() == 2 && whole(shape[0], kVocabularyMax) && whole(shape[1], kWidthMax);
    if (!shaped || !whole(block, kWidthMax)) {
      return Error(Code::kCorrupt, fmt::format("tensor {}: shape {} and blocksize {}, expected [rows, columns] and a whole number",
                                               packed.tensor.name, ShortJson(shape), ShortJson(block)));
    }
    made->rows = shape[0].get<uint64_t>();
    made->columns = shape[1].get<uint64_t>();
    made->matrix.group_columns = block.get<uint64_t>();
    if (made->columns % made->matrix.group_columns == 0 && made->matrix.group_columns % 32 == 0) return Ok();
    return Error(Code::kUnsupported,
                 fmt::format("tensor {}: {} columns in blocks of {}, expected blocks of a multiple of 32 that fill a row",
                             packed.tensor.name, made->columns, made->matrix.group_columns));
  }

  // The table beside the codes is that of NF4.
  Status CheckQuantiles(const HfTensor& weight) {
    constexpr float kTolerance = 1e-4f;
    BANTAM_ASSIGN(const HfTensor* map, Take(weight.tensor.name + ".quant_map", weight, {Type::kF32}, {16}));
    for (size_t i = 0; i < 16; ++i) {
      const float quantile = LoadUnaligned<float>(Bytes(*map) + 4 * i);
      if (std::fabs(quantile - kNF4Quantiles[i]) <= kTolerance) continue;
      return Error(Code::kUnsupported,
                   fmt::format("tensor {}: element {} is {}, expected {}, that of nf4", map->tensor.name, i, quantile, kNF4Quantiles[i]));
    }
    return Ok();
  }

  Status TakeMagnitudes(const HfTensor& weight, const Json& state, Made* made) {
    const std::string& name = weight.tensor.name;
    GroupScales& scales = made->matrix.scales;
    const uint64_t groups = made->columns / made->matrix.group_columns;
    const uint64_t count = made->rows * groups;
    const bool nested = Find(name + ".nested_absmax") != nullptr;
    BANTAM_ASSIGN(const HfTensor* magnitudes, Take(name + ".absmax", weight, {nested ? Type::kU8 : Type::kF32}, {count}));
    scales.type = nested ? ScaleType::kNested : ScaleType::kF32;
    scales.base = Bytes(*magnitudes);
    scales.row_stride = groups;
    scales.group_stride = 1;
    if (!nested) return Ok();
    const Json& block = JsonMember(state, "nested_blocksize");
    const Json& mean = JsonMember(state, "nested_offset");
    if (!block.is_number_unsigned() || block == 0 || block > kWidthMax || !mean.is_number()) {
      return Error(Code::kCorrupt, fmt::format("tensor {}: nested_blocksize {} and nested_offset {}, expected numbers", name,
                                               ShortJson(block), ShortJson(mean)));
    }
    scales.nested_block = block.get<uint64_t>();
    scales.mean = mean.get<float>();
    const uint64_t blocks = (count + scales.nested_block - 1) / scales.nested_block;
    BANTAM_ASSIGN(const HfTensor* outer, Take(name + ".nested_absmax", weight, {Type::kF32}, {blocks}));
    BANTAM_ASSIGN(const HfTensor* map, Take(name + ".nested_quant_map", weight, {Type::kF32}, {256}));
    scales.nested = Bytes(*outer);
    for (size_t i = 0; i < 256; ++i) scales.map.push_back(LoadUnaligned<float>(Bytes(*map) + 4 * i));
    return Ok();
  }

  // ---- MXFP4 ----

  // blocks [experts, rows, groups, 16] and scales [experts, rows, groups] (OCP Microscaling Formats, 2023).
  Status Microscaled(const HfTensor& blocks, const std::string& name) {
    if (quantization_.method != QuantMethod::kMxfp4) return Unnamed(blocks, "mxfp4");
    const std::vector<uint64_t>& shape = blocks.tensor.shape;
    if (shape.size() != 4 || shape[3] != 16 || blocks.tensor.size_bytes == 0 || shape[0] > kExpertsMax) {
      return Wrong(blocks, "U8 [experts, rows, groups, 16]");
    }
    used_.insert(blocks.tensor.name);
    BANTAM_ASSIGN(const HfTensor* scales, Take(name + "_scales", blocks, {Type::kU8}, {shape[0], shape[1], shape[2]}));
    HfTensor made = {.tensor = {name, Type::kU8, {shape[0], shape[1], shape[2] * 32}, 0, blocks.tensor.size_bytes}, .file = blocks.file};
    made.dtype = DType::kMXFP4;
    for (uint64_t expert = 0; expert < shape[0]; ++expert) {
      QuantizedMatrix matrix;
      const uint64_t codes = shape[1] * shape[2] * 16;
      matrix.kind = CodeKind::kFP4;
      matrix.codes = {.base = Bytes(blocks) + expert * codes, .line_stride = shape[2] * 16};
      matrix.scales.type = ScaleType::kE8M0;
      matrix.scales.base = Bytes(*scales) + expert * shape[1] * shape[2];
      matrix.scales.row_stride = shape[2];
      matrix.scales.group_stride = 1;
      matrix.group_columns = 32;
      matrix.rows = shape[1];
      matrix.file = blocks.file;
      matrix.offset_bytes = blocks.tensor.offset_bytes + expert * codes;
      matrix.size_bytes = codes;
      made.quantized.push_back(std::move(matrix));
    }
    made_.push_back(std::move(made));
    joined_ = true;
    return Ok();
  }

  // ---- BitNet ----

  // weight [rows / 4, columns]: byte r holds rows r, r + rows / 4 and so on, two bits each. weight_scale [1].
  Status Ternary(const HfTensor& weight, const std::string& prefix) {
    BANTAM_TRY(ExpectMatrix(weight, {Type::kU8}));
    used_.insert(weight.tensor.name);
    Made made = {.name = prefix + ".weight"};
    QuantizedMatrix& matrix = made.matrix;
    made.rows = weight.tensor.shape[0] * 4;
    made.columns = matrix.group_columns = weight.tensor.shape[1];
    BANTAM_ASSIGN(const HfTensor* scale, Take(prefix + ".weight_scale", weight, kFloats, {1}));
    matrix.scales.type = ScaleTypeOf(scale->tensor.type);
    matrix.scales.base = Bytes(*scale);
    const float value = matrix.ScaleAt(0, 0);
    matrix.factor = quantization_.scale_divides ? 1 / value : value;
    if (!std::isfinite(matrix.factor) || value == 0)
      return Error(Code::kCorrupt, fmt::format("tensor {}: {}, expected a finite number other than 0", scale->tensor.name, value));
    matrix.scales = {};
    matrix.codes = {.base = Bytes(weight), .bits = 2, .unit_bytes = 1, .unit_stride = made.columns, .line_stride = 1};
    matrix.by_columns = true;
    matrix.units = weight.tensor.shape[0];
    matrix.zero = 1;
    return Finish(weight, std::move(made), /*bits=*/2);
  }

  // ---- What a matrix becomes ----

  uint64_t RowRuns(const Made& made) const {
    const uint64_t rows = made.matrix.scales.rows;
    return made.matrix.scales.row_stride == 0 ? 1 : (made.rows + rows - 1) / rows;
  }
  uint64_t Groups(const Made& made) const { return (made.columns + made.matrix.group_columns - 1) / made.matrix.group_columns; }

  // The format that holds code - zero of all groups.
  Result<DType> IntegersOf(const HfTensor& weight, const Made& made, uint32_t bits) const {
    const QuantizedMatrix& matrix = made.matrix;
    int32_t least = matrix.zero;
    int32_t most = matrix.zero;
    if (matrix.zeros.base != nullptr) {
      least = INT32_MAX;
      most = INT32_MIN;
      for (uint64_t group = 0; group < Groups(made); ++group) {
        for (uint64_t row = 0; row < made.rows; ++row) {
          const int32_t zero = matrix.ZeroAt(row, group);
          least = std::min(least, zero);
          most = std::max(most, zero);
        }
      }
    }
    const int32_t middle = 1 << (bits - 1);
    if (quantization_.symmetric == true && !quantization_.mixed && (least != middle || most != middle)) {
      return Error(Code::kCorrupt, fmt::format("tensor {}: zero points from {} to {}, but quantization_config says sym true, which is {}",
                                               weight.tensor.name, least, most, middle));
    }
    const int32_t largest = 2 * middle - 1 - least;
    const size_t pairs = Info(DType::kQ2_0).block_elements;
    const bool whole = made.columns % pairs == 0 && matrix.group_columns % pairs == 0;
    if (most <= 1 && least >= 0 && largest <= 2 && whole) return DType::kQ2_0;
    if (most <= 8 && largest <= 7) return DType::kQ4_0;
    if (most <= 16 && largest <= 15) return DType::kQ5_0;
    return most <= 128 && largest <= 127 ? DType::kQ8_0 : DType::kF16;
  }

  // Scales that are no f16 are brought into its range by a power of two, which becomes a factor of the whole matrix. `least` and `most` are
  // the magnitudes, other than 0, of what scales are multiplied with before they are rounded.
  Status TakeFactor(const HfTensor& weight, float least, float most, Made* made) const {
    QuantizedMatrix& matrix = made->matrix;
    constexpr float kNormalMin = 0x1p-14f;
    float smallest = INFINITY;
    float largest = 0;
    for (uint64_t run = 0; run < RowRuns(*made); ++run) {
      for (uint64_t group = 0; group < Groups(*made); ++group) {
        const float scale = std::fabs(matrix.ScaleAt(run * matrix.scales.rows, group));
        if (!std::isfinite(scale)) {
          return Error(Code::kCorrupt, fmt::format("tensor {}: the scale of row {}, group {} is {}, expected a finite number",
                                                   weight.tensor.name, run * matrix.scales.rows, group, scale));
        }
        if (scale != 0) smallest = std::min(smallest, scale);
        largest = std::max(largest, scale);
      }
    }
    if (largest == 0 || (matrix.scales.type == ScaleType::kF16 && most == 1) ||
        (smallest * least >= kNormalMin && largest * most <= kF16Max))
      return Ok();
    const int power = 14 - std::ilogb(largest * most);
    if (std::abs(power) > 100) {
      return Error(Code::kCorrupt, fmt::format("tensor {}: scales up to {}, expected such of weights", weight.tensor.name, largest));
    }
    matrix.scale_multiplier = std::ldexp(matrix.scale_multiplier, power);
    matrix.factor = std::ldexp(1.0f, -power);
    return Ok();
  }

  static Status CheckSize(const HfTensor& weight, const Made& made) {
    if (made.rows <= kVocabularyMax && made.columns <= kWidthMax) return Ok();
    return Wrong(weight, fmt::format("at most {} rows and {} columns", kVocabularyMax, kWidthMax));
  }

  Status Finish(const HfTensor& weight, Made made, uint32_t bits) {
    QuantizedMatrix& matrix = made.matrix;
    BANTAM_TRY(CheckSize(weight, made));
    switch (matrix.kind) {
      case CodeKind::kIntegers: {
        BANTAM_ASSIGN(made.dtype, IntegersOf(weight, made, bits));
        break;
      }
      case CodeKind::kNF4:
        made.dtype = DType::kNF4;
        break;
      case CodeKind::kFP4:
        made.dtype = DType::kMXFP4;
        break;
      case CodeKind::kE4M3:
      case CodeKind::kE5M2:
        made.dtype = DType::kF16;
        break;
    }
    const bool blocks = made.dtype != DType::kF16;
    if (blocks && (made.columns % 32 != 0 || matrix.group_columns % 32 != 0)) {
      return Error(Code::kUnsupported, fmt::format("tensor {}: {} columns in groups of {}, expected multiples of 32", weight.tensor.name,
                                                   made.columns, matrix.group_columns));
    }
    BANTAM_TRY(TakeScaleOfAll(weight, blocks, &made));
    matrix.rows = made.rows;
    matrix.file = weight.file;
    matrix.offset_bytes = weight.tensor.offset_bytes;
    matrix.size_bytes = weight.tensor.size_bytes;
    HfTensor joined = {.tensor = {made.name, weight.tensor.type, {made.rows, made.columns}, 0, weight.tensor.size_bytes},
                       .file = weight.file};
    joined.dtype = made.dtype;
    joined.quantized.push_back(std::move(matrix));
    made_.push_back(std::move(joined));
    joined_ = true;
    return Ok();
  }

  // One scale for a matrix of 8-bit floats stands outside, and its values are as they were.
  Status TakeScaleOfAll(const HfTensor& weight, bool blocks, Made* made) const {
    QuantizedMatrix& matrix = made->matrix;
    if (matrix.scales.type == ScaleType::kOne) return Ok();
    const bool floats8 = matrix.kind == CodeKind::kE4M3 || matrix.kind == CodeKind::kE5M2;
    if (floats8 && matrix.scales.row_stride == 0) {
      matrix.factor = matrix.ScaleAt(0, 0);
      if (!std::isfinite(matrix.factor)) {
        return Error(Code::kCorrupt,
                     fmt::format("tensor {}: its scale is {}, expected a finite number", weight.tensor.name, matrix.factor));
      }
      matrix.scales = {};
      return Ok();
    }
    if (matrix.kind == CodeKind::kE4M3) return TakeFactor(weight, 0x1p-9f, 448, made);
    if (matrix.kind == CodeKind::kE5M2) return TakeFactor(weight, 0x1p-16f, 57344, made);
    if (matrix.kind == CodeKind::kNF4) return TakeFactor(weight, 1 / kNF4Unit, 1 / kNF4Unit, made);
    // Numbers of 8 bits may stand in F16 beside others (experts).
    return TakeFactor(weight, 1, blocks && made->dtype != DType::kQ8_0 ? 1 : 255, made);
  }

  std::vector<HfTensor> tensors_;
  const HfQuantization& quantization_;
  const Mappings& mappings_;
  std::map<std::string_view, const HfTensor*> by_name_;
  std::set<std::string> used_;
  std::vector<HfTensor> made_;
  bool joined_ = false;  // any matrix, as quantization_config says
};

}  // namespace

Result<std::vector<HfTensor>> JoinQuantized(std::vector<HfTensor> tensors, const HfQuantization& quantization, const Mappings& mappings) {
  return Joiner(std::move(tensors), quantization, mappings).Join();
}

}  // namespace bantam
