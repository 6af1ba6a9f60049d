#include "serve/key_uses.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/json.h"
#include "engine/json_members.h"

namespace bantam {
namespace {

constexpr int64_t kNsPerSecond = 1'000'000'000;
constexpr int64_t kDaySeconds = KeyUse::kDayNs / kNsPerSecond;
// More than any clock shows, and any day may have.
constexpr uint64_t kWholeMax = uint64_t{1} << 50;

Result<KeyDay> ReadKeyDay(const Json& entry) {
  if (!entry.is_object()) return Error(Code::kCorrupt, "expected an object with \"name\", \"tokens\" and \"seconds\"");
  KeyDay read;
  BANTAM_ASSIGN(read.name, ReadText("name", JsonMember(entry, "name")));
  BANTAM_ASSIGN(read.day.tokens, ReadWhole("tokens", JsonMember(entry, "tokens"), 0, kWholeMax));
  BANTAM_ASSIGN(const uint64_t seconds, ReadWhole("seconds", JsonMember(entry, "seconds"), 0, static_cast<uint64_t>(kDaySeconds)));
  read.day.passed_ns = static_cast<int64_t>(seconds) * kNsPerSecond;
  return read;
}

}  // namespace

std::optional<ApiError> KeyUses::Enter(const ApiKey& key, int64_t now_ns) {
  const std::lock_guard lock(mutex_);
  return uses_[key.name].Enter(key.limits, now_ns);
}

void KeyUses::Leave(const ApiKey& key, uint64_t tokens, int64_t now_ns) {
  const std::lock_guard lock(mutex_);
  uses_[key.name].Leave(key.limits, tokens, now_ns);
  changes_ += tokens > 0 ? 1 : 0;
}

std::vector<KeyDay> KeyUses::Days(int64_t now_ns) const {
  std::vector<KeyDay> days;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, use] : uses_) {
      const KeyUse::Day day = use.DayAt(now_ns);
      if (day.tokens > 0) days.push_back({name, day});
    }
  }
  if (days.size() <= kKeysMax) return days;
  std::sort(days.begin(), days.end(), [](const KeyDay& a, const KeyDay& b) { return a.day.tokens > b.day.tokens; });
  days.resize(kKeysMax);
  return days;
}

void KeyUses::Resume(const std::vector<KeyDay>& days, int64_t now_ns) {
  const std::lock_guard lock(mutex_);
  for (const KeyDay& one : days) uses_[one.name].Resume(one.day, now_ns);
}

uint64_t KeyUses::changes() const {
  const std::lock_guard lock(mutex_);
  return changes_;
}

std::string WriteKeyDays(const std::vector<KeyDay>& days, int64_t time_s) {
  Json list = Json::array();
  for (const auto& [name, day] : days) {
    list.push_back({{"name", name}, {"tokens", day.tokens}, {"seconds", day.passed_ns / kNsPerSecond}});
  }
  return DumpJson({{"time", std::max<int64_t>(time_s, 0)}, {"keys", std::move(list)}}, /*indent=*/2) + "\n";
}

Result<std::vector<KeyDay>> ReadKeyDays(std::string_view text, int64_t time_s) {
  BANTAM_ASSIGN(const Json json, ParseJsonOfUniqueNames(text));
  BANTAM_ASSIGN(const uint64_t written_s, ReadWhole("time", JsonMember(json, "time"), 0, kWholeMax));
  const Json& list = JsonMember(json, "keys");
  if (!list.is_array() || list.size() > kKeysMax) {
    return Error(Code::kCorrupt, fmt::format("expected an object with \"time\", and \"keys\", a list of at most {}", kKeysMax));
  }
  const int64_t pause_s = std::clamp<int64_t>(time_s - static_cast<int64_t>(written_s), 0, kDaySeconds);
  std::vector<KeyDay> days;
  std::set<std::string> names;
  size_t count = 0;
  for (const Json& entry : list) {
    const std::string place = fmt::format("key {}", ++count);
    BANTAM_ASSIGN(KeyDay one, ReadKeyDay(entry).With(place));
    if (!names.insert(one.name).second) return Error(Code::kCorrupt, fmt::format("{}: another one has the name {}", place, one.name));
    one.day.passed_ns += pause_s * kNsPerSecond;
    if (one.day.passed_ns < KeyUse::kDayNs) days.push_back(std::move(one));
  }
  return days;
}

}  // namespace bantam
