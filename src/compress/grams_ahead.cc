#include "compress/grams_ahead.h"

#include <algorithm>

#include "base/check.h"

namespace bantam {

Result<std::shared_ptr<UpperPanels>> GramsAhead::Remove(const std::string& name) {
  if (!grams_.contains(name)) {
    auto next = std::find(names_.begin(), names_.end(), name);
    CHECK(next != names_.end());
    std::vector<std::string> batch;
    for (; next != names_.end(); ++next) {
      batch.push_back(*next);
      if (batch.size() > 1 && calibrator_.GramBytes(batch) > bytes_max_) {
        batch.pop_back();
        break;
      }
    }
    factors_.clear();
    grams_.clear();
    BANTAM_ASSIGN(grams_, calibrator_.MeasureGrams(batch));
  }
  std::shared_ptr<UpperPanels> gram = grams_.at(name);
  grams_.erase(name);
  return gram;
}

Result<std::shared_ptr<const UpperPanels>> GramsAhead::Take(const std::string& name) {
  BANTAM_ASSIGN(std::shared_ptr<UpperPanels> gram, Remove(name));
  return std::shared_ptr<const UpperPanels>(std::move(gram));
}

Result<std::shared_ptr<const GramFactor>> GramsAhead::TakeFactor(const std::string& name, const KernelSet& kernels, ThreadPool& pool,
                                                                 const Factoring& how) {
  BANTAM_ASSIGN(const std::shared_ptr<UpperPanels> gram, Remove(name));
  std::shared_ptr<const GramFactor>& shared = factors_[gram.get()];
  if (shared == nullptr) {
    BANTAM_ASSIGN(GramFactor factor, FactorGram(std::move(*gram), kernels, pool, how));
    shared = std::make_shared<const GramFactor>(std::move(factor));
  }
  const std::shared_ptr<const GramFactor> factor = shared;
  const bool wanted_later = std::any_of(grams_.begin(), grams_.end(), [&](const auto& entry) { return entry.second == gram; });
  if (!wanted_later) factors_.erase(gram.get());
  return factor;
}

}  // namespace bantam
