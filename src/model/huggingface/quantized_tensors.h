// The tensors that make a quantised matrix, as one: PREFIX.qweight, .qzeros, .scales and .g_idx become PREFIX.weight.
#pragma once

#include <memory>
#include <vector>

#include "base/file.h"
#include "model/huggingface/quantization.h"
#include "model/huggingface/tensors.h"

namespace bantam {

using Mappings = std::vector<std::unique_ptr<FileMapping>>;

// Every tensor that is not part of one passes unchanged; scales of activations are left out. Matrices view `mappings`, and live as long.
// Errors, by the tensor's name: Corrupt (a part is missing, of another type or shape, or contradicts quantization_config; an index that
// names no group), Unsupported (what no format here holds).
Result<std::vector<HfTensor>> JoinQuantized(std::vector<HfTensor> tensors, const HfQuantization& quantization, const Mappings& mappings);

}  // namespace bantam
