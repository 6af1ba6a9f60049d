// Which proxy a URL goes through, by the variables that other programs read too.
#pragma once

#include <optional>
#include <string>

#include "net/url.h"

namespace bantam {

// Values of HTTPS_PROXY, HTTP_PROXY and NO_PROXY. Empty: none.
struct ProxySettings {
  std::string https;
  std::string http;
  std::string none;  // names with a comma between: "internal.example" is that host and those below it, "*" is all
};

// The proxy for a URL: an http URL of a proxy, whose path means nothing. Nothing for hosts of this machine. Errors: InvalidArgument for a
// proxy that is no http URL; it may hold a password and is not repeated.
Result<std::optional<Url>> ProxyFor(const ProxySettings& settings, const Url& url);

}  // namespace bantam
