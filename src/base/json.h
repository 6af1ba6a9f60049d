// JSON values for what the program prints. The library stays behind this file and base/json.cc.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace bantam {

// Members keep the order in which they were added.
using Json = nlohmann::ordered_json;

// Text that is always valid JSON: bytes that are not UTF-8 (a hostile file's names) become U+FFFD instead of an exception.
// `indent` < 0 prints one line.
std::string DumpJson(const Json& value, int indent);

}  // namespace bantam
