#include "fleet/path_name.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace bantam {
namespace {

TEST(PathName, TakesWhatModelsHave) {
  for (const char* path : {"config.json", "model-00001-of-00002.safetensors", "1_Pooling/config.json", "TinyLlama 1.1B (Q4_K_M).gguf",
                           "\xe6\xa8\xa1\xe5\x9e\x8b.gguf", "a/b/c", "..a", "party.gguf"}) {
    const Status status = CheckPathName(path);
    EXPECT_EQ(status.ok(), std::string_view(path) != "..a") << path;
  }
}

TEST(PathName, NothingLeavesTheFolder) {
  const std::vector<std::string> bad = {"",
                                        "/",
                                        "/etc/passwd",
                                        "//h/x",
                                        ".",
                                        "..",
                                        "../x",
                                        "a/../x",
                                        "a/..",
                                        "a/./b",
                                        "a//b",
                                        "a/",
                                        "./a",
                                        "~/../x/..",
                                        "..\\x",
                                        "a\\..\\b",
                                        "C:\\x",
                                        "C:x",
                                        "a:b",
                                        std::string("a\0b", 3),
                                        std::string("\0", 1),
                                        "a\nb",
                                        "a\rb",
                                        "a\tb",
                                        "a\x1b[31m",
                                        "a\x7f",
                                        "a\xc2\x80",
                                        "a\xff",
                                        "\xc0\xae\xc0\xae/x",
                                        "\xed\xa0\x80",
                                        ".hidden",
                                        "a/.git/config",
                                        "a.",
                                        "a ",
                                        " a",
                                        "a./b",
                                        "a /b",
                                        std::string(201, 'a'),
                                        "a/b/c/d/e/f/g/h/i"};
  for (const std::string& path : bad) EXPECT_FALSE(CheckPathName(path).ok()) << path;
  std::string deep = "a";
  while (deep.size() <= kPathBytesMax) deep += "/a";
  EXPECT_FALSE(CheckPathName(deep).ok());
}

TEST(PathName, CompanionsAreOurs) {
  for (const char* path : {"x.gguf.part", "x.PART", "x.gguf.part.json", "x.gguf.part-1", "x.lock", "x.gguf.tune.json", "a.part/b"}) {
    EXPECT_FALSE(CheckPathName(path).ok()) << path;
  }
}

// Every byte, at every place of a name: what passes has none of the bytes that steer paths or terminals.
TEST(PathName, SweepOfBytes) {
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    for (const std::string& path : {std::string("ab") + c, std::string(1, c) + "ab", std::string("a") + c + "b"}) {
      if (!CheckPathName(path).ok()) continue;
      EXPECT_TRUE(byte >= 0x20 && byte < 0x7f && c != '\\' && c != ':') << byte;
      EXPECT_TRUE(c != '/' || path == "a/b") << path;
    }
  }
}

TEST(PathName, ListingsHaveEachNameOnce) {
  EXPECT_TRUE(CheckPathNames(std::vector<std::string>{"a", "b/a", "b/c"}).ok());
  for (const auto& paths :
       std::vector<std::vector<std::string>>{{"a", "a"}, {"Model.gguf", "model.GGUF"}, {"a", "a/b"}, {"A/b", "a"}, {"a", "../b"}}) {
    EXPECT_FALSE(CheckPathNames(paths).ok());
  }
}

TEST(PathName, AModelHasOneName) {
  EXPECT_TRUE(CheckModelName("x.gguf").ok());
  EXPECT_FALSE(CheckModelName("a/x.gguf").ok());
  EXPECT_FALSE(CheckModelName("..").ok());
}

}  // namespace
}  // namespace bantam
