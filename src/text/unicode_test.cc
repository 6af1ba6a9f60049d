#include "text/unicode.h"

#include <gtest/gtest.h>

#include "text/normal_form.h"
#include "text/utf8.h"

namespace bantam {
namespace {

TEST(Unicode, Properties) {
  EXPECT_EQ(PropertiesOf('A'), SetOf(Category::kLu));
  EXPECT_EQ(PropertiesOf(' '), SetOf(Category::kZs) | kWhiteSpace);
  EXPECT_EQ(PropertiesOf('\n'), SetOf(Category::kCc) | kWhiteSpace);
  EXPECT_EQ(PropertiesOf(0x85), SetOf(Category::kCc) | kWhiteSpace);
  EXPECT_EQ(PropertiesOf(0x3000), SetOf(Category::kZs) | kWhiteSpace);
  EXPECT_EQ(PropertiesOf(0x200b), SetOf(Category::kCf)) << "a zero width space is none";
  EXPECT_EQ(PropertiesOf(0x4e2d), SetOf(Category::kLo) | kHan);
  EXPECT_EQ(PropertiesOf(0x2fa1d), SetOf(Category::kLo) | kHan);
  EXPECT_EQ(PropertiesOf(0x301), SetOf(Category::kMn));
  EXPECT_EQ(PropertiesOf(0xbd), SetOf(Category::kNo));
  EXPECT_EQ(PropertiesOf(0xac00), SetOf(Category::kLo)) << "inside a range that the database writes as two lines";
  EXPECT_EQ(PropertiesOf(0xe000), SetOf(Category::kCo));
  EXPECT_EQ(PropertiesOf(0x10ffff), SetOf(Category::kCn));
  EXPECT_EQ(PropertiesOf(0x110000), SetOf(Category::kCn));
}

TEST(Unicode, Case) {
  const auto mapped = [](void (*append)(char32_t, std::string*), char32_t code) {
    std::string text;
    append(code, &text);
    return text;
  };
  EXPECT_EQ(ToLower(0x410), 0x430u);
  EXPECT_EQ(ToUpper(0xff), 0x178u);
  EXPECT_EQ(ToLower('7'), static_cast<char32_t>('7'));
  EXPECT_EQ(mapped(AppendUpper, 0xdf), "SS");
  EXPECT_EQ(mapped(AppendTitle, 0xdf), "Ss");
  EXPECT_EQ(mapped(AppendLower, 0x130), "i\xcc\x87");
  EXPECT_EQ(mapped(AppendUpper, 0x1f80), "\xe1\xbc\x88\xce\x99");
  EXPECT_EQ(mapped(AppendTitle, 0x1c6), "\xc7\x85");
  EXPECT_EQ(mapped(AppendUpper, 'q'), "Q");
}

std::string Utf8(std::initializer_list<char32_t> codes) {
  std::string text;
  for (const char32_t code : codes) AppendUtf8(code, &text);
  return text;
}

// The examples of UAX #15 and of The Unicode Standard, section 3.12 (Hangul).
TEST(NormalForm, TheStandardsExamples) {
  const auto all = [](const std::string& text) {
    return std::vector<std::string>{ToNormalForm(text, NormalForm::kNfd), ToNormalForm(text, NormalForm::kNfc),
                                    ToNormalForm(text, NormalForm::kNfkd), ToNormalForm(text, NormalForm::kNfkc)};
  };
  using Forms = std::vector<std::string>;
  EXPECT_EQ(all(Utf8({0x212b})), (Forms{Utf8({'A', 0x30a}), Utf8({0xc5}), Utf8({'A', 0x30a}), Utf8({0xc5})}));
  EXPECT_EQ(all(Utf8({0x1e9b, 0x323})),
            (Forms{Utf8({0x17f, 0x323, 0x307}), Utf8({0x1e9b, 0x323}), Utf8({'s', 0x323, 0x307}), Utf8({0x1e69})}));
  EXPECT_EQ(all(Utf8({0xfb01})), (Forms{Utf8({0xfb01}), Utf8({0xfb01}), "fi", "fi"}));
  EXPECT_EQ(all(Utf8({'2', 0x2075})), (Forms{Utf8({'2', 0x2075}), Utf8({'2', 0x2075}), "25", "25"}));
  EXPECT_EQ(all(Utf8({0xd4db})), (Forms{Utf8({0x1111, 0x1171, 0x11b6}), Utf8({0xd4db}), Utf8({0x1111, 0x1171, 0x11b6}), Utf8({0xd4db})}));
  EXPECT_EQ(ToNormalForm(Utf8({0x958}), NormalForm::kNfc), Utf8({0x915, 0x93c})) << "excluded from composition";
  EXPECT_EQ(ToNormalForm(Utf8({'a', 0x315, 0x300, 0x5ae, 0x300, 'b'}), NormalForm::kNfc), Utf8({0xe0, 0x5ae, 0x300, 0x315, 'b'}));
  EXPECT_EQ(ToNormalForm(Utf8({0x9c7, 0x300, 0x9be}), NormalForm::kNfc), Utf8({0x9c7, 0x300, 0x9be})) << "a mark stands between";
  EXPECT_EQ(ToNormalForm("plain e\xcc\x81 text\xcc\x81", NormalForm::kNfc), "plain \xc3\xa9 text\xcc\x81");
}

// Every character on its own and behind a letter: what UAX #15 promises of the forms.
TEST(NormalForm, TheFormsAgreeWithEachOther) {
  for (char32_t code = 1; code < 0x110000; ++code) {
    if (code >= 0xd800 && code < 0xe000) continue;
    const std::string text = Utf8({'a', code, 0x323, 0x301});
    const std::string nfd = ToNormalForm(text, NormalForm::kNfd);
    const std::string nfc = ToNormalForm(text, NormalForm::kNfc);
    ASSERT_EQ(ToNormalForm(nfc, NormalForm::kNfd), nfd) << static_cast<uint32_t>(code);
    ASSERT_EQ(ToNormalForm(nfd, NormalForm::kNfc), nfc) << static_cast<uint32_t>(code);
    const std::string nfkc = ToNormalForm(text, NormalForm::kNfkc);
    ASSERT_EQ(ToNormalForm(nfd, NormalForm::kNfkc), nfkc) << static_cast<uint32_t>(code);
    ASSERT_EQ(ToNormalForm(nfkc, NormalForm::kNfc), nfkc) << static_cast<uint32_t>(code);
    ASSERT_EQ(ToNormalForm(ToNormalForm(text, NormalForm::kNfkd), NormalForm::kNfkc), nfkc) << static_cast<uint32_t>(code);
    if (code == 0x2fff) code = 0xabff;    // Han and other letters without decomposition
    if (code == 0x30000) code = 0xe0000;  // unassigned
  }
}

TEST(NormalForm, BytesThatAreNoUtf8Stay) {
  const std::string text =
      "e\xcc\x81\xff\xc3"
      "a\xcc\x81\xe0\x80";
  EXPECT_EQ(ToNormalForm(text, NormalForm::kNfc), "\xc3\xa9\xff\xc3\xc3\xa1\xe0\x80");
}

}  // namespace
}  // namespace bantam
