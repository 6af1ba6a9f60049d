#include "cli/terminal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "base/clock.h"
#include "text/utf8.h"

namespace bantam {
namespace {

std::atomic<bool> interrupted = false;
std::atomic<bool> interrupts_deferred = false;
std::atomic<bool> terminated = false;
std::atomic<int> interrupt_count = 0;
std::atomic<bool> hung_up = false;
bool progress_shown = false;
// A byte per Ctrl-C: who waits for input waits for this as well. A flag alone could be set just before the wait begins, by
// any thread, and never be seen.
int interrupt_pipe[2] = {-1, -1};

// Waits until stdin can be read (true) or Ctrl-C is pressed (false).
bool AwaitInput() {
  pollfd waiting[2] = {{STDIN_FILENO, POLLIN, 0}, {interrupt_pipe[0], POLLIN, 0}};
  while (::poll(waiting, 2, /*timeout_ms=*/-1) < 0 && errno == EINTR) {
  }
  return waiting[1].revents == 0;
}

// read() that never waits (EAGAIN): Ctrl-C throws away what a terminal had ready, even between poll() and read(). The flag belongs to all
// who share the file, so it is set only meanwhile.
ssize_t ReadReady(void* data, size_t size) {
  const int flags = ::fcntl(STDIN_FILENO, F_GETFL);
  if (flags >= 0) ::fcntl(STDIN_FILENO, F_SETFL, flags | O_NONBLOCK);
  const ssize_t got = ::read(STDIN_FILENO, data, size);
  const int error = errno;
  if (flags >= 0) ::fcntl(STDIN_FILENO, F_SETFL, flags);
  errno = error;
  return got;
}

void OnInterrupt(int signal_number) {
  if (!interrupts_deferred.load(std::memory_order_relaxed)) ::_exit(130);
  if (signal_number != SIGINT) terminated.store(true, std::memory_order_relaxed);
  interrupted.store(true, std::memory_order_relaxed);
  interrupt_count.fetch_add(1, std::memory_order_relaxed);
  (void)!::write(interrupt_pipe[1], "", 1);
}

void OnHangup(int) {
  hung_up.store(true, std::memory_order_relaxed);
  (void)!::write(interrupt_pipe[1], "", 1);
}

void OnBusError(int) {
  static constexpr char kMessage[] =
      "bantam: the model file became shorter while it was being read; copy it again and leave it alone while it is in use\n";
  (void)!::write(STDERR_FILENO, kMessage, sizeof(kMessage) - 1);
  ::_exit(3);
}

void Handle(int signal_number, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;  // a Ctrl-C must not make a write of the answer fail
  sigemptyset(&action.sa_mask);
  (void)::sigaction(signal_number, &action, nullptr);
}

}  // namespace

void OpenStandardStreams() {
  constexpr const char* kStandIns[] = {"/dev/null", "/dev/full", "/dev/null"};
  for (int fd = 0; fd < 3; ++fd) {
    // A library that made itself an eventfd before main began (gRPC's does) has got the number of a stream that was closed.
    struct stat info {};
    const bool taken = ::fstat(fd, &info) == 0 && (info.st_mode & S_IFMT) == 0;
    if (!taken && (::fcntl(fd, F_GETFD) >= 0 || errno != EBADF)) continue;
    // The lowest free number is taken, which is this one, unless it is taken.
    const int stand_in = ::open(kStandIns[fd], fd == STDIN_FILENO ? O_RDONLY : O_WRONLY);
    if (taken && stand_in >= 0) {
      (void)::dup2(stand_in, fd);
      (void)::close(stand_in);
    }
  }
}

void InstallSignalHandlers() {
  if (::pipe2(interrupt_pipe, O_CLOEXEC | O_NONBLOCK) != 0) interrupt_pipe[0] = interrupt_pipe[1] = -1;
  for (const int signal_number : {SIGINT, SIGTERM}) Handle(signal_number, OnInterrupt);
  // Started by nohup, it goes on when its terminal goes.
  struct sigaction hangup {};
  if (::sigaction(SIGHUP, nullptr, &hangup) != 0 || hangup.sa_handler != SIG_IGN) Handle(SIGHUP, OnInterrupt);
  Handle(SIGBUS, OnBusError);
  Handle(SIGPIPE, SIG_IGN);
  Handle(SIGXFSZ, SIG_IGN);  // a limit on the size of files is a write error
}

void DeferInterrupts() { interrupts_deferred.store(true, std::memory_order_relaxed); }
bool Interrupted() { return interrupted.load(std::memory_order_relaxed) || Terminated(); }
bool Terminated() { return terminated.load(std::memory_order_relaxed); }
void ClearInterrupt() {
  char bytes[64];
  while (::read(interrupt_pipe[0], bytes, sizeof(bytes)) > 0) {
  }
  interrupted.store(false, std::memory_order_relaxed);
}

int InterruptCount() { return interrupt_count.load(std::memory_order_relaxed); }
void DeferHangups() { Handle(SIGHUP, OnHangup); }
bool TakeHangup() { return hung_up.exchange(false, std::memory_order_relaxed); }
void AwaitInterrupt(int timeout_ms) {
  pollfd waiting = {interrupt_pipe[0], POLLIN, 0};
  while (!Interrupted() && !hung_up.load(std::memory_order_relaxed)) {
    if (::poll(&waiting, 1, timeout_ms) == 0) break;
  }
  char bytes[64];
  while (::read(interrupt_pipe[0], bytes, sizeof(bytes)) > 0) {
  }
}

bool StdinIsTerminal() { return ::isatty(STDIN_FILENO) != 0; }
bool StdoutIsTerminal() { return ::isatty(STDOUT_FILENO) != 0; }

bool Print(std::string_view text) {
  EndProgressLine();
  return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
}

Error OutputLost() { return Error(Code::kUnavailable, "standard output: cannot write to it; its reader is gone or the disk is full"); }

int PrintResult(std::string_view text) {
  errno = 0;
  if (Print(text)) return 0;
  // A reader that has seen enough (head) is no news to anybody.
  return errno == EPIPE ? ExitStatus(Code::kUnavailable) : Fail(OutputLost());
}

void Note(std::string_view text) {
  EndProgressLine();
  std::fwrite(text.data(), 1, text.size(), stderr);
}

int Fail(const Error& error) {
  // One line, whatever names a file brought into the message; of a very long one the middle goes.
  constexpr size_t kKept = 400;
  std::string message = Printable(error.message());
  std::replace(message.begin(), message.end(), '\n', ' ');
  if (message.size() > 3 * kKept) message.replace(kKept, message.size() - 2 * kKept, " ... ");
  Note(fmt::format("bantam: {}\n", ReplaceInvalidUtf8(message)));
  return ExitStatus(error.code());
}

std::string Printable(std::string_view text) {
  std::string clean;
  for (const char c : ReplaceInvalidUtf8(text)) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7f) continue;
    clean += c;
  }
  // C1 controls are two bytes in UTF-8: C2 80 to C2 9F.
  std::string printable;
  for (size_t i = 0; i < clean.size(); ++i) {
    const bool c1 = clean[i] == '\xc2' && i + 1 < clean.size() && static_cast<unsigned char>(clean[i + 1]) < 0xa0;
    if (c1) {
      ++i;
    } else {
      printable += clean[i];
    }
  }
  return printable;
}

Progress MakeProgressLine() {
  const bool shown = ::isatty(STDERR_FILENO) != 0;
  constexpr int64_t kRedrawNs = 250'000'000;
  return [shown, clock = MonotonicClock(), last = -1, drawn_ns = int64_t{0}](std::string_view step, uint64_t done, uint64_t total) mutable {
    if (!shown) return !Interrupted();
    const int percent = total == 0 ? 0 : static_cast<int>(static_cast<double>(done) * 100 / static_cast<double>(total));
    const int64_t now_ns = clock.NowNs();
    // What begins is shown at once; of what has no percentage, or takes long for one, the text goes on.
    if (percent != last || done == 0 || now_ns - drawn_ns >= kRedrawNs) {
      const std::string share = total == 0 ? "" : fmt::format(" {:3} %", percent);
      std::fputs(fmt::format("\r{}{}\x1b[K", Printable(step), share).c_str(), stderr);
      progress_shown = true;
      last = percent;
      drawn_ns = now_ns;
    }
    return !Interrupted();
  };
}

void EndProgressLine() {
  if (!progress_shown) return;
  std::fputs("\r\x1b[K", stderr);
  progress_shown = false;
}

InputLine ReadLine(std::string_view prompt) {
  static std::string buffered;  // read past the end of the last line
  Print(prompt);
  while (true) {
    const size_t end = buffered.find('\n');
    if (end != std::string::npos || buffered.size() > kLineMax) {
      const size_t size = std::min({end, buffered.size(), kLineMax});
      InputLine line = {InputLine::Kind::kLine, buffered.substr(0, size)};
      buffered.erase(0, end == std::string::npos ? buffered.size() : end + 1);
      return line;
    }
    if (!AwaitInput()) {
      buffered.clear();
      return {InputLine::Kind::kInterrupted, {}};
    }
    char chunk[4096];
    const ssize_t got = ReadReady(chunk, sizeof(chunk));
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got <= 0) {
      if (buffered.empty()) return {InputLine::Kind::kEnd, {}};
      InputLine line = {InputLine::Kind::kLine, std::move(buffered)};
      buffered.clear();
      return line;
    }
    buffered.append(chunk, static_cast<size_t>(got));
  }
}

Result<std::string> ReadStdin(size_t size_max) {
  std::string text;
  char chunk[1 << 16];
  while (true) {
    if (!AwaitInput()) return Error(Code::kCancelled, "standard input: reading was interrupted");
    const ssize_t got = ReadReady(chunk, sizeof(chunk));
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) return Error(Code::kUnavailable, fmt::format("standard input: cannot read it: {}", std::strerror(errno)));
    if (got == 0) return text;
    text.append(chunk, static_cast<size_t>(got));
    if (text.size() > size_max) {
      return Error(Code::kExhausted, fmt::format("standard input: longer than the limit of {} bytes; split it", size_max));
    }
  }
}

}  // namespace bantam
