// The tensors of a pruned model, made of those of the whole one when they are read.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "compress/grams_ahead.h"
#include "compress/made_source.h"
#include "compress/prune.h"

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

class PrunedSource : public MadeSource {
 public:
  // The source of the whole model outlives it.
  PrunedSource(TensorSource& whole, std::vector<TensorCut> cuts, const PruneOptions& options);

 private:
  Status Make(size_t index, std::span<std::byte> bytes) override;
  Status CutRows(const TensorCut& cut, std::span<std::byte> made);
  Status MakeZeros(const TensorCut& cut, std::span<std::byte> made);
  Status CutColumns(const TensorCut& cut, std::span<std::byte> made);
  GramsAhead& Grams();

  const std::vector<TensorCut> cuts_;
  const PruneOptions options_;
  std::optional<GramsAhead> grams_;
};

}  // namespace bantam
