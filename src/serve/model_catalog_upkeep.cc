// ModelCatalog: what time brings. Models that nobody asks go, and those that memory is too short for become smaller.
#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "serve/model_catalog.h"

namespace bantam {
namespace {

constexpr int64_t kNsPerSecond = 1'000'000'000;

}  // namespace

bool ModelCatalog::Keep(const std::string& name, int64_t keep_ns) {
  const std::lock_guard lock(mutex_);
  Slot* const slot = SlotOf(name);
  if (slot == nullptr || slot->entry.pinned || (!slot->entry.on_demand && slot->entry.idle_s == 0)) return false;
  slot->keep_ns = keep_ns;
  return true;
}

int64_t ModelCatalog::StaysNs(const Slot& slot) {
  if (slot.entry.pinned) return INT64_MAX;
  const int64_t most_ns = slot.entry.idle_s > 0 ? slot.entry.idle_s * kNsPerSecond : INT64_MAX;
  return std::min(most_ns, slot.keep_ns.value_or(most_ns));
}

void ModelCatalog::Tick() {
  std::vector<std::pair<std::string, std::string>> notices;
  {
    std::vector<Built> gone;
    const std::lock_guard lock(mutex_);
    const int64_t now_ns = clock_.NowNs();
    for (const auto& slot : slots_) {
      if (slot->version.model == nullptr) continue;
      const EngineThread* engine = slot->version.model->engine;
      const auto failed = engine == nullptr ? std::nullopt : engine->failed();
      if (*slot->users > 0) slot->used_ns = now_ns;
      const int64_t stays_ns = StaysNs(*slot);
      const bool idle = now_ns - slot->used_ns > stays_ns;
      if (!failed && !idle) continue;
      gone.push_back(std::exchange(slot->version, {}));
      slot->state = ModelState::kUnloaded;
      ++(failed ? slot->counters.failures : slot->counters.unloads);
      notices.emplace_back(slot->entry.name, failed ? fmt::format("failed, and is loaded again for the next request: {}", failed->message())
                                                    : fmt::format("is unloaded: nobody asked for {} s", stays_ns / kNsPerSecond));
    }
  }
  DestroyRetired();
  for (const auto& [name, change] : notices) Notice(name, change);
  if (options_.memory_share) FollowPrecision(options_.memory_share());
}

std::string ModelCatalog::PathOfPrecision(const Slot& slot) const {
  const size_t level = slot.precision->settings().precision;
  return level == 0 ? slot.entry.path : slot.entry.precisions[level - 1];
}

void ModelCatalog::FollowPrecision(double share) {
  std::string name;
  std::string path;
  std::optional<std::string> why;
  {
    const std::lock_guard lock(mutex_);
    const int64_t now_ns = clock_.NowNs();
    for (const auto& slot : slots_) {
      if (slot->precision == nullptr || slot->version.model == nullptr) continue;
      const auto& lower = slot->entry.precisions;
      // Another version was given to it: it has no fewer bits that are known.
      const bool known = slot->path == slot->entry.path || std::find(lower.begin(), lower.end(), slot->path) != lower.end();
      if (!known) continue;
      why = slot->precision->Update({.now_ns = now_ns, .memory_share = share, .running = 1});
      path = PathOfPrecision(*slot);
      // What could not be loaded is tried again some time later.
      if (path == slot->path || now_ns < slot->precision_retry_ns) continue;
      name = slot->entry.name;
      break;  // one at a time: it may be enough
    }
  }
  if (name.empty()) return;
  if (why) Notice(name, *why);
  Status swapped;
  try {
    // Where memory is short there is none for two.
    swapped = Swap(name, path, /*beside=*/share < options_.memory_share_max);
  } catch (const std::exception& error) {
    Recover(name);
    swapped = Error(Code::kExhausted, error.what());
  }
  if (swapped.ok()) return;
  // Who asks has longer than a drain took.
  const std::lock_guard lock(mutex_);
  SlotOf(name)->precision_retry_ns = clock_.NowNs() + std::max(options_.retry_ns, 2 * options_.drain_ns);
}

}  // namespace bantam
