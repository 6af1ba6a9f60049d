#include "net/http_server.h"

#include <fmt/format.h>
#include <netinet/tcp.h>
#include <pthread.h>

#include <atomic>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "base/threads.h"
#include "net/server_channel.h"
#include "net/server_connection.h"

namespace bantam {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using Tcp = asio::ip::tcp;

// How often slow connections are looked for.
constexpr std::chrono::milliseconds kLookEvery(50);
// Pauses where the system has no more descriptors.
constexpr std::chrono::milliseconds kAcceptPause(100);

// What lives as long as the server, and a little longer where an exchange is just being answered by another thread.
struct Core {
  Core(const HttpServerLimits& limits, HttpHandler& handler, const Clock& clock)
      : shared{limits, handler, clock}, acceptor(io), timer(io), pause(io) {}
  ~Core() { connections.clear(); }

  asio::io_context io{1};
  asio::ssl::context tls{asio::ssl::context::tls_server};
  bool secure = false;
  ServerShared shared;
  Tcp::acceptor acceptor;
  asio::steady_timer timer;
  asio::steady_timer pause;
  std::map<uint64_t, std::shared_ptr<ServerConnection>> connections;
  std::map<std::string, size_t> addresses;  // connections of each
  uint64_t next_connection = 1;

  mutable std::mutex mutex;
  std::condition_variable idle;
  HttpServerCounters counters;  // under the lock

  void Accept();
  void Take(Tcp::socket socket, const std::string& address);
  void LookAtAll();
  void RemoveClosed(uint64_t connection);
};

class Exchange final : public HttpExchange {
 public:
  Exchange(std::weak_ptr<Core> core, ServerRequest request, HeldBody held, uint64_t connection, uint64_t exchange,
           std::shared_ptr<std::atomic<size_t>> unsent)
      : core_(std::move(core)),
        request_(std::move(request)),
        held_(std::move(held)),
        connection_(connection),
        exchange_(exchange),
        unsent_(std::move(unsent)) {}
  ~Exchange() override {
    Do([exchange = exchange_](ServerConnection& connection) { connection.Drop(exchange); });
  }

  const ServerRequest& request() const override { return request_; }
  void DropBody() override {
    request_.body = {};
    held_.reset();
  }
  void Respond(ServerResponse response) override {
    Do([exchange = exchange_, response = std::move(response)](ServerConnection& connection) mutable {
      connection.Respond(exchange, std::move(response));
    });
  }
  void Begin(ServerResponse head) override {
    Do([exchange = exchange_, head = std::move(head)](ServerConnection& connection) mutable {
      connection.BeginAnswer(exchange, std::move(head));
    });
  }
  void Write(std::string bytes) override {
    unsent_->fetch_add(bytes.size());
    Do([exchange = exchange_, bytes = std::move(bytes)](ServerConnection& connection) { connection.Write(exchange, bytes); });
  }
  void End() override {
    Do([exchange = exchange_](ServerConnection& connection) { connection.EndAnswer(exchange); });
  }
  size_t unsent_bytes() const override { return unsent_->load(); }
  void Listen(Listener listener) override {
    Do([exchange = exchange_, listener = std::move(listener)](ServerConnection& connection) mutable {
      connection.Listen(exchange, std::move(listener));
    });
  }

 private:
  // In the server's thread: at once if this is it.
  template <typename Work>
  void Do(Work work) {
    const std::shared_ptr<Core> core = core_.lock();
    if (core == nullptr) return;
    asio::dispatch(core->io, [raw = core.get(), id = connection_, work = std::move(work)]() mutable {
      const auto found = raw->connections.find(id);
      if (found == raw->connections.end()) return;
      const std::shared_ptr<ServerConnection> connection = found->second;  // it may end meanwhile
      work(*connection);
    });
  }

  const std::weak_ptr<Core> core_;
  ServerRequest request_;
  std::optional<HeldBody> held_;
  const uint64_t connection_;
  const uint64_t exchange_;
  const std::shared_ptr<std::atomic<size_t>> unsent_;
};

// A client whose machine is gone without a word is found out within a minute.
void WatchPeer(Tcp::socket& socket) {
  error_code ignored;
  socket.set_option(Tcp::no_delay(true), ignored);
  socket.set_option(asio::socket_base::keep_alive(true), ignored);
  // Probes where nothing is on its way, and a limit for what is.
  constexpr std::pair<int, int> kOptions[] = {{TCP_KEEPIDLE, 30}, {TCP_KEEPINTVL, 10}, {TCP_KEEPCNT, 3}, {TCP_USER_TIMEOUT, 60'000}};
  for (const auto& [option, value] : kOptions) (void)::setsockopt(socket.native_handle(), IPPROTO_TCP, option, &value, sizeof(value));
}

void Core::Accept() {
  acceptor.async_accept([this](const error_code& error, Tcp::socket socket) {
    if (error == asio::error::operation_aborted) return;
    if (error) {
      pause.expires_after(kAcceptPause);
      pause.async_wait([this](const error_code& stopped) {
        if (!stopped) Accept();
      });
      return;
    }
    error_code gone;
    const Tcp::endpoint peer = socket.remote_endpoint(gone);
    if (!gone) {
      // A socket of both families shows addresses of the old one within the new.
      asio::ip::address address = peer.address();
      if (address.is_v6() && address.to_v6().is_v4_mapped()) address = asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6());
      Take(std::move(socket), address.is_loopback() ? "loopback" : address.to_string());
    }
    Accept();
  });
}

void Core::Take(Tcp::socket socket, const std::string& address) {
  const bool own = address == "loopback";
  const auto known = addresses.find(address);
  const bool too_many = connections.size() >= shared.limits.connections_max ||
                        (!own && known != addresses.end() && known->second >= shared.limits.connections_per_address_max);
  {
    const std::lock_guard lock(mutex);
    ++(too_many ? counters.refused : counters.accepted);
    counters.connections = connections.size() + (too_many ? 0 : 1);
  }
  if (too_many) {
    // As much as fits without waiting.
    const ServerResponse response =
        shared.handler.Refuse(503, "too many connections; close some, or try again", own ? "127.0.0.1" : address);
    const std::string bytes = ResponseHead(response, BodyFraming::kLength, response.body.size(), /*keep_alive=*/false) + response.body;
    error_code ignored;
    socket.non_blocking(true, ignored);
    if (!secure) socket.write_some(asio::buffer(bytes), ignored);
    socket.close(ignored);
    return;
  }
  WatchPeer(socket);
  ++addresses[address];
  const uint64_t id = next_connection++;
  auto channel = secure ? MakeTlsChannel(std::move(socket), tls) : MakePlainChannel(std::move(socket));
  const auto connection = std::make_shared<ServerConnection>(shared, id, std::move(channel), own ? "127.0.0.1" : address);
  connections[id] = connection;
  connection->Begin();
}

void Core::LookAtAll() {
  timer.expires_after(kLookEvery);
  timer.async_wait([this](const error_code& stopped) {
    if (stopped) return;
    std::vector<std::shared_ptr<ServerConnection>> all;
    all.reserve(connections.size());
    for (const auto& [id, connection] : connections) all.push_back(connection);
    const int64_t now_ns = shared.clock.NowNs();
    for (const auto& connection : all) connection->Look(now_ns);
    LookAtAll();
  });
}

void Core::RemoveClosed(uint64_t connection) {
  const auto found = connections.find(connection);
  if (found == connections.end()) return;
  const std::string& shown = found->second->address();
  const auto address = addresses.find(shown == "127.0.0.1" ? "loopback" : shown);
  if (address != addresses.end() && --address->second == 0) addresses.erase(address);
  connections.erase(found);
  const std::lock_guard lock(mutex);
  counters.connections = connections.size();
}

class Server final : public HttpServer {
 public:
  Server(const HttpServerLimits& limits, HttpHandler& handler, const Clock& clock) : core_(std::make_shared<Core>(limits, handler, clock)) {
    Core* core = core_.get();
    core->shared.make_exchange = [weak = std::weak_ptr<Core>(core_), core](ServerRequest request, HeldBody held, uint64_t connection,
                                                                           uint64_t exchange) {
      return std::make_shared<Exchange>(weak, std::move(request), std::move(held), connection, exchange,
                                        core->connections.at(connection)->unsent());
    };
    core->shared.count_exchanges = [core](int change) {
      const std::lock_guard lock(core->mutex);
      core->counters.exchanges = change > 0 ? core->counters.exchanges + 1 : core->counters.exchanges - 1;
      if (core->counters.exchanges == 0) core->idle.notify_all();
    };
    core->shared.count_timeout = [core] {
      const std::lock_guard lock(core->mutex);
      ++core->counters.timed_out;
    };
    core->shared.closed = [core](uint64_t connection) {
      // Whoever closes it still uses it.
      asio::post(core->io, [core, connection] { core->RemoveClosed(connection); });
    };
  }
  ~Server() override { Stop(); }
  void Stop() override {
    core_->io.stop();
    if (thread_) ::pthread_join(*std::exchange(thread_, std::nullopt), nullptr);
    core_->shared.closed = [](uint64_t) {};
    for (const auto& [id, connection] : core_->connections) connection->Close();
    error_code ignored;
    core_->acceptor.close(ignored);
  }

  Status Listen(const HttpServerOptions& options);
  Status StartThread();
  Status UseTls(const TlsOptions& options) override;
  uint16_t port() const override { return port_; }
  HttpServerCounters counters() const override {
    const std::lock_guard lock(core_->mutex);
    return core_->counters;
  }
  void Post(std::function<void()> work) override { asio::post(core_->io, std::move(work)); }
  bool AwaitIdle(int64_t timeout_ns) override {
    std::unique_lock lock(core_->mutex);
    return core_->idle.wait_for(lock, std::chrono::nanoseconds(timeout_ns), [&] { return core_->counters.exchanges == 0; });
  }

 private:
  static void* Main(void* self);

  const std::shared_ptr<Core> core_;
  uint16_t port_ = 0;
  std::optional<pthread_t> thread_;
};

Status Server::Listen(const HttpServerOptions& options) {
  error_code error;
  const asio::ip::address address = asio::ip::make_address(options.address, error);
  if (error) {
    return Error(Code::kInvalidArgument, fmt::format("{}: expected an address of this machine, such as 127.0.0.1 or ::1", options.address));
  }
  if (options.tls) {
    BANTAM_TRY(ReadTlsFiles(*options.tls, &core_->tls));
    core_->secure = true;
  }
  Tcp::acceptor& acceptor = core_->acceptor;
  if (options.listener >= 0) {
    acceptor.assign(address.is_v4() ? Tcp::v4() : Tcp::v6(), options.listener, error);
    if (!error) port_ = acceptor.local_endpoint(error).port();
    if (!error) return Ok();
    return Error(Code::kInvalidArgument,
                 fmt::format("descriptor {}: cannot accept connections of it: {}", options.listener, error.message()));
  }
  const Tcp::endpoint endpoint(address, options.port);
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(Tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (!error) port_ = acceptor.local_endpoint(error).port();
  if (!error) return Ok();
  const bool denied = error == boost::system::errc::permission_denied;
  return Error(denied ? Code::kDenied : Code::kUnavailable, fmt::format("{}:{}: cannot listen there: {}; choose another address or port",
                                                                        options.address, options.port, error.message()));
}

Status Server::UseTls(const TlsOptions& options) {
  if (!core_->secure) return Error(Code::kInvalidArgument, "certificates: the server was started without; start it again");
  const auto context = std::make_shared<asio::ssl::context>(asio::ssl::context::tls_server);
  BANTAM_TRY(ReadTlsFiles(options, context.get()));
  // Connections that are open hold what they began with.
  Post([core = core_.get(), context] { core->tls = std::move(*context); });
  return Ok();
}

Status Server::StartThread() {
  core_->Accept();
  core_->LookAtAll();
  pthread_t handle;
  const int error_number = CreateThread(&handle, Main, core_.get());
  if (error_number != 0) {
    return Error(Code::kExhausted, fmt::format("the server's thread: the system refused to start it: {}", std::strerror(error_number)));
  }
  thread_ = handle;
  return Ok();
}

void* Server::Main(void* core) {
  // The outermost frame: what the libraries throw when memory is gone breaks off connections and not the process.
  auto* own = static_cast<Core*>(core);
  while (!own->io.stopped()) {
    try {
      own->io.run();
    } catch (const std::exception&) {
      const auto all = own->connections;
      for (const auto& [id, connection] : all) connection->Close();
      own->LookAtAll();
      own->acceptor.cancel();
      own->Accept();
    }
  }
  return nullptr;
}

}  // namespace

Status CheckTlsFiles(const TlsOptions& options) {
  asio::ssl::context context(asio::ssl::context::tls_server);
  return ReadTlsFiles(options, &context);
}

Result<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpServerOptions& options, HttpHandler& handler, const Clock& clock) {
  auto server = std::make_unique<Server>(options.limits, handler, clock);
  BANTAM_TRY(server->Listen(options));
  handler.Attach(*server);
  BANTAM_TRY(server->StartThread());
  return std::unique_ptr<HttpServer>(std::move(server));
}

}  // namespace bantam
