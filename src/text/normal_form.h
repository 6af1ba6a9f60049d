// Unicode normalization forms (UAX #15).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace bantam {

enum class NormalForm : uint8_t { kNfc, kNfd, kNfkc, kNfkd };

// `text` in that form. Bytes that are no UTF-8 stay as they are. Time is n log n at worst, in runs of combining marks.
std::string ToNormalForm(std::string_view text, NormalForm form);

}  // namespace bantam
