// bantam inspect on random mutations of a real model file: always an exit code, never a signal, never long.
// BANTAM_MUTATIONS sets how many (default 200).
#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include "base/rng.h"
#include "testing/paths.h"

namespace bantam {
namespace {

constexpr size_t kHeaderBytes = 14'000;  // of the file: counts, lengths, types, names

std::string Mutate(const std::string& whole, Rng& rng) {
  std::string bytes = whole;
  const auto place = [&](size_t width) {
    const size_t range = rng.Next() % 8 != 0 ? kHeaderBytes : bytes.size();
    return rng.Next() % (std::min(range, bytes.size()) - width);
  };
  for (uint64_t i = 0; i < 1 + rng.Next() % 4; ++i) {
    switch (rng.Next() % 5) {
      case 0:
        bytes[place(1)] = static_cast<char>(rng.Next());
        break;
      case 1: {  // a count, length or offset
        const uint64_t values[] = {0, 1, 0x7fffffff, 0xffffffff, uint64_t{1} << 31, uint64_t{1} << 62, UINT64_MAX, rng.Next()};
        const size_t width = rng.Next() % 2 == 0 ? 4 : 8;
        const size_t at = place(8);
        bytes.replace(at, width, reinterpret_cast<const char*>(&values[rng.Next() % 8]), width);
        break;
      }
      case 2:
        bytes.resize(1 + rng.Next() % bytes.size());
        if (bytes.size() < 64) return bytes;
        break;
      case 3:
        bytes.erase(place(64), 1 + rng.Next() % 32);
        break;
      default: {
        const size_t from = place(64);
        bytes.insert(place(64), bytes.substr(from, 1 + rng.Next() % 64));
      }
    }
  }
  return bytes;
}

TEST(Mutations, InspectAnswersEveryOne) {
  const char* wanted = std::getenv("BANTAM_MUTATIONS");
  const int count = wanted == nullptr ? 200 : std::stoi(wanted);
  std::ifstream file(testing::DataPath("models/stories260K.gguf"), std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  testing::TemporaryFolder folder;
  const std::string path = folder.Path("m.gguf");
  const std::string out = folder.Path("out");
  Rng rng(20);
  int refused = 0;
  double slowest_s = 0;
  for (int i = 0; i < count; ++i) {
    std::ofstream(path, std::ios::binary) << Mutate(whole, rng);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
    std::string program = BANTAM_PROGRAM;
    std::string verb = "inspect";
    std::string argument = path;
    char* argv[] = {program.data(), verb.data(), argument.data(), nullptr};
    pid_t child = 0;
    const auto begin = std::chrono::steady_clock::now();
    ASSERT_EQ(::posix_spawn(&child, BANTAM_PROGRAM, &actions, nullptr, argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    slowest_s = std::max(slowest_s, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    ASSERT_TRUE(WIFEXITED(status)) << "mutation " << i << ": signal " << WTERMSIG(status);
    ASSERT_TRUE(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3 || WEXITSTATUS(status) == 4) << "mutation " << i << ": " << status;
    refused += WEXITSTATUS(status) != 0 ? 1 : 0;
  }
  // Informative only: the machine may be busy.
  std::printf("%d of %d refused, the slowest took %.3f s\n", refused, count, slowest_s);
  EXPECT_GT(refused, count / 4) << "most of these files are damaged";
}

}  // namespace
}  // namespace bantam
