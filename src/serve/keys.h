// API keys: who may ask, for what, and how much. Only their hashes are kept.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "engine/step_policy.h"
#include "security/sha256.h"

namespace bantam {

// What somebody may do: ask models; see how the server does; change it. Each may do what those before it may.
enum class Role : uint8_t { kAnybody, kUse, kOperate, kAdmin };
std::string_view RoleName(Role role);  // "anybody", "use", "operate", "admin"
std::optional<Role> RoleFromName(std::string_view name);

struct KeyLimits {
  uint64_t requests_per_minute = 0;  // 0: any
  uint64_t tokens_per_minute = 0;    // of prompts and answers
  uint64_t tokens_per_day = 0;
  size_t concurrent = 0;
  Priority priority = Priority::kHigh;   // the highest that it may ask for
  std::vector<std::string> models = {};  // empty: all
};

struct ApiKey {
  std::string name;
  Role role = Role::kUse;
  Digest digest{};  // SHA-256 of the secret, which is random: nothing slower is needed
  KeyLimits limits = {};
};

inline constexpr size_t kKeysMax = 4096;
inline constexpr size_t kKeyFileBytesMax = size_t{4} << 20;

// {"keys": [{"name", "role", "sha256", and of limits requests_per_minute, tokens_per_minute, tokens_per_day, concurrent, priority,
// models}]}. Errors: Corrupt and InvalidArgument, naming the key and the member.
Result<std::vector<ApiKey>> ReadKeys(std::string_view text);
std::string WriteKeys(const std::vector<ApiKey>& keys);

// A secret nobody can guess: "bantam-" and 43 characters. Errors: Unavailable where the system has no randomness.
Result<std::string> MakeSecret();
Digest DigestOfSecret(std::string_view secret);

// The key of this secret, or null. Takes as long whichever it is.
const ApiKey* FindKey(const std::vector<std::shared_ptr<const ApiKey>>& keys, std::string_view secret);

}  // namespace bantam
