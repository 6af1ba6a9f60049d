// A service manager (systemd, or another that speaks its protocol): what it is told, and what it hands over. Environment, datagrams and
// inherited descriptors; no library.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace bantam {

class ServiceManager {
 public:
  // Of NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; what this process starts inherits none of them. Without them it tells nobody.
  static ServiceManager FromEnvironment();
  ~ServiceManager();
  ServiceManager(ServiceManager&& other) noexcept;
  ServiceManager(const ServiceManager&) = delete;
  ServiceManager& operator=(const ServiceManager&) = delete;

  // "READY=1", or several lines. Any thread may call it; nobody waits. What cannot be told is lost.
  void Tell(std::string_view state) const;
  // That it reads its configuration again; READY=1 ends it.
  void TellReloading() const;
  // How often it wants to hear WATCHDOG=1, or it ends the process; half of what it said. 0: never.
  int64_t watchdog_ns() const { return watchdog_ns_; }

 private:
  ServiceManager() = default;

  int socket_ = -1;
  std::string place_;  // where it listens: a sockaddr_un's bytes
  int64_t watchdog_ns_ = 0;
};

// A socket that it listens at for us (LISTEN_FDS, LISTEN_PID).
struct InheritedSocket {
  int descriptor = -1;
  std::string address = {};
  uint16_t port = 0;
  bool loopback = false;
};
// None where nothing is handed over. Errors: InvalidArgument for more than one, or for another than a TCP socket that listens.
Result<std::optional<InheritedSocket>> TakeInheritedSocket();

}  // namespace bantam
