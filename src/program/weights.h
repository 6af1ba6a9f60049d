// The weights of a program, in memory and ready for the kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
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

// Whether the weight is whole panels of its tensor, were that stored as panels (each matrix whole ones).
bool ReadsWholePanels(const WeightSpec& spec, const TensorInfo& tensor);

// Rows of blocks, one behind the other, to panels on all threads; the last one is filled up with rows of zeros.
struct PanelRows {
  DType dtype;
  size_t columns;
  const uint8_t* first;
  size_t count;
};
void PackPanels(const PanelRows& rows, uint8_t* target, ThreadPool& pool);

// What loading and running take from the process.
struct Resources {
  MemoryBudget& budget;
  ThreadPool& pool;
};

class Weights {
 public:
  // Reads every tensor the program names, packs matrices into panels on all threads, and gives pages of the file back as
  // it goes. What the source holds ready for the kernels is checked and used where it is: the source goes from `file` to the weights then.
  // The lowering has checked names, types and shapes against the file's directory.
  // Errors: Exhausted (budget), Cancelled (progress), Corrupt (an order that names no column), those of the
  // source.
  static Result<Weights> Load(const Program& program, ModelFile& file, const Resources& resources, const Progress& progress);

  // A matrix's panel: 16 rows from 16 * panel on. Of weights that are stored as panels.
  const uint8_t* Panel(WeightId id, size_t matrix, size_t panel) const {
    const Entry& entry = entries_[id];
    return entry.data + matrix * entry.matrix_bytes + panel * entry.panel_bytes;
  }
  const float* Vector(WeightId id) const { return reinterpret_cast<const float*>(entries_[id].data); }
  // Of weights that are stored as orders.
  const uint32_t* Order(WeightId id) const { return reinterpret_cast<const uint32_t*>(entries_[id].data); }
  // Rows of all matrices are counted through. Of weights that are stored as rows.
  const uint8_t* Row(WeightId id, size_t row) const { return entries_[id].data + row * entries_[id].panel_bytes; }

  // What weights that were not copied lie in; null where all were.
  const TensorSource* source() const { return source_.get(); }

  // Memory that most of them lie in: what was copied, or the part of the source that is used in place.
  std::span<const std::byte> bytes() const { return mapped_.bytes() > arena_.used_bytes() ? placed_ : arena_.bytes(); }
  uint64_t mapped_bytes() const { return mapped_.bytes(); }

 private:
  struct Entry {
    const uint8_t* data = nullptr;
    size_t matrix_bytes = 0;
    size_t panel_bytes = 0;  // of a panel, or of a row
  };
  static std::optional<Entry> Place(const WeightSpec& spec, const TensorInfo& tensor, const TensorSource& source);

  Arena arena_;
  MemoryBudget::Reservation mapped_;
  std::unique_ptr<TensorSource> source_;  // where it holds weights
  std::span<const std::byte> placed_;     // from the first of those to the last
  std::vector<Entry> entries_;
};

}  // namespace bantam
