#include "cli/ids.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace bantam {

Result<std::vector<uint32_t>> ParseIds(std::string_view text, std::string_view input, Code code) {
  constexpr std::string_view kSpace = " \t\r\n\f\v";
  std::vector<uint32_t> ids;
  while (true) {
    text.remove_prefix(std::min(text.find_first_not_of(kSpace), text.size()));
    if (text.empty()) return ids;
    const std::string_view word = text.substr(0, text.find_first_of(kSpace));
    uint32_t id = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error != std::errc() || end != word.data() + word.size()) {
      return Error(code,
                   fmt::format("{}: word {} is {}, expected a token id (a decimal number)", input, ids.size() + 1, word.substr(0, 40)));
    }
    ids.push_back(id);
    text.remove_prefix(word.size());
  }
}

Status CheckIds(std::span<const uint32_t> ids, std::string_view input, size_t vocabulary) {
  const auto bad = std::find_if(ids.begin(), ids.end(), [&](uint32_t id) { return id >= vocabulary; });
  if (bad == ids.end()) return Ok();
  return Error(Code::kCorrupt, fmt::format("{}: token id {} (word {}), expected one below the vocabulary size {}", input, *bad,
                                           bad - ids.begin() + 1, vocabulary));
}

}  // namespace bantam
