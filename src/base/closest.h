// The names that were probably meant.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

namespace bantam {

// At most `count` of the names, those with the fewest insertions, deletions, substitutions and swaps of neighbours from `wanted` first
// (Damerau, "A technique for computer detection and correction of spelling errors", 1964); of equal ones in their order.
std::vector<std::string_view> Closest(std::string_view wanted, std::span<const std::string_view> names, size_t count);

}  // namespace bantam
