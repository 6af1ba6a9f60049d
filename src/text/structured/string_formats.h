// Formats of JSON Schema as regular expressions: each matches nothing that is not of the format, and what is commonly written.
#pragma once

#include <optional>
#include <string_view>

namespace bantam {

struct StringFormat {
  std::string_view pattern;  // of whole texts; empty: every text
};

// Nothing for formats that no specification has: those are annotations.
std::optional<StringFormat> FindStringFormat(std::string_view name);

}  // namespace bantam
