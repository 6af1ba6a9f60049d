#include "engine/json_members.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/closest.h"

namespace bantam {

Error WrongMember(std::string_view member, const Json& value, std::string_view expected) {
  return Error(Code::kInvalidArgument, fmt::format("{}: {}: expected {}", member, ShortJson(value), expected));
}

Error UnknownMember(std::string_view name, std::span<const std::string_view> known) {
  const std::vector<std::string_view> closest = Closest(name, known, /*count=*/1);
  return Error(Code::kInvalidArgument,
               fmt::format("{}: no member of a request; the nearest is {}", ShortJson(Json(std::string(name))), closest[0]));
}

Result<double> ReadNumber(std::string_view member, const Json& value, const NumberRange& range) {
  const double number = value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN();
  if (number >= range.low && number <= range.high) return number;
  return WrongMember(member, value, fmt::format("a number from {} to {}", range.low, range.high));
}

Result<uint64_t> ReadWhole(std::string_view member, const Json& value, uint64_t low, uint64_t high) {
  if (value.is_number_unsigned() && value.get<uint64_t>() >= low && value.get<uint64_t>() <= high) return value.get<uint64_t>();
  if (value.is_number_float() && std::floor(value.get<double>()) == value.get<double>() &&
      value.get<double>() >= static_cast<double>(low) && value.get<double>() <= std::min(static_cast<double>(high), 9e15)) {
    return static_cast<uint64_t>(value.get<double>());
  }
  return WrongMember(member, value, fmt::format("a whole number from {} to {}", low, high));
}

Result<bool> ReadFlag(std::string_view member, const Json& value) {
  if (value.is_boolean()) return value.get<bool>();
  return WrongMember(member, value, "true or false");
}

Result<std::string> ReadText(std::string_view member, const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  return WrongMember(member, value, "a text");
}

}  // namespace bantam
