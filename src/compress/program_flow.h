// How values go through a program: which operation wrote what another reads, and how often tensors are used.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "program/program.h"

namespace bantam {

class ProgramFlow {
 public:
  // The program outlives it. Uses are those of its plain form.
  explicit ProgramFlow(const Program& program);

  // Operations that read what `buffer` holds behind operation `from`.
  std::vector<size_t> Readers(size_t from, BufferId buffer) const;
  // The operation that wrote what `buffer` holds in front of operation `before`.
  std::optional<size_t> Writer(size_t before, BufferId buffer) const;

  // Operations that use a part of the tensor: as a norm's, a product's or a table's.
  size_t Uses(const std::string& tensor) const;
  // Those of them that use some of the same rows (of vectors: elements).
  size_t UsesOfRows(const WeightSpec& rows) const;

 private:
  const Program& program_;
  std::map<std::string, std::vector<WeightId>> uses_;  // of each tensor
};

}  // namespace bantam
