// In place of pcre2_matcher.cc where the library is missing (cross builds).
#include <fmt/format.h>

#include "text/matcher.h"

namespace bantam {

Result<std::unique_ptr<const Matcher>> CompilePcre2(std::string_view regex) {
  return Error(Code::kUnsupported, fmt::format("pre-tokenizer pattern {}: this build has no PCRE2 to run it with", regex));
}

}  // namespace bantam
