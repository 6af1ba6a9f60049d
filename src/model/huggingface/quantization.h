// quantization_config of config.json: how the tensors of a folder were quantised, as far as their names and shapes leave it open.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace bantam {

enum class QuantMethod : uint8_t { kNothing, kGptq, kAwq, kBitsAndBytes, kCompressedTensors, kFp8, kMxfp4, kBitNet };

// One of several ways in one file (compressed-tensors).
struct QuantScheme {
  uint32_t bits = 0;
  bool floats = false;
  bool symmetric = true;
  std::string strategy;  // tensor, channel, group or block
  uint32_t group = 0;    // columns
};

// Rows and columns that share a scale.
struct QuantBlock {
  uint32_t rows = 0;
  uint32_t columns = 0;
};

struct HfQuantization {
  QuantMethod method = QuantMethod::kNothing;
  std::string name;  // of the method, as the file has it
  // GPTQ and AWQ.
  uint32_t bits = 0;
  uint32_t group = 0;  // columns; 0: all
  bool zero_less_one = false;
  bool ordered = false;      // columns may be in groups that are not neighbours (desc_act)
  bool mixed = false;        // some modules have other bits, groups, zero points and orders
  bool rows_packed = false;  // AWQ: the layout of "gemv"
  std::optional<bool> symmetric;
  // BitNet: products are divided by the scale instead of multiplied.
  bool scale_divides = false;
  std::vector<QuantBlock> blocks;  // none: as the shapes of scales say
  std::vector<QuantScheme> schemes;
  bool of_kv_alone = false;  // nothing is said of weights
};

// `member` is quantization_config, null where there is none. Unsupported names the method or the member.
Result<HfQuantization> ReadQuantization(const Json& member);

}  // namespace bantam
