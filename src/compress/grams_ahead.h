// Gram matrices for a list of matrices that are worked on in turn: a text is read for as many of them at once as memory has room for.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "compress/calibrate.h"
#include "compress/gram.h"

namespace bantam {

class GramsAhead {
 public:
  // `names` in the order in which they are taken; those may be left out that are not needed after all. `bytes_max` bounds what is in memory
  // at once, but for a single one that is larger. The calibrator outlives it.
  GramsAhead(Calibrator& calibrator, std::vector<std::string> names, uint64_t bytes_max)
      : calibrator_(calibrator), names_(std::move(names)), bytes_max_(bytes_max) {}

  // Of what this matrix is multiplied with; others that read the same have the same. Errors: those of MeasureGrams.
  Result<std::shared_ptr<const UpperPanels>> Take(const std::string& name);
  // Its factor, which takes the Gram matrix's place; shared like that.
  Result<std::shared_ptr<const GramFactor>> TakeFactor(const std::string& name, const KernelSet& kernels, ThreadPool& pool,
                                                       const Factoring& how);

 private:
  Result<std::shared_ptr<UpperPanels>> Remove(const std::string& name);

  Calibrator& calibrator_;
  const std::vector<std::string> names_;
  const uint64_t bytes_max_;
  Calibrator::Grams grams_;
  std::map<const UpperPanels*, std::shared_ptr<const GramFactor>> factors_;  // of Gram matrices that somebody takes later
};

}  // namespace bantam
