// Lists of token ids as text.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace bantam {

// Decimal ids separated by white space. An error of the given code (Corrupt for a file, InvalidArgument for the command line)
// names `input` and the word at fault.
Result<std::vector<uint32_t>> ParseIds(std::string_view text, std::string_view input, Code code);

// Corrupt when an id is not below `vocabulary`.
Status CheckIds(std::span<const uint32_t> ids, std::string_view input, size_t vocabulary);

}  // namespace bantam
