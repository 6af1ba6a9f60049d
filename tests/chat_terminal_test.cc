// The chat as a person meets it: the program on a pseudo-terminal, typed at and read from.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <string>
#include <vector>

#include "testing/paths.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kTemplate[] =
    "{% for message in messages %}{{ '<|user|>\n' + message['content'] + eos_token }}{% endfor %}{{ '<|assistant|>' }}";

class ChatTerminal : public ::testing::Test {
 protected:
  void SetUp() override {
    // A container may have none.
    int ours = -1;
    int theirs = -1;
    if (::openpty(&ours, &theirs, nullptr, nullptr, nullptr) != 0) GTEST_SKIP() << "no pseudo-terminal can be had here";
    ::close(ours);
    ::close(theirs);
  }
  void Start(std::vector<std::string> options) {
    auto builder = testing::BuildTinyModel({.context = 20000});
    builder.Text("tokenizer.chat_template", kTemplate).Write(folder_.Path("m.gguf"));
    std::vector<std::string> words = {BANTAM_PROGRAM, "run", folder_.Path("m.gguf")};
    words.insert(words.end(), options.begin(), options.end());
    pid_ = ::forkpty(&terminal_, nullptr, nullptr, nullptr);
    ASSERT_GE(pid_, 0);
    if (pid_ == 0) {
      std::vector<char*> arguments;
      for (std::string& word : words) arguments.push_back(word.data());
      arguments.push_back(nullptr);
      ::execv(BANTAM_PROGRAM, arguments.data());
      ::_exit(127);
    }
  }
  void TearDown() override {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    if (terminal_ >= 0) ::close(terminal_);
  }
  void Type(const std::string& keys) { ASSERT_EQ(::write(terminal_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size())); }
  // Reads until the screen shows `text`; returns all that came since the last call.
  std::string Await(const std::string& text) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (pending_.find(text) == std::string::npos && std::chrono::steady_clock::now() < end) {
      if (!ReadSome()) break;
    }
    const size_t at = pending_.find(text);
    EXPECT_NE(at, std::string::npos) << "waited for: " << text << "\nscreen: " << pending_;
    const size_t size = at == std::string::npos ? pending_.size() : at + text.size();
    std::string seen = pending_.substr(0, size);
    pending_.erase(0, size);
    return seen;
  }
  // The exit code, and what was printed until the end.
  int AwaitExit(std::string* seen) {
    while (ReadSome()) {
    }
    *seen = pending_;
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  bool ReadSome() {
    pollfd waiting = {terminal_, POLLIN, 0};
    if (::poll(&waiting, 1, /*timeout_ms=*/60000) <= 0) return false;
    char chunk[4096];
    const ssize_t got = ::read(terminal_, chunk, sizeof(chunk));
    if (got <= 0) return false;  // EIO: the program has ended
    pending_.append(chunk, static_cast<size_t>(got));
    return true;
  }

  testing::TemporaryFolder folder_;
  pid_t pid_ = 0;
  int terminal_ = -1;
  std::string pending_;
};

TEST_F(ChatTerminal, CommandsHistoryAndTheEnd) {
  Start({"-n", "5"});
  EXPECT_THAT(Await("\n> "), HasSubstr("/help lists the commands"));
  Type("/help\n");
  EXPECT_THAT(Await("\n> "), HasSubstr("/reset"));
  Type("/dance\n");
  EXPECT_THAT(Await("\n> "), HasSubstr("/dance is no command"));
  Type("abc\n");
  Await("\n> ");
  Type("/stats\n");
  EXPECT_THAT(Await("\n> "), HasSubstr("decode 5 tokens"));
  Type("\n");
  Await("> ");
  Type("/reset\n");
  EXPECT_THAT(Await("\n> "), HasSubstr("forgotten"));
  Type("/stats\n");
  EXPECT_THAT(Await("\n> "), HasSubstr("context 0 of"));
  Type("\x04");
  std::string rest;
  EXPECT_EQ(AwaitExit(&rest), 0);
  EXPECT_THAT(rest, HasSubstr("tokens/s"));
}

TEST_F(ChatTerminal, CtrlCStopsTheAnswerAndNotTheProgram) {
  Start({"--context", "200000"});
  Await("\n> ");
  Type("\x03");
  EXPECT_THAT(Await("\n> "), HasSubstr("[Ctrl-D leaves]"));
  // A random model babbles on for minutes, slower and slower.
  Type("abc\n");
  Await("abc\r\n");
  Type("\x03");
  Await("\n> ");
  Type("/stats\n");
  const std::string stats = Await("\n> ");
  const size_t decoded = stats.find("decode ");
  ASSERT_NE(decoded, std::string::npos) << stats;
  int tokens = -1;
  std::from_chars(stats.data() + decoded + 7, stats.data() + stats.size(), tokens);
  EXPECT_GE(tokens, 0);
  EXPECT_LT(tokens, 100000) << "it would have gone on to the end of the context";
  Type("\x04");
  std::string rest;
  EXPECT_EQ(AwaitExit(&rest), 0);
}

TEST_F(ChatTerminal, CtrlCEndsASingleAnswerWithExitCode130) {
  Start({"-p", "abc", "--context", "20000"});
  Await("loading");
  Type("\x03");
  std::string rest;
  EXPECT_EQ(AwaitExit(&rest), 130);
}

TEST_F(ChatTerminal, WhenTheContextFillsTheOldestExchangesGo) {
  Start({"--context", "160", "-n", "10", "--system", "be kind"});
  Await("\n> ");
  std::string seen;
  for (int i = 0; i < 6; ++i) {
    Type("aaaaaaaaaabbbbbbbbbb\n");
    seen += Await("\n> ");
  }
  EXPECT_THAT(seen, HasSubstr("the oldest"));
  Type(std::string(300, 'a') + "\n");
  EXPECT_THAT(Await("\n> "), HasSubstr("shorten it or raise --context"));
  Type("a\n");
  EXPECT_THAT(Await("\n> "), Not(HasSubstr("bantam:"))) << "an error leaves the chat usable";
}

}  // namespace
}  // namespace bantam
