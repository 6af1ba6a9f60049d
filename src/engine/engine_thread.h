// EngineThread: the thread that owns an engine, and what others hold of it: bounded messages there, answers back.
#pragma once

#include <pthread.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "engine/admission.h"
#include "engine/engine.h"
#include "engine/request.h"

namespace bantam {

// What one request is answered. Any thread may wait for it; one at a time.
class AnswerStream {
 public:
  // The next event: of what came since the last one, all of one choice in one. Nothing when none comes within `timeout_ns` (negative: for
  // ever), and after the last: ended() tells.
  std::optional<Event> Next(int64_t timeout_ns = -1);
  // All choices are finished, and their events taken.
  bool ended() const;

 private:
  friend class EngineThread;
  AnswerStream(size_t choices, std::function<void()> came) : told_(std::move(came)), finished_(choices) {}
  void Push(Event event);
  bool AllFinished() const;  // under the lock

  mutable std::mutex mutex_;
  std::condition_variable came_;
  const std::function<void()> told_;  // or none
  size_t last_ = 0;                   // choice that was told of
  std::map<size_t, Event> pending_;   // by choice; as large as an answer, at most
  std::vector<bool> finished_;        // by choice
  bool cancelled_ = false;            // the engine was told, or will be
};

class EngineThread {
 public:
  // As Engine::Make; Exhausted also when the system gives no thread.
  static Result<std::unique_ptr<EngineThread>> Start(const Engine::Setup& setup, const Resources& resources);
  // Cancels what runs.
  ~EngineThread();
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  struct Ticket {
    RequestId id = 0;
    std::shared_ptr<AnswerStream> answer;
  };
  // From any thread, without waiting for a step. Errors are those of Engine::Submit, and Internal when the engine failed.
  // `came`, if there is one, is told by the engine's thread that Next would not wait, each time that nothing was there before: for callers
  // that have no thread for each answer. It must not wait, and may come before this returns.
  Result<Ticket> Submit(Request request, std::function<void()> came = nullptr);
  // When the first token of this one would come, from now on (admission.h).
  int64_t PredictFirstToken(const Request& request) const;
  // Why nothing works any more; nothing while it does.
  std::optional<Error> failed() const;
  // The answer ends as cancelled, within a step. Of what has ended already nothing happens.
  void Cancel(RequestId id);

  // From any thread; as Engine's, within a step. What was submitted before has what was there before.
  Status AddAdapter(const std::string& name, std::shared_ptr<const Adapter> adapter);
  Status RemoveAdapter(const std::string& name);
  std::vector<std::string> adapters() const;

  EngineCounters counters() const;
  EngineLoad load() const;

 private:
  EngineThread(const Clock& clock, MemoryBudget& budget) : clock_(clock), budget_(budget) {}
  static void* Main(void* self);
  void Work();
  // What came since the last step, under the lock.
  void TakeMessages();
  void Deliver(Event event);
  // Nothing works any more: every answer ends with this.
  void FailAll(const Error& error);

  struct AdapterChange {
    std::string name;
    std::shared_ptr<const Adapter> adapter;  // none: it is to go
    std::optional<Status> done;              // under the lock
  };
  struct Message {
    RequestId id = 0;
    std::optional<Request> request;  // none: cancel, or a change
    int64_t arrival_ns = 0;
    MemoryBudget::Reservation held = {};
    std::shared_ptr<AdapterChange> change = nullptr;
  };
  // Waits until the thread has made it.
  Status Change(std::shared_ptr<AdapterChange> change);
  void Make(AdapterChange* change);

  const Clock& clock_;
  MemoryBudget& budget_;
  std::unique_ptr<Engine> engine_;         // the thread's own
  std::map<RequestId, RequestId> ours_;    // by the engine's number
  std::map<RequestId, RequestId> theirs_;  // the other way

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Message> messages_;  // as many as admission lets wait, and for each one cancellation
  std::map<RequestId, std::shared_ptr<AnswerStream>> answers_;
  std::vector<std::string> adapters_;  // names, of those that were added
  EngineLoad load_;                    // behind the last step, and what was admitted since
  EngineCounters counters_;
  uint64_t refusals_ = 0;
  std::optional<Error> failed_;
  RequestId next_id_ = 1;
  bool stopping_ = false;
  std::optional<pthread_t> thread_;
};

}  // namespace bantam
