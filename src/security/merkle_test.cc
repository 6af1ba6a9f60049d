#include "security/merkle.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace bantam {
namespace {

std::string FromHex(std::string_view hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  return bytes;
}

// The entries and roots of Certificate Transparency's own tests (certificate-transparency-go and others: merkletree test vectors).
TEST(Merkle, RootsOfCertificateTransparency) {
  const std::vector<std::string> entries = {
      "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"};
  const std::vector<std::string> roots = {"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                                          "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
                                          "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
                                          "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
                                          "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
                                          "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
                                          "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
                                          "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"};
  std::vector<Digest> leaves;
  for (size_t i = 0; i < entries.size(); ++i) {
    const std::string entry = FromHex(entries[i]);
    leaves.push_back(MerkleLeaf(std::as_bytes(std::span(entry))));
    EXPECT_EQ(HexOf(MerkleRoot(leaves)), roots[i]) << i + 1 << " leaves";
  }
}

// Of every length around the borders of blocks, and of a whole chunk: what one at a time gives.
TEST(Merkle, LeavesInPairs) {
  std::string bytes((size_t{1} << 20) + 7, '\0');
  uint32_t x = 1;
  for (char& byte : bytes) byte = static_cast<char>((x = x * 1664525 + 1013904223) >> 24);
  const auto all = std::as_bytes(std::span(bytes));
  const auto both = [&](std::span<const std::byte> first, std::span<const std::byte> second) {
    const std::array<Digest, 2> expected = {MerkleLeaf(first), MerkleLeaf(second)};
    EXPECT_EQ(MerkleLeaves(first, second), expected) << first.size() << " and " << second.size();
  };
  for (size_t size = 0; size < 300; ++size) both(all.subspan(3, size), all.subspan(1000, size));
  both(all.subspan(1, size_t{1} << 20), all.subspan(7, size_t{1} << 20));
  both(all.first(1000), all.first(999));
}

TEST(Merkle, LeavesOfPiecesAreThoseOfChunks) {
  const std::string bytes = "0123456789abcdefghij";
  const auto all = std::as_bytes(std::span(bytes));
  ChunkHasher hasher(/*chunk_bytes=*/8);
  for (const size_t piece : {1u, 3u, 8u, 20u}) {
    for (size_t at = 0; at < all.size(); at += piece) hasher.Update(all.subspan(at, std::min(piece, all.size() - at)));
    const std::vector<Digest> expected = {MerkleLeaf(all.first(8)), MerkleLeaf(all.subspan(8, 8)), MerkleLeaf(all.subspan(16))};
    EXPECT_EQ(hasher.Finish(), expected) << piece;
  }
  EXPECT_TRUE(hasher.Finish().empty());
}

}  // namespace
}  // namespace bantam
