// JSON values for what the program reads and prints. The library stays behind this file and base/json.cc.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace bantam {

// Members keep the order in which they were added.
using Json = nlohmann::ordered_json;

// Text that is always valid JSON: bytes that are not UTF-8 (a hostile file's names) become U+FFFD instead of an exception.
// `indent` < 0 prints one line.
std::string DumpJson(const Json& value, int indent);

// One JSON value (RFC 8259, UTF-8) and white space around it. Errors: Corrupt, with line and column; also past kJsonDepthMax containers
// within containers.
inline constexpr size_t kJsonDepthMax = 100;
Result<Json> ParseJson(std::string_view text);

}  // namespace bantam
