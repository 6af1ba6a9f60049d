// How much columns of weights matter: the mean square of what a product reads in each column, measured on a text, and the files that keep
// it (docs/compression.md).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/result.h"

namespace bantam {

// Of one tensor; experts are matrices of it.
struct ColumnImportance {
  size_t columns = 0;
  std::vector<float> sums;    // [matrices][columns]: of squares, over the rows that were seen
  std::vector<float> counts;  // [matrices]: of these rows

  size_t matrices() const { return counts.size(); }
  // [columns]: mean squares of a matrix. Where it saw nothing (an expert that no token chose), those of the others together; of nothing at
  // all, ones.
  std::vector<float> Means(size_t matrix) const;
};

struct Importance {
  std::map<std::string, ColumnImportance, std::less<>> tensors;  // by name
  std::string text;                                              // what it was measured on: a file's name, or empty
  uint32_t windows = 0;
  uint32_t window_tokens = 0;

  const ColumnImportance* Find(std::string_view name) const;
};

// The GGUF form that llama.cpp's imatrix tool writes today: NAME.in_sum2 and NAME.counts of each tensor.
Status WriteImportance(FileSystem& files, const std::string& path, const Importance& importance);

// That form, or the one before it (.dat). Corrupt for what is neither, or holds numbers that are no mean squares; they name the file.
Result<Importance> ReadImportance(FileSystem& files, const std::string& path);

}  // namespace bantam
