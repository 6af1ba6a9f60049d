// ByteReader: little-endian fields from untrusted bytes. Every read is bounded; a failed read says where and what it wanted.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/result.h"

namespace bantam {

static_assert(std::endian::native == std::endian::little, "file formats and kernels assume a little-endian machine");

// Reads a T at any alignment.
template <typename T>
T LoadUnaligned(const void* source) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  std::memcpy(&value, source, sizeof(T));
  return value;
}

// The reverse, at the end of `out`.
template <typename T>
void AppendLittleEndian(std::string* out, T value) {
  static_assert(std::is_trivially_copyable_v<T>);
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out->append(bytes, sizeof(T));
}

// a * b and a + b, or false when the result does not fit in 64 bits.
[[nodiscard]] inline bool CheckedMultiply(uint64_t a, uint64_t b, uint64_t* product) { return !__builtin_mul_overflow(a, b, product); }
[[nodiscard]] inline bool CheckedAdd(uint64_t a, uint64_t b, uint64_t* sum) { return !__builtin_add_overflow(a, b, sum); }

class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  size_t offset() const { return offset_; }
  size_t remaining() const { return bytes_.size() - offset_; }

  // `what` names the field in the error.
  template <typename T>
  Result<T> Read(std::string_view what) {
    BANTAM_ASSIGN(std::span<const std::byte> field, Take(sizeof(T), what));
    return LoadUnaligned<T>(field.data());
  }

  // The next `size` bytes, in place.
  Result<std::span<const std::byte>> Take(uint64_t size, std::string_view what);

 private:
  std::span<const std::byte> bytes_;
  size_t offset_ = 0;
};

constexpr uint64_t RoundUp(uint64_t value, uint64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

inline std::span<const std::byte> AsBytes(std::string_view text) { return std::as_bytes(std::span(text)); }
inline std::string_view AsText(std::span<const std::byte> bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

// FNV-1a, 64 bits: a fingerprint for people to compare, not a protection against an adversary.
uint64_t Fingerprint(std::span<const std::byte> bytes);

}  // namespace bantam
