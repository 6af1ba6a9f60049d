// The products of a program, by the names of their matrices: what observers look at.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "program/program.h"

namespace bantam {

// What operation names what products read, by the tensor's name: a tensor that several operations take parts of (queries, keys and values
// in one) is looked at in the first.
struct WatchedProduct {
  size_t op;
  size_t columns;
  size_t matrices;
  std::vector<std::string> names;
};
std::vector<WatchedProduct> FindProducts(const Program& program, bool experts);

}  // namespace bantam
