// KeyUses: what keys have used of their limits, by their names, and the day's tokens as a text for the next run of the server.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "serve/access.h"
#include "serve/api_error.h"
#include "serve/keys.h"

namespace bantam {

// What one key used of its day.
struct KeyDay {
  std::string name;
  KeyUse::Day day = {};
};

// Any thread may call it.
class KeyUses {
 public:
  // As those of KeyUse.
  std::optional<ApiError> Enter(const ApiKey& key, int64_t now_ns);
  void Leave(const ApiKey& key, uint64_t tokens, int64_t now_ns);

  // Of keys that used something of a day that is not over; of too many (kKeysMax) those that used most.
  std::vector<KeyDay> Days(int64_t now_ns) const;
  // Takes the place of what is known of these keys' days.
  void Resume(const std::vector<KeyDay>& days, int64_t now_ns);
  // How often Days may have become another.
  uint64_t changes() const;

 private:
  mutable std::mutex mutex_;
  std::map<std::string, KeyUse> uses_;
  uint64_t changes_ = 0;
};

inline constexpr size_t kKeyDaysBytesMax = size_t{4} << 20;

// {"time": SECONDS SINCE 1970, "keys": [{"name", "tokens", "seconds": of its day that have passed}]}.
std::string WriteKeyDays(const std::vector<KeyDay>& days, int64_t time_s);
// The time since then has passed of each day, too; days that are over are left out. Where the wall clock stands before that time, for it
// was set or lost, nothing has passed: who waits longer than a day says cannot ask more. Errors: Corrupt and InvalidArgument, naming the
// key and the member.
Result<std::vector<KeyDay>> ReadKeyDays(std::string_view text, int64_t time_s);

}  // namespace bantam
