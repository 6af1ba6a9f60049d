// How many calls and bytes of messages there may be: in all, and of one address, so that one client shuts nobody else out.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "net/http_server.h"

namespace bantam {

// Calls at once on one connection; of all connections together there may be as many calls as connections, or this many.
inline constexpr size_t kGrpcStreamsMax = 128;
// As addresses of this machine are called.
inline constexpr char kGrpcOwnAddress[] = "127.0.0.1";

// Any thread may call it.
class GrpcRoom {
 public:
  explicit GrpcRoom(const HttpServerLimits& limits)
      : calls_max_(std::max<size_t>(limits.connections_max, kGrpcStreamsMax)),
        calls_per_address_max_(limits.connections_per_address_max),
        bytes_max_(limits.bodies_bytes_max) {}

  // A place for a call, which Leave gives back. False: there is none; an address other than this machine's has at most
  // connections_per_address_max.
  bool Enter(const std::string& address) {
    const std::lock_guard lock(mutex_);
    const auto known = uses_.find(address);
    const bool many = address != kGrpcOwnAddress && known != uses_.end() && known->second.calls >= calls_per_address_max_;
    if (calls_ >= calls_max_ || many) return false;
    ++calls_;
    ++uses_[address].calls;
    return true;
  }
  void Leave(const std::string& address) {
    const std::lock_guard lock(mutex_);
    --calls_;
    --uses_[address].calls;
    Forget(address);
  }

  // The same for the bytes of a message: one address has half of them at most, or one message.
  bool Hold(const std::string& address, uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    const auto known = uses_.find(address);
    const uint64_t own_bytes = known == uses_.end() ? 0 : known->second.bytes;
    const bool much = address != kGrpcOwnAddress && own_bytes > 0 && own_bytes + bytes > bytes_max_ / 2;
    if (bytes_ + bytes > bytes_max_ || much) return false;
    bytes_ += bytes;
    uses_[address].bytes += bytes;
    return true;
  }
  void Drop(const std::string& address, uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    bytes_ -= bytes;
    uses_[address].bytes -= bytes;
    Forget(address);
  }

 private:
  struct Use {
    size_t calls = 0;
    uint64_t bytes = 0;
  };
  void Forget(const std::string& address) {
    const auto known = uses_.find(address);
    if (known->second.calls == 0 && known->second.bytes == 0) uses_.erase(known);
  }

  const size_t calls_max_;
  const size_t calls_per_address_max_;
  const uint64_t bytes_max_;
  std::mutex mutex_;
  size_t calls_ = 0;
  uint64_t bytes_ = 0;
  std::map<std::string, Use> uses_;
};

}  // namespace bantam
