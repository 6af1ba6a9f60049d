// Requests and answers of an HTTP server (RFC 9112) as values and bytes, without a socket.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "net/http.h"

namespace bantam {

struct ServerRequest {
  std::string method;  // "GET"
  std::string path;    // of the target, as it was sent: "/v1/models/a%2Fb"
  std::string query;   // behind the question mark
  std::vector<HttpField> fields;
  std::string body;
  std::string client;        // the address that it came from
  bool keep_alive = true;    // the client may ask again on this connection
  bool takes_chunks = true;  // HTTP/1.1

  // The value of the first field of this name, in any case.
  std::optional<std::string> Field(std::string_view name) const;
};

struct ServerResponse {
  int status = 200;
  std::vector<HttpField> fields = {};  // but for the length and Connection, which are the server's
  std::string body = {};
  bool close = false;  // the connection ends behind it
};

// The reason of a status, as in "404 Not Found".
std::string_view StatusReason(int status);

// How the bytes of a body are told from what follows.
enum class BodyFraming : uint8_t { kLength, kChunks, kUntilClose };
// All up to the body. `body_bytes` counts where the framing is kLength.
std::string ResponseHead(const ServerResponse& response, BodyFraming framing, size_t body_bytes, bool keep_alive);
// One piece of a body in chunks; not of an empty one, which would end it.
std::string Chunk(std::string_view bytes);
inline constexpr std::string_view kLastChunk = "0\r\n\r\n";

// "a%2Fb" to "a/b"; nothing where a percent sign stands before something else than two hexadecimal digits.
std::optional<std::string> DecodePercent(std::string_view text);

struct RequestLimits {
  size_t header_bytes_max = 16 << 10;
  size_t body_bytes_max = 4 << 20;
};

// Takes bytes as they come and gives requests, one after the other. Whatever the bytes are, it holds no more than its limits and a piece.
class RequestReader {
 public:
  explicit RequestReader(const RequestLimits& limits);
  ~RequestReader();
  RequestReader(const RequestReader&) = delete;
  RequestReader& operator=(const RequestReader&) = delete;

  enum class State : uint8_t {
    kNothing,  // no byte of the next request has come
    kHeader,   // some
    kBody,     // the header is whole
    kWhole,    // Take gives it
    kRefused   // refusal() says why; nothing more is read
  };
  State state() const { return state_; }

  // Bytes that came. In kWhole they wait for Take, and are the next request's.
  void Push(std::string_view bytes);
  // The request, in kWhole; what came behind it is read next.
  ServerRequest Take();

  // Bytes that came and are not looked at yet.
  size_t waiting_bytes() const { return held_.size(); }
  // Of the body, that came: what a header announces costs its sender nothing.
  size_t body_bytes() const;
  // The header asks whether the body may come (Expect: 100-continue); once.
  bool TakeExpectation();

  // Nothing of what came is wanted any more.
  void Forget();

  struct Refusal {
    int status = 400;
    std::string why;
  };
  const Refusal& refusal() const { return refusal_; }

 private:
  struct Parser;
  void Advance();
  void Refuse(int status, std::string why);
  // What the header says that is refused; with kBody or kWhole otherwise.
  void TakeHeader();

  const RequestLimits limits_;
  State state_ = State::kNothing;
  std::unique_ptr<Parser> parser_;
  std::string held_;
  size_t header_bytes_ = 0;
  bool expects_ = false;
  Refusal refusal_;
};

}  // namespace bantam
