// MemoryBudget: what the process may hold, shared by all its models. A reservation is made before the memory is allocated.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"

namespace bantam {

class MemoryBudget {
 public:
  // Gives its bytes back at the end of its life. The budget must outlive it.
  class Reservation {
   public:
    Reservation() = default;
    Reservation(Reservation&& other) noexcept : budget_(std::exchange(other.budget_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    Reservation& operator=(Reservation&& other) noexcept {
      std::swap(budget_, other.budget_);
      std::swap(bytes_, other.bytes_);
      return *this;
    }
    ~Reservation() {
      if (budget_ != nullptr) budget_->used_bytes_.fetch_sub(bytes_);
    }
    uint64_t bytes() const { return bytes_; }

   private:
    friend class MemoryBudget;
    Reservation(MemoryBudget* budget, uint64_t bytes) : budget_(budget), bytes_(bytes) {}
    MemoryBudget* budget_ = nullptr;
    uint64_t bytes_ = 0;
  };

  explicit MemoryBudget(uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}
  MemoryBudget(const MemoryBudget&) = delete;
  MemoryBudget& operator=(const MemoryBudget&) = delete;

  // Exhausted when `bytes` more would pass the limit; `what` names the purpose in the message.
  Result<Reservation> Reserve(uint64_t bytes, std::string_view what);

  uint64_t limit_bytes() const { return limit_bytes_; }
  uint64_t used_bytes() const { return used_bytes_.load(); }

 private:
  const uint64_t limit_bytes_;
  std::atomic<uint64_t> used_bytes_ = 0;
};

// "1.5 GiB", "323 MiB", "17 KiB", "12 bytes".
std::string FormatBytes(uint64_t bytes);

// "512M", "2G", "1.5GiB", "800000": binary multiples. InvalidArgument otherwise; `option` names the input.
Result<uint64_t> ParseBytes(std::string_view text, std::string_view option);

}  // namespace bantam
