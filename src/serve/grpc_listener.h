// Takes connections for gRPC, whose library knows no limit of them: as many as may be, in all and of one address, counted until they end.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"

namespace bantam {

class GrpcListener {
 public:
  struct Options {
    std::string address = "127.0.0.1";
    uint16_t port = 0;  // 0: any that is free
    size_t connections_max = 2560;
    size_t connections_per_address_max = 256;  // but for this machine's own addresses
    // Called by the listener's thread: a connection, which is the callee's from then on; one that was refused; a few times a second.
    std::function<void(int listener, int connection)> accepted;
    std::function<void(const std::string& address)> refused;
    std::function<void()> tick;
  };
  // Errors: InvalidArgument (no such address), Unavailable (the port is in use), Denied, Exhausted (no thread, no descriptors).
  static Result<std::unique_ptr<GrpcListener>> Start(Options options);
  // As Stop.
  ~GrpcListener();
  // Takes no more; none of the functions is called any more.
  void Stop();
  // Behind Stop: ends connections that are open still, for the library leaves those that never became any to our second descriptor.
  void CloseAll();
  GrpcListener(const GrpcListener&) = delete;
  GrpcListener& operator=(const GrpcListener&) = delete;

  uint16_t port() const { return port_; }
  size_t connections() const { return count_; }

 private:
  // A second descriptor of a connection: it says when both sides have closed it, for gRPC shuts down what it is done with.
  struct Watched {
    int descriptor = -1;
    std::string address;
  };

  explicit GrpcListener(Options options) : options_(std::move(options)) {}
  Status Listen();
  static void* Main(void* self);
  void Work();
  void Accept();
  void Take(int connection, const std::string& address);
  void DropEnded(const std::vector<bool>& ended);

  const Options options_;
  int listener_ = -1;
  int wake_ = -1;
  uint16_t port_ = 0;
  std::atomic<bool> stopping_ = false;
  std::atomic<size_t> count_ = 0;
  bool started_ = false;
  pthread_t thread_ = {};
  // Of the thread.
  bool paused_ = false;
  std::vector<Watched> watched_;
  std::map<std::string, size_t> addresses_;
};

}  // namespace bantam
