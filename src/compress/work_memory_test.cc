#include "compress/work_memory.h"

#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <numeric>
#include <optional>
#include <vector>

#include "base/rng.h"
#include "compress/correction.h"
#include "compress/refit.h"
#include "compress/sparsify.h"
#include "compress/whitened_svd.h"
#include "kernels/ref/ref.h"

// Counts what this program has allocated, and the most that it had. The address sanitizer has its own.
namespace {
#ifdef __SANITIZE_ADDRESS__
constexpr bool kCounts = false;
#else
constexpr bool kCounts = true;
#endif
std::atomic<uint64_t> held = 0;
std::atomic<uint64_t> most_held = 0;
}  // namespace

#ifndef __SANITIZE_ADDRESS__
// Not inlined: the compiler would see through one of a pair and warn of a mismatch.
__attribute__((noinline)) void* operator new(size_t size) {
  void* memory = std::malloc(size);
  if (memory == nullptr) std::abort();
  const uint64_t now = held += ::malloc_usable_size(memory);
  uint64_t most = most_held;
  while (now > most && !most_held.compare_exchange_weak(most, now)) {
  }
  return memory;
}
__attribute__((noinline)) void operator delete(void* memory) noexcept {
  held -= ::malloc_usable_size(memory);
  std::free(memory);
}
__attribute__((noinline)) void operator delete(void* memory, size_t) noexcept { operator delete(memory); }
#endif

namespace bantam {
namespace {

// What a call holds at most beside what is there before.
uint64_t Peak(const std::function<void()>& call) {
  const uint64_t before = held;
  most_held = before;
  call();
  return most_held - before;
}

class WorkMemoryTest : public ::testing::TestWithParam<WorkShape> {
 protected:
  std::vector<float> Values() {
    std::vector<float> values(GetParam().rows * GetParam().columns);
    for (float& value : values) value = static_cast<float>(rng_.Uniform() - 0.5);
    return values;
  }
  UpperPanels Gram() {
    UpperPanels gram(GetParam().columns);
    for (size_t i = 0; i < gram.n(); ++i) gram.At(i, i) = static_cast<float>(1 + rng_.Uniform());
    return gram;
  }
  // Enough, and not much more than that.
  void ExpectEnough(uint64_t peak, uint64_t planned) {
    if (!kCounts) GTEST_SKIP() << "nothing counts allocations";
    EXPECT_LE(peak, planned);
    EXPECT_GE(2.5 * static_cast<double>(peak), static_cast<double>(planned));
  }

  Rng rng_{3};
  const KernelSet& kernels_ = kernels::kReference;
  std::unique_ptr<ThreadPool> pool_ = ThreadPool::Make(2).value();
};

TEST_P(WorkMemoryTest, Refitting) {
  const WorkShape shape = GetParam();
  const uint64_t peak = Peak([&] {
    const std::vector<float> values = Values();
    const UpperPanels gram = Gram();
    std::vector<uint32_t> kept(shape.columns * 3 / 4);
    std::iota(kept.begin(), kept.end(), 0u);
    const std::vector<float> made(shape.rows * kept.size());
    EXPECT_TRUE(RefitColumns({values, shape.rows, gram, kept}, kernels_, *pool_).ok());
  });
  ExpectEnough(peak, RefittingBytes(shape));
}

TEST_P(WorkMemoryTest, Zeroing) {
  const WorkShape shape = GetParam();
  const auto zeroed = [&](const std::function<void(const SparseRows&)>& how) {
    return Peak([&] {
      std::vector<float> values = Values();
      how({values.data(), shape.rows, shape.columns});
      const std::vector<float> made = values;
    });
  };
  ExpectEnough(zeroed([&](const SparseRows& rows) {
                 const GramFactor factor = FactorGram(Gram(), kernels_, *pool_, {.order = ColumnOrder::kAsTheyStand}).value();
                 SparsifyBySparseGpt(rows, {0.5}, factor, kernels_, *pool_);
               }),
               SparseGptBytes(shape));
  ExpectEnough(zeroed([](const SparseRows& rows) { SparsifyByMagnitude(rows, {0.5}); }), ZeroingBytes(shape));
}

TEST_P(WorkMemoryTest, LowRank) {
  const WorkShape shape = GetParam();
  const size_t rank = std::min(shape.rows, shape.columns) / 2;
  const uint64_t peak = Peak([&] {
    const std::vector<float> made(shape.rows * rank);
    const GramFactor factor = FactorGram(Gram(), kernels_, *pool_, {.order = ColumnOrder::kAsTheyStand}).value();
    const std::vector<float> values = Values();
    EXPECT_TRUE(FactorMatrix({values, shape.rows, factor.r}, rank, kernels_, *pool_).ok());
  });
  ExpectEnough(peak, LowRankBytes(shape));
}

TEST_P(WorkMemoryTest, Correcting) {
  const WorkShape shape = GetParam();
  for (const bool with_factor : {false, true}) {
    const uint64_t peak = Peak([&] {
      const std::vector<float> errors = Values();
      std::optional<GramFactor> factor;
      if (with_factor) factor = FactorGram(Gram(), kernels_, *pool_).value();
      EXPECT_TRUE(CorrectError({errors, shape.rows, shape.columns, factor ? &*factor : nullptr, {}}, 8, kernels_, *pool_).ok());
    });
    ExpectEnough(peak, CorrectingBytes(shape, 8, with_factor));
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, WorkMemoryTest, ::testing::Values(WorkShape{512, 384}, WorkShape{256, 704}, WorkShape{384, 384}));

}  // namespace
}  // namespace bantam
