// URLs of http and https (RFC 3986), from people and from servers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace bantam {

inline constexpr size_t kUrlBytesMax = 8192;

struct Url {
  bool secure = true;  // https
  std::string host;    // lower case; an IPv6 address without its brackets
  uint16_t port = 443;
  std::string target = "/";  // path and query as they are sent

  // Same scheme, host and port: what may see the same secrets.
  bool SameOrigin(const Url& other) const { return secure == other.secure && host == other.host && port == other.port; }
};

// An absolute URL; its fragment is left away. Errors: InvalidArgument, which never repeats what may be a secret: a URL with a user or a
// password in it is refused.
Result<Url> ParseUrl(std::string_view text);

// What a server's Location or Link means at `base`: absolute, or relative to it (RFC 3986, section 5.2).
Result<Url> ResolveUrl(const Url& base, std::string_view reference);

// The whole of it, to be fetched or compared. May hold a signature: not for people.
std::string UrlText(const Url& url);

// For people: without the query, where signed URLs have their secrets.
std::string ShownUrl(const Url& url);
// The same for a text that may be no URL at all.
std::string ShownUrl(std::string_view text);

// "host" or "host:port" as the Host field and a proxy want it. The port is left away where it is the scheme's own.
std::string HostField(const Url& url);

// Whether the host is this machine by its address or name: 127.0.0.0/8, ::1, localhost.
bool IsLoopback(std::string_view host);

// One path with '/' between its names, each percent-encoded.
std::string EncodePath(std::string_view path);

}  // namespace bantam
