#include "base/bytes.h"

#include <fmt/format.h>

namespace bantam {

Result<std::span<const std::byte>> ByteReader::Take(uint64_t size, std::string_view what) {
  if (size > remaining()) {
    return Error(Code::kCorrupt, fmt::format("{} at offset {} needs {} bytes and the file has {} left; it is cut short or damaged", what,
                                             offset_, size, remaining()));
  }
  const auto field = bytes_.subspan(offset_, static_cast<size_t>(size));
  offset_ += static_cast<size_t>(size);
  return field;
}

uint64_t Fingerprint(std::span<const std::byte> bytes) {
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (const std::byte byte : bytes) {
    hash ^= static_cast<uint64_t>(byte);
    hash *= 0x100000001b3ULL;
  }
  return hash;
}

}  // namespace bantam
