// Why an answer ended.
#pragma once

#include <cstdint>
#include <string_view>

namespace bantam {

enum class StopReason : uint8_t { kEndOfTurn, kLength, kContextFull, kCancelled, kStopString, kDeadline, kError };
// "end of turn", "length", "context full", "cancelled", "stop string", "deadline", "error".
std::string_view StopReasonName(StopReason reason);

}  // namespace bantam
