// The products of a program, by the names of their matrices: what observers look at.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "program/program.h"

namespace bantam {

// Matrices that are multiplied with the same, and in which operations: several where layers share weights. A tensor that several operations
// take parts of (queries, keys and values in one) is looked at in the first.
struct WatchedProduct {
  std::vector<size_t> ops;
  size_t columns;
  size_t matrices;
  std::vector<std::string> names;
};
std::vector<WatchedProduct> FindProducts(const Program& program, bool experts);

}  // namespace bantam
