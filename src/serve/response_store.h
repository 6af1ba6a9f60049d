// ResponseStore: answers of the Responses API that clients go on with or look at again. In memory, within limits; the oldest make room.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/clock.h"

namespace bantam {

struct ResponseStoreLimits {
  size_t responses_max = 1024;  // 0: nothing is kept
  uint64_t bytes_max = 4 << 20;
  int64_t age_max_ns = int64_t{24} * 3600 * 1'000'000'000;
};

// One answer, as JSON: what it was made of is whole, so that it stays when what came before is deleted.
struct StoredResponse {
  std::string response = {};  // the object that the client was told
  std::string items = {};     // a list: all input items, those of the answers before it among them
};

// Any thread may call it.
class ResponseStore {
 public:
  // The clock outlives it.
  ResponseStore(const ResponseStoreLimits& limits, const Clock& clock) : limits_(limits), clock_(clock) {}

  // Nobody sees what another owner's are. What is larger than the whole store is not kept.
  void Put(const std::string& owner, const std::string& id, StoredResponse response);
  std::optional<StoredResponse> Get(const std::string& owner, const std::string& id);
  // Whether there was one.
  bool Remove(const std::string& owner, const std::string& id);
  // Whether anything is kept at all.
  bool keeps() const { return limits_.responses_max > 0 && limits_.bytes_max > 0; }

  struct Load {
    size_t responses = 0;
    uint64_t bytes = 0;
  };
  Load load();

 private:
  using Key = std::pair<std::string, std::string>;  // owner, id
  struct Kept {
    Key key;
    StoredResponse response;
    uint64_t bytes = 0;
    int64_t put_ns = 0;
  };
  using List = std::list<Kept>;
  void RemoveAt(List::iterator place);
  void DropOld();

  const ResponseStoreLimits limits_;
  const Clock& clock_;
  std::mutex mutex_;
  List kept_;  // the oldest first
  std::map<Key, List::iterator> places_;
  uint64_t bytes_ = 0;
};

}  // namespace bantam
