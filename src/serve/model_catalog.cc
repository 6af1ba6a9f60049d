#include "serve/model_catalog.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <map>
#include <set>
#include <thread>
#include <utility>

#include "base/closest.h"
#include "base/threads.h"

namespace bantam {
namespace {

constexpr std::chrono::milliseconds kSlice(5);

// A request's hold of a version.
class Hold {
 public:
  Hold(std::shared_ptr<std::atomic<size_t>> users, std::shared_ptr<const ServedModel> model)
      : users_(std::move(users)), model_(std::move(model)) {
    ++*users_;
  }
  ~Hold() {
    // Who sees no users may count on the version being let go of.
    model_ = nullptr;
    --*users_;
  }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

 private:
  const std::shared_ptr<std::atomic<size_t>> users_;
  std::shared_ptr<const ServedModel> model_;
};

// For clients: what is wrong is for whoever administers.
Error NotToBeHad(std::string_view name, std::string_view why) {
  return Error(Code::kUnavailable, fmt::format("model {} {}; ask another, or later", name, why));
}
Error CouldNotBeLoaded(std::string_view name) { return NotToBeHad(name, "could not be loaded"); }
Error WasUnloaded(std::string_view name) { return NotToBeHad(name, "was unloaded by whoever runs the server"); }

}  // namespace

std::string_view ModelStateName(ModelState state) {
  constexpr std::string_view kNames[] = {"unloaded", "loading", "loaded", "stopped"};
  return kNames[static_cast<size_t>(state)];
}

// Versions that nobody holds any more, for the catalogue's thread: whoever lets go of the last hold should not wait for an engine to end.
struct ModelCatalog::Retired {
  std::mutex mutex;
  std::map<const HostedModel*, std::weak_ptr<HostedModel>> living;  // until they wait
  std::vector<std::unique_ptr<HostedModel>> waiting;
  bool ended = false;  // the thread is gone: they go with their last holder
  std::function<void()> came;

  static Built Keep(const std::shared_ptr<Retired>& retired, std::unique_ptr<HostedModel> model) {
    const Version served = model->served();
    const HostedModel* const name = model.get();
    const std::shared_ptr<HostedModel> holder(model.release(), [retired](HostedModel* last) { retired->Take(last); });
    const std::lock_guard lock(retired->mutex);
    retired->living.emplace(name, holder);
    retired->waiting.reserve(retired->waiting.size() + retired->living.size());
    return {{holder, served.get()}, name};
  }
  // Without memory of its own: it is called wherever a request ends.
  void Take(HostedModel* last) {
    std::unique_ptr<HostedModel> model(last);
    const std::lock_guard lock(mutex);
    living.erase(last);
    if (ended) return;
    waiting.push_back(std::move(model));
    came();
  }
};

ModelCatalog::ModelCatalog(CatalogOptions options, const Clock& clock)
    : options_(std::move(options)), clock_(clock), retired_(std::make_shared<Retired>()) {
  retired_->came = [this] { changed_.notify_all(); };
}

Result<std::unique_ptr<ModelCatalog>> ModelCatalog::Make(CatalogOptions options, std::vector<CatalogEntry> entries, const Clock& clock) {
  std::unique_ptr<ModelCatalog> catalog(new ModelCatalog(std::move(options), clock));
  std::set<std::string> names;
  for (CatalogEntry& entry : entries) {
    std::vector<std::string> all = entry.aliases;
    all.push_back(entry.name);
    for (const std::string& name : all) {
      if (!names.insert(name).second) return Error(Code::kInvalidArgument, fmt::format("model {}: another is called so too", name));
    }
    catalog->AddSlot(std::move(entry));
  }
  pthread_t handle;
  if (const int error_number = CreateThread(&handle, Main, catalog.get()); error_number != 0) {
    return Error(Code::kExhausted,
                 fmt::format("a thread that loads models: the system refused to start it: {}", std::strerror(error_number)));
  }
  catalog->thread_ = handle;
  return catalog;
}

ModelCatalog::~ModelCatalog() { Stop(); }

void ModelCatalog::Interrupt(const Error& error) {
  stopping_ = true;
  changed_.notify_all();
  std::vector<Waiter> told;
  {
    const std::lock_guard lock(mutex_);
    told.swap(waiters_);
  }
  for (const Waiter& waiter : told) waiter.told(error);
}

void ModelCatalog::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    waiters_.clear();
  }
  changed_.notify_all();
  if (thread_) ::pthread_join(*std::exchange(thread_, std::nullopt), nullptr);
  for (const auto& slot : slots_) slot->version = {};
  std::vector<std::shared_ptr<HostedModel>> living;
  {
    const std::lock_guard lock(retired_->mutex);
    for (const auto& [name, model] : retired_->living) {
      if (auto held = model.lock()) living.push_back(std::move(held));
    }
  }
  // Not under the lock: what ends lets go of others.
  for (const auto& model : living) model->End();
  living.clear();
  while (!EndRetired()) std::this_thread::sleep_for(kSlice);
}

// Whoever is letting go of the last hold of a version has brought it here before anything goes.
bool ModelCatalog::EndRetired() {
  std::vector<std::unique_ptr<HostedModel>> gone;
  const std::lock_guard lock(retired_->mutex);
  gone.swap(retired_->waiting);
  const auto& living = retired_->living;
  retired_->ended = std::none_of(living.begin(), living.end(), [](const auto& one) { return one.second.expired(); });
  return retired_->ended;
}

void ModelCatalog::AddSlot(CatalogEntry entry) {
  auto slot = std::make_unique<Slot>();
  slot->path = entry.path;
  if (!entry.precisions.empty() && options_.memory_share) {
    std::vector<std::string> names = {entry.path};
    names.insert(names.end(), entry.precisions.begin(), entry.precisions.end());
    const AdaptiveTargets targets = {.memory_share = options_.memory_share_max, .answer_tokens_min = SIZE_MAX};
    slot->precision =
        std::make_unique<AdaptiveController>(targets, AdaptiveSettings{.speculate = false, .prefixes = false}, std::move(names));
  }
  slot->entry = std::move(entry);
  const std::lock_guard lock(mutex_);
  slots_.push_back(std::move(slot));
}

// ---- What others ask ----

ModelCatalog::Slot* ModelCatalog::SlotOf(std::string_view name) const {
  constexpr std::string_view kLatest = ":latest";
  const std::string_view bare = name.ends_with(kLatest) ? name.substr(0, name.size() - kLatest.size()) : name;
  for (const std::string_view wanted : {name, bare}) {
    for (const auto& slot : slots_) {
      const auto& aliases = slot->entry.aliases;
      if (wanted == slot->entry.name || std::find(aliases.begin(), aliases.end(), wanted) != aliases.end()) return slot.get();
    }
  }
  return nullptr;
}

Result<std::string> ModelCatalog::NameOf(std::string_view name, std::span<const std::string> allowed) const {
  const auto may = [&](const std::string& one) {
    return allowed.empty() || std::find(allowed.begin(), allowed.end(), one) != allowed.end();
  };
  std::vector<std::string> names;
  std::string other;
  {
    const std::lock_guard lock(mutex_);
    const Slot* slot = name.empty() || name.size() > kModelNameBytesMax ? nullptr : SlotOf(name);
    if (slot != nullptr && may(slot->entry.name)) return slot->entry.name;
    if (slot != nullptr) other = slot->entry.name;
    for (const auto& one : slots_) {
      if (may(one->entry.name)) names.push_back(one->entry.name);
    }
  }
  if (name.empty() && !names.empty()) return names[0];
  if (other.empty() && name.empty() && !allowed.empty()) other = "what is here";
  if (!other.empty()) {
    return Error(Code::kDenied, fmt::format("this key may not use {}; it may use {}", other, fmt::join(allowed, ", ")));
  }
  constexpr size_t kListedMax = 20;
  constexpr size_t kShownBytes = 200;
  const std::vector<std::string_view> known(names.begin(), names.end());
  return Error(Code::kNotFound, fmt::format("there is no model \"{}\" here; there are: {}", name.substr(0, kShownBytes),
                                            fmt::join(Closest(name.substr(0, kShownBytes), known, kListedMax), ", ")));
}

ModelCatalog::Version ModelCatalog::HoldOf(const Slot& slot) {
  return {std::make_shared<Hold>(slot.users, slot.version.model), slot.version.model.get()};
}

bool ModelCatalog::MayGo(const Slot& slot) { return slot.version.model != nullptr && !slot.entry.pinned && *slot.users == 0; }

bool ModelCatalog::SomebodyMayGo() const {
  return std::any_of(slots_.begin(), slots_.end(), [](const auto& slot) { return MayGo(*slot); });
}

bool ModelCatalog::TriedJustNow(const Slot& slot) const { return clock_.NowNs() < slot.retry_ns && !(slot.all_in_use && SomebodyMayGo()); }

Error ModelCatalog::WhyNot(const Slot& slot) {
  const std::string& name = slot.entry.name;
  if (slot.state == ModelState::kStopped) return WasUnloaded(name);
  return slot.all_in_use ? NotToBeHad(name, "has no room in memory beside those that are in use") : CouldNotBeLoaded(name);
}

Result<ModelCatalog::Version> ModelCatalog::Find(const std::string& name) {
  Version failed;
  const std::lock_guard lock(mutex_);
  Slot* const slot = SlotOf(name);
  if (slot == nullptr) return Error(Code::kNotFound, fmt::format("there is no model {} any more", name));
  slot->used_ns = clock_.NowNs();
  slot->keep_ns = std::nullopt;
  if (slot->state == ModelState::kLoading) return Version();
  if (slot->version.model != nullptr) {
    const EngineThread* engine = slot->version.model->engine;
    if (engine == nullptr || !engine->failed()) return HoldOf(*slot);
    failed = std::exchange(slot->version, {}).model;
    ++slot->counters.failures;
  }
  if (slot->state == ModelState::kStopped || TriedJustNow(*slot)) return WhyNot(*slot);
  slot->state = ModelState::kLoading;
  jobs_.push_back({.change = {.action = CatalogAction::kLoad, .name = slot->entry.name}});
  changed_.notify_all();
  return Version();
}

bool ModelCatalog::Await(const std::string& name, std::function<void(const Result<Version>& loaded)> told) {
  Result<Version> now = Version();
  {
    const std::lock_guard lock(mutex_);
    const Slot* slot = SlotOf(name);
    if (slot != nullptr && slot->state == ModelState::kLoading && !stopping_) {
      const auto same = [&](const Waiter& waiter) { return waiter.name == slot->entry.name; };
      const auto of_it = static_cast<size_t>(std::count_if(waiters_.begin(), waiters_.end(), same));
      if (waiters_.size() >= kWaitingOfAllMax || of_it >= kWaitingMax) return false;
      waiters_.push_back({slot->entry.name, std::move(told)});
      return true;
    }
    // It came, or could not, in between.
    if (slot == nullptr || stopping_) {
      now = CouldNotBeLoaded(name);
    } else if (slot->version.model != nullptr) {
      now = HoldOf(*slot);
    } else if (slot->state == ModelState::kStopped || TriedJustNow(*slot)) {
      now = WhyNot(*slot);
    }
  }
  told(now);
  return true;
}

void ModelCatalog::Change(CatalogChange change, std::function<void(const Status& done)> done) {
  {
    const std::lock_guard lock(mutex_);
    constexpr size_t kJobsMax = 64;
    if (!stopping_ && jobs_.size() < kJobsMax) {
      jobs_.push_back({std::move(change), std::move(done)});
      changed_.notify_all();
      return;
    }
  }
  done(Error(Code::kUnavailable, "too many changes of models wait already, or the server stops; try again"));
}

std::vector<CatalogView> ModelCatalog::Views() const {
  const std::lock_guard lock(mutex_);
  std::vector<CatalogView> views;
  for (const auto& slot : slots_) {
    views.push_back({.name = slot->entry.name,
                     .aliases = slot->entry.aliases,
                     .state = slot->state,
                     .model = slot->version.model,
                     .path = slot->path,
                     .previous = slot->previous,
                     .pinned = slot->entry.pinned,
                     .on_demand = slot->entry.on_demand,
                     .error = slot->error,
                     .counters = slot->counters});
  }
  return views;
}

ServedModels ModelCatalog::loaded() const {
  const std::lock_guard lock(mutex_);
  ServedModels models;
  for (const auto& slot : slots_) {
    if (slot->version.model != nullptr) models.push_back(slot->version.model);
  }
  return models;
}

Status ModelCatalog::LoadAll(const std::function<bool()>& interrupted) {
  std::mutex mutex;
  std::condition_variable came;
  for (const CatalogView& view : Views()) {
    if (view.on_demand) continue;
    std::optional<Status> loaded;
    Change({.action = CatalogAction::kSwap, .name = view.name}, [&](const Status& status) {
      const std::lock_guard lock(mutex);
      loaded = status;
      came.notify_all();
    });
    std::unique_lock lock(mutex);
    while (!came.wait_for(lock, 10 * kSlice, [&] { return loaded.has_value(); })) {
      if (interrupted && interrupted()) stopping_ = true;
    }
    BANTAM_TRY(*loaded);
  }
  return Ok();
}

// ---- The thread ----

void* ModelCatalog::Main(void* self) {
  static_cast<ModelCatalog*>(self)->Work();
  return nullptr;
}

void ModelCatalog::Work() {
  int64_t looked_ns = clock_.NowNs();
  while (true) {
    std::optional<Job> job;
    {
      std::unique_lock lock(mutex_);
      // Also woken by versions that are to be destroyed.
      if (!stopping_ && jobs_.empty()) changed_.wait_for(lock, std::chrono::nanoseconds(options_.tick_ns));
      if (stopping_) break;
      if (!jobs_.empty()) {
        job = std::move(jobs_.front());
        jobs_.pop_front();
      }
    }
    // The outermost frame: what the standard library throws when memory is gone ends one change and not the process.
    try {
      Turn(std::move(job));
      if (clock_.NowNs() - looked_ns >= options_.tick_ns) {
        looked_ns = clock_.NowNs();
        Tick();
      }
    } catch (const std::exception&) {
      // Who is told of it is told by what Turn does; there is no memory to say more.
    }
  }
  std::deque<Job> dropped;
  {
    const std::lock_guard lock(mutex_);
    dropped.swap(jobs_);
  }
  for (const Job& job : dropped) Tell(job.done, Error(Code::kCancelled, "the server stops"));
}

void ModelCatalog::Turn(std::optional<Job> job) {
  DestroyRetired();
  if (!job) return;
  Status status;
  try {
    status = Do(job->change, /*for_request=*/job->done == nullptr);
  } catch (const std::exception& error) {
    Recover(job->change.name);
    status = Error(Code::kExhausted, fmt::format("model {}: {}", job->change.name, error.what()));
  }
  Tell(job->done, status);
  DestroyRetired();
}

// A change that broke off in its middle leaves nobody waiting.
void ModelCatalog::Recover(const std::string& name) {
  {
    const std::lock_guard lock(mutex_);
    Slot* slot = SlotOf(name);
    if (slot == nullptr || slot->state != ModelState::kLoading) return;
    slot->state = slot->version.model == nullptr ? ModelState::kUnloaded : ModelState::kLoaded;
    slot->retry_ns = clock_.NowNs() + options_.retry_ns;
  }
  TellWaiters(name, CouldNotBeLoaded(name));
}

void ModelCatalog::Tell(const std::function<void(const Status&)>& done, const Status& status) {
  if (!done) return;
  try {
    done(status);
  } catch (const std::exception&) {
    // Memory is gone: its client hears nothing, and everybody else goes on.
  }
}

void ModelCatalog::DestroyRetired() {
  std::vector<std::unique_ptr<HostedModel>> gone;
  const std::lock_guard lock(retired_->mutex);
  gone.swap(retired_->waiting);
  retired_->waiting.reserve(retired_->living.size() + 1);
}

bool ModelCatalog::Gone(const HostedModel* hosted) const {
  const std::lock_guard lock(retired_->mutex);
  return retired_->living.count(hosted) == 0;
}

Result<ModelCatalog::Meant> ModelCatalog::MeaningOf(const CatalogChange& change) const {
  Meant meant = {.name = change.name, .path = change.path};
  if (!change.path.empty() && options_.resolve) {
    BANTAM_ASSIGN(meant.path, options_.resolve(change.path).With("path"));
  }
  const std::lock_guard lock(mutex_);
  const Slot* slot = SlotOf(change.name);
  if (slot == nullptr) return meant;
  meant.known = true;
  meant.name = slot->entry.name;
  if (change.action == CatalogAction::kRollback) {
    if (slot->previous.empty()) {
      return Error(Code::kInvalidArgument, fmt::format("model {}: nothing was there before what is there now", meant.name));
    }
    meant.path = slot->previous;
  }
  if (meant.path.empty()) meant.path = slot->path;
  return meant;
}

Status ModelCatalog::Do(const CatalogChange& change, bool for_request) {
  BANTAM_ASSIGN(const Meant meant, MeaningOf(change));
  const bool loads = change.action == CatalogAction::kLoad;
  if (!meant.known) return loads && !meant.path.empty() ? LoadNew(change, meant.path) : Status(NameOf(change.name).error());
  if (!change.aliases.empty()) {
    return Error(Code::kInvalidArgument, fmt::format("aliases: model {} is known already, under names of its own", meant.name));
  }
  switch (change.action) {
    case CatalogAction::kLoad:
      return change.path.empty() ? LoadSlot(meant.name, for_request) : Swap(meant.name, meant.path, /*beside=*/true);
    case CatalogAction::kSwap:
    case CatalogAction::kRollback:
      return Swap(meant.name, meant.path, /*beside=*/true);
    case CatalogAction::kUnload:
      return Unload(meant.name);
    case CatalogAction::kPin:
    case CatalogAction::kUnpin:
      break;
  }
  const std::lock_guard lock(mutex_);
  SlotOf(meant.name)->entry.pinned = change.action == CatalogAction::kPin;
  return Ok();
}

Status ModelCatalog::LoadNew(const CatalogChange& change, const std::string& path) {
  CatalogEntry entry = {.name = change.name, .path = path, .aliases = change.aliases};
  std::set<std::string> names = {entry.name};
  {
    const std::lock_guard lock(mutex_);
    if (slots_.size() >= kModelsServedMax) {
      return Error(Code::kExhausted, fmt::format("{} models are known, and no more may be", kModelsServedMax));
    }
    for (const std::string& alias : entry.aliases) {
      const bool good = !alias.empty() && alias.size() <= kModelNameBytesMax && SlotOf(alias) == nullptr && names.insert(alias).second;
      if (!good) {
        return Error(Code::kInvalidArgument, fmt::format("aliases: \"{}\": expected names of 1 to {} bytes that nothing else has",
                                                         alias.substr(0, kModelNameBytesMax), kModelNameBytesMax));
      }
    }
  }
  BANTAM_ASSIGN(Built version, Build(entry, path, /*least=*/nullptr, Room::kOfIdle));
  AddSlot(entry);
  Use(entry.name, std::move(version), path, /*swapped=*/false);
  return Ok();
}

Status ModelCatalog::LoadSlot(const std::string& name, bool for_request) {
  CatalogEntry entry;
  std::string path;
  ModelState before = ModelState::kUnloaded;
  {
    const std::lock_guard lock(mutex_);
    Slot* slot = SlotOf(name);
    // Who administers may have unloaded it since a request asked.
    if (slot->version.model != nullptr || (for_request && slot->state != ModelState::kLoading)) return Ok();
    if (!for_request) before = slot->state == ModelState::kStopped ? ModelState::kStopped : ModelState::kUnloaded;
    slot->state = ModelState::kLoading;
    entry = slot->entry;
    path = slot->path;
  }
  Result<Built> version = Build(entry, path, /*least=*/nullptr, Room::kOfIdle);
  if (!version.ok()) {
    Fail(name, path, version.error(), before);
    return version.error();
  }
  Use(name, std::move(version).value(), path, /*swapped=*/false);
  return Ok();
}

Result<ModelCatalog::Built> ModelCatalog::BuildOnce(const CatalogEntry& entry, const std::string& path, const ServedModel* least) {
  try {
    BANTAM_ASSIGN(std::unique_ptr<HostedModel> hosted, options_.load(entry, path, least));
    BANTAM_TRY(ProbeModel(*hosted->served(), entry.probes, stopping_).With(fmt::format("model {}", entry.name)));
    return Retired::Keep(retired_, std::move(hosted));
  } catch (const std::exception& error) {
    return Error(Code::kExhausted, fmt::format("model {}: {}", entry.name, error.what()));
  }
}

Result<ModelCatalog::Built> ModelCatalog::Build(const CatalogEntry& entry, const std::string& path, const ServedModel* least, Room room) {
  Result<Built> version = BuildOnce(entry, path, least);
  if (!version.ok()) {
    const std::lock_guard lock(mutex_);
    if (Slot* const slot = SlotOf(entry.name)) slot->all_in_use = false;
  }
  while (room == Room::kOfIdle && !version.ok() && version.error().code() == Code::kExhausted && MakeRoom(entry.name, path)) {
    version = BuildOnce(entry, path, least);
  }
  return version;
}

void ModelCatalog::Use(const std::string& name, Built version, const std::string& path, bool swapped) {
  Built old;
  {
    const std::lock_guard lock(mutex_);
    Slot& slot = *SlotOf(name);
    old = std::exchange(slot.version, std::move(version));
    // Fewer bits, and back, are no other version.
    const auto same_model = [&](const std::string& one) {
      const auto& all = slot.entry.precisions;
      return one == slot.entry.path || std::find(all.begin(), all.end(), one) != all.end();
    };
    if (path != slot.path && !(slot.precision != nullptr && same_model(path) && same_model(slot.path))) slot.previous = slot.path;
    slot.path = path;
    slot.state = ModelState::kLoaded;
    slot.error.clear();
    slot.retry_ns = INT64_MIN;
    slot.all_in_use = false;
    // What an earlier request said of how long it stays was of what was there then.
    if (!swapped) slot.keep_ns.reset();
    slot.used_ns = clock_.NowNs();
    ++(swapped ? slot.counters.swaps : slot.counters.loads);
  }
  if (swapped) Notice(name, fmt::format("{} takes over", path));
  TellWaiters(name, Ok());
}

void ModelCatalog::Fail(const std::string& name, const std::string& path, const Error& error, ModelState state) {
  {
    const std::lock_guard lock(mutex_);
    Slot& slot = *SlotOf(name);
    slot.error = error.message();
    ++slot.counters.failures;
    if (slot.version.model == nullptr) {
      slot.state = state;
      // Another path says nothing of what is there.
      if (path == slot.path) slot.retry_ns = clock_.NowNs() + options_.retry_ns;
    }
  }
  Notice(name, fmt::format("{} could not be loaded: {}", path, error.message()));
  TellWaiters(name, error);
}

void ModelCatalog::TellWaiters(const std::string& name, const Status& status) {
  std::vector<Waiter> told;
  std::vector<Version> holds;
  Result<Version> none = Version();
  {
    const std::lock_guard lock(mutex_);
    const auto other = [&](const Waiter& waiter) { return waiter.name != name; };
    const auto first = std::stable_partition(waiters_.begin(), waiters_.end(), other);
    const auto count = static_cast<size_t>(waiters_.end() - first);
    // What is there is theirs, whatever was tried; and nobody makes room with it before they have asked.
    const Slot& slot = *SlotOf(name);
    for (size_t i = 0; i < count && slot.version.model != nullptr; ++i) holds.push_back(HoldOf(slot));
    told.assign(std::move_iterator(first), std::move_iterator(waiters_.end()));
    waiters_.erase(first, waiters_.end());
    if (!status.ok()) none = WhyNot(slot);
  }
  for (size_t i = 0; i < told.size(); ++i) {
    try {
      told[i].told(i < holds.size() ? Result<Version>(std::move(holds[i])) : none);
    } catch (const std::exception&) {
      // As in Tell.
    }
  }
}

Status ModelCatalog::Unload(const std::string& name) {
  Built old;
  {
    const std::lock_guard lock(mutex_);
    Slot& slot = *SlotOf(name);
    old = std::exchange(slot.version, {});
    slot.state = ModelState::kStopped;
    slot.error.clear();
    if (old.model != nullptr) ++slot.counters.unloads;
  }
  if (old.model != nullptr) Notice(name, "is unloaded");
  TellWaiters(name, WasUnloaded(name));
  return Ok();
}

void ModelCatalog::AwaitGone(const HostedModel* hosted) {
  constexpr int64_t kLongestNs = 2'000'000'000;
  const int64_t end_ns = clock_.NowNs() + kLongestNs;
  while (!Gone(hosted) && clock_.NowNs() < end_ns) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kSlice);
  }
  DestroyRetired();
}

bool ModelCatalog::MakeRoom(const std::string& for_name, const std::string& path) {
  std::string name;
  const HostedModel* hosted = nullptr;
  // Under the lock: holds are got under it.
  const auto may = [&](const Slot& slot) { return MayGo(slot) && slot.entry.name != for_name; };
  const auto others = [&] {
    return std::any_of(slots_.begin(), slots_.end(), [](const auto& one) { return one->version.model != nullptr; });
  };
  uint64_t bytes = 0;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& slot : slots_) bytes += may(*slot) ? slot->version.model->facts.planned_bytes : 0;
    if (Slot* const slot = SlotOf(for_name)) slot->all_in_use = bytes == 0 && others();
  }
  // It looks at files, which takes as long as it takes.
  if (options_.may_fit && !options_.may_fit(path, bytes)) return false;
  {
    Built old;
    const std::lock_guard lock(mutex_);
    Slot* least = nullptr;
    for (const auto& slot : slots_) {
      if (may(*slot) && (least == nullptr || slot->used_ns < least->used_ns)) least = slot.get();
    }
    if (Slot* const slot = SlotOf(for_name)) slot->all_in_use = least == nullptr && others();
    if (least == nullptr || stopping_) return false;
    old = std::exchange(least->version, {});
    least->state = ModelState::kUnloaded;
    ++least->counters.unloads;
    name = least->entry.name;
    hosted = old.hosted;
  }
  AwaitGone(hosted);
  Notice(name, fmt::format("is unloaded to make room for {}", for_name));
  return true;
}

// ---- Another version ----

Status ModelCatalog::Swap(const std::string& name, const std::string& path, bool beside) {
  CatalogEntry entry;
  Version old;
  ModelState before = ModelState::kUnloaded;
  {
    const std::lock_guard lock(mutex_);
    const Slot& slot = *SlotOf(name);
    entry = slot.entry;
    old = slot.version.model;
    before = slot.state == ModelState::kStopped ? ModelState::kStopped : ModelState::kUnloaded;
  }
  const bool alone = old == nullptr;
  if (alone || beside) {
    // Who starts, or has nothing there, may take the place of what is idle; an exchange moves nobody but its own old version.
    Result<Built> version = Build(entry, path, old.get(), alone ? Room::kOfIdle : Room::kAsItIs);
    if (version.ok()) {
      Use(name, std::move(version).value(), path, /*swapped=*/!alone);
      return Ok();
    }
    if (alone || version.error().code() != Code::kExhausted) {
      Fail(name, path, version.error(), before);
      return version.error();
    }
  }
  old = nullptr;
  return SwapAfterDrain(name, path, entry);
}

Status ModelCatalog::Drain(const std::string& name) {
  std::weak_ptr<const ServedModel> old;
  const HostedModel* hosted = nullptr;
  {
    Built held;
    const std::lock_guard lock(mutex_);
    Slot& slot = *SlotOf(name);
    held = std::exchange(slot.version, {});
    slot.state = ModelState::kLoading;
    old = held.model;
    hosted = held.hosted;
  }
  const int64_t end_ns = clock_.NowNs() + options_.drain_ns;
  while (!Gone(hosted)) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kSlice);
    if (!stopping_ && clock_.NowNs() < end_ns) continue;
    Slot& slot = *SlotOf(name);
    slot.version = {old.lock(), hosted};
    if (slot.version.model == nullptr) break;
    slot.state = ModelState::kLoaded;
    return Error(Code::kUnavailable,
                 fmt::format("requests of the old version did not end within {} s, and both do not fit; nothing is changed",
                             options_.drain_ns / 1'000'000'000));
  }
  AwaitGone(hosted);
  return Ok();
}

Status ModelCatalog::SwapAfterDrain(const std::string& name, const std::string& path, const CatalogEntry& entry) {
  std::string old_path;
  {
    const std::lock_guard lock(mutex_);
    old_path = SlotOf(name)->path;
  }
  if (Status drained = Drain(name); !drained.ok()) {
    Fail(name, path, drained.error(), ModelState::kUnloaded);
    return drained;
  }
  Result<Built> version = Build(entry, path, /*least=*/nullptr, Room::kAsItIs);
  if (version.ok()) {
    Use(name, std::move(version).value(), path, /*swapped=*/true);
    return Ok();
  }
  // What was there fitted, and does again.
  DestroyRetired();
  Result<Built> before = Build(entry, old_path, /*least=*/nullptr, Room::kOfIdle);
  if (before.ok()) Use(name, std::move(before).value(), old_path, /*swapped=*/false);
  Fail(name, path, version.error(), ModelState::kUnloaded);
  return version.error();
}

void ModelCatalog::Notice(std::string_view name, std::string_view change) const {
  if (options_.notice) options_.notice(name, change);
}

}  // namespace bantam
