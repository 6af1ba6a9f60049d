// Rewrites a program's plain form for a kernel set: fewer, larger operations, and integer or bf16 activations where the set
// multiplies those.
#pragma once

#include "kernels/kernels.h"
#include "program/program.h"

namespace bantam {

// Four rewrites, in order: products of the same input become one operation; a product whose result is only added goes
// straight into the sum; gate and up products followed by their activation become one; inputs of integer and bf16 products are rounded
// once, within the norm where one made them. With the reference set nothing is quantised and every rewrite keeps each result's bits.
Program Fuse(Program program, const KernelSet& kernels);

}  // namespace bantam
