// Properties of Unicode characters (UAX #44), from tables that the build makes of Debian's unicode-data.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace bantam {

inline constexpr char32_t kReplacementCharacter = 0xfffd;

// General categories, in the order of the tables.
enum class Category : uint8_t {
  kLu,
  kLl,
  kLt,
  kLm,
  kLo,
  kMn,
  kMc,
  kMe,
  kNd,
  kNl,
  kNo,
  kPc,
  kPd,
  kPs,
  kPe,
  kPi,
  kPf,
  kPo,
  kSm,
  kSc,
  kSk,
  kSo,
  kZs,
  kZl,
  kZp,
  kCc,
  kCf,
  kCs,
  kCo,
  kCn
};

// A set of properties: a bit for each category, and two more.
using PropertySet = uint32_t;
constexpr PropertySet SetOf(Category category) { return PropertySet{1} << static_cast<unsigned>(category); }
// All categories from `first` to `last`.
constexpr PropertySet SetOf(Category first, Category last) { return (SetOf(last) << 1) - SetOf(first); }
inline constexpr PropertySet kWhiteSpace = PropertySet{1} << 30;
inline constexpr PropertySet kHan = PropertySet{1} << 31;
inline constexpr PropertySet kLetter = SetOf(Category::kLu, Category::kLo);
inline constexpr PropertySet kMark = SetOf(Category::kMn, Category::kMe);
inline constexpr PropertySet kNumber = SetOf(Category::kNd, Category::kNo);
inline constexpr PropertySet kPunctuation = SetOf(Category::kPc, Category::kPo);
inline constexpr PropertySet kSymbol = SetOf(Category::kSm, Category::kSo);
inline constexpr PropertySet kSeparator = SetOf(Category::kZs, Category::kZp);
inline constexpr PropertySet kOther = SetOf(Category::kCc, Category::kCn);

// The one category of a code point, and kWhiteSpace and kHan where they hold. Above U+10FFFF: Cn.
PropertySet PropertiesOf(char32_t code);

// Simple mappings: one character to one, itself where there is none.
char32_t ToUpper(char32_t code);
char32_t ToLower(char32_t code);

// Full mappings (SpecialCasing.txt, the part without conditions): appends 1 to 3 characters to UTF-8 text.
void AppendUpper(char32_t code, std::string* text);
void AppendLower(char32_t code, std::string* text);
void AppendTitle(char32_t code, std::string* text);

// Where the white space of a text ends that begins at `at`, and the size of a text without the white space at its end.
size_t SkipWhiteSpace(std::string_view text, size_t at);
size_t SizeWithoutTrailingSpace(std::string_view text);

}  // namespace bantam
