#include "engine/machine.h"

#include <algorithm>
#include <atomic>

namespace bantam {
namespace {

constexpr size_t kPassBytesMax = size_t{256} << 20;
constexpr size_t kPassBytesMin = size_t{64} << 20;  // smaller inputs are read several times over in one pass
constexpr int kPasses = 5;
constexpr int64_t kPeakPassNs = 2'000'000;
constexpr int kPeakPasses = 20;  // short ones: another program may take a processor at any time

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

double MeasurePeak(const kernels::Peak& peak, ThreadPool& pool, const Clock& clock) {
  std::atomic<uint64_t> checksum = 0;
  const auto pass_ns = [&](uint64_t rounds) {
    const int64_t begin = clock.NowNs();
    pool.Run([&](int) { checksum.fetch_add(peak.run(rounds), std::memory_order_relaxed); });
    return std::max<int64_t>(1, clock.NowNs() - begin);
  };
  // Long enough that starting the threads does not count.
  uint64_t rounds = 1 << 10;
  const auto quick = [&] { return std::min({pass_ns(rounds), pass_ns(rounds), pass_ns(rounds)}) < kPeakPassNs; };
  while (rounds < (uint64_t{1} << 40) && quick()) rounds *= 2;
  int64_t best_ns = pass_ns(rounds);
  for (int pass = 1; pass < kPeakPasses; ++pass) best_ns = std::min(best_ns, pass_ns(rounds));
  return static_cast<double>(rounds * peak.multiplies_per_round) * pool.size() / static_cast<double>(best_ns) * 1e9;
}

}  // namespace bantam
