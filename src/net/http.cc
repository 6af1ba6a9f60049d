#include "net/http.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "base/ascii.h"

namespace bantam {
namespace {

// A number from the front of `text`, which loses it.
std::optional<uint64_t> TakeNumber(std::string_view* text) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
  if (error != std::errc()) return std::nullopt;
  text->remove_prefix(static_cast<size_t>(end - text->data()));
  return number;
}

// What follows the unit of a range; empty for another unit than bytes.
std::string_view WithoutUnit(std::string_view value) {
  constexpr std::string_view kUnit = "bytes ";
  if (value.size() < kUnit.size() || !EqualsIgnoringCase(value.substr(0, kUnit.size()), kUnit)) return {};
  return TrimmedAscii(value.substr(kUnit.size()));
}

bool IsRedirection(int status) { return status == 301 || status == 302 || status == 303 || status == 307 || status == 308; }

Error StatusError(const HttpReply& reply) {
  constexpr int kRequestTimeout = 408;
  constexpr int kTooManyRequests = 429;
  Code code = Code::kUnsupported;
  std::string_view remedy = "the server does not do what was asked of it";
  if (reply.status == 404 || reply.status == 410) {
    code = Code::kNotFound;
    remedy = "check the name";
  } else if (reply.status == 401 || reply.status == 403) {
    code = Code::kDenied;
    remedy = "what is there is not for everybody: ask its owner for access, and give the token that the server wants";
  } else if (reply.status == kRequestTimeout || reply.status == kTooManyRequests || reply.status >= 500) {
    code = Code::kUnavailable;
    remedy = "try again later";
  } else if (reply.status == 416) {
    code = Code::kInvalidArgument;
    remedy = "the file there is shorter";
  }
  return Error(code, fmt::format("{}: the server answers {}; {}", ShownUrl(reply.url), reply.status, remedy));
}

}  // namespace

std::optional<std::string> HttpReply::Field(std::string_view name) const {
  for (const HttpField& field : fields) {
    if (EqualsIgnoringCase(field.name, name)) return field.value;
  }
  return std::nullopt;
}

Status CheckPlain(const Url& url, bool plain_allowed) {
  if (url.secure || plain_allowed || IsLoopback(url.host)) return Ok();
  return Error(Code::kInvalidArgument, fmt::format("{}: http without TLS, where anybody on the way can read and change what is sent; use "
                                                   "https, or --insecure-http if the network is trusted",
                                                   ShownUrl(url)));
}

Result<std::unique_ptr<HttpReply>> Fetch(HttpTransport& transport, const HttpRequest& request, const HttpLimits& limits) {
  Url url = request.url;
  for (int followed = 0; followed <= limits.redirects_max; ++followed) {
    BANTAM_TRY(CheckPlain(url, request.plain_allowed));
    std::vector<HttpField> fields = request.fields;
    if (!request.authorization.empty() && url.SameOrigin(request.url)) fields.push_back({"Authorization", request.authorization});
    BANTAM_ASSIGN(std::unique_ptr<HttpReply> reply, transport.Get(url, fields));
    if (reply->status == 200 || reply->status == 206 || (reply->status == 416 && request.end_allowed)) return reply;
    if (!IsRedirection(reply->status)) return StatusError(*reply);
    const std::optional<std::string> location = reply->Field("Location");
    if (!location.has_value()) {
      return Error(Code::kCorrupt, fmt::format("{}: the server redirects to nowhere; try another address", ShownUrl(url)));
    }
    BANTAM_ASSIGN(const Url next, ResolveUrl(url, *location).With(fmt::format("{} redirects", ShownUrl(url))));
    if (url.secure && !next.secure) {
      return Error(Code::kDenied,
                   fmt::format("{}: the server redirects from https to {}, where anybody on the way can change what is sent; "
                               "ask its owner, or name an address with https",
                               ShownUrl(url), ShownUrl(next)));
    }
    url = next;
  }
  return Error(Code::kUnavailable, fmt::format("{}: more than {} redirections; the server's addresses lead in a circle",
                                               ShownUrl(request.url), limits.redirects_max));
}

Result<std::string> ReadBody(HttpReply& reply, size_t bytes_max) {
  const Error too_long(Code::kExhausted, fmt::format("{}: the answer is longer than the limit of {} bytes; is it the right address?",
                                                     ShownUrl(reply.url), bytes_max));
  if (reply.body_bytes.value_or(0) > bytes_max) return too_long;
  std::string text;
  std::vector<std::byte> buffer(size_t{16} << 10);
  while (true) {
    BANTAM_ASSIGN(const size_t got, reply.Read(buffer));
    if (got == 0) return text;
    if (text.size() + got > bytes_max) return too_long;
    text.append(reinterpret_cast<const char*>(buffer.data()), got);
  }
}

std::optional<ContentRange> ParseContentRange(std::string_view value) {
  std::string_view rest = WithoutUnit(value);
  ContentRange range;
  const auto first = TakeNumber(&rest);
  if (!first.has_value() || !rest.starts_with('-')) return std::nullopt;
  rest.remove_prefix(1);
  const auto last = TakeNumber(&rest);
  if (!last.has_value() || !rest.starts_with('/')) return std::nullopt;
  rest.remove_prefix(1);
  range.first = *first;
  range.last = *last;
  if (rest != "*") {
    range.total = TakeNumber(&rest);
    if (!range.total.has_value() || !rest.empty()) return std::nullopt;
  }
  // The last byte's number is one less than the total, so that the length last - first + 1 fits too.
  if (range.last < range.first || range.last == UINT64_MAX || range.last >= range.total.value_or(UINT64_MAX)) return std::nullopt;
  return range;
}

std::optional<uint64_t> ParseUnsatisfiedRange(std::string_view value) {
  std::string_view rest = WithoutUnit(value);
  if (!rest.starts_with("*/")) return std::nullopt;
  rest.remove_prefix(2);
  const auto total = TakeNumber(&rest);
  return rest.empty() ? total : std::nullopt;
}

std::optional<std::string> NextLink(std::string_view value) {
  while (true) {
    value = TrimmedAscii(value);
    if (!value.starts_with('<')) return std::nullopt;
    const size_t end = value.find('>');
    if (end == std::string_view::npos) return std::nullopt;
    const std::string_view address = value.substr(1, end - 1);
    value.remove_prefix(end + 1);
    bool is_next = false;
    // Parameters up to the comma that begins the next entry; commas inside quotes do not.
    while (!value.empty() && value.front() != ',') {
      size_t size = 0;
      for (bool quoted = false; size < value.size() && (quoted || (value[size] != ';' && value[size] != ',')); ++size) {
        if (value[size] == '"') quoted = !quoted;
      }
      const std::string_view parameter = TrimmedAscii(value.substr(0, size));
      if (EqualsIgnoringCase(parameter, "rel=\"next\"") || EqualsIgnoringCase(parameter, "rel=next")) is_next = true;
      value.remove_prefix(size);
      if (value.starts_with(';')) value.remove_prefix(1);
    }
    if (is_next) return std::string(address);
    if (value.empty()) return std::nullopt;
    value.remove_prefix(1);
  }
}

}  // namespace bantam
