// FIPS 180-4, sections 4.1.2, 5.1.1, 5.3.3 and 6.2, as they stand there: for builds without OpenSSL (cross builds under test).
#include <algorithm>
#include <bit>
#include <cstring>

#include "security/sha256.h"
#include "security/sha256_constants.h"

namespace bantam {
namespace {

constexpr size_t kLengthAt = kSha256BlockBytes - sizeof(uint64_t);

uint32_t BigEndian(const uint8_t* at) { return uint32_t{at[0]} << 24 | uint32_t{at[1]} << 16 | uint32_t{at[2]} << 8 | uint32_t{at[3]}; }

void Compress(const uint8_t* block, Sha256State* hash) {
  std::array<uint32_t, 64> w = {};
  for (size_t t = 0; t < 16; ++t) w[t] = BigEndian(block + 4 * t);
  for (size_t t = 16; t < 64; ++t) {
    const uint32_t s0 = std::rotr(w[t - 15], 7) ^ std::rotr(w[t - 15], 18) ^ (w[t - 15] >> 3);
    const uint32_t s1 = std::rotr(w[t - 2], 17) ^ std::rotr(w[t - 2], 19) ^ (w[t - 2] >> 10);
    w[t] = s1 + w[t - 7] + s0 + w[t - 16];
  }
  auto [a, b, c, d, e, f, g, h] = *hash;
  for (size_t t = 0; t < 64; ++t) {
    const uint32_t t1 = h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) + ((e & f) ^ (~e & g)) + kSha256Rounds[t] + w[t];
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
  const Sha256State sums = {a, b, c, d, e, f, g, h};
  for (size_t i = 0; i < sums.size(); ++i) (*hash)[i] += sums[i];
}

}  // namespace

struct Sha256::State {
  Sha256State hash = kSha256Start;
  std::array<uint8_t, kSha256BlockBytes> block = {};  // of which message_bytes % 64 are filled
  uint64_t message_bytes = 0;
};

Sha256::Sha256() : state_(std::make_unique<State>()) {}
Sha256::~Sha256() = default;

void Sha256::Update(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const size_t filled = state_->message_bytes % kSha256BlockBytes;
    const size_t count = std::min(bytes.size(), kSha256BlockBytes - filled);
    std::memcpy(state_->block.data() + filled, bytes.data(), count);
    state_->message_bytes += count;
    bytes = bytes.subspan(count);
    if (filled + count == kSha256BlockBytes) Compress(state_->block.data(), &state_->hash);
  }
}

Digest Sha256::Finish() {
  const uint64_t message_bits = 8 * state_->message_bytes;
  const std::byte one{0x80};
  const std::byte zero{0};
  Update({&one, 1});
  while (state_->message_bytes % kSha256BlockBytes != kLengthAt) Update({&zero, 1});
  std::array<std::byte, sizeof(uint64_t)> length = {};
  for (size_t i = 0; i < length.size(); ++i) length[i] = static_cast<std::byte>(message_bits >> (56 - 8 * i));
  Update(length);
  Digest digest = {};
  for (size_t i = 0; i < kDigestBytes; ++i) digest[i] = static_cast<uint8_t>(state_->hash[i / 4] >> (24 - 8 * (i % 4)));
  *state_ = State();
  return digest;
}

}  // namespace bantam
