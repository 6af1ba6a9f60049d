// adapter_config.json of a PEFT folder.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace bantam {

struct PeftConfig {
  size_t rank = 0;
  double alpha = 0;
  bool root_of_rank = false;  // scale is alpha / sqrt(rank)
  // By names of modules or ends of them, "^" in front of whole names; the first that fits counts.
  std::vector<std::pair<std::string, size_t>> ranks;
  std::vector<std::pair<std::string, double>> alphas;

  // Of a module, without "base_model.model.".
  size_t RankOf(std::string_view module) const;
  double AlphaOf(std::string_view module) const;
};

// Errors: Corrupt (no JSON object, a member of another kind), Unsupported (what changes a model in another way, and members that this build
// does not know); they name the member.
Result<PeftConfig> ReadPeftConfig(std::string_view text);

}  // namespace bantam
