// Who may come in: the host and origin that a request names, the key that it shows, and how much that key may still ask.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "net/server_message.h"
#include "serve/api_error.h"
#include "serve/keys.h"

namespace bantam {

// A web page that makes a name of its own lead to this machine (DNS rebinding) is told by that name. Allowed are addresses, localhost, and
// `hosts`; without regard to the port.
bool HostAllowed(std::string_view host_field, std::span<const std::string> hosts);
// Browsers say which page a request is of. Allowed are none, a page of this very server, and `origins` (such as "https://app.example").
bool OriginAllowed(std::string_view origin, std::string_view host_field, std::span<const std::string> origins);

// What "Authorization: Bearer SECRET" or "x-api-key: SECRET" shows; empty without one.
std::string ShownSecret(const ServerRequest& request);

// What one key has used: its requests and tokens of the last minute (a bucket that fills steadily) and day. Not for several
// threads at once.
class KeyUse {
 public:
  static constexpr int64_t kDayNs = int64_t{24} * 3600 * 1'000'000'000;
  // Nothing, or why not now (429), with the time to wait. Takes one request, which Leave ends.
  std::optional<ApiError> Enter(const KeyLimits& limits, int64_t now_ns);
  void Leave(const KeyLimits& limits, uint64_t tokens, int64_t now_ns);
  size_t running() const { return running_; }

  // What is used of a day, and how much of the day has passed.
  struct Day {
    uint64_t tokens = 0;
    int64_t passed_ns = 0;
  };
  // None of it is used where the day is over.
  Day DayAt(int64_t now_ns) const;
  // Goes on with a day that began in an earlier run of the server.
  void Resume(const Day& day, int64_t now_ns);

 private:
  struct Bucket {
    double left = 0;
    int64_t filled_ns = -1;
    void Fill(uint64_t per_minute, int64_t now_ns);
  };
  Bucket requests_;
  Bucket tokens_;
  uint64_t tokens_today_ = 0;
  int64_t day_begin_ns_ = 0;
  size_t running_ = 0;
};

}  // namespace bantam
