// A server of HTTP for tests, on a free port of this machine, that says exactly what a test wants: also what no server should.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "testing/certificate.h"

namespace bantam::testing {

struct ServerRequest {
  std::string method;
  std::string target;
  std::string head;  // all of it

  // The value of a field; empty without it.
  std::string Field(std::string_view name) const;
  // The first byte that a Range field asks for, 0 without one.
  size_t RangeStart() const;
};

class ServerConnection {
 public:
  virtual ~ServerConnection() = default;
  // False once the client has gone.
  virtual bool Send(std::string_view bytes) = 0;
  // Until the client has gone or the server ends.
  virtual void Stall() = 0;
};

class HttpServer {
 public:
  // Called in the server's thread for one connection after another; the connection closes when it returns.
  using Handler = std::function<void(const ServerRequest&, ServerConnection&)>;

  explicit HttpServer(Handler handler, const Certificate* certificate = nullptr);
  ~HttpServer();

  int port() const { return port_; }
  std::string Url(std::string_view target) const;
  std::vector<ServerRequest> requests() const;

 private:
  void Serve();
  void Answer(int client);

  Handler handler_;
  const Certificate* certificate_;
  int listener_ = -1;
  int stop_[2] = {-1, -1};  // a pipe that ends every wait
  int port_ = 0;
  mutable std::mutex mutex_;
  std::vector<ServerRequest> requests_;
  std::thread thread_;
};

// A whole answer with its length.
std::string Answer(std::string_view body, std::string_view fields = "", std::string_view status = "200 OK");

// Sends a file as a good server does: ETag, Range and If-Range heeded.
void SendFile(const ServerRequest& request, ServerConnection& connection, std::string_view body, std::string_view tag = "\"v1\"");

}  // namespace bantam::testing
