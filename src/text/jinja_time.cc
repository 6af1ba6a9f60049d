#include "text/jinja_time.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>

namespace bantam::jinja {
namespace {

constexpr std::array<std::string_view, 7> kDays = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};
constexpr std::array<std::string_view, 12> kMonths = {"January", "February", "March",     "April",   "May",      "June",
                                                      "July",    "August",   "September", "October", "November", "December"};

struct NumberField {
  char kind;
  int (*value)(const std::tm& time);
  size_t width;
  char fill;
};
constexpr NumberField kNumbers[] = {
    {'Y', [](const std::tm& t) { return t.tm_year + 1900; }, 1, '0'},
    {'y', [](const std::tm& t) { return t.tm_year % 100; }, 2, '0'},
    {'m', [](const std::tm& t) { return t.tm_mon + 1; }, 2, '0'},
    {'d', [](const std::tm& t) { return t.tm_mday; }, 2, '0'},
    {'e', [](const std::tm& t) { return t.tm_mday; }, 2, ' '},
    {'H', [](const std::tm& t) { return t.tm_hour; }, 2, '0'},
    {'I', [](const std::tm& t) { return t.tm_hour % 12 == 0 ? 12 : t.tm_hour % 12; }, 2, '0'},
    {'M', [](const std::tm& t) { return t.tm_min; }, 2, '0'},
    {'S', [](const std::tm& t) { return t.tm_sec; }, 2, '0'},
    {'j', [](const std::tm& t) { return t.tm_yday + 1; }, 3, '0'},
    {'w', [](const std::tm& t) { return t.tm_wday; }, 1, '0'},
    {'u', [](const std::tm& t) { return t.tm_wday == 0 ? 7 : t.tm_wday; }, 1, '0'},
    {'U', [](const std::tm& t) { return (t.tm_yday + 7 - t.tm_wday) / 7; }, 2, '0'},
    {'W', [](const std::tm& t) { return (t.tm_yday + 7 - (t.tm_wday + 6) % 7) / 7; }, 2, '0'},
    {'C', [](const std::tm& t) { return (t.tm_year + 1900) / 100; }, 2, '0'},
    {'f', [](const std::tm&) { return 0; }, 6, '0'},  // what is given has whole seconds
};

struct TextField {
  char kind;
  std::string_view (*value)(const std::tm& time);
};
constexpr TextField kTexts[] = {
    {'A', [](const std::tm& t) { return kDays[static_cast<size_t>(t.tm_wday) % 7]; }},
    {'a', [](const std::tm& t) { return kDays[static_cast<size_t>(t.tm_wday) % 7].substr(0, 3); }},
    {'B', [](const std::tm& t) { return kMonths[static_cast<size_t>(t.tm_mon) % 12]; }},
    {'b', [](const std::tm& t) { return kMonths[static_cast<size_t>(t.tm_mon) % 12].substr(0, 3); }},
    {'h', [](const std::tm& t) { return kMonths[static_cast<size_t>(t.tm_mon) % 12].substr(0, 3); }},
    {'p', [](const std::tm& t) { return t.tm_hour < 12 ? std::string_view("AM") : std::string_view("PM"); }},
    {'%', [](const std::tm&) { return std::string_view("%"); }},
    {'n', [](const std::tm&) { return std::string_view("\n"); }},
    {'t', [](const std::tm&) { return std::string_view("\t"); }},
    // Of a time without zone nothing.
    {'z', [](const std::tm&) { return std::string_view(); }},
    {'Z', [](const std::tm&) { return std::string_view(); }},
};

// Letters that stand for several.
struct Shorthand {
  char kind;
  std::string_view format;
};
constexpr Shorthand kShorthands[] = {{'F', "%Y-%m-%d"}, {'T', "%H:%M:%S"}, {'R', "%H:%M"},       {'D', "%m/%d/%y"},
                                     {'x', "%m/%d/%y"}, {'X', "%H:%M:%S"}, {'r', "%I:%M:%S %p"}, {'c', "%a %b %e %H:%M:%S %Y"}};

template <typename Table>
auto Find(const Table& table, char kind) {
  return std::find_if(std::begin(table), std::end(table), [&](const auto& row) { return row.kind == kind; });
}

}  // namespace

Result<std::string> FormatTime(std::string_view format, const std::tm& time) {
  std::string out;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 == format.size()) {
      out += format[i];
      continue;
    }
    const bool bare = format[i + 1] == '-' && i + 2 < format.size();
    const char kind = format[i += bare ? 2 : 1];
    if (const auto number = Find(kNumbers, kind); number != std::end(kNumbers)) {
      const std::string digits = fmt::format("{}", number->value(time));
      if (!bare) out.append(number->width - std::min(number->width, digits.size()), number->fill);
      out += digits;
    } else if (const auto text = Find(kTexts, kind); text != std::end(kTexts)) {
      out += text->value(time);
    } else if (const auto shorthand = Find(kShorthands, kind); shorthand != std::end(kShorthands)) {
      BANTAM_ASSIGN(const std::string expanded, FormatTime(shorthand->format, time));
      out += expanded;
    } else {
      return Error(Code::kUnsupported, fmt::format("strftime_now() with %{}, which is not known", kind));
    }
  }
  return out;
}

}  // namespace bantam::jinja
