#include "serve/log_lines.h"

#include <fmt/format.h>

#include <chrono>
#include <cstring>
#include <utility>

#include "base/threads.h"

namespace bantam {

Result<std::unique_ptr<LogLines>> LogLines::Start(Write write, size_t bytes_max) {
  auto shared = std::make_shared<Shared>();
  shared->write = std::move(write);
  shared->bytes_max = bytes_max;
  std::unique_ptr<LogLines> lines(new LogLines(shared));
  auto handed = std::make_unique<std::shared_ptr<Shared>>(shared);
  const int error_number = CreateThread(&lines->thread_, Main, handed.get());
  if (error_number != 0) {
    shared->ended = true;
    return Error(Code::kExhausted, fmt::format("the log's thread: the system refused to start it: {}", std::strerror(error_number)));
  }
  (void)handed.release();  // the thread's
  ::pthread_detach(lines->thread_);
  return lines;
}

void* LogLines::Main(void* shared) {
  const std::unique_ptr<std::shared_ptr<Shared>> handed(static_cast<std::shared_ptr<Shared>*>(shared));
  Shared& own = **handed;
  std::unique_lock lock(own.mutex);
  while (true) {
    own.changed.wait(lock, [&] { return own.stopping || !own.waiting.empty(); });
    if (own.waiting.empty()) break;
    const std::string line = std::move(own.waiting.front());
    own.waiting.pop_front();
    own.bytes -= line.size();
    lock.unlock();
    own.write(line);
    lock.lock();
  }
  own.ended = true;
  own.changed.notify_all();
  return nullptr;
}

LogLines::~LogLines() {
  std::unique_lock lock(shared_->mutex);
  shared_->stopping = true;
  shared_->changed.notify_all();
  (void)shared_->changed.wait_for(lock, std::chrono::seconds(1), [&] { return shared_->ended; });
}

void LogLines::Add(std::string line) {
  const std::lock_guard lock(shared_->mutex);
  if (shared_->bytes + line.size() > shared_->bytes_max) {
    ++shared_->dropped;
    return;
  }
  shared_->bytes += line.size();
  shared_->waiting.push_back(std::move(line));
  shared_->changed.notify_all();
}

uint64_t LogLines::dropped() const {
  const std::lock_guard lock(shared_->mutex);
  return shared_->dropped;
}

}  // namespace bantam
