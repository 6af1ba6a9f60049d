// Eigenvalues and eigenvectors of symmetric matrices, in doubles and on all threads: what a singular value decomposition of weights needs
// (ADR 0028).
#pragma once

#include <cstddef>
#include <vector>

#include "base/result.h"
#include "base/threads.h"

namespace bantam {

// A = sum over i of values[i] * v_i v_i^T.
struct SymmetricEigen {
  std::vector<double> values;   // [n], the largest first
  std::vector<double> vectors;  // [count][n], of length 1 and at right angles to each other: v_0, v_1, ... of the largest values
};

// `a` [n][n], both halves; it is used up. `count`: how many vectors, at most n. By Householder's reduction to three diagonals and the QL
// method with implicit shifts (Golub and Van Loan, "Matrix computations", 8.3). Results do not depend on the number of threads. Errors:
// Corrupt for numbers that are not finite.
Result<SymmetricEigen> DecomposeSymmetric(std::vector<double> a, size_t n, size_t count, ThreadPool& pool);

}  // namespace bantam
