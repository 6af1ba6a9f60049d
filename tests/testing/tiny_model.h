// Small random models of the llama and granitehybrid families, written as GGUF.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/rng.h"
#include "tensor/dtype.h"
#include "testing/gguf_builder.h"

namespace bantam::testing {

struct TinyModel {
  uint32_t layers = 2;                      // of which there are tensors
  std::vector<int32_t> layer_weights = {};  // whose tensors each layer takes; empty: its own
  uint32_t width = 256;
  uint32_t heads = 8;
  uint32_t kv_heads = 2;
  uint32_t feed_forward = 512;
  uint32_t vocabulary = 300;
  uint32_t context = 512;
  uint32_t experts = 0;
  uint32_t experts_used = 0;
  bool tied = false;
  bool biases = false;
  bool halves = false;  // rows of F32 queries and keys in the order that the half-split rotary layout wants
  bool joined = false;  // query, key and value in one tensor
  bool hybrid = false;  // state spaces for attention in every second layer, the first among them (granitehybrid)
  DType matrices = DType::kF32;
  uint64_t seed = 1;
};

// Every row of the dtype table.
inline std::vector<DType> AllDTypes() {
  std::vector<DType> all(kDTypes);
  for (size_t i = 0; i < kDTypes; ++i) all[i] = static_cast<DType>(i);
  return all;
}

// Raw blocks of `elements` weights of about unit gain for `columns` inputs: random codes, sane scales.
std::string RandomBlocks(DType dtype, size_t elements, size_t columns, Rng& rng);

// A complete file: weights, and a byte-fallback vocabulary (control tokens, 256 bytes, letters).
GgufBuilder BuildTinyModel(const TinyModel& model);

// A GGUF adapter of random numbers for some of its matrices, large enough to change what is said.
GgufBuilder BuildTinyAdapter(const TinyModel& model, uint64_t rank, uint64_t seed);

// Only the vocabulary keys, for `size` tokens (at least 300).
void AddTinyVocabulary(GgufBuilder& builder, uint32_t size);

}  // namespace bantam::testing
