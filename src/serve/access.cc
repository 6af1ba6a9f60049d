#include "serve/access.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/ascii.h"

namespace bantam {
namespace {

constexpr int64_t kMinuteNs = 60'000'000'000;

// Without the port: "[::1]:80" is "::1".
std::string_view WithoutPort(std::string_view host) {
  if (host.starts_with('[')) return host.substr(1, std::min(host.find(']'), host.size()) - 1);
  return host.substr(0, std::min(host.find(':'), host.size()));
}

bool IsAddress(const std::string& host) {
  std::array<unsigned char, sizeof(in6_addr)> ignored{};
  return ::inet_pton(AF_INET, host.c_str(), ignored.data()) == 1 || ::inet_pton(AF_INET6, host.c_str(), ignored.data()) == 1;
}

ApiError TooMuch(std::string message, int64_t wait_ns) {
  return {.status = 429, .code = "rate_limit_exceeded", .message = std::move(message), .retry_after_s = RetryAfterSeconds(wait_ns)};
}

}  // namespace

bool HostAllowed(std::string_view host_field, std::span<const std::string> hosts) {
  const std::string host = LowerAscii(WithoutPort(TrimmedAscii(host_field)));
  if (host == "localhost" || host.ends_with(".localhost") || IsAddress(host)) return true;
  return std::any_of(hosts.begin(), hosts.end(), [&](const std::string& known) { return EqualsIgnoringCase(known, host); });
}

bool OriginAllowed(std::string_view origin, std::string_view host_field, std::span<const std::string> origins) {
  if (origin.empty()) return true;
  const size_t scheme = origin.find("://");
  if (scheme != std::string_view::npos && EqualsIgnoringCase(origin.substr(scheme + 3), TrimmedAscii(host_field))) return true;
  return std::any_of(origins.begin(), origins.end(), [&](const std::string& known) { return known == "*" || known == origin; });
}

std::string ShownSecret(const ServerRequest& request) {
  if (const auto key = request.Field("x-api-key")) return *key;
  const std::string authorization = request.Field("Authorization").value_or("");
  constexpr std::string_view kBearer = "bearer ";
  if (authorization.size() <= kBearer.size() || !EqualsIgnoringCase(authorization.substr(0, kBearer.size()), kBearer)) return "";
  return std::string(TrimmedAscii(std::string_view(authorization).substr(kBearer.size())));
}

void KeyUse::Bucket::Fill(uint64_t per_minute, int64_t now_ns) {
  const auto full = static_cast<double>(per_minute);
  left = filled_ns < 0 ? full : std::min(full, left + full * static_cast<double>(now_ns - filled_ns) / kMinuteNs);
  filled_ns = now_ns;
}

std::optional<ApiError> KeyUse::Enter(const KeyLimits& limits, int64_t now_ns) {
  if (now_ns - day_begin_ns_ >= kDayNs) {
    // Days follow upon each other, so that none is shorter than one.
    day_begin_ns_ += (now_ns - day_begin_ns_) / kDayNs * kDayNs;
    tokens_today_ = 0;
  }
  if (limits.concurrent > 0 && running_ >= limits.concurrent) {
    return TooMuch(fmt::format("this key may have {} requests at once, and has; wait for one to end", limits.concurrent), /*wait_ns=*/0);
  }
  if (limits.tokens_per_day > 0 && tokens_today_ >= limits.tokens_per_day) {
    return TooMuch(fmt::format("this key may use {} tokens a day, and has; wait", limits.tokens_per_day), day_begin_ns_ + kDayNs - now_ns);
  }
  // A bucket in debt is paid back first: what an answer costs is known only at its end.
  const auto wait = [](const Bucket& bucket, uint64_t per_minute, double wanted) {
    return static_cast<int64_t>((wanted - bucket.left) / static_cast<double>(per_minute) * kMinuteNs);
  };
  if (limits.tokens_per_minute > 0) {
    tokens_.Fill(limits.tokens_per_minute, now_ns);
    if (tokens_.left <= 0) {
      return TooMuch(fmt::format("this key may use {} tokens a minute, and has; wait", limits.tokens_per_minute),
                     wait(tokens_, limits.tokens_per_minute, /*wanted=*/1));
    }
  }
  if (limits.requests_per_minute > 0) {
    requests_.Fill(limits.requests_per_minute, now_ns);
    if (requests_.left < 1) {
      return TooMuch(fmt::format("this key may send {} requests a minute, and has; wait", limits.requests_per_minute),
                     wait(requests_, limits.requests_per_minute, /*wanted=*/1));
    }
    requests_.left -= 1;
  }
  ++running_;
  return std::nullopt;
}

void KeyUse::Leave(const KeyLimits& limits, uint64_t tokens, int64_t now_ns) {
  running_ -= running_ > 0 ? 1 : 0;
  tokens_today_ += tokens;
  if (limits.tokens_per_minute == 0) return;
  tokens_.Fill(limits.tokens_per_minute, now_ns);
  tokens_.left -= static_cast<double>(tokens);
}

KeyUse::Day KeyUse::DayAt(int64_t now_ns) const {
  if (now_ns - day_begin_ns_ >= kDayNs) return {};
  return {tokens_today_, now_ns - day_begin_ns_};
}

void KeyUse::Resume(const Day& day, int64_t now_ns) {
  tokens_today_ = day.tokens;
  day_begin_ns_ = now_ns - day.passed_ns;
}

}  // namespace bantam
