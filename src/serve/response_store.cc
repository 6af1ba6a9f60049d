#include "serve/response_store.h"

#include <algorithm>
#include <iterator>

namespace bantam {
namespace {

// Of the list, the map and their allocations, roughly.
constexpr uint64_t kPerResponseBytes = 512;

}  // namespace

void ResponseStore::RemoveAt(List::iterator place) {
  bytes_ -= place->bytes;
  places_.erase(place->key);
  kept_.erase(place);
}

void ResponseStore::DropOld() {
  const int64_t now_ns = clock_.NowNs();
  while (!kept_.empty() && now_ns - kept_.front().put_ns > limits_.age_max_ns) RemoveAt(kept_.begin());
}

void ResponseStore::Put(const std::string& owner, const std::string& id, StoredResponse response) {
  const std::lock_guard lock(mutex_);
  DropOld();
  Key key = {owner, id};
  if (const auto known = places_.find(key); known != places_.end()) RemoveAt(known->second);
  const uint64_t bytes = kPerResponseBytes + 2 * (owner.size() + id.size()) + response.response.capacity() + response.items.capacity();
  if (limits_.responses_max == 0 || bytes > limits_.bytes_max) return;
  // Its owner's oldest go first, and others' only for what an owner may have in any case: half.
  const auto own = [&](const Kept& one) { return one.key.first == owner; };
  uint64_t own_bytes = 0;
  for (const Kept& one : kept_) own_bytes += own(one) ? one.bytes : 0;
  while (kept_.size() >= limits_.responses_max || bytes_ + bytes > limits_.bytes_max) {
    const auto oldest = std::find_if(kept_.begin(), kept_.end(), own);
    const bool spares = oldest != kept_.end() && own_bytes + bytes > limits_.bytes_max / 2;
    const auto goes = spares || (oldest != kept_.end() && kept_.size() >= limits_.responses_max) ? oldest : kept_.begin();
    if (own(*goes)) own_bytes -= goes->bytes;
    RemoveAt(goes);
  }
  kept_.push_back({key, std::move(response), bytes, clock_.NowNs()});
  places_.emplace(std::move(key), std::prev(kept_.end()));
  bytes_ += bytes;
}

std::optional<StoredResponse> ResponseStore::Get(const std::string& owner, const std::string& id) {
  const std::lock_guard lock(mutex_);
  DropOld();
  const auto place = places_.find({owner, id});
  if (place == places_.end()) return std::nullopt;
  return place->second->response;
}

bool ResponseStore::Remove(const std::string& owner, const std::string& id) {
  const std::lock_guard lock(mutex_);
  DropOld();
  const auto place = places_.find({owner, id});
  if (place == places_.end()) return false;
  RemoveAt(place->second);
  return true;
}

ResponseStore::Load ResponseStore::load() {
  const std::lock_guard lock(mutex_);
  DropOld();
  return {kept_.size(), bytes_};
}

}  // namespace bantam
