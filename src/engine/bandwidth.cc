#include "engine/bandwidth.h"

#include <algorithm>
#include <atomic>

namespace bantam {
namespace {

constexpr size_t kPassBytesMax = size_t{256} << 20;
constexpr size_t kPassBytesMin = size_t{64} << 20;  // smaller inputs are read several times over in one pass
constexpr int kPasses = 5;

}  // namespace

double MeasureReadBandwidth(std::span<const std::byte> bytes, const KernelSet& kernels, ThreadPool& pool, const Clock& clock) {
  if (bytes.empty()) return 0;
  const size_t size = std::min(bytes.size(), kPassBytesMax);
  const size_t repeats = std::max<size_t>(1, kPassBytesMin / size);
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  std::atomic<uint64_t> checksum = 0;  // keeps the reads alive
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const int64_t begin = clock.NowNs();
    pool.Run([&](int thread) {
      const auto [from, to] = Share(size / 64, thread, pool.size());
      uint64_t sum = 0;
      for (size_t i = 0; i < repeats; ++i) sum += kernels.read(data + 64 * from, 64 * (to - from));
      checksum.fetch_add(sum, std::memory_order_relaxed);
    });
    const int64_t elapsed = std::max<int64_t>(1, clock.NowNs() - begin);
    best = std::max(best, static_cast<double>(size * repeats) / static_cast<double>(elapsed) * 1e9);
  }
  return best;
}

}  // namespace bantam
