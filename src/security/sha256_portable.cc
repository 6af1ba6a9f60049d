// FIPS 180-4, sections 4.1.2, 5.1.1, 5.3.3 and 6.2, as they stand there: for builds without OpenSSL (cross builds under test).
#include <algorithm>
#include <bit>
#include <cstring>

#include "security/sha256.h"

namespace bantam {
namespace {

constexpr std::array<uint32_t, 64> kRoundConstants = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
constexpr std::array<uint32_t, 8> kInitialHash = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                                  0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
constexpr size_t kBlockBytes = 64;
constexpr size_t kLengthAt = kBlockBytes - sizeof(uint64_t);

uint32_t BigEndian(const uint8_t* at) { return uint32_t{at[0]} << 24 | uint32_t{at[1]} << 16 | uint32_t{at[2]} << 8 | uint32_t{at[3]}; }

void Compress(const uint8_t* block, std::array<uint32_t, 8>* hash) {
  std::array<uint32_t, 64> w = {};
  for (size_t t = 0; t < 16; ++t) w[t] = BigEndian(block + 4 * t);
  for (size_t t = 16; t < 64; ++t) {
    const uint32_t s0 = std::rotr(w[t - 15], 7) ^ std::rotr(w[t - 15], 18) ^ (w[t - 15] >> 3);
    const uint32_t s1 = std::rotr(w[t - 2], 17) ^ std::rotr(w[t - 2], 19) ^ (w[t - 2] >> 10);
    w[t] = s1 + w[t - 7] + s0 + w[t - 16];
  }
  auto [a, b, c, d, e, f, g, h] = *hash;
  for (size_t t = 0; t < 64; ++t) {
    const uint32_t t1 = h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) + ((e & f) ^ (~e & g)) + kRoundConstants[t] + w[t];
    const uint32_t t2 = (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g;
    g = f;
    f = e;
    e = d + t1;
    d = c;
    c = b;
    b = a;
    a = t1 + t2;
  }
  const std::array<uint32_t, 8> sums = {a, b, c, d, e, f, g, h};
  for (size_t i = 0; i < sums.size(); ++i) (*hash)[i] += sums[i];
}

}  // namespace

struct Sha256::State {
  std::array<uint32_t, 8> hash = kInitialHash;
  std::array<uint8_t, kBlockBytes> block = {};  // of which message_bytes % 64 are filled
  uint64_t message_bytes = 0;
};

Sha256::Sha256() : state_(std::make_unique<State>()) {}
Sha256::~Sha256() = default;

void Sha256::Update(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const size_t filled = state_->message_bytes % kBlockBytes;
    const size_t count = std::min(bytes.size(), kBlockBytes - filled);
    std::memcpy(state_->block.data() + filled, bytes.data(), count);
    state_->message_bytes += count;
    bytes = bytes.subspan(count);
    if (filled + count == kBlockBytes) Compress(state_->block.data(), &state_->hash);
  }
}

Digest Sha256::Finish() {
  const uint64_t message_bits = 8 * state_->message_bytes;
  const std::byte one{0x80};
  const std::byte zero{0};
  Update({&one, 1});
  while (state_->message_bytes % kBlockBytes != kLengthAt) Update({&zero, 1});
  std::array<std::byte, sizeof(uint64_t)> length = {};
  for (size_t i = 0; i < length.size(); ++i) length[i] = static_cast<std::byte>(message_bits >> (56 - 8 * i));
  Update(length);
  Digest digest = {};
  for (size_t i = 0; i < kDigestBytes; ++i) digest[i] = static_cast<uint8_t>(state_->hash[i / 4] >> (24 - 8 * (i % 4)));
  *state_ = State();
  return digest;
}

}  // namespace bantam
