#include "kernels/tiles.h"

#include <algorithm>
#include <cstring>

namespace bantam {

using kernels::kRows;
using kernels::kTileColumns;

void StoreColumn(const kernels::ActivationBlock& block, size_t column, kernels::ActivationTile* tile) {
  std::memcpy(tile->q[column], block.q, sizeof(block.q));
  tile->scale[column] = block.scale;
  for (size_t half = 0; half < 2; ++half) tile->sum16[half][column] = block.sum16[half];
}

namespace {

// Asks for part t of `parts` of a panel's bytes [begin, end).
void PrefetchPart(const uint8_t* panel, size_t begin, size_t end, size_t t, size_t parts) {
  constexpr size_t kLine = 64;
  const size_t lines = (end - begin + kLine - 1) / kLine;
  for (size_t line = lines * t / parts; line < lines * (t + 1) / parts; ++line) __builtin_prefetch(panel + begin + line * kLine);
}

}  // namespace

void MultiplyTiles(const kernels::TileKernels& kernels, const TilePanels& weights, std::span<const kernels::ActivationTile> tiles,
                   UnpackedChunk* chunks, float* sums, size_t sums_stride) {
  const std::span<const kernels::Panel> panels = weights.panels;
  const size_t blocks = panels[0].columns / 32;
  const size_t count = tiles.size() / blocks;
  for (size_t p = 0; p < panels.size(); ++p) std::fill_n(sums + p * sums_stride, count * kTileColumns * kRows, 0.0f);
  // Chunks of about the same size: a short one costs as much besides its products as a long one.
  const size_t chunks_of_panel = (blocks + kernels.chunk_blocks - 1) / kernels.chunk_blocks;
  const auto first_of = [&](size_t chunk) { return blocks * chunk / chunks_of_panel; };
  const auto bytes_before = [&](size_t chunk) { return weights.panel_bytes * first_of(chunk) / blocks; };
  for (size_t chunk = 0; chunk < chunks_of_panel; ++chunk) {
    const size_t block = first_of(chunk);
    const size_t n = first_of(chunk + 1) - block;
    for (size_t p = 0; p < panels.size(); ++p) kernels.unpack(panels[p], block, n, chunks[p].bytes);
    const bool last = chunk + 1 == chunks_of_panel;
    const size_t next = last ? 0 : chunk + 1;
    for (size_t t = 0; t < count; ++t) {
      // What is unpacked next comes from memory meanwhile.
      for (const kernels::Panel& panel : panels) {
        PrefetchPart(panel.data + (last ? weights.next_bytes : 0), bytes_before(next), bytes_before(next + 1), t, count);
      }
      kernels.multiply({.weights = chunks[0].bytes,
                        .panels = panels.size(),
                        .blocks = n,
                        .tiles = tiles.data() + t * blocks + block,
                        .sums = sums + t * kTileColumns * kRows,
                        .sums_stride = sums_stride});
    }
  }
}

}  // namespace bantam
