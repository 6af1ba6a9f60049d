#include "net/server_channel.h"

#include <fmt/format.h>
#include <openssl/ssl.h>

#include <boost/asio/ssl.hpp>
#include <utility>

namespace bantam {
namespace {

namespace asio = boost::asio;
namespace ssl = boost::asio::ssl;
using boost::system::error_code;

class PlainChannel final : public Channel {
 public:
  explicit PlainChannel(Socket socket) : socket_(std::move(socket)) {}
  void Handshake(Done done) override { done({}, 0); }
  void ReadSome(asio::mutable_buffer into, Done done) override { socket_.async_read_some(into, std::move(done)); }
  void WriteSome(asio::const_buffer from, Done done) override { socket_.async_write_some(from, std::move(done)); }
  void EndWriting() override {
    error_code ignored;
    socket_.shutdown(Socket::shutdown_send, ignored);
  }
  void Close() override {
    error_code ignored;
    socket_.close(ignored);
  }

 private:
  Socket socket_;
};

class TlsChannel final : public Channel {
 public:
  TlsChannel(Socket socket, ssl::context& context) : stream_(std::move(socket), context) {}
  void Handshake(Done done) override {
    stream_.async_handshake(ssl::stream_base::server, [done = std::move(done)](const error_code& error) { done(error, 0); });
  }
  void ReadSome(asio::mutable_buffer into, Done done) override { stream_.async_read_some(into, std::move(done)); }
  void WriteSome(asio::const_buffer from, Done done) override { stream_.async_write_some(from, std::move(done)); }
  // The close-notify of TLS is not awaited: the length of an answer, or its last chunk, says that it is whole.
  void EndWriting() override {
    error_code ignored;
    stream_.next_layer().shutdown(Socket::shutdown_send, ignored);
  }
  void Close() override {
    error_code ignored;
    stream_.next_layer().close(ignored);
  }

 private:
  ssl::stream<Socket> stream_;
};

Error CannotUse(const std::string& file, const error_code& error) {
  return Error(Code::kInvalidArgument,
               fmt::format("{}: cannot be used for TLS: {}; expected a file in PEM that can be read", file, error.message()));
}

}  // namespace

std::unique_ptr<Channel> MakePlainChannel(Channel::Socket socket) { return std::make_unique<PlainChannel>(std::move(socket)); }
std::unique_ptr<Channel> MakeTlsChannel(Channel::Socket socket, ssl::context& context) {
  return std::make_unique<TlsChannel>(std::move(socket), context);
}

Status ReadTlsFiles(const TlsOptions& options, ssl::context* context) {
  error_code error;
  context->set_options(ssl::context::default_workarounds | ssl::context::no_compression, error);
  if (::SSL_CTX_ctrl(context->native_handle(), SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_2_VERSION, nullptr) != 1) {
    return Error(Code::kInternal, "TLS 1.2 is not there");
  }
  // The key first: one that does not fit a certificate that is there would be refused in the library's words.
  context->use_private_key_file(options.key_file, ssl::context::pem, error);
  if (error) return CannotUse(options.key_file, error);
  context->use_certificate_chain_file(options.certificate_file, error);
  if (error) return CannotUse(options.certificate_file, error);
  if (::SSL_CTX_check_private_key(context->native_handle()) != 1) {
    return Error(Code::kInvalidArgument, fmt::format("{}: not the key of the certificate in {}; name files that belong together",
                                                     options.key_file, options.certificate_file));
  }
  if (options.client_certificate_file.empty()) return Ok();
  context->load_verify_file(options.client_certificate_file, error);
  if (error) return CannotUse(options.client_certificate_file, error);
  // Without a name sessions that clients resume end in an error.
  constexpr std::string_view kSessions = "bantam";
  (void)::SSL_CTX_set_session_id_context(context->native_handle(), reinterpret_cast<const unsigned char*>(kSessions.data()),
                                         static_cast<unsigned>(kSessions.size()));
  context->set_verify_mode(ssl::verify_peer | ssl::verify_fail_if_no_peer_cert, error);
  return Ok();
}

}  // namespace bantam
