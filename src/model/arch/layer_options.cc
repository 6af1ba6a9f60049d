#include "model/arch/layer_options.h"

#include <fmt/format.h>

#include <vector>

namespace bantam {
namespace {

Status ReadBlockSparse(const FamilyMetadata& metadata, Config* config) {
  const auto count = static_cast<uint32_t>(config->layers.size());
  const FamilyMetadata::Range range = {0, kContextLengthMax};
  const std::vector<uint32_t> none(count);
  BANTAM_ASSIGN(const auto blocks, metadata.PerLayer("attention.block_sparse.block_size", range, count, none));
  if (blocks == none) return Ok();
  if (config->later_tokens) return Error(Code::kUnsupported, "block-sparse attention to later tokens is not supported");
  BANTAM_ASSIGN(const auto local, metadata.PerLayer("attention.block_sparse.local_blocks", range, count, {}));
  BANTAM_ASSIGN(const auto stride, metadata.PerLayer("attention.block_sparse.global_stride", range, count, none));
  for (uint32_t i = 0; i < count; ++i) {
    if (blocks[i] == 0) continue;
    if (blocks[i] % kKvBlockTokens != 0) {
      return Error(Code::kUnsupported, fmt::format("layer {}: block-sparse attention in blocks of {} tokens, expected a multiple of {}", i,
                                                   blocks[i], kKvBlockTokens));
    }
    if (local[i] == 0) {
      return Error(
          Code::kCorrupt,
          fmt::format("layer {}: block-sparse attention to 0 local blocks (attention.block_sparse.local_blocks), expected at least "
                      "1, the query's own",
                      i));
    }
    config->layers[i].sparse = {blocks[i], local[i], stride[i]};
  }
  return Ok();
}

Status ReadSharedWeights(const FamilyMetadata& metadata, Config* config) {
  const auto count = static_cast<uint32_t>(config->layers.size());
  std::vector<uint32_t> own;
  for (uint32_t i = 0; i < count; ++i) own.push_back(i);
  BANTAM_ASSIGN(const auto weights, metadata.PerLayer("layer_weights", {0, kLayersMax - 1}, count, own));
  for (uint32_t i = 0; i < count; ++i) {
    if (weights[i] != i) config->layers[i].weights = weights[i];
  }
  return Ok();
}

}  // namespace

Status ReadLayerOptions(const FamilyMetadata& metadata, Config* config) {
  BANTAM_TRY(ReadBlockSparse(metadata, config));
  return ReadSharedWeights(metadata, config);
}

}  // namespace bantam
