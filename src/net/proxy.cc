#include "net/proxy.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "base/ascii.h"

namespace bantam {
namespace {

bool Matches(std::string_view written, std::string_view host) {
  const std::string lower = LowerAscii(TrimmedAscii(written));
  std::string_view entry = lower;
  if (entry == "*") return true;
  if (entry.starts_with('.')) entry.remove_prefix(1);
  if (entry.empty() || !host.ends_with(entry)) return false;
  return host.size() == entry.size() || host[host.size() - entry.size() - 1] == '.';
}

}  // namespace

Result<std::optional<Url>> ProxyFor(const ProxySettings& settings, const Url& url) {
  const std::string& proxy = url.secure ? settings.https : settings.http;
  if (proxy.empty() || IsLoopback(url.host)) return std::optional<Url>();
  std::string_view rest = settings.none;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find(','), rest.size());
    if (Matches(rest.substr(0, end), url.host)) return std::optional<Url>();
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  const Result<Url> parsed = ParseUrl(proxy.find("://") == std::string::npos ? fmt::format("http://{}", proxy) : proxy);
  if (!parsed.ok() || parsed->secure) {
    return Error(Code::kInvalidArgument,
                 fmt::format("{}: expected http://HOST:PORT, without user and password", url.secure ? "HTTPS_PROXY" : "HTTP_PROXY"));
  }
  return std::optional<Url>(*parsed);
}

}  // namespace bantam
