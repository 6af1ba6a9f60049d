// A file in memory that may be slow, short of room, or damaged.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "base/disk.h"

namespace bantam::testing {

class MemoryFile final : public PartFile {
 public:
  explicit MemoryFile(std::string bytes = {}) : bytes_(std::move(bytes)) {}
  uint64_t size() const override { return bytes_.size(); }
  Result<size_t> Read(uint64_t offset, std::span<std::byte> into) override {
    const size_t n = offset >= bytes_.size() ? 0 : std::min<size_t>({into.size(), bytes_.size() - offset, most_at_once_});
    if (n > 0) std::memcpy(into.data(), bytes_.data() + offset, n);
    return n;
  }
  Status Append(std::span<const std::byte> bytes) override {
    if (bytes_.size() + bytes.size() > full_) return Error(Code::kExhausted, "the disk is full");
    bytes_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return Ok();
  }
  Status Truncate(uint64_t size) override {
    bytes_.resize(size);
    return Ok();
  }
  Status Sync() override { return Ok(); }

  std::string bytes_;
  size_t most_at_once_ = SIZE_MAX;  // bytes of a read
  size_t full_ = SIZE_MAX;          // appending fails past this size
};

}  // namespace bantam::testing
