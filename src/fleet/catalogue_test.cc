#include "fleet/catalogue.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace bantam {
namespace {

using ::testing::HasSubstr;

constexpr std::string_view kDigest = "9ee11adf737960ff06123d5c4fba24d12c5b05ba460a7afa88950fbf2b61add0";

std::string File(std::string_view path = "a.gguf", std::string_view rest = "\"url\": \"https://h/a.gguf\", \"size\": 10") {
  return fmt::format(R"({{"path": "{}", "sha256": "{}", {}}})", path, kDigest, rest);
}

std::string Model(std::string_view files, std::string_view name = "a") {
  return fmt::format(R"({{"name": "{}", "description": "d", "licence": "MIT", "files": [{}]}})", name, files);
}

std::string List(std::string_view models, std::string_view version = "1") {
  return fmt::format(R"({{"signed": {{"catalogue": {}, "models": [{}]}}, "signatures": []}})", version, models);
}

std::string Failure(const std::string& text) {
  const auto catalogue = ParseCatalogue(text);
  return catalogue.ok() ? "no failure" : catalogue.error().message();
}

TEST(Catalogue, BuiltinIsOne) {
  const auto catalogue = ParseCatalogue(BuiltinCatalogue());
  ASSERT_TRUE(catalogue.ok()) << catalogue.error().message();
  const auto entry = FindEntry(*catalogue, "tinyllama-1.1b-chat-iq2_xxs");
  ASSERT_TRUE(entry.ok());
  EXPECT_EQ((*entry)->size_bytes(), 322591712u);
  EXPECT_EQ((*entry)->files[0].pieces.size(), 2u);
}

TEST(Catalogue, Fields) {
  const auto catalogue = ParseCatalogue(List(
      Model(File("w/m.safetensors",
                 R"("size": 7, "parts": [{"url": "https://h/1", "size": 3}, {"url": "npm:p@1.0.0", "member": "package/x", "size": 4}])"))));
  ASSERT_TRUE(catalogue.ok()) << catalogue.error().message();
  const RemoteFile& file = catalogue->entries.at(0).files.at(0);
  EXPECT_EQ(file.path, "w/m.safetensors");
  EXPECT_EQ(file.size_bytes, 7u);
  EXPECT_EQ(HexOf(*file.digest), kDigest);
  EXPECT_EQ(file.pieces.at(1).member, "package/x");
  EXPECT_EQ(file.pieces.at(1).size_bytes, 4u);
}

TEST(Catalogue, RefusesWhatItDoesNotKnow) {
  EXPECT_THAT(Failure("{"), HasSubstr("line 1"));
  EXPECT_THAT(Failure("[]"), HasSubstr("signed: catalogue"));
  EXPECT_THAT(Failure(List("", "2")), HasSubstr("version 2"));
  EXPECT_THAT(Failure(List("", "\"1\"")), HasSubstr("a number"));
  EXPECT_THAT(Failure(List("", "-1")), HasSubstr("a number"));
  EXPECT_THAT(Failure(R"({"signed": {"catalogue": 1}})"), HasSubstr("signed: models"));
  EXPECT_THAT(Failure(List("3")), HasSubstr("an entry: name"));
  EXPECT_THAT(Failure(List(Model(File(), "../a"))), HasSubstr("refused"));
  EXPECT_THAT(Failure(List(Model(File(), "a/b"))), HasSubstr("refused"));
  EXPECT_THAT(Failure(List(Model(File()) + "," + Model(File()))), HasSubstr("each name once"));
  EXPECT_THAT(Failure(List(Model(""))), HasSubstr("a: files"));
  EXPECT_THAT(Failure(List(Model(File("../a.gguf")))), HasSubstr("refused"));
  EXPECT_THAT(Failure(List(Model(File() + "," + File("A.GGUF")))), HasSubstr("differs only in case"));
  EXPECT_THAT(Failure(List(Model(File("a.gguf", R"("url": "https://h/a", "size": 0)")))), HasSubstr("a.gguf: size"));
  EXPECT_THAT(Failure(List(Model(File("a.gguf", R"("url": "https://h/a", "size": 1e3)")))), HasSubstr("a.gguf: size"));
  EXPECT_THAT(Failure(List(Model(File("a.gguf", R"("url": "https://h/a")")))), HasSubstr("a.gguf: size"));
  // A list that others wrote may not reach for files of this machine.
  EXPECT_THAT(Failure(List(Model(File("a.gguf", R"("url": "file:/etc/passwd", "size": 1)")))), HasSubstr("a url of https"));
  const std::string plain = List(Model(File("a.gguf", R"("url": "http://h.test/a", "size": 1)")));
  EXPECT_THAT(Failure(plain), HasSubstr("--insecure-http"));
  EXPECT_TRUE(ParseCatalogue(plain, /*plain_allowed=*/true).ok());
  EXPECT_THAT(Failure(List(Model(File("a.gguf", R"("size": 5, "parts": [{"url": "https://h/1", "size": 3}])")))), HasSubstr("found 3"));
  EXPECT_THAT(Failure(List(Model(File("a.gguf", R"("size": 5, "parts": [])")))), HasSubstr("a.gguf: parts"));
  EXPECT_THAT(Failure(List(Model(File("a.gguf", R"("size": 3, "url": "https://h", "parts": [{"url": "https://h/1", "size": 3}])")))),
              HasSubstr("no url beside it"));
  EXPECT_THAT(Failure(List(Model(R"({"path": "a.gguf", "size": 1, "url": "https://h/a", "sha256": "12"})"))), HasSubstr("64 hexadecimal"));
  EXPECT_THAT(Failure(List(Model(File("a.gguf", R"("size": 18446744073709551615, "url": "https://h/a")") + "," +
                                 File("b.gguf", R"("size": 1, "url": "https://h/a")")))),
              HasSubstr("fit 64 bits"));
}

TEST(Catalogue, NamesTheClosest) {
  const Catalogue catalogue = ParseCatalogue(List(Model(File(), "tiny") + "," + Model(File(), "large"))).value();
  const auto entry = FindEntry(catalogue, "tinny");
  ASSERT_FALSE(entry.ok());
  EXPECT_EQ(entry.error().code(), Code::kNotFound);
  EXPECT_THAT(entry.error().message(), HasSubstr("tiny"));
}

}  // namespace
}  // namespace bantam
