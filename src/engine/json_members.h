// Members of requests as JSON, read and checked: errors (InvalidArgument) name the member, what it is, and what was expected.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/result.h"

namespace bantam {

Error WrongMember(std::string_view member, const Json& value, std::string_view expected);
// Of a name that is none of `known`: says the nearest.
Error UnknownMember(std::string_view name, std::span<const std::string_view> known);

struct NumberRange {
  double low;
  double high;
};
Result<double> ReadNumber(std::string_view member, const Json& value, const NumberRange& range);
// Also where it is written with a point, as some clients do.
Result<uint64_t> ReadWhole(std::string_view member, const Json& value, uint64_t low, uint64_t high);
Result<bool> ReadFlag(std::string_view member, const Json& value);
Result<std::string> ReadText(std::string_view member, const Json& value);

}  // namespace bantam
