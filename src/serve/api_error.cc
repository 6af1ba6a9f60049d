#include "serve/api_error.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/ascii.h"

namespace bantam {
namespace {

bool IsMemberChar(char c) { return IsAlphanumericAscii(c) || c == '_' || c == '.' || c == '[' || c == ']'; }

}  // namespace

std::string MemberOf(std::string_view message) {
  constexpr size_t kLongest = 100;
  const bool quoted = message.starts_with('"');
  if (quoted) message.remove_prefix(1);
  size_t end = 0;
  while (end < std::min(message.size(), kLongest) && IsMemberChar(message[end])) ++end;
  const std::string_view rest = message.substr(end);
  const bool named = end > 0 && LowerAscii(message[0]) >= 'a' && LowerAscii(message[0]) <= 'z' &&
                     (quoted ? rest.starts_with("\": ") : rest.starts_with(": "));
  return named ? std::string(message.substr(0, end)) : "";
}

int64_t RetryAfterSeconds(int64_t predicted_ns) {
  constexpr int64_t kNsPerSecond = 1'000'000'000;
  constexpr int64_t kLongestSeconds = 3600;
  return std::clamp<int64_t>((predicted_ns + kNsPerSecond - 1) / kNsPerSecond, 1, kLongestSeconds);
}

int GrpcCodeOf(int status) {
  // By the numbers that gRPC publishes.
  constexpr int kOk = 0;
  constexpr int kUnknown = 2;
  constexpr std::pair<int, int> kCodes[] = {
      {400, 3},   // INVALID_ARGUMENT
      {401, 16},  // UNAUTHENTICATED
      {403, 7},   // PERMISSION_DENIED
      {404, 5},   // NOT_FOUND
      {405, 12},  // UNIMPLEMENTED
      {408, 4},   // DEADLINE_EXCEEDED
      {409, 9},   // FAILED_PRECONDITION
      {413, 8},   // RESOURCE_EXHAUSTED
      {429, 8},   // RESOURCE_EXHAUSTED
      {499, 1},   // CANCELLED
      {500, 13},  // INTERNAL
      {503, 14},  // UNAVAILABLE
      {504, 4},   // DEADLINE_EXCEEDED
      {507, 8},   // RESOURCE_EXHAUSTED
  };
  if (status < 300) return kOk;
  const auto known = std::find_if(std::begin(kCodes), std::end(kCodes), [&](const auto& pair) { return pair.first == status; });
  return known == std::end(kCodes) ? kUnknown : known->second;
}

ApiError EngineFailed(const Error& error) { return {.status = 500, .code = "internal_error", .message = error.message()}; }

ApiError ModelNotThere(const Error& error) {
  constexpr int64_t kRetrySeconds = 5;
  return {.status = 503, .code = "model_unavailable", .message = error.message(), .retry_after_s = kRetrySeconds};
}

ApiError ModelChangeFailed(const Error& error) {
  ApiError told = ApiErrorOf(error);
  // What the file is like, and what fits beside it, is in no member of the request.
  if (error.code() == Code::kExhausted) told = {.status = 507, .code = "out_of_memory", .message = error.message()};
  if (error.code() == Code::kUnavailable) told = {.status = 409, .code = "model_not_changed", .message = error.message()};
  return told;
}

ApiError ApiErrorOf(const Error& error) {
  ApiError told = {.status = 400, .code = "invalid_value", .message = error.message()};
  switch (error.code()) {
    case Code::kInvalidArgument:
    case Code::kCorrupt:
      told.param = MemberOf(error.message());
      break;
    case Code::kUnsupported:
      told.code = "unsupported_value";
      told.param = MemberOf(error.message());
      break;
    case Code::kExhausted:
      told.code = "context_length_exceeded";
      break;
    case Code::kNotFound:
      told.status = 404;
      told.code = "not_found";
      break;
    case Code::kDenied:
      told.status = 403;
      told.code = "permission_denied";
      break;
    case Code::kUnavailable:
      told.status = 429;
      told.code = "rate_limit_exceeded";
      told.retry_after_s = 1;
      break;
    case Code::kCancelled:
      told.status = 503;
      told.code = "cancelled";
      told.retry_after_s = 1;
      break;
    case Code::kInternal:
      told.status = 500;
      told.code = "internal_error";
      break;
  }
  return told;
}

}  // namespace bantam
