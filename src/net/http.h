// Fetching over HTTP and HTTPS: one connection for each request, a body that is read piece by piece, every wait with a limit. Certificates
// and host names are always verified. The library behind it (Boost.Beast, OpenSSL) stays in http_transport.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "net/proxy.h"
#include "net/url.h"

namespace bantam {

struct HttpLimits {
  int64_t connect_timeout_ms = 20'000;  // for each address of a host, and for TLS
  // Without a byte of the body; a header must be whole within it, and at least 1 KiB of the body come on average.
  int64_t stall_timeout_ms = 30'000;
  uint32_t header_bytes_max = 64 << 10;
  int redirects_max = 10;
};

struct HttpField {
  std::string name;
  std::string value;
};

// A header, and a body that follows.
class HttpReply {
 public:
  virtual ~HttpReply() = default;

  // The next bytes of the body, at most as many as fit; 0 at its end, which is known to be the whole. Errors: Unavailable (dropped,
  // truncated, stalled: trying again may help), Corrupt (not HTTP), Cancelled.
  virtual Result<size_t> Read(std::span<std::byte> into) = 0;

  // The value of the field, by its name in any case; the first of several.
  std::optional<std::string> Field(std::string_view name) const;

  int status = 0;
  std::vector<HttpField> fields;
  std::optional<uint64_t> body_bytes;  // where the header tells
  Url url;                             // that answered, after redirections
};

// Sends one GET and reads the header of what comes back, whatever its status. A seam: tests put servers of their own behind it.
class HttpTransport {
 public:
  virtual ~HttpTransport() = default;
  // Errors: NotFound (no such host), Unavailable (no connection, time-out), Denied (certificate), Corrupt (not HTTP, header too large),
  // Unsupported (a compressed body, which was not asked for), Cancelled.
  virtual Result<std::unique_ptr<HttpReply>> Get(const Url& url, const std::vector<HttpField>& fields) = 0;
};

struct HttpOptions {
  HttpLimits limits;
  std::string user_agent = "bantam";
  // A file of certificates in PEM to trust besides the system's (and those that SSL_CERT_FILE and SSL_CERT_DIR name).
  std::string certificate_file;
  // A file whose first certificate, in PEM, servers have to show: whichever names it has, and whoever vouches for it. Empty: any that names
  // the host, and that somebody trusted vouches for.
  std::string server_certificate_file = {};
  ProxySettings proxy;
  // Asked many times a second while waiting; true ends what is going on with Cancelled.
  std::function<bool()> stopped = [] { return false; };
};

// Replies must not outlive it, nor it `clock`.
std::unique_ptr<HttpTransport> MakeHttpTransport(HttpOptions options, const Clock& clock);

struct HttpRequest {
  Url url;
  std::vector<HttpField> fields;
  std::string authorization;   // of the Authorization field; sent to the origin of `url` only
  bool plain_allowed = false;  // http to any host; to this machine it always is
  bool end_allowed = false;    // 416, nothing is behind the offset that was asked for, is a reply as 206 is
};

// Get, and on to where redirections lead, never from https to http. A reply of another status than 200 and 206 is an error: NotFound (404,
// 410), Denied (401, 403), Unavailable (408, 429, 5xx), InvalidArgument (416), Unsupported.
Result<std::unique_ptr<HttpReply>> Fetch(HttpTransport& transport, const HttpRequest& request, const HttpLimits& limits);

// Whether http may be used for this one; InvalidArgument says how to allow it.
Status CheckPlain(const Url& url, bool plain_allowed);

// The whole body as text. Exhausted when it is longer than `bytes_max`.
Result<std::string> ReadBody(HttpReply& reply, size_t bytes_max);

// What a part of a body is: "bytes 100-199/1000".
struct ContentRange {
  uint64_t first = 0;
  uint64_t last = 0;
  std::optional<uint64_t> total;  // "*" where the server does not know
};
// Nothing for anything else, and for a range that contradicts itself.
std::optional<ContentRange> ParseContentRange(std::string_view value);

// The length of the whole that an answer of 416 tells: "bytes */1000". Nothing for anything else.
std::optional<uint64_t> ParseUnsatisfiedRange(std::string_view value);

// The address in the entry of a Link field that has rel="next" (RFC 8288); nothing without one.
std::optional<std::string> NextLink(std::string_view value);

}  // namespace bantam
