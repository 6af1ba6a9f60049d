#include "serve/model_catalog.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <set>
#include <utility>

#include "base/closest.h"
#include "base/threads.h"

namespace bantam {

std::string_view ModelStateName(ModelState state) {
  constexpr std::string_view kNames[] = {"unloaded", "loading", "loaded", "stopped"};
  return kNames[static_cast<size_t>(state)];
}

// Versions that nobody holds any more, for the catalogue's thread: whoever lets go of the last hold should not wait for an engine to end.
struct ModelCatalog::Retired {
  std::mutex mutex;
  std::set<HostedModel*> living;
  std::vector<std::unique_ptr<HostedModel>> waiting;
  bool ended = false;  // the thread is gone: they go with their last holder
  std::function<void()> came;

  static std::shared_ptr<const ServedModel> Hold(const std::shared_ptr<Retired>& retired, std::unique_ptr<HostedModel> model) {
    const std::shared_ptr<const ServedModel> served = model->served();
    {
      const std::lock_guard lock(retired->mutex);
      retired->living.insert(model.get());
    }
    const std::shared_ptr<HostedModel> holder(model.release(), [retired](HostedModel* last) { retired->Take(last); });
    return {holder, served.get()};
  }
  void Take(HostedModel* last) {
    std::unique_ptr<HostedModel> model(last);
    const std::lock_guard lock(mutex);
    living.erase(last);
    if (ended) return;
    waiting.push_back(std::move(model));
    came();
  }
};

namespace {

// A request's hold of a version.
class Hold {
 public:
  Hold(std::shared_ptr<std::atomic<size_t>> users, std::shared_ptr<const ServedModel> model)
      : users_(std::move(users)), model_(std::move(model)) {
    ++*users_;
  }
  ~Hold() { --*users_; }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

 private:
  const std::shared_ptr<std::atomic<size_t>> users_;
  const std::shared_ptr<const ServedModel> model_;
};

}  // namespace

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

void ModelCatalog::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    waiters_.clear();
  }
  changed_.notify_all();
  if (thread_) ::pthread_join(*std::exchange(thread_, std::nullopt), nullptr);
  for (const auto& slot : slots_) slot->model = nullptr;
  DestroyRetired();
  const std::lock_guard lock(retired_->mutex);
  retired_->ended = true;
  for (HostedModel* model : retired_->living) model->End();
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
  slots_.push_back(std::move(slot));
}

// ---- What others ask ----

ModelCatalog::Slot* ModelCatalog::SlotOf(std::string_view name) const {
  const auto called = [](const Slot& slot, std::string_view wanted) {
    const auto& aliases = slot.entry.aliases;
    return wanted == slot.entry.name || std::find(aliases.begin(), aliases.end(), wanted) != aliases.end();
  };
  for (const auto& slot : slots_) {
    if (called(*slot, name)) return slot.get();
  }
  constexpr std::string_view kLatest = ":latest";
  if (!name.ends_with(kLatest)) return nullptr;
  name.remove_suffix(kLatest.size());
  return SlotOf(name);
}

Result<std::string> ModelCatalog::NameOf(std::string_view name, std::span<const std::string> allowed) const {
  const auto may = [&](const std::string& one) {
    return allowed.empty() || std::find(allowed.begin(), allowed.end(), one) != allowed.end();
  };
  const std::lock_guard lock(mutex_);
  const Slot* slot = name.empty() ? nullptr : SlotOf(name);
  if (slot != nullptr && may(slot->entry.name)) return slot->entry.name;
  std::vector<std::string_view> names;
  for (const auto& one : slots_) {
    if (may(one->entry.name)) names.push_back(one->entry.name);
  }
  if (name.empty() && !names.empty()) return std::string(names[0]);
  if (slot != nullptr) {
    return Error(Code::kDenied, fmt::format("this key may not use {}; it may use {}", slot->entry.name, fmt::join(allowed, ", ")));
  }
  constexpr size_t kListedMax = 20;
  constexpr size_t kShownBytes = 200;
  return Error(Code::kNotFound, fmt::format("there is no model \"{}\" here; there are: {}", name.substr(0, kShownBytes),
                                            fmt::join(Closest(name.substr(0, kShownBytes), names, kListedMax), ", ")));
}

Result<std::shared_ptr<const ServedModel>> ModelCatalog::Find(const std::string& name) {
  const std::lock_guard lock(mutex_);
  Slot* const slot = SlotOf(name);
  if (slot == nullptr) return Error(Code::kNotFound, fmt::format("there is no model {} any more", name));
  slot->used_ns = clock_.NowNs();
  if (slot->model != nullptr) {
    return std::shared_ptr<const ServedModel>(std::make_shared<Hold>(slot->users, slot->model), slot->model.get());
  }
  if (slot->state == ModelState::kLoading) return slot->model;
  if (slot->state == ModelState::kStopped) {
    return Error(Code::kUnavailable, fmt::format("model {} was unloaded by whoever runs the server; ask another, or later", name));
  }
  if (clock_.NowNs() < slot->retry_ns) return Error(Code::kUnavailable, slot->error);
  slot->state = ModelState::kLoading;
  jobs_.push_back({.change = {.action = CatalogAction::kLoad, .name = slot->entry.name}});
  changed_.notify_all();
  return slot->model;
}

bool ModelCatalog::Await(const std::string& name, std::function<void(const Status& loaded)> told) {
  Status now;
  {
    const std::lock_guard lock(mutex_);
    const Slot* slot = SlotOf(name);
    if (slot != nullptr && slot->state == ModelState::kLoading) {
      if (waiters_.size() >= kWaitingMax) return false;
      waiters_.push_back({slot->entry.name, std::move(told)});
      return true;
    }
    // It came, or could not, in between.
    if (slot == nullptr || slot->model == nullptr) now = Error(Code::kUnavailable, slot == nullptr ? "it is gone" : slot->error);
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
  done(Error(Code::kUnavailable, "too many changes of models wait already; try again"));
}

std::vector<CatalogView> ModelCatalog::Views() const {
  const std::lock_guard lock(mutex_);
  std::vector<CatalogView> views;
  for (const auto& slot : slots_) {
    views.push_back({.name = slot->entry.name,
                     .aliases = slot->entry.aliases,
                     .state = slot->state,
                     .model = slot->model,
                     .path = slot->path,
                     .previous = slot->previous,
                     .pinned = slot->entry.pinned,
                     .error = slot->error,
                     .counters = slot->counters});
  }
  return views;
}

ServedModels ModelCatalog::loaded() const {
  const std::lock_guard lock(mutex_);
  ServedModels models;
  for (const auto& slot : slots_) {
    if (slot->model != nullptr) models.push_back(slot->model);
  }
  return models;
}

Status ModelCatalog::LoadAll() {
  std::mutex mutex;
  std::condition_variable came;
  for (size_t i = 0; i < slots_.size(); ++i) {
    std::string name;
    {
      const std::lock_guard lock(mutex_);
      if (slots_[i]->entry.on_demand) continue;
      name = slots_[i]->entry.name;
    }
    std::optional<Status> loaded;
    Change({.action = CatalogAction::kSwap, .name = name}, [&](const Status& status) {
      const std::lock_guard lock(mutex);
      loaded = status;
      came.notify_all();
    });
    std::unique_lock lock(mutex);
    came.wait(lock, [&] { return loaded.has_value(); });
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
      changed_.wait_for(lock, std::chrono::nanoseconds(options_.tick_ns), [&] { return stopping_ || !jobs_.empty(); });
      if (stopping_) return;
      if (!jobs_.empty()) {
        job = std::move(jobs_.front());
        jobs_.pop_front();
      }
    }
    DestroyRetired();
    if (job) {
      Status status;
      try {
        status = Do(job->change, /*for_request=*/job->done == nullptr);
      } catch (const std::bad_alloc&) {
        status = Error(Code::kExhausted, fmt::format("model {}: memory ran out", job->change.name));
        Fail(job->change.name, status.error());
      }
      if (job->done) job->done(status);
    }
    DestroyRetired();
    if (clock_.NowNs() - looked_ns < options_.tick_ns) continue;
    looked_ns = clock_.NowNs();
    Tick();
  }
}

void ModelCatalog::DestroyRetired() {
  std::vector<std::unique_ptr<HostedModel>> gone;
  const std::lock_guard lock(retired_->mutex);
  gone.swap(retired_->waiting);
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
  {
    const std::lock_guard lock(mutex_);
    if (slots_.size() >= kModelsServedMax) {
      return Error(Code::kExhausted, fmt::format("{} models are known, and no more may be", kModelsServedMax));
    }
    for (const std::string& alias : entry.aliases) {
      if (SlotOf(alias) != nullptr) return Error(Code::kInvalidArgument, fmt::format("aliases: another model is called {}", alias));
    }
  }
  Result<std::shared_ptr<const ServedModel>> model = Build(entry, entry.path);
  while (!model.ok() && model.error().code() == Code::kExhausted && MakeRoom(entry.name)) model = Build(entry, entry.path);
  if (!model.ok()) return model.error();
  {
    const std::lock_guard lock(mutex_);
    AddSlot(entry);
  }
  Use(entry.name, std::move(model).value(), entry.path);
  return Ok();
}

Status ModelCatalog::LoadSlot(const std::string& name, bool for_request) {
  CatalogEntry entry;
  std::string path;
  {
    const std::lock_guard lock(mutex_);
    Slot* slot = SlotOf(name);
    // Who administers may have unloaded it since a request asked.
    if (slot->model != nullptr || (for_request && slot->state != ModelState::kLoading)) return Ok();
    slot->state = ModelState::kLoading;
    entry = slot->entry;
    path = slot->path;
  }
  Result<std::shared_ptr<const ServedModel>> model = Build(entry, path);
  while (!model.ok() && model.error().code() == Code::kExhausted && MakeRoom(name)) model = Build(entry, path);
  if (!model.ok()) {
    Fail(name, model.error());
    return model.error();
  }
  Use(name, std::move(model).value(), path);
  return Ok();
}

Result<std::shared_ptr<const ServedModel>> ModelCatalog::Build(const CatalogEntry& entry, const std::string& path) {
  BANTAM_ASSIGN(std::unique_ptr<HostedModel> hosted, options_.load(entry, path));
  BANTAM_TRY(ProbeModel(*hosted->served(), entry.probes).With(fmt::format("model {}", entry.name)));
  return Retired::Hold(retired_, std::move(hosted));
}

void ModelCatalog::Use(const std::string& name, std::shared_ptr<const ServedModel> model, const std::string& path) {
  std::shared_ptr<const ServedModel> old;
  {
    const std::lock_guard lock(mutex_);
    Slot& slot = *SlotOf(name);
    old = std::exchange(slot.model, std::move(model));
    if (path != slot.path) slot.previous = std::exchange(slot.path, path);
    slot.state = ModelState::kLoaded;
    slot.error.clear();
    slot.retry_ns = INT64_MIN;
    slot.used_ns = clock_.NowNs();
    ++(old == nullptr ? slot.counters.loads : slot.counters.swaps);
  }
  Notice(name, fmt::format("{} is loaded", path));
  TellWaiters(name, Ok());
}

void ModelCatalog::Fail(const std::string& name, const Error& error) {
  {
    const std::lock_guard lock(mutex_);
    Slot* slot = SlotOf(name);
    if (slot == nullptr) return;
    slot->error = error.message();
    ++slot->counters.failures;
    if (slot->model == nullptr) {
      slot->state = ModelState::kUnloaded;
      slot->retry_ns = clock_.NowNs() + options_.retry_ns;
    }
  }
  Notice(name, fmt::format("could not be loaded: {}", error.message()));
  TellWaiters(name, error);
}

void ModelCatalog::TellWaiters(const std::string& name, const Status& status) {
  std::vector<Waiter> told;
  {
    const std::lock_guard lock(mutex_);
    const auto other = [&](const Waiter& waiter) { return waiter.name != name; };
    const auto first = std::stable_partition(waiters_.begin(), waiters_.end(), other);
    told.assign(std::move_iterator(first), std::move_iterator(waiters_.end()));
    waiters_.erase(first, waiters_.end());
  }
  for (const Waiter& waiter : told) waiter.told(status);
}

Status ModelCatalog::Unload(const std::string& name) {
  std::shared_ptr<const ServedModel> old;
  {
    const std::lock_guard lock(mutex_);
    Slot& slot = *SlotOf(name);
    old = std::exchange(slot.model, nullptr);
    slot.state = ModelState::kStopped;
    slot.error.clear();
    if (old != nullptr) ++slot.counters.unloads;
  }
  if (old != nullptr) Notice(name, "is unloaded");
  TellWaiters(name, Error(Code::kUnavailable, fmt::format("model {} was unloaded", name)));
  return Ok();
}

bool ModelCatalog::MakeRoom(const std::string& for_name) {
  std::string name;
  {
    std::shared_ptr<const ServedModel> old;
    const std::lock_guard lock(mutex_);
    Slot* least = nullptr;
    for (const auto& slot : slots_) {
      // Holds are got under the lock.
      const bool may = slot->model != nullptr && !slot->entry.pinned && slot->entry.name != for_name && *slot->users == 0;
      if (may && (least == nullptr || slot->used_ns < least->used_ns)) least = slot.get();
    }
    if (least == nullptr) return false;
    old = std::exchange(least->model, nullptr);
    least->state = ModelState::kUnloaded;
    ++least->counters.unloads;
    name = least->entry.name;
  }
  DestroyRetired();
  Notice(name, fmt::format("is unloaded to make room for {}", for_name));
  return true;
}

// ---- Another version ----

Status ModelCatalog::Swap(const std::string& name, const std::string& path, bool beside) {
  CatalogEntry entry;
  {
    const std::lock_guard lock(mutex_);
    const Slot& slot = *SlotOf(name);
    entry = slot.entry;
    beside = beside || slot.model == nullptr;
  }
  if (!beside) return SwapAfterDrain(name, path, entry);
  Result<std::shared_ptr<const ServedModel>> model = Build(entry, path);
  if (model.ok()) {
    Use(name, std::move(model).value(), path);
    return Ok();
  }
  bool alone = false;
  {
    const std::lock_guard lock(mutex_);
    alone = SlotOf(name)->model == nullptr;
  }
  if (model.error().code() == Code::kExhausted && !alone) return SwapAfterDrain(name, path, entry);
  Fail(name, model.error());
  return model.error();
}

Status ModelCatalog::Drain(const std::string& name) {
  std::weak_ptr<const ServedModel> old;
  {
    std::shared_ptr<const ServedModel> held;
    const std::lock_guard lock(mutex_);
    Slot& slot = *SlotOf(name);
    held = std::exchange(slot.model, nullptr);
    slot.state = ModelState::kLoading;
    old = held;
  }
  const int64_t end_ns = clock_.NowNs() + options_.drain_ns;
  while (!old.expired()) {
    std::unique_lock lock(mutex_);
    constexpr std::chrono::milliseconds kSlice(5);
    changed_.wait_for(lock, kSlice, [&] { return stopping_; });
    if (!stopping_ && clock_.NowNs() < end_ns) continue;
    Slot& slot = *SlotOf(name);
    slot.model = old.lock();
    if (slot.model == nullptr) break;
    slot.state = ModelState::kLoaded;
    return Error(Code::kUnavailable, fmt::format("model {}: requests of the old version did not end within {} s, and both do not fit", name,
                                                 options_.drain_ns / 1'000'000'000));
  }
  DestroyRetired();
  return Ok();
}

Status ModelCatalog::SwapAfterDrain(const std::string& name, const std::string& path, const CatalogEntry& entry) {
  std::string old_path;
  {
    const std::lock_guard lock(mutex_);
    old_path = SlotOf(name)->path;
  }
  if (Status drained = Drain(name); !drained.ok()) {
    Fail(name, drained.error());
    return drained;
  }
  Result<std::shared_ptr<const ServedModel>> model = Build(entry, path);
  if (model.ok()) {
    Use(name, std::move(model).value(), path);
    const std::lock_guard lock(mutex_);
    Slot& slot = *SlotOf(name);
    --slot.counters.loads;
    ++slot.counters.swaps;
    return Ok();
  }
  // What was there fitted, and does again.
  Result<std::shared_ptr<const ServedModel>> before = Build(entry, old_path);
  if (before.ok()) Use(name, std::move(before).value(), old_path);
  Fail(name, model.error());
  return model.error();
}

// ---- What time brings ----

void ModelCatalog::Tick() {
  std::vector<std::pair<std::string, std::string>> notices;
  std::vector<std::pair<std::string, std::string>> wanted;  // names, and paths of another precision
  const double share = options_.memory_share ? options_.memory_share() : 0;
  {
    std::vector<std::shared_ptr<const ServedModel>> gone;
    const std::lock_guard lock(mutex_);
    const int64_t now_ns = clock_.NowNs();
    for (const auto& slot : slots_) {
      if (slot->model == nullptr) continue;
      const bool failed = slot->model->engine != nullptr && slot->model->engine->failed();
      if (*slot->users > 0) slot->used_ns = now_ns;
      const bool idle = slot->entry.idle_s > 0 && !slot->entry.pinned && now_ns - slot->used_ns > slot->entry.idle_s * 1'000'000'000;
      if (failed || idle) {
        gone.push_back(std::exchange(slot->model, nullptr));
        slot->state = ModelState::kUnloaded;
        ++slot->counters.unloads;
        notices.emplace_back(slot->entry.name, failed ? "failed, and is loaded again for the next request"
                                                      : fmt::format("is unloaded: nobody asked for {} s", slot->entry.idle_s));
        continue;
      }
      if (slot->precision == nullptr) continue;
      const size_t before = slot->precision->settings().precision;
      const auto change = slot->precision->Update({.now_ns = now_ns, .memory_share = share, .running = 1});
      const size_t now = slot->precision->settings().precision;
      if (now == before) continue;
      notices.emplace_back(slot->entry.name, change.value_or(""));
      wanted.emplace_back(slot->entry.name, now == 0 ? slot->entry.path : slot->entry.precisions[now - 1]);
    }
  }
  DestroyRetired();
  for (const auto& [name, change] : notices) Notice(name, change);
  // Where memory is short there is none for two.
  for (const auto& [name, path] : wanted) (void)Swap(name, path, /*beside=*/share < options_.memory_share_max);
}

void ModelCatalog::Notice(std::string_view name, std::string_view change) const {
  if (options_.notice) options_.notice(name, change);
}

}  // namespace bantam
