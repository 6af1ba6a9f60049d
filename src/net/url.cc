#include "net/url.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <vector>

#include "base/ascii.h"

namespace bantam {
namespace {

constexpr uint16_t kHttpPort = 80;
constexpr uint16_t kHttpsPort = 443;

Error BadUrl(std::string_view text, std::string_view problem) {
  return Error(Code::kInvalidArgument, fmt::format("{}: {}; expected https://HOST/PATH", ShownUrl(text), problem));
}

bool HasUser(std::string_view authority) { return authority.find('@') != std::string_view::npos; }

// "host", "host:port", "[v6]", "[v6]:port" into url.
Status ParseAuthority(std::string_view text, std::string_view authority, Url* url) {
  if (HasUser(authority)) return BadUrl(text, "a URL with a user or password in it; secrets do not belong on a command line or in a list");
  std::string_view host = authority;
  std::string_view port;
  bool has_port = false;
  if (authority.starts_with('[')) {
    const size_t end = authority.find(']');
    if (end == std::string_view::npos) return BadUrl(text, "an address without its closing bracket");
    host = authority.substr(1, end - 1);
    const std::string_view rest = authority.substr(end + 1);
    if (!rest.empty() && rest[0] != ':') return BadUrl(text, "text after the address");
    has_port = !rest.empty();
    if (has_port) port = rest.substr(1);
    const auto is_address = [](char c) { return (IsAlphanumericAscii(c) && LowerAscii(c) <= 'f') || c == ':' || c == '.'; };
    if (host.find(':') == std::string_view::npos || !std::all_of(host.begin(), host.end(), is_address)) {
      return BadUrl(text, "a bad address in brackets");
    }
  } else {
    const size_t colon = authority.find(':');
    has_port = colon != std::string_view::npos;
    host = authority.substr(0, colon);
    if (has_port) port = authority.substr(colon + 1);
    const auto is_name = [](char c) { return IsAlphanumericAscii(c) || c == '-' || c == '.' || c == '_'; };
    if (!std::all_of(host.begin(), host.end(), is_name)) return BadUrl(text, "a host name with other characters than letters and digits");
  }
  constexpr size_t kHostBytesMax = 253;
  if (host.empty() || host.size() > kHostBytesMax) return BadUrl(text, "no host, or one that is too long");
  url->host = LowerAscii(host);
  url->port = url->secure ? kHttpsPort : kHttpPort;
  if (!has_port) return Ok();
  uint16_t number = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (error != std::errc() || end != port.data() + port.size() || number == 0) return BadUrl(text, "a bad port");
  url->port = number;
  return Ok();
}

// Printable ASCII only: no byte of it can end the line of a request.
bool IsTarget(std::string_view target) {
  return std::all_of(target.begin(), target.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

// RFC 3986, section 5.2.4.
std::string WithoutDotSegments(std::string_view path) {
  std::vector<std::string_view> kept;
  bool folder = false;
  for (size_t begin = 1; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view name = path.substr(begin, end - begin);
    folder = name == "." || name == ".." || (name.empty() && end == path.size());
    if (name == "..") {
      if (!kept.empty()) kept.pop_back();
    } else if (name != "." && !(name.empty() && end == path.size())) {
      kept.push_back(name);
    }
    begin = end + 1;
  }
  std::string joined;
  for (const std::string_view name : kept) joined += fmt::format("/{}", name);
  return folder || joined.empty() ? joined + "/" : joined;
}

}  // namespace

Result<Url> ParseUrl(std::string_view text) {
  if (text.size() > kUrlBytesMax)
    return Error(Code::kInvalidArgument, fmt::format("a URL of {} bytes; at most {}", text.size(), kUrlBytesMax));
  Url url;
  const size_t scheme_end = text.find("://");
  const std::string scheme = LowerAscii(text.substr(0, scheme_end == std::string_view::npos ? 0 : scheme_end));
  if (scheme != "http" && scheme != "https") return BadUrl(text, "not a URL of http or https");
  url.secure = scheme == "https";
  std::string_view rest = text.substr(scheme_end + 3);
  rest = rest.substr(0, rest.find('#'));
  const size_t authority_end = std::min(rest.find_first_of("/?"), rest.size());
  BANTAM_TRY(ParseAuthority(text, rest.substr(0, authority_end), &url));
  const std::string_view target = rest.substr(authority_end);
  if (!IsTarget(target)) return BadUrl(text, "a blank or a character that is not ASCII; write it as %XX");
  url.target = target.starts_with('/') ? std::string(target) : fmt::format("/{}", target);
  return url;
}

Result<Url> ResolveUrl(const Url& base, std::string_view reference) {
  const size_t colon = reference.find(':');
  const size_t slash = reference.find_first_of("/?#");
  if (colon != std::string_view::npos && colon < slash) return ParseUrl(reference);
  if (reference.starts_with("//")) return ParseUrl(fmt::format("{}:{}", base.secure ? "https" : "http", reference));
  reference = reference.substr(0, reference.find('#'));
  if (reference.size() > kUrlBytesMax || !IsTarget(reference)) return BadUrl(UrlText(base), "a bad address to go on to");
  Url url = base;
  if (reference.empty()) return url;
  const std::string_view base_path = std::string_view(base.target).substr(0, base.target.find('?'));
  const size_t query = std::min(reference.find('?'), reference.size());
  std::string path(reference.substr(0, query));
  if (path.empty()) {
    path = base_path;
  } else if (path[0] != '/') {
    path = fmt::format("{}{}", base_path.substr(0, base_path.rfind('/') + 1), path);
  }
  url.target = WithoutDotSegments(path) + std::string(reference.substr(query));
  return url;
}

std::string HostField(const Url& url) {
  const std::string host = url.host.find(':') == std::string::npos ? url.host : fmt::format("[{}]", url.host);
  return url.port == (url.secure ? kHttpsPort : kHttpPort) ? host : fmt::format("{}:{}", host, url.port);
}

std::string UrlText(const Url& url) { return fmt::format("{}://{}{}", url.secure ? "https" : "http", HostField(url), url.target); }

std::string ShownUrl(const Url& url) {
  return fmt::format("{}://{}{}", url.secure ? "https" : "http", HostField(url), url.target.substr(0, url.target.find('?')));
}

std::string ShownUrl(std::string_view text) {
  constexpr size_t kShownBytes = 200;
  std::string shown(text.substr(0, text.find_first_of("?#")));
  const size_t scheme_end = shown.find("://");
  const size_t host = scheme_end == std::string::npos ? 0 : scheme_end + 3;
  // Up to the last '@' of the authority.
  const size_t authority_end = std::min(shown.find('/', host), shown.size());
  const size_t user = shown.rfind('@', authority_end);
  if (user != std::string::npos && user >= host && user < authority_end) shown.erase(host, user + 1 - host);
  if (shown.size() > kShownBytes) shown = shown.substr(0, kShownBytes) + "...";
  return shown;
}

bool IsLoopback(std::string_view host) {
  if (host == "localhost" || host == "::1") return true;
  // Four numbers, or a name such as 127.evil.example would pass.
  const auto is_address = [](char c) { return (c >= '0' && c <= '9') || c == '.'; };
  return host.starts_with("127.") && std::all_of(host.begin(), host.end(), is_address) && std::count(host.begin(), host.end(), '.') == 3;
}

std::string EncodePath(std::string_view path) {
  std::string encoded;
  for (const char c : path) {
    if (IsAlphanumericAscii(c) || c == '-' || c == '.' || c == '_' || c == '~' || c == '/') {
      encoded += c;
    } else {
      encoded += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return encoded;
}

}  // namespace bantam
