#include "base/memory_budget.h"

#include <fmt/format.h>

#include <charconv>

namespace bantam {

Result<MemoryBudget::Reservation> MemoryBudget::Reserve(uint64_t bytes, std::string_view what) {
  uint64_t used = used_bytes_.load();
  do {
    if (bytes > limit_bytes_ - used) {
      return Error(Code::kExhausted,
                   fmt::format("{} needs {} ({} bytes) and the memory budget of {} has {} left; raise --memory or "
                               "choose a smaller model or context",
                               what, FormatBytes(bytes), bytes, FormatBytes(limit_bytes_), FormatBytes(limit_bytes_ - used)));
    }
  } while (!used_bytes_.compare_exchange_weak(used, used + bytes));
  return Reservation(this, bytes);
}

std::string FormatBytes(uint64_t bytes) {
  constexpr uint64_t kKiB = 1024;
  if (bytes < 10 * kKiB) return fmt::format("{} bytes", bytes);
  const double value = static_cast<double>(bytes);
  if (bytes < kKiB * kKiB) return fmt::format("{:.0f} KiB", value / kKiB);
  if (bytes < 100 * kKiB * kKiB) return fmt::format("{:.1f} MiB", value / (kKiB * kKiB));
  if (bytes < kKiB * kKiB * kKiB) return fmt::format("{:.0f} MiB", value / (kKiB * kKiB));
  return fmt::format("{:.2f} GiB", value / (kKiB * kKiB * kKiB));
}

Result<uint64_t> ParseBytes(std::string_view text, std::string_view option) {
  const auto bad = [&] {
    return Error(Code::kInvalidArgument,
                 fmt::format("{} {}: expected a size such as 512M, 1.5G or 800000 (K, M, G and T are binary)", option, text));
  };
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  if (error != std::errc() || !(number >= 0)) return bad();
  std::string_view unit(rest, static_cast<size_t>(end - rest));
  double factor = 1;
  if (!unit.empty() && unit != "B") {
    const size_t power = std::string_view("KMGT").find(static_cast<char>(unit[0] & ~0x20));
    if (power == std::string_view::npos) return bad();
    for (size_t i = 0; i <= power; ++i) factor *= 1024;
    unit.remove_prefix(1);
    if (!unit.empty() && unit != "B" && unit != "iB") return bad();
  }
  if (number * factor >= 0x1p62) return bad();
  return static_cast<uint64_t>(number * factor);
}

}  // namespace bantam
