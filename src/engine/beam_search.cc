#include "engine/beam_search.h"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace bantam {

BeamSelection SelectBeams(std::vector<BeamCandidate> candidates, size_t width) {
  const auto order = [](const BeamCandidate& candidate) { return std::tuple(-candidate.sum, candidate.beam, candidate.token); };
  std::sort(candidates.begin(), candidates.end(), [&](const auto& a, const auto& b) { return order(a) < order(b); });
  BeamSelection selection;
  for (size_t i = 0; i < candidates.size() && selection.running.size() < width; ++i) {
    if (!candidates[i].ends) {
      selection.running.push_back(candidates[i]);
    } else if (i < width) {
      selection.ended.push_back(candidates[i]);
    }
  }
  return selection;
}

double BeamScore(double sum, size_t tokens, float length_penalty) {
  return tokens == 0 ? 0 : sum / std::pow(static_cast<double>(tokens), static_cast<double>(length_penalty));
}

}  // namespace bantam
