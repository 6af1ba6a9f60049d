// ModelCatalog: the models of a server by name: loaded, unloaded and exchanged while requests come (ADR 0027).
#pragma once

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "engine/adaptive.h"
#include "serve/model_probe.h"
#include "serve/served_model.h"

namespace bantam {

inline constexpr size_t kModelsServedMax = 64;
inline constexpr size_t kModelNameBytesMax = 256;

// What is known of a model, loaded or not.
struct CatalogEntry {
  std::string name;
  std::string path = {};
  std::vector<std::string> aliases = {};
  bool on_demand = false;               // loaded for the first request, not at the start
  bool pinned = false;                  // stays in memory, whoever else needs it
  int64_t idle_s = 0;                   // is unloaded when nobody asked for so long; 0: never
  std::vector<ModelProbe> probes = {};  // what a version has to answer before it takes requests
  std::vector<std::string> precisions =
      {};  // paths of the same model in fewer bits, each smaller than the one before, for when memory is short
};

struct CatalogOptions {
  // Makes a version of a model; Exhausted: memory is short. `least`, if there is one, is a version that the new one runs beside: one that
  // has less room for texts than that is Exhausted too.
  std::function<Result<std::unique_ptr<HostedModel>>(const CatalogEntry& entry, const std::string& path, const ServedModel* least)> load;
  // What may be loaded by whoever administers: the path that is meant, or Denied, or NotFound.
  std::function<Result<std::string>(const std::string& path)> resolve = nullptr;
  // Whether what is at this path might fit if so many bytes more were free: nobody has to go where it does not.
  std::function<bool(const std::string& path, uint64_t bytes)> may_fit = nullptr;
  // The share of the memory that is in use, for precisions.
  std::function<double()> memory_share = nullptr;
  double memory_share_max = 0.9;
  std::function<void(std::string_view name, std::string_view change)> notice = nullptr;
  int64_t drain_ns = 60'000'000'000;  // requests of an old version may go on so long where both do not fit
  int64_t tick_ns = 1'000'000'000;    // between two looks at who is idle
  int64_t retry_ns = 5'000'000'000;   // what could not be loaded is not tried again before
};

enum class ModelState : uint8_t {
  kUnloaded,  // is loaded for the next request
  kLoading,   // requests wait
  kLoaded,
  kStopped,  // by whoever administers: requests are refused
};
std::string_view ModelStateName(ModelState state);

struct CatalogCounters {
  uint64_t loads = 0;
  uint64_t unloads = 0;
  uint64_t swaps = 0;
  uint64_t failures = 0;
};

// One model as it is now.
struct CatalogView {
  std::string name;
  std::vector<std::string> aliases = {};
  ModelState state = ModelState::kUnloaded;
  std::shared_ptr<const ServedModel> model = nullptr;  // null: not in memory
  std::string path = {};
  std::string previous = {};  // the path of what was there before, for a rollback
  bool pinned = false;
  bool on_demand = false;
  std::string error = {};  // why the last try failed: for whoever administers
  CatalogCounters counters = {};
};

enum class CatalogAction : uint8_t { kLoad, kUnload, kSwap, kRollback, kPin, kUnpin };

struct CatalogChange {
  CatalogAction action = CatalogAction::kLoad;
  std::string name = {};
  std::string path = {};                  // of kSwap, and of kLoad where there is no such model yet
  std::vector<std::string> aliases = {};  // of a model that is new
};

// One thread loads, unloads and destroys; any other may ask. Requests hold the version that they began with until they end.
class ModelCatalog {
 public:
  // Requests that wait for one model, and for all of them, at most.
  static constexpr size_t kWaitingMax = 128;
  static constexpr size_t kWaitingOfAllMax = 512;

  // The clock outlives it. Errors: InvalidArgument for names that are there twice; Exhausted when the system gives no thread.
  static Result<std::unique_ptr<ModelCatalog>> Make(CatalogOptions options, std::vector<CatalogEntry> entries, const Clock& clock);
  // As Stop.
  ~ModelCatalog();
  ModelCatalog(const ModelCatalog&) = delete;
  ModelCatalog& operator=(const ModelCatalog&) = delete;

  // Loads what is not left to requests, in order; the first error ends it, and so does `interrupted`, which is asked meanwhile.
  Status LoadAll(const std::function<bool()>& interrupted = nullptr);
  // Who waits for a model is told this, and loading ends as soon as it can: a stop is near.
  void Interrupt(const Error& error);
  // Ends every engine, whoever still holds it; who waits for a model is forgotten. Nobody asks any more.
  void Stop();

  // By name, alias, or either with ":latest"; without a name the first. Of `allowed` only, unless that is empty: NotFound lists those that
  // there are of them, and Denied is for one that there is and is not allowed.
  Result<std::string> NameOf(std::string_view name, std::span<const std::string> allowed = {}) const;
  // The version that takes requests, of a name that NameOf gave. Null: it is being loaded, so wait for it. Unavailable when it is not to be
  // had.
  using Version = std::shared_ptr<const ServedModel>;
  Result<Version> Find(const std::string& name);
  // Told what Find would have given, when it is there, or why not; perhaps at once, otherwise by the catalogue's thread. Null: ask again.
  // False: too many wait.
  bool Await(const std::string& name, std::function<void(const Result<Version>& loaded)> told);
  // What is changed, and when; `done` is told by the catalogue's thread. Errors there: NotFound, InvalidArgument, Denied, those of loading,
  // of probes; what was there before then goes on.
  void Change(CatalogChange change, std::function<void(const Status& done)> done);

  // How long a model stays when nobody asks for it any more, until somebody does (Find): at most what its entry says. False, and nothing
  // is changed, for one that is pinned, or neither on demand nor ever idle: it was put there to stay.
  bool Keep(const std::string& name, int64_t keep_ns);

  std::vector<CatalogView> Views() const;
  // Those in memory.
  ServedModels loaded() const;

 private:
  // A version, and what to know it by when it is gone.
  struct Built {
    Version model = nullptr;
    const HostedModel* hosted = nullptr;
  };
  struct Slot {
    CatalogEntry entry;
    ModelState state = ModelState::kUnloaded;
    Built version = {};
    std::string path = {};
    std::string previous = {};
    std::string error = {};
    std::shared_ptr<std::atomic<size_t>> users = std::make_shared<std::atomic<size_t>>(0);  // requests; who only looks is none
    int64_t used_ns = 0;
    std::optional<int64_t> keep_ns = {};  // Keep
    int64_t retry_ns = INT64_MIN;         // not before
    bool all_in_use = false;              // why it failed: no room beside models that were in use
    CatalogCounters counters = {};
    std::unique_ptr<AdaptiveController> precision = nullptr;
    int64_t precision_retry_ns = INT64_MIN;
  };
  struct Job {
    CatalogChange change;
    std::function<void(const Status&)> done = nullptr;  // null: a request wants it
  };
  struct Waiter {
    std::string name;
    std::function<void(const Result<Version>&)> told;
  };
  // What outlives the catalogue with the last who holds a version.
  struct Retired;
  // What a change means: the model's own name, and the path of what is wanted.
  struct Meant {
    bool known = false;
    std::string name = {};
    std::string path = {};
  };
  enum class Room : uint8_t { kAsItIs, kOfIdle };

  ModelCatalog(CatalogOptions options, const Clock& clock);
  static void* Main(void* self);
  void Work();
  void Turn(std::optional<Job> job);
  void AddSlot(CatalogEntry entry);
  // Under the lock.
  Slot* SlotOf(std::string_view name) const;
  static Version HoldOf(const Slot& slot);
  static int64_t StaysNs(const Slot& slot);
  // Whether it makes room for others: nobody asks it, and nobody pinned it.
  static bool MayGo(const Slot& slot);
  bool SomebodyMayGo() const;
  bool TriedJustNow(const Slot& slot) const;
  // Of one that is not to be had, for clients.
  static Error WhyNot(const Slot& slot);
  void DestroyRetired();
  bool EndRetired();
  static void Tell(const std::function<void(const Status&)>& done, const Status& status);
  void Recover(const std::string& name);
  bool Gone(const HostedModel* hosted) const;

  // By the thread.
  Status Do(const CatalogChange& change, bool for_request);
  Result<Meant> MeaningOf(const CatalogChange& change) const;
  Status LoadNew(const CatalogChange& change, const std::string& path);
  Status LoadSlot(const std::string& name, bool for_request);
  Status Unload(const std::string& name);
  Status Swap(const std::string& name, const std::string& path, bool beside);
  Status SwapAfterDrain(const std::string& name, const std::string& path, const CatalogEntry& entry);
  Result<Built> Build(const CatalogEntry& entry, const std::string& path, const ServedModel* least, Room room);
  Result<Built> BuildOnce(const CatalogEntry& entry, const std::string& path, const ServedModel* least);
  // Takes a version out of service and waits until it is destroyed.
  Status Drain(const std::string& name);
  // Waits a little for one that nobody should hold any more.
  void AwaitGone(const HostedModel* hosted);
  // Unloads the one that was not asked for longest; false: none may go, or that would not help.
  bool MakeRoom(const std::string& for_name, const std::string& path);
  void Use(const std::string& name, Built version, const std::string& path, bool swapped);
  // What failed at this path leaves the model in that state, if none is there.
  void Fail(const std::string& name, const std::string& path, const Error& error, ModelState state);
  void TellWaiters(const std::string& name, const Status& status);
  void Tick();
  void FollowPrecision(double share);
  std::string PathOfPrecision(const Slot& slot) const;
  void Notice(std::string_view name, std::string_view change) const;

  const CatalogOptions options_;
  const Clock& clock_;
  std::shared_ptr<Retired> retired_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Slot>> slots_;  // never fewer; added by the thread only
  std::deque<Job> jobs_;
  std::vector<Waiter> waiters_;
  std::atomic<bool> stopping_ = false;
  std::optional<pthread_t> thread_;
};

}  // namespace bantam
