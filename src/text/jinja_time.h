// strftime, as templates use it.
#pragma once

#include <ctime>
#include <string>
#include <string_view>

#include "base/result.h"

namespace bantam::jinja {

// In the C locale; a minus behind the percent sign drops leading zeros, as glibc does. Unsupported for a letter that is not known.
Result<std::string> FormatTime(std::string_view format, const std::tm& time);

}  // namespace bantam::jinja
