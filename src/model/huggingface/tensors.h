// From the tensors of a Hugging Face folder to those that a GGUF file of the family has.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "formats/assembled_source.h"
#include "formats/safetensors.h"
#include "model/huggingface/describe.h"
#include "model/huggingface/families.h"

namespace bantam {

struct HfTensor {
  SafetensorsTensor tensor;
  uint32_t file = 0;
  // Of matrices that a quantiser packed (quantized_tensors.h), one each, and the format that they are read in; else empty.
  std::vector<QuantizedMatrix> quantized = {};
  DType dtype = DType::kF32;
};

// Heads of values of linear attention: so many share each key.
struct HfValueHeads {
  uint32_t keys = 0;  // 0: there are none
  uint32_t each = 1;
  uint32_t head_dim = 0;
};

struct HfLayout {
  const HfFamily* family = nullptr;
  HfHeads heads;
  uint32_t layers = 0;
  uint32_t positions_skipped = 0;
  uint32_t state_groups = 1;  // of a state space
  HfValueHeads value_heads;
  std::vector<TensorFactors> factors;
  bool shared_is_dense = false;  // without experts, what they would share is all there is of the feed-forward
  bool tied = false;             // the output matrix is the embeddings'; what stands in its place is not read
};

struct AssembledTensor {
  std::string name;
  std::vector<uint64_t> dimensions;  // fastest first
  Assembly assembly;
};

// Drops what a model's text is made without: parts that see and hear, and `predictors` blocks behind the last, which predict further
// tokens.
void DropUnread(uint32_t layers, uint32_t predictors, std::vector<HfTensor>* tensors);

// Errors: Corrupt (shapes that do not fit the heads, an expert that is missing), Unsupported (a tensor that the family does not have,
// elements that are no F32, F16 or BF16); they name the tensor.
Result<std::vector<AssembledTensor>> MapTensors(const std::vector<HfTensor>& tensors, const HfLayout& layout);

// Matrices of low rank that go with a weight: A [rank, columns], and B [rows, rank] with its rows as GGUF files have those of the weight.
struct LowRankTensors {
  std::string name;  // of the weight
  Assembly a;
  Assembly b;
};
// What becomes of an adapter's matrices for one module; both have the name of the module's weight. Errors: Unsupported (a module that the
// family has not, or whose weights are no matrix of rows: experts, convolutions), Corrupt (shapes).
Result<std::vector<LowRankTensors>> MapLowRank(const HfTensor& a, const HfTensor& b, const HfLayout& layout);

// The number of the layer that a published name is of.
std::optional<uint32_t> LayerOf(std::string_view published);

}  // namespace bantam
