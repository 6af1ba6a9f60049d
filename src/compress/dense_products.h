// Products of matrices of floats on all threads, by the kernel table's product of F32 panels. Sums do not depend on the number of threads.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/threads.h"
#include "compress/gram.h"
#include "kernels/kernels.h"

namespace bantam {

// [rows][columns] as [columns][rows].
std::vector<float> Turned(std::span<const float> values, size_t rows, size_t columns);

// W R for W [rows][n].
std::vector<float> TimesUpper(std::span<const float> w, const UpperPanels& r, const KernelSet& kernels, ThreadPool& pool);

// A B^T, [m][k], for A [m][n] and B [k][n].
std::vector<float> RowProducts(std::span<const float> a, std::span<const float> b, size_t n, const KernelSet& kernels, ThreadPool& pool);

}  // namespace bantam
