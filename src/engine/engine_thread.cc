#include "engine/engine_thread.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <iterator>
#include <utility>

#include "base/check.h"

namespace bantam {
namespace {}  // namespace

std::optional<Event> AnswerStream::Next(int64_t timeout_ns) {
  std::unique_lock lock(mutex_);
  const auto something = [&] { return !pending_.empty() || AllFinished(); };
  constexpr int64_t kForEverNs = int64_t{365} * 24 * 3600 * 1'000'000'000;  // longer ones overflow clocks
  if (timeout_ns < 0 || timeout_ns > kForEverNs) {
    came_.wait(lock, something);
  } else {
    came_.wait_for(lock, std::chrono::nanoseconds(timeout_ns), something);
  }
  if (pending_.empty()) return std::nullopt;
  // In turn: a choice that writes much hides no other.
  auto next = pending_.upper_bound(last_);
  if (next == pending_.end()) next = pending_.begin();
  last_ = next->first;
  Event event = std::move(next->second);
  pending_.erase(next);
  return event;
}

bool AnswerStream::AllFinished() const { return std::find(finished_.begin(), finished_.end(), false) == finished_.end(); }

bool AnswerStream::ended() const {
  const std::lock_guard lock(mutex_);
  return pending_.empty() && AllFinished();
}

void AnswerStream::Push(Event event) {
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    first = pending_.empty();
    if (event.finish) finished_[event.choice] = true;
    const auto [at, added] = pending_.try_emplace(event.choice);
    Event& pending = at->second;
    if (added) {
      pending = std::move(event);
    } else {
      pending.text += event.text;
      pending.token_count += event.token_count;
      pending.prompt.insert(pending.prompt.end(), std::move_iterator(event.prompt.begin()), std::move_iterator(event.prompt.end()));
      pending.tokens.insert(pending.tokens.end(), std::move_iterator(event.tokens.begin()), std::move_iterator(event.tokens.end()));
      pending.finish = std::move(event.finish);
    }
  }
  came_.notify_all();
  if (first && told_) told_();
}

Result<std::unique_ptr<EngineThread>> EngineThread::Start(const Engine::Setup& setup, const Resources& resources) {
  std::unique_ptr<EngineThread> thread(new EngineThread(setup.clock, resources.budget));
  EngineThread* self = thread.get();
  BANTAM_ASSIGN(thread->engine_, Engine::Make(setup, resources, [self](Event event) { self->Deliver(std::move(event)); }));
  thread->load_ = thread->engine_->load();
  if (!setup.options.prefix_file.empty()) BANTAM_TRY(thread->engine_->LoadPrefixes(*MakeDisk(), setup.options.prefix_file));
  pthread_t handle;
  const int error_number = CreateThread(&handle, Main, self);
  if (error_number != 0) {
    return Error(Code::kExhausted, fmt::format("the engine's thread: the system refused to start it: {}", std::strerror(error_number)));
  }
  thread->thread_ = handle;
  return thread;
}

EngineThread::~EngineThread() {
  if (!thread_) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  ::pthread_join(*thread_, nullptr);
  FailAll(Error(Code::kCancelled, "the engine was closed"));
}

void* EngineThread::Main(void* self) {
  auto* thread = static_cast<EngineThread*>(self);
  // The outermost frame: what the standard library throws when memory is gone ends the engine and not the process.
  try {
    thread->Work();
  } catch (const std::exception& exception) {
    thread->FailAll(Error(Code::kExhausted, fmt::format("the engine ended: {}", exception.what())));
  }
  return nullptr;
}

Result<EngineThread::Ticket> EngineThread::Submit(Request request, std::function<void()> came) {
  BANTAM_TRY(engine_->Check(request));  // looks only at what never changes
  const uint64_t bytes = engine_->BytesOf(request);
  Ticket ticket;
  {
    const std::lock_guard lock(mutex_);
    if (failed_) return Error(*failed_);
    const bool known = request.adapter.empty() || std::find(adapters_.begin(), adapters_.end(), request.adapter) != adapters_.end();
    if (!known) return NoSuchAdapter(request.adapter, adapters_);
    const Status admitted = Admit(engine_->options().admission, engine_->options().policy, load_, request, bytes, /*cached=*/0);
    Result<MemoryBudget::Reservation> held =
        admitted.ok() ? budget_.Reserve(bytes, "a request") : Result<MemoryBudget::Reservation>(admitted.error());
    if (!held.ok()) {
      ++refusals_;
      // What others hold comes back.
      const bool later = held.error().code() == Code::kExhausted && load_.requests > 0;
      return later ? Error(Code::kUnavailable, held.error().message()) : Error(held.error());
    }
    load_.Add(request, bytes);
    ticket.id = next_id_++;
    ticket.answer = std::shared_ptr<AnswerStream>(new AnswerStream(request.choices, std::move(came)));
    answers_[ticket.id] = ticket.answer;
    messages_.push_back({.id = ticket.id, .request = std::move(request), .arrival_ns = clock_.NowNs(), .held = std::move(held).value()});
  }
  changed_.notify_all();
  return ticket;
}

void EngineThread::Cancel(RequestId id) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = answers_.find(id);
    if (found == answers_.end() || std::exchange(found->second->cancelled_, true)) return;
    messages_.push_back({.id = id, .request = std::nullopt});
  }
  changed_.notify_all();
}

Status EngineThread::AddAdapter(const std::string& name, std::shared_ptr<const Adapter> adapter) {
  CHECK(adapter != nullptr);
  return Change(std::make_shared<AdapterChange>(AdapterChange{name, std::move(adapter), std::nullopt}));
}

Status EngineThread::RemoveAdapter(const std::string& name) {
  return Change(std::make_shared<AdapterChange>(AdapterChange{name, nullptr, std::nullopt}));
}

Status EngineThread::Change(std::shared_ptr<AdapterChange> change) {
  std::unique_lock lock(mutex_);
  if (failed_) return Error(*failed_);
  messages_.push_back({.request = std::nullopt, .change = change});
  changed_.notify_all();
  changed_.wait(lock, [&] { return change->done || failed_; });
  return change->done ? *change->done : Status(*failed_);
}

void EngineThread::Make(AdapterChange* change) {
  Status done =
      change->adapter == nullptr ? engine_->RemoveAdapter(change->name) : engine_->AddAdapter(change->name, std::move(change->adapter));
  const std::lock_guard lock(mutex_);
  adapters_.clear();
  for (const auto& [name, adapter] : engine_->adapters()) adapters_.push_back(name);
  change->done = std::move(done);
  changed_.notify_all();
}

std::vector<std::string> EngineThread::adapters() const {
  const std::lock_guard lock(mutex_);
  return adapters_;
}

EngineCounters EngineThread::counters() const {
  const std::lock_guard lock(mutex_);
  EngineCounters counters = counters_;
  counters.refusals += refusals_;
  return counters;
}

int64_t EngineThread::PredictFirstToken(const Request& request) const {
  const std::lock_guard lock(mutex_);
  return bantam::PredictFirstToken(engine_->options().policy, load_, request, /*cached=*/0);
}

std::optional<Error> EngineThread::failed() const {
  const std::lock_guard lock(mutex_);
  return failed_;
}

EngineLoad EngineThread::load() const {
  const std::lock_guard lock(mutex_);
  return load_;
}

void EngineThread::TakeMessages() {
  std::deque<Message> taken;
  {
    std::unique_lock lock(mutex_);
    const auto something = [&] { return stopping_ || !messages_.empty() || !engine_->idle(); };
    if (engine_->watched()) {
      changed_.wait_for(lock, std::chrono::nanoseconds(Engine::kLookNs), something);
    } else {
      changed_.wait(lock, something);
    }
    taken.swap(messages_);
  }
  for (Message& message : taken) {
    if (message.change != nullptr) {
      Make(message.change.get());
      continue;
    }
    if (!message.request) {
      const auto theirs = theirs_.find(message.id);
      if (theirs != theirs_.end()) engine_->Cancel(theirs->second);
      continue;
    }
    const size_t choices = message.request->choices;
    Result<RequestId> id = engine_->Accept(std::move(*message.request), message.arrival_ns, std::move(message.held));
    if (id.ok()) {
      ours_[*id] = message.id;
      theirs_[message.id] = *id;
      continue;
    }
    std::shared_ptr<AnswerStream> answer;
    {
      const std::lock_guard lock(mutex_);
      answer = std::move(answers_.extract(message.id).mapped());
    }
    for (size_t choice = 0; choice < choices; ++choice) {
      Finish finish = {.reason = StopReason::kError, .error = id.error()};
      answer->Push({.request = message.id, .choice = choice, .finish = std::move(finish)});
    }
  }
}

void EngineThread::Deliver(Event event) {
  event.request = ours_.at(event.request);
  std::shared_ptr<AnswerStream> answer;
  {
    const std::lock_guard lock(mutex_);
    answer = answers_.at(event.request);
  }
  const RequestId id = event.request;
  answer->Push(std::move(event));
  bool ended = false;
  {
    const std::lock_guard lock(answer->mutex_);
    ended = answer->AllFinished();
  }
  if (!ended) return;
  ours_.erase(theirs_.at(id));
  theirs_.erase(id);
  const std::lock_guard lock(mutex_);
  answers_.erase(id);
}

void EngineThread::FailAll(const Error& error) {
  std::map<RequestId, std::shared_ptr<AnswerStream>> answers;
  {
    const std::lock_guard lock(mutex_);
    answers.swap(answers_);
    failed_ = error;
    messages_.clear();
  }
  changed_.notify_all();
  const StopReason reason = error.code() == Code::kCancelled ? StopReason::kCancelled : StopReason::kError;
  for (const auto& [id, answer] : answers) {
    for (size_t choice = 0; choice < answer->finished_.size(); ++choice) {
      if (answer->finished_[choice]) continue;  // written by this thread, or before it began
      answer->Push({.request = id, .choice = choice, .finish = Finish{.reason = reason, .error = error}});
    }
  }
}

void EngineThread::Work() {
  while (true) {
    TakeMessages();
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) break;
    }
    engine_->Look();
    const Result<bool> stepped = engine_->Step();
    if (!stepped.ok()) return FailAll(stepped.error());
    EngineLoad load = engine_->load();
    const std::lock_guard lock(mutex_);
    for (const Message& message : messages_) {
      if (message.request) load.Add(*message.request, engine_->BytesOf(*message.request));
    }
    load_ = std::move(load);
    counters_ = engine_->counters();
  }
  engine_->CancelAll();
  const EngineOptions& options = engine_->options();
  if (options.prefix_file.empty()) return;
  const Status saved = engine_->SavePrefixes(*MakeDisk(), options.prefix_file);
  if (!saved.ok() && options.notice) options.notice(fmt::format("prefixes are not kept: {}", saved.error().message()));
}

}  // namespace bantam
