#include "cli/service_manager.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <utility>

namespace bantam {
namespace {

// A variable, which is taken out of the environment.
std::string TakeVariable(const char* name) {
  const char* value = std::getenv(name);
  std::string taken = value == nullptr ? "" : value;
  ::unsetenv(name);
  return taken;
}

std::optional<uint64_t> WholeOf(const std::string& text) {
  uint64_t number = 0;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.empty() || read.ec != std::errc() || read.ptr != text.data() + text.size()) return std::nullopt;
  return number;
}

// A path, or a name in the abstract namespace behind "@".
std::string PlaceOf(const std::string& name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (name.empty() || (name[0] != '/' && name[0] != '@') || name.size() >= sizeof(address.sun_path)) return "";
  std::memcpy(address.sun_path, name.data(), name.size());
  if (name[0] == '@') address.sun_path[0] = '\0';
  // Of a path the zero behind it counts too; of an abstract name it would be part of it.
  const size_t size = offsetof(sockaddr_un, sun_path) + name.size() + (name[0] == '/' ? 1 : 0);
  return {reinterpret_cast<const char*>(&address), size};
}

}  // namespace

ServiceManager ServiceManager::FromEnvironment() {
  ServiceManager manager;
  manager.place_ = PlaceOf(TakeVariable("NOTIFY_SOCKET"));
  if (!manager.place_.empty()) manager.socket_ = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const auto watchdog_us = WholeOf(TakeVariable("WATCHDOG_USEC"));
  const std::string watched = TakeVariable("WATCHDOG_PID");
  const bool ours = watched.empty() || WholeOf(watched) == static_cast<uint64_t>(::getpid());
  constexpr uint64_t kLongestUs = uint64_t{1} << 50;
  if (manager.socket_ >= 0 && ours && watchdog_us && *watchdog_us < kLongestUs) {
    manager.watchdog_ns_ = static_cast<int64_t>(*watchdog_us * 1000 / 2);
  }
  return manager;
}

ServiceManager::ServiceManager(ServiceManager&& other) noexcept
    : socket_(std::exchange(other.socket_, -1)), place_(std::move(other.place_)), watchdog_ns_(other.watchdog_ns_) {}

ServiceManager::~ServiceManager() {
  if (socket_ >= 0) ::close(socket_);
}

void ServiceManager::Tell(std::string_view state) const {
  if (socket_ < 0) return;
  (void)::sendto(socket_, state.data(), state.size(), MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(place_.data()),
                 static_cast<socklen_t>(place_.size()));
}

void ServiceManager::TellReloading() const {
  timespec now = {};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  Tell(fmt::format("RELOADING=1\nMONOTONIC_USEC={}", int64_t{now.tv_sec} * 1'000'000 + now.tv_nsec / 1000));
}

Result<std::optional<InheritedSocket>> TakeInheritedSocket() {
  const std::string owner = TakeVariable("LISTEN_PID");
  const auto count = WholeOf(TakeVariable("LISTEN_FDS"));
  (void)TakeVariable("LISTEN_FDNAMES");
  if (WholeOf(owner) != static_cast<uint64_t>(::getpid()) || !count || *count == 0) return std::optional<InheritedSocket>();
  if (*count > 1) {
    return Error(Code::kInvalidArgument,
                 fmt::format("LISTEN_FDS: {} sockets were handed over; expected one, so name one ListenStream in the socket unit", *count));
  }
  constexpr int kFirst = 3;
  InheritedSocket taken = {.descriptor = kFirst};
  int listens = 0;
  socklen_t size = sizeof(listens);
  sockaddr_storage place{};
  socklen_t place_size = sizeof(place);
  const bool known = ::getsockopt(kFirst, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && listens != 0 &&
                     ::getsockname(kFirst, reinterpret_cast<sockaddr*>(&place), &place_size) == 0;
  char text[INET6_ADDRSTRLEN] = {};
  if (known && place.ss_family == AF_INET) {
    const auto* four = reinterpret_cast<const sockaddr_in*>(&place);
    taken.port = ntohs(four->sin_port);
    taken.loopback = (ntohl(four->sin_addr.s_addr) >> 24) == 127;
    (void)::inet_ntop(AF_INET, &four->sin_addr, text, sizeof(text));
  } else if (known && place.ss_family == AF_INET6) {
    const auto* six = reinterpret_cast<const sockaddr_in6*>(&place);
    taken.port = ntohs(six->sin6_port);
    taken.loopback = IN6_IS_ADDR_LOOPBACK(&six->sin6_addr) != 0;
    (void)::inet_ntop(AF_INET6, &six->sin6_addr, text, sizeof(text));
  } else {
    return Error(
        Code::kInvalidArgument,
        "LISTEN_FDS: what was handed over is no TCP socket that listens; name an address and a port as ListenStream in the socket unit");
  }
  taken.address = text;
  (void)::fcntl(kFirst, F_SETFD, FD_CLOEXEC);
  return std::optional(taken);
}

}  // namespace bantam
