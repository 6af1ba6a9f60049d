#include "fleet/tar_member.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/bytes.h"
#include "testing/tar_gz.h"

namespace bantam {
namespace {

using testing::Gzip;
using ::testing::HasSubstr;
using testing::TarEnd;
using testing::TarFile;

// The member, fed in pieces of `piece` bytes.
Result<std::string> Extract(const std::string& archive, const std::string& name, uint64_t size_max = 1 << 20, size_t piece = SIZE_MAX) {
  std::string content;
  TarGzMember member(name, size_max, [&](std::span<const std::byte> bytes) {
    content += AsText(bytes);
    return Ok();
  });
  const auto bytes = std::as_bytes(std::span(archive));
  for (size_t at = 0; at < bytes.size(); at += std::min(piece, bytes.size() - at)) {
    BANTAM_TRY(member.Append(bytes.subspan(at, std::min(piece, bytes.size() - at))));
  }
  BANTAM_TRY(member.Finish());
  return content;
}

TEST(TarMember, IsFoundAmongOthers) {
  const std::string archive = Gzip(TarFile("package/package.json", "{}") + TarFile("package/model.part", "hello") +
                                   TarFile("package/README", std::string(1000, 'x')) + TarEnd());
  for (const size_t piece : {size_t{1}, size_t{7}, size_t{511}, SIZE_MAX}) {
    EXPECT_EQ(Extract(archive, "package/model.part", 5, piece).value(), "hello") << piece;
    EXPECT_EQ(Extract(archive, "package/README", 1000, piece).value(), std::string(1000, 'x')) << piece;
  }
  const auto missing = Extract(archive, "package/other");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code(), Code::kNotFound);
}

TEST(TarMember, SizesAroundBlocks) {
  for (const size_t size : {0, 1, 511, 512, 513, 1023, 1024, 100'000}) {
    const std::string content(size, 'y');
    EXPECT_EQ(Extract(Gzip(TarFile("a", content) + TarFile("b", "z") + TarEnd()), "a").value(), content) << size;
    EXPECT_EQ(Extract(Gzip(TarFile("a", content) + TarFile("b", "z") + TarEnd()), "b").value(), "z") << size;
  }
}

TEST(TarMember, LongNames) {
  const std::string name = std::string(150, 'n') + "/file";
  EXPECT_EQ(Extract(Gzip(TarFile("file", "ustar", '0', std::string(150, 'n')) + TarEnd()), name).value(), "ustar");
  EXPECT_EQ(Extract(Gzip(TarFile("././@LongLink", name + '\0', 'L') + TarFile("cut", "gnu") + TarEnd()), name).value(), "gnu");
  const std::string record = "164 path=" + name + "\n";
  ASSERT_EQ(record.size(), 165u);
  const std::string pax = "165 path=" + name + "\n";
  EXPECT_EQ(Extract(Gzip(TarFile("pax", pax, 'x') + TarFile("cut", "pax") + TarEnd()), name).value(), "pax");
  // A global header names no file.
  EXPECT_EQ(Extract(Gzip(TarFile("pax", pax, 'g') + TarFile("own", "own") + TarEnd()), "own").value(), "own");
}

// Folders, links and devices of that name are not the file.
TEST(TarMember, OnlyFilesCount) {
  for (const char type : {'1', '2', '3', '5', '6'}) EXPECT_FALSE(Extract(Gzip(TarFile("a", "", type) + TarEnd()), "a").ok()) << type;
}

TEST(TarMember, DamageIsAnError) {
  const std::string plain = TarFile("a", "hello") + TarEnd();
  const std::string archive = Gzip(plain);
  EXPECT_FALSE(Extract("", "a").ok());
  EXPECT_FALSE(Extract("not gzip at all", "a").ok());
  EXPECT_FALSE(Extract(Gzip("not tar at all" + std::string(1000, 'x')), "a").ok());
  for (size_t size = 0; size < archive.size() / 2; ++size) EXPECT_FALSE(Extract(archive.substr(0, size), "a").ok()) << size;
  EXPECT_FALSE(Extract(Gzip(plain.substr(0, 512 + 3)), "a").ok());
  // Any change of a header's byte breaks its checksum.
  for (size_t i = 0; i < 345; ++i) {
    if (i == 155) continue;  // behind the NUL that ends the checksum
    std::string changed = plain;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    EXPECT_FALSE(Extract(Gzip(changed), "a").ok()) << i;
  }
}

TEST(TarMember, Limits) {
  const auto longer = Extract(Gzip(TarFile("a", "hello") + TarEnd()), "a", 4);
  ASSERT_FALSE(longer.ok());
  EXPECT_EQ(longer.error().code(), Code::kExhausted);
  // A bomb: much more than the limit behind few bytes.
  const std::string bomb =
      Gzip(TarFile("zeros", std::string(TarGzMember::kOtherBytesMax + (1 << 20), '\0')) + TarFile("a", "x") + TarEnd());
  EXPECT_LT(bomb.size(), 1u << 20);
  const auto too_much = Extract(bomb, "a", 1);
  ASSERT_FALSE(too_much.ok());
  EXPECT_EQ(too_much.error().code(), Code::kExhausted);
  EXPECT_FALSE(Extract(Gzip(TarFile("l", std::string(100'000, 'n'), 'L') + TarFile("a", "x") + TarEnd()), "a").ok());
}

TEST(TarMember, TheSinksErrorsComeBack) {
  const std::string archive = Gzip(TarFile("a", "hello") + TarEnd());
  TarGzMember member("a", 10, [](std::span<const std::byte>) { return Error(Code::kUnavailable, "disk full"); });
  const Status status = member.Append(std::as_bytes(std::span(archive)));
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().message(), "disk full");
}

}  // namespace
}  // namespace bantam
