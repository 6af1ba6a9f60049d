#include "serve/grpc_listener.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <new>
#include <string_view>
#include <utility>

#include "base/threads.h"
#include "serve/grpc_room.h"

namespace bantam {
namespace {

constexpr int kTickMs = 200;
// In which nobody is accepted, where descriptors or memory are short.
constexpr int kAcceptPauseMs = 100;

// Either family.
struct Place {
  sockaddr_storage storage = {};
  socklen_t size = sizeof(sockaddr_storage);
  sockaddr* any() { return static_cast<sockaddr*>(static_cast<void*>(&storage)); }
  sockaddr_in* four() { return static_cast<sockaddr_in*>(static_cast<void*>(&storage)); }
  sockaddr_in6* six() { return static_cast<sockaddr_in6*>(static_cast<void*>(&storage)); }
};

bool ReadPlace(const std::string& address, uint16_t port, Place* place) {
  if (::inet_pton(AF_INET, address.c_str(), &place->four()->sin_addr) == 1) {
    place->four()->sin_family = AF_INET;
    place->four()->sin_port = htons(port);
    place->size = sizeof(sockaddr_in);
    return true;
  }
  if (::inet_pton(AF_INET6, address.c_str(), &place->six()->sin6_addr) != 1) return false;
  place->six()->sin6_family = AF_INET6;
  place->six()->sin6_port = htons(port);
  place->size = sizeof(sockaddr_in6);
  return true;
}

// One name for this machine's own, and for both forms of one of IPv4.
std::string AddressOf(Place place) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (place.storage.ss_family == AF_INET) {
    if (ntohl(place.four()->sin_addr.s_addr) >> 24 == 127) return kGrpcOwnAddress;
    ::inet_ntop(AF_INET, &place.four()->sin_addr, text.data(), text.size());
  } else {
    const in6_addr& six = place.six()->sin6_addr;
    const bool mapped_loopback = IN6_IS_ADDR_V4MAPPED(&six) != 0 && six.s6_addr[12] == 127;
    if (IN6_IS_ADDR_LOOPBACK(&six) != 0 || mapped_loopback) return kGrpcOwnAddress;
    ::inet_ntop(AF_INET6, &six, text.data(), text.size());
  }
  const std::string_view all = text.data();
  constexpr std::string_view kMapped = "::ffff:";
  return std::string(all.starts_with(kMapped) && all.find('.') != std::string_view::npos ? all.substr(kMapped.size()) : all);
}

}  // namespace

Result<std::unique_ptr<GrpcListener>> GrpcListener::Start(Options options) {
  std::unique_ptr<GrpcListener> listener(new GrpcListener(std::move(options)));
  BANTAM_TRY(listener->Listen());
  const int error_number = CreateThread(&listener->thread_, Main, listener.get());
  if (error_number != 0) {
    return Error(Code::kExhausted,
                 fmt::format("the thread of gRPC's connections: the system refused to start it: {}", std::strerror(error_number)));
  }
  listener->started_ = true;
  return listener;
}

Status GrpcListener::Listen() {
  Place place;
  if (!ReadPlace(options_.address, options_.port, &place)) {
    return Error(Code::kInvalidArgument,
                 fmt::format("{}: expected an address of this machine, such as 127.0.0.1 or ::1", options_.address));
  }
  wake_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  listener_ = ::socket(place.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const int on = 1;
  const bool listens = wake_ >= 0 && listener_ >= 0 && ::setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
                       ::bind(listener_, place.any(), place.size) == 0 && ::listen(listener_, SOMAXCONN) == 0;
  Place bound;
  if (listens && ::getsockname(listener_, bound.any(), &bound.size) == 0) {
    port_ = ntohs(bound.storage.ss_family == AF_INET ? bound.four()->sin_port : bound.six()->sin6_port);
    return Ok();
  }
  return Error(errno == EACCES ? Code::kDenied : Code::kUnavailable,
               fmt::format("grpc: {}:{}: cannot listen there: {}; choose another address or port", options_.address, options_.port,
                           std::strerror(errno)));
}

GrpcListener::~GrpcListener() {
  Stop();
  CloseAll();
  if (listener_ >= 0) ::close(listener_);
  if (wake_ >= 0) ::close(wake_);
}

void GrpcListener::Stop() {
  if (!std::exchange(started_, false)) return;
  stopping_ = true;
  const uint64_t one = 1;
  (void)!::write(wake_, &one, sizeof(one));
  ::pthread_join(thread_, nullptr);
  // Who waits to be accepted would wait on.
  ::close(std::exchange(listener_, -1));
}

void GrpcListener::CloseAll() {
  for (const Watched& one : watched_) {
    (void)::shutdown(one.descriptor, SHUT_RDWR);
    ::close(one.descriptor);
  }
  watched_.clear();
  count_ = 0;
}

void* GrpcListener::Main(void* self) {
  // The thread's outermost frame: what there is no memory for is left, and not the whole process.
  auto* own = static_cast<GrpcListener*>(self);
  while (!own->stopping_) {
    try {
      own->Work();
    } catch (const std::bad_alloc&) {
      own->paused_ = true;
    }
  }
  return nullptr;
}

void GrpcListener::Work() {
  std::vector<pollfd> waited;
  while (!stopping_) {
    waited.assign({{.fd = wake_, .events = POLLIN, .revents = 0}, {.fd = paused_ ? -1 : listener_, .events = POLLIN, .revents = 0}});
    // Nothing is asked of them: that they have ended is said unasked.
    for (const Watched& one : watched_) waited.push_back({.fd = one.descriptor, .events = 0, .revents = 0});
    const int ready = ::poll(waited.data(), waited.size(), paused_ ? kAcceptPauseMs : kTickMs);
    paused_ = false;
    if (stopping_) return;
    if (ready > 0) {
      std::vector<bool> ended(watched_.size());
      for (size_t i = 0; i < ended.size(); ++i) ended[i] = waited[i + 2].revents != 0;
      DropEnded(ended);
      if (waited[1].revents != 0) Accept();
    }
    options_.tick();
  }
}

void GrpcListener::DropEnded(const std::vector<bool>& ended) {
  size_t kept = 0;
  for (size_t i = 0; i < ended.size(); ++i) {
    if (!ended[i]) {
      std::swap(watched_[kept++], watched_[i]);
      continue;
    }
    ::close(watched_[i].descriptor);
    const auto address = addresses_.find(watched_[i].address);
    if (--address->second == 0) addresses_.erase(address);
  }
  watched_.resize(kept);
  count_ = kept;
}

void GrpcListener::Accept() {
  // As many as wait; where descriptors are short they wait on.
  for (;;) {
    Place peer;
    const int connection = ::accept4(listener_, peer.any(), &peer.size, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (connection < 0 && errno != EINTR && errno != ECONNABORTED) {
      paused_ = errno != EAGAIN;
      return;
    }
    if (connection >= 0) Take(connection, AddressOf(peer));
  }
}

void GrpcListener::Take(int connection, const std::string& address) {
  const auto known = addresses_.find(address);
  const bool too_many = watched_.size() >= options_.connections_max ||
                        (address != kGrpcOwnAddress && known != addresses_.end() && known->second >= options_.connections_per_address_max);
  const int second = too_many ? -1 : ::fcntl(connection, F_DUPFD_CLOEXEC, 0);
  if (second < 0) {
    ::close(connection);
    options_.refused(address);
    return;
  }
  const int on = 1;
  (void)::setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  watched_.push_back({second, address});
  ++addresses_[address];
  count_ = watched_.size();
  options_.accepted(listener_, connection);
}

}  // namespace bantam
