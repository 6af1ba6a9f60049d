// Base64 (RFC 4648, section 4).
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace bantam {

// Nothing when `text` is not base64: other characters, or a length that padding does not bring to a multiple of four.
std::optional<std::string> DecodeBase64(std::string_view text);

// With padding.
std::string EncodeBase64(std::string_view bytes);

}  // namespace bantam
