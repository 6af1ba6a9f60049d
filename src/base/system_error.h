// What base's files share: descriptors, and how the system's errors are told.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"

namespace bantam {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor();
  int get() const { return fd_; }

 private:
  int fd_;
};

// "PATH: cannot ACTION: REASON; REMEDY" with the code of `error_number` (errno).
Error SystemError(const std::string& path, std::string_view action, int error_number);

}  // namespace bantam
