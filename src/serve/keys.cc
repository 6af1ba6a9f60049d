#include "serve/keys.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <span>

#include "base/base64.h"
#include "base/json.h"
#include "engine/json_members.h"

namespace bantam {
namespace {

constexpr std::string_view kRoleNames[] = {"anybody", "use", "operate", "admin"};
constexpr std::string_view kMembers[] = {"name",       "role",     "sha256", "requests_per_minute", "tokens_per_minute", "tokens_per_day",
                                         "concurrent", "priority", "models"};
constexpr size_t kNameBytesMax = 64;

Status ReadMember(const std::string& name, const Json& value, ApiKey* key) {
  const auto whole = [&]() { return ReadWhole(name, value, 0, uint64_t{1} << 50); };
  if (name == "name") {
    BANTAM_ASSIGN(key->name, ReadText(name, value));
    if (key->name.empty() || key->name.size() > kNameBytesMax) return WrongMember(name, value, "a text of 1 to 64 bytes");
  } else if (name == "role") {
    const auto role = value.is_string() ? RoleFromName(value.get<std::string>()) : std::nullopt;
    if (!role || *role == Role::kAnybody) return WrongMember(name, value, "\"use\", \"operate\" or \"admin\"");
    key->role = *role;
  } else if (name == "sha256") {
    const auto digest = value.is_string() ? DigestFromHex(value.get<std::string>()) : std::nullopt;
    if (!digest) return WrongMember(name, Json("..."), "64 hexadecimal digits");
    key->digest = *digest;
  } else if (name == "requests_per_minute") {
    BANTAM_ASSIGN(key->limits.requests_per_minute, whole());
  } else if (name == "tokens_per_minute") {
    BANTAM_ASSIGN(key->limits.tokens_per_minute, whole());
  } else if (name == "tokens_per_day") {
    BANTAM_ASSIGN(key->limits.tokens_per_day, whole());
  } else if (name == "concurrent") {
    BANTAM_ASSIGN(key->limits.concurrent, whole());
  } else if (name == "priority") {
    const auto priority = value.is_string() ? PriorityFromName(value.get<std::string>()) : std::nullopt;
    if (!priority) return WrongMember(name, value, "\"high\", \"normal\", \"low\" or \"batch\"");
    key->limits.priority = *priority;
  } else if (name == "models") {
    if (!value.is_array()) return WrongMember(name, value, "a list of names");
    for (const Json& model : value) {
      BANTAM_ASSIGN(std::string text, ReadText(name, model));
      key->limits.models.push_back(std::move(text));
    }
  } else {
    return UnknownMember(name, kMembers);
  }
  return Ok();
}

}  // namespace

std::string_view RoleName(Role role) { return kRoleNames[static_cast<size_t>(role)]; }
std::optional<Role> RoleFromName(std::string_view name) {
  for (size_t i = 0; i < std::size(kRoleNames); ++i) {
    if (kRoleNames[i] == name) return static_cast<Role>(i);
  }
  return std::nullopt;
}

Result<std::vector<ApiKey>> ReadKeys(std::string_view text) {
  BANTAM_ASSIGN(const Json json, ParseJsonOfUniqueNames(text));
  const Json& list = JsonMember(json, "keys");
  if (!list.is_array() || list.size() > kKeysMax) {
    return Error(Code::kCorrupt, fmt::format("expected an object with \"keys\", a list of at most {}", kKeysMax));
  }
  std::vector<ApiKey> keys;
  for (const Json& entry : list) {
    if (!entry.is_object() || !entry.contains("name") || !entry.contains("sha256")) {
      return Error(Code::kCorrupt, fmt::format("key {}: expected an object with \"name\" and \"sha256\"", keys.size() + 1));
    }
    ApiKey key;
    for (const auto& [name, value] : entry.items()) {
      BANTAM_TRY(ReadMember(name, value, &key).With(fmt::format("key {}", keys.size() + 1)));
    }
    const bool twice = std::any_of(keys.begin(), keys.end(), [&](const ApiKey& other) { return other.name == key.name; });
    if (twice) return Error(Code::kCorrupt, fmt::format("key {}: another one has the name {}", keys.size() + 1, key.name));
    keys.push_back(std::move(key));
  }
  return keys;
}

std::string WriteKeys(const std::vector<ApiKey>& keys) {
  Json list = Json::array();
  for (const ApiKey& key : keys) {
    Json entry = {{"name", key.name}, {"role", RoleName(key.role)}, {"sha256", HexOf(key.digest)}};
    const auto limit = [&](const char* name, uint64_t value) {
      if (value != 0) entry[name] = value;
    };
    limit("requests_per_minute", key.limits.requests_per_minute);
    limit("tokens_per_minute", key.limits.tokens_per_minute);
    limit("tokens_per_day", key.limits.tokens_per_day);
    limit("concurrent", key.limits.concurrent);
    if (key.limits.priority != Priority::kHigh) entry["priority"] = PriorityName(key.limits.priority);
    if (!key.limits.models.empty()) entry["models"] = key.limits.models;
    list.push_back(std::move(entry));
  }
  return DumpJson({{"keys", std::move(list)}}, /*indent=*/2) + "\n";
}

Result<std::string> MakeSecret() {
  std::array<char, 32> bytes{};
  if (::getrandom(bytes.data(), bytes.size(), /*flags=*/0) != static_cast<ssize_t>(bytes.size())) {
    return Error(Code::kUnavailable, fmt::format("no random bytes from the system: {}", std::strerror(errno)));
  }
  std::string text = EncodeBase64({bytes.data(), bytes.size()});
  text.erase(text.find_last_not_of('=') + 1);
  std::replace(text.begin(), text.end(), '+', '-');
  std::replace(text.begin(), text.end(), '/', '_');
  return "bantam-" + text;
}

Digest DigestOfSecret(std::string_view secret) { return Sha256Of(std::as_bytes(std::span(secret))); }

const ApiKey* FindKey(const std::vector<std::shared_ptr<const ApiKey>>& keys, std::string_view secret) {
  const Digest digest = DigestOfSecret(secret);
  const ApiKey* found = nullptr;
  for (const auto& key : keys) {
    // All bytes of all keys are looked at, so that the time tells nothing of where they differ.
    unsigned differ = 0;
    for (size_t i = 0; i < digest.size(); ++i) differ |= static_cast<unsigned>(digest[i] ^ key->digest[i]);
    found = differ == 0 ? key.get() : found;
  }
  return found;
}

}  // namespace bantam
