#include <openssl/evp.h>

#include "base/check.h"
#include "security/sha256.h"

namespace bantam {

struct Sha256::State {
  EVP_MD_CTX* context = nullptr;
  State() : context(EVP_MD_CTX_new()) { Start(); }
  ~State() { EVP_MD_CTX_free(context); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  // Fails only without memory, or where a system's policy removes the algorithm: then nothing could be checked at all.
  void Start() const { CHECK(context != nullptr && EVP_DigestInit_ex(context, EVP_sha256(), nullptr) == 1); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {}
Sha256::~Sha256() = default;

void Sha256::Update(std::span<const std::byte> bytes) { CHECK(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1); }

Digest Sha256::Finish() {
  Digest digest = {};
  CHECK(EVP_DigestFinal_ex(state_->context, digest.data(), nullptr) == 1);
  state_->Start();
  return digest;
}

}  // namespace bantam
