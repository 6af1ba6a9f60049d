// The tensors of a pruned model, made of those of the whole one when they are read.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "compress/grams_ahead.h"
#include "compress/prune.h"
#include "formats/model_file.h"

namespace bantam {

// What becomes of a tensor.
struct TensorCut {
  const TensorInfo* from = nullptr;
  std::string name = {};               // its new one
  std::vector<uint32_t> rows = {};     // that stay, ascending; empty: all. Of vectors: elements
  std::vector<uint32_t> columns = {};  // that stay, ascending; empty: all
  bool refit = false;                  // what stays of the columns makes good for those that go
  bool zeros = false;                  // weights become zero, as the options say

  bool copied() const { return rows.empty() && columns.empty() && !zeros; }
};

// All values of a tensor's matrix. Corrupt for those that are no numbers.
Result<std::vector<float>> ReadValues(const TensorInfo& tensor, TensorSource& source);

class PrunedSource : public TensorSource {
 public:
  // The source of the whole model outlives it.
  PrunedSource(TensorSource& whole, std::vector<TensorCut> cuts, const PruneOptions& options);

  // Tensors as the cuts make them, in their order.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  // Keeps what metadata views.
  std::string_view Keep(std::string bytes) { return kept_.emplace_back(std::move(bytes)); }

  Result<std::span<const std::byte>> View(uint64_t offset_bytes, uint64_t size_bytes) override;
  void Release(uint64_t offset_bytes, uint64_t size_bytes) override;
  uint64_t held_bytes() const override { return made_.size(); }

 private:
  size_t Find(uint64_t offset_bytes) const;
  Status Make(size_t index);
  Status CutRows(const TensorCut& cut);
  Status MakeZeros(const TensorCut& cut);
  Status CutColumns(const TensorCut& cut);
  // Of floats, in the tensor's format.
  Status Store(const TensorInfo& tensor, const std::vector<float>& values);
  GramsAhead& Grams();

  TensorSource& whole_;
  const std::vector<TensorCut> cuts_;
  const PruneOptions options_;
  std::deque<std::string> kept_;
  std::vector<TensorInfo> tensors_;
  std::optional<GramsAhead> grams_;
  size_t made_index_ = SIZE_MAX;
  std::vector<std::byte> made_;  // the tensor that was read last
};

}  // namespace bantam
