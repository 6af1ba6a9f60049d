#include "base/json.h"

#include <fmt/format.h>

#include <algorithm>

namespace bantam {
namespace {

std::string Place(std::string_view text, size_t at) {
  const std::string_view before = text.substr(0, std::min(at, text.size()));
  const size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0
  return fmt::format("line {}, byte {}", 1 + std::count(before.begin(), before.end(), '\n'), before.size() - line_start + 1);
}

// The library builds trees of any depth, and those who walk them recurse: the depth is looked at first.
Status CheckDepth(std::string_view text) {
  size_t depth = 0;
  bool in_string = false;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (in_string) {
      if (c == '\\') ++at;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kJsonDepthMax) {
        return Error(Code::kCorrupt, fmt::format("{}: JSON nested deeper than {}", Place(text, at), kJsonDepthMax));
      }
    } else if (c == ']' || c == '}') {
      depth -= depth > 0 ? 1 : 0;
    }
  }
  return Ok();
}

// Follows the library's parser to where it stops.
struct ErrorFinder : nlohmann::json_sax<Json> {
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return true; }
  bool key(string_t&) override { return true; }
  bool end_object() override { return true; }
  bool start_array(std::size_t) override { return true; }
  bool end_array() override { return true; }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    at = position == 0 ? 0 : position - 1;
    return false;
  }
  size_t at = 0;
};

}  // namespace

std::string DumpJson(const Json& value, int indent) {
  return value.dump(indent, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

Result<Json> ParseJson(std::string_view text) {
  BANTAM_TRY(CheckDepth(text));
  Json json = Json::parse(text, /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (!json.is_discarded()) return json;
  ErrorFinder finder;
  Json::sax_parse(text, &finder);
  return Error(Code::kCorrupt, fmt::format("{}: no valid JSON here", Place(text, finder.at)));
}

}  // namespace bantam
