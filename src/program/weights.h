// The weights of a program, in memory and ready for the kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/memory_budget.h"
#include "base/progress.h"
#include "base/result.h"
#include "base/threads.h"
#include "formats/model_file.h"
#include "program/program.h"
#include "tensor/arena.h"

namespace bantam {

// Bytes of a weight in memory, before alignment.
uint64_t WeightBytes(const WeightSpec& spec);
// Bytes of all of them, each aligned: what LoadWeights reserves.
uint64_t WeightsBytes(const Program& program);

// What loading and running take from the process.
struct Resources {
  MemoryBudget& budget;
  ThreadPool& pool;
};

class Weights {
 public:
  // Reads every tensor the program names, packs matrices into panels on all threads, and gives pages of the file back as
  // it goes. The lowering has checked names, types and shapes against the file's directory.
  // Errors: Exhausted (budget), Cancelled (progress), those of the source.
  static Result<Weights> Load(const Program& program, ModelFile& file, const Resources& resources, const Progress& progress);

  // A matrix's panel: 16 rows from 16 * panel on. Of weights that are stored as panels.
  const uint8_t* Panel(WeightId id, size_t matrix, size_t panel) const {
    const Entry& entry = entries_[id];
    return entry.data + matrix * entry.matrix_bytes + panel * entry.panel_bytes;
  }
  const float* Vector(WeightId id) const { return reinterpret_cast<const float*>(entries_[id].data); }
  // Rows of all matrices are counted through. Of weights that are stored as rows.
  const uint8_t* Row(WeightId id, size_t row) const { return entries_[id].data + row * entries_[id].panel_bytes; }

  std::span<const std::byte> bytes() const { return arena_.bytes(); }

 private:
  struct Entry {
    uint8_t* data;
    size_t matrix_bytes;
    size_t panel_bytes;  // of a panel, or of a row
  };
  Arena arena_;
  std::vector<Entry> entries_;
};

}  // namespace bantam
