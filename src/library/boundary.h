// What every function of the C library does where C ends and the rest begins.
#pragma once

#include <bantam/bantam.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <new>
#include <string>

#include "base/progress.h"
#include "base/result.h"
#include "base/system_limits.h"

namespace bantam {

static_assert(static_cast<int>(Code::kInternal) + 1 == BANTAM_INTERNAL &&
              static_cast<int>(Code::kInvalidArgument) + 1 == BANTAM_INVALID_ARGUMENT);
inline bantam_code Tell(const Error& failed, bantam_error* error) {
  const auto code = static_cast<bantam_code>(static_cast<int>(failed.code()) + 1);
  if (error == nullptr || error->size < offsetof(bantam_error, message) + 1) return code;
  const size_t capacity = std::min(error->size - offsetof(bantam_error, message), sizeof(error->message));
  const size_t length = std::min(failed.message().size(), capacity - 1);
  error->code = code;
  std::memcpy(error->message, failed.message().data(), length);
  error->message[length] = 0;
  return code;
}

// No exception passes a function of C: the standard library's, when memory is gone.
template <typename Function>
bantam_code Guarded(bantam_error* error, const Function& function) {
  try {
    const Status done = function();
    return done.ok() ? BANTAM_OK : Tell(done.error(), error);
  } catch (const std::bad_alloc&) {
    return Tell(Error(Code::kExhausted, "the system gave no memory"), error);
  } catch (const std::exception& exception) {
    return Tell(Error(Code::kInternal, exception.what()), error);
  }
}

// What the caller's struct has of ours; what it has not is zero.
template <typename Struct>
Struct Known(const Struct* given) {
  Struct known{};
  if (given != nullptr) std::memcpy(&known, given, std::min(given->size, sizeof(Struct)));
  return known;
}

// Of what is available more is left to the machine than what its pressure begins at.
inline uint64_t LimitBytes(uint64_t wanted, const SystemLimits& limits) {
  constexpr uint64_t kLeftBytes = uint64_t{512} << 20;
  if (wanted != 0) return std::min(wanted, limits.memory_available_bytes);
  return limits.memory_available_bytes - std::min(limits.memory_available_bytes / 8, kLeftBytes);
}

// The options outlive it.
template <typename Options>
Progress ProgressOf(const Options& options) {
  if (options.progress == nullptr) return nullptr;
  return [&options](std::string_view step, uint64_t done, uint64_t total) {
    return options.progress(options.user, std::string(step).c_str(), done, total) != 0;
  };
}

}  // namespace bantam
