#include "security/sha256.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <string>

#include "base/bytes.h"

namespace bantam {
namespace {

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

// NIST's example messages for FIPS 180-4, and the long one of RFC 6234, section 8.5.
TEST(Sha256, ExamplesOfTheStandard) {
  EXPECT_EQ(HexOf(Sha256Of(Bytes(""))), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(HexOf(Sha256Of(Bytes("abc"))), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(HexOf(Sha256Of(Bytes("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"))),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(HexOf(Sha256Of(Bytes(std::string(1'000'000, 'a')))), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, PiecesOfAnySizeAreOneMessageAndTheNextIsNew) {
  std::string message;
  for (int i = 0; i < 1000; ++i) message += static_cast<char>(i * 7);
  const Digest whole = Sha256Of(Bytes(message));
  Sha256 hash;
  for (const size_t piece : {1u, 55u, 56u, 63u, 64u, 65u, 200u}) {
    const auto bytes = Bytes(message);
    for (size_t at = 0; at < bytes.size(); at += piece) hash.Update(bytes.subspan(at, std::min(piece, bytes.size() - at)));
    EXPECT_EQ(hash.Finish(), whole) << piece;
  }
}

TEST(Sha256, HexIsReadAsItIsWritten) {
  const Digest digest = Sha256Of(Bytes("abc"));
  EXPECT_EQ(DigestFromHex(HexOf(digest)), digest);
  std::string upper = HexOf(digest);
  for (char& c : upper) c = static_cast<char>(std::toupper(c));
  EXPECT_EQ(DigestFromHex(upper), digest);
  for (const char* text : {"", "ab", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015a",
                           "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ag",
                           "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad0"})
    EXPECT_EQ(DigestFromHex(text), std::nullopt) << text;
}

}  // namespace
}  // namespace bantam
