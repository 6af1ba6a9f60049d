#include "tensor/arena.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include "base/check.h"

namespace bantam {

Result<Arena> Arena::Make(MemoryBudget& budget, uint64_t bytes, std::string_view what) {
  Arena arena;
  const uint64_t size = AlignUp(bytes);
  BANTAM_ASSIGN(arena.reservation_, budget.Reserve(size, what));
  BANTAM_TRY(arena.Map(size, /*flags=*/0, what));
  // Fewer page-table walks while weights stream through; only advice.
  if (size > 0) (void)::madvise(arena.base_, size, MADV_HUGEPAGE);
  return arena;
}

Result<Arena> Arena::MakeUncounted(uint64_t bytes, std::string_view what) {
  Arena arena;
  const uint64_t size = AlignUp(bytes);
  BANTAM_TRY(arena.Map(size, MAP_NORESERVE, what));
  arena.UseSmallPages();
  return arena;
}

void Arena::UseSmallPages() {
  if (size_ > 0) (void)::madvise(base_, size_, MADV_NOHUGEPAGE);
}

Status Arena::Map(uint64_t size, int flags, std::string_view what) {
  if (size == 0) return Ok();
  void* address = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
  if (address == MAP_FAILED) {
    return Error(Code::kExhausted,
                 fmt::format("{}: the system refused {}; close other programs or choose a smaller model", what, FormatBytes(size)));
  }
  base_ = static_cast<std::byte*>(address);
  size_ = size;
  return Ok();
}

Arena::~Arena() {
  if (base_ != nullptr) ::munmap(base_, size_);
}

std::span<std::byte> Arena::Take(uint64_t bytes) {
  const uint64_t begin = used_;
  CHECK(bytes <= size_ - begin);
  used_ = std::min(AlignUp(begin + bytes), size_);
  return {base_ + begin, static_cast<size_t>(bytes)};
}

}  // namespace bantam
