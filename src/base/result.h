// Result<T> and Status: the one way a failure travels. The shape is that of std::expected, which g++ 12 lacks in C++20.
// A message names the input, what was expected and the remedy; With() adds context on the way up.
#pragma once

#include <source_location>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "base/check.h"

namespace bantam {

enum class Code : unsigned char {
  kInvalidArgument,  // the caller asked for something that makes no sense
  kNotFound,         // a file, tensor or name does not exist
  kCorrupt,          // bytes contradict their format
  kUnsupported,      // well formed, but outside what this build handles
  kExhausted,        // memory budget, context or another named limit
  kDenied,           // permission
  kUnavailable,      // may work later: a resource is missing now
  kCancelled,        // the user asked to stop
  kInternal,         // our own defect, reported instead of guessed around
};

// The process exit status of a verb that ends with this code: 2 usage, 3 bad input file, 4 not enough memory,
// 5 unavailable, 130 interrupted. One table, so that every verb agrees.
int ExitStatus(Code code);

class [[nodiscard]] Error {
 public:
  Error(Code code, std::string message, std::source_location where = std::source_location::current())
      : code_(code), message_(std::move(message)), where_(where) {}

  Code code() const { return code_; }
  const std::string& message() const { return message_; }
  const std::source_location& where() const { return where_; }

  // Puts "context: " in front of the message.
  Error With(std::string_view context) && {
    message_.insert(0, std::string(context) + ": ");
    return std::move(*this);
  }

 private:
  Code code_;
  std::string message_;
  std::source_location where_;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  T& value() & {
    CHECK(ok());
    return *std::get_if<0>(&state_);
  }
  const T& value() const& {
    CHECK(ok());
    return *std::get_if<0>(&state_);
  }
  T&& value() && {
    CHECK(ok());
    return std::move(*std::get_if<0>(&state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  const Error& error() const& {
    CHECK(!ok());
    return *std::get_if<1>(&state_);
  }
  Error&& error() && {
    CHECK(!ok());
    return std::move(*std::get_if<1>(&state_));
  }

  Result With(std::string_view context) && {
    if (ok()) return std::move(*this);
    return std::move(*this).error().With(context);
  }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }
  const Error& error() const& {
    CHECK(!ok());
    return *std::get_if<1>(&state_);
  }
  Error&& error() && {
    CHECK(!ok());
    return std::move(*std::get_if<1>(&state_));
  }
  Result With(std::string_view context) && {
    if (ok()) return {};
    return std::move(*this).error().With(context);
  }

 private:
  std::variant<std::monostate, Error> state_;
};

using Status = Result<void>;
inline Status Ok() { return {}; }

}  // namespace bantam

#define BANTAM_CONCAT_INNER(a, b) a##b
#define BANTAM_CONCAT(a, b) BANTAM_CONCAT_INNER(a, b)

// BANTAM_TRY(expression): returns its Error from the enclosing function, otherwise goes on.
#define BANTAM_TRY(...)                                                                                   \
  do {                                                                                                    \
    if (auto bantam_status = (__VA_ARGS__); !bantam_status.ok()) return std::move(bantam_status).error(); \
  } while (false)

// BANTAM_ASSIGN(auto x, expression): x becomes the value, or the Error is returned.
#define BANTAM_ASSIGN(target, ...) BANTAM_ASSIGN_INNER(BANTAM_CONCAT(bantam_result_, __LINE__), target, __VA_ARGS__)
#define BANTAM_ASSIGN_INNER(temporary, target, ...)         \
  auto temporary = (__VA_ARGS__);                           \
  if (!temporary.ok()) return std::move(temporary).error(); \
  target = std::move(temporary).value()
