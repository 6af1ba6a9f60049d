// A connection's bytes, in the clear or in TLS: for the server's own files.
#pragma once

#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <functional>
#include <memory>

#include "base/result.h"
#include "net/http_server.h"

namespace bantam {

class Channel {
 public:
  using Socket = boost::asio::ip::tcp::socket;
  using Done = std::function<void(const boost::system::error_code& error, size_t bytes)>;
  virtual ~Channel() = default;
  virtual void Handshake(Done done) = 0;
  virtual void ReadSome(boost::asio::mutable_buffer into, Done done) = 0;
  virtual void WriteSome(boost::asio::const_buffer from, Done done) = 0;
  // Nothing more is sent; the client's last bytes may still come.
  virtual void EndWriting() = 0;
  virtual void Close() = 0;
};

std::unique_ptr<Channel> MakePlainChannel(Channel::Socket socket);
// The context outlives it.
std::unique_ptr<Channel> MakeTlsChannel(Channel::Socket socket, boost::asio::ssl::context& context);

// InvalidArgument names the file.
Status ReadTlsFiles(const TlsOptions& options, boost::asio::ssl::context* context);

}  // namespace bantam
