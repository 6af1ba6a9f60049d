// Progress of a long step, reported to whoever shows it. Libraries never print.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

namespace bantam {

// Called from one thread with `done` rising to `total` (bytes, tokens); 0 where nobody knows that. Returning false asks for the step to
// stop: it ends with Cancelled.
using Progress = std::function<bool(std::string_view step, uint64_t done, uint64_t total)>;

}  // namespace bantam
