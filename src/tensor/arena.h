// Arena: one aligned block of memory, planned to the byte, out of which weights, KV and activations are cut.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include "base/memory_budget.h"
#include "base/result.h"

namespace bantam {

// Every piece starts on such a boundary: a cache line, and the widest vector load.
inline constexpr size_t kArenaAlignment = 64;

constexpr uint64_t AlignUp(uint64_t bytes) { return (bytes + kArenaAlignment - 1) / kArenaAlignment * kArenaAlignment; }

class Arena {
 public:
  Arena() = default;
  Arena(Arena&& other) noexcept
      : reservation_(std::move(other.reservation_)),
        base_(std::exchange(other.base_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        used_(std::exchange(other.used_, 0)) {}
  Arena& operator=(Arena&& other) noexcept {
    std::swap(reservation_, other.reservation_);
    std::swap(base_, other.base_);
    std::swap(size_, other.size_);
    std::swap(used_, other.used_);
    return *this;
  }
  ~Arena();

  // Reserves `bytes` of the budget and maps them, zeroed. Exhausted when either fails.
  static Result<Arena> Make(MemoryBudget& budget, uint64_t bytes, std::string_view what);

  // Addresses alone: whoever uses them sees to it that what has memory was reserved elsewhere.
  static Result<Arena> MakeUncounted(uint64_t bytes, std::string_view what);

  // Single pages from here on: a large one has memory around the bytes that were asked for, and does not give back a part of it.
  void UseSmallPages();

  // The next `bytes` bytes. The arena was planned: running out is our own defect.
  std::span<std::byte> Take(uint64_t bytes);
  template <typename T>
  T* TakeArray(uint64_t count) {
    return reinterpret_cast<T*>(Take(count * sizeof(T)).data());
  }

  uint64_t used_bytes() const { return used_; }
  std::span<const std::byte> bytes() const { return {base_, static_cast<size_t>(used_)}; }

 private:
  Status Map(uint64_t size, int flags, std::string_view what);

  MemoryBudget::Reservation reservation_;
  std::byte* base_ = nullptr;
  uint64_t size_ = 0;
  uint64_t used_ = 0;
};

}  // namespace bantam
