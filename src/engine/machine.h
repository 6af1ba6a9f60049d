// What this machine can do at most: read bandwidth, over memory that the process holds anyway, and multiplications.
#pragma once

#include <cstddef>
#include <span>

#include "base/clock.h"
#include "base/threads.h"
#include "kernels/kernels.h"

namespace bantam {

// Bytes per second at which all threads of the pool read `bytes` together: the best of several passes over at most 256 MiB.
// Small models measure their cache, which is what their decoding reads from too. 0 when `bytes` is empty.
double MeasureReadBandwidth(std::span<const std::byte> bytes, const KernelSet& kernels, ThreadPool& pool, const Clock& clock);

// Multiply-adds per second that all threads of the pool reach together on registers: no kernel can do more. The best of several passes.
double MeasurePeak(const kernels::Peak& peak, ThreadPool& pool, const Clock& clock);

}  // namespace bantam
