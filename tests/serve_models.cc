// serve_models FOLDER COMMAND...: serves a folder on a free port as the Hub does while a command runs, which finds the server's address in
// URL. Ends with the command's code. /OWNER/REPO of the Hub is FOLDER/OWNER/REPO; what is asked for below /slow/ comes by half and then
// stalls.
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "testing/http_server.h"

namespace {

using bantam::testing::Answer;
using bantam::testing::HttpServer;
using bantam::testing::ServerConnection;
using bantam::testing::ServerRequest;

namespace fs = std::filesystem;

std::string ReadAll(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The path of a target such as /api/models/OWNER/REPO/tree/main: what stands between the two texts.
std::string Between(const std::string& target, std::string_view before, std::string_view after) {
  const size_t end = target.find(after);
  return target.starts_with(before) && end != std::string::npos ? target.substr(before.size(), end - before.size()) : "";
}

std::string Listing(const fs::path& repository) {
  std::string list;
  for (const auto& entry : fs::recursive_directory_iterator(repository)) {
    if (!entry.is_regular_file()) continue;
    list += fmt::format(R"({}{{"type":"file","path":"{}","size":{}}})", list.empty() ? "" : ",", fs::relative(entry, repository).string(),
                        entry.file_size());
  }
  return fmt::format("[{}]", list);
}

void Serve(const fs::path& folder, const ServerRequest& request, ServerConnection& connection) {
  const std::string repository = Between(request.target, "/api/models/", "/tree/");
  if (!repository.empty() && fs::is_directory(folder / repository)) {
    return void(connection.Send(Answer(Listing(folder / repository))));
  }
  constexpr std::string_view kSlow = "/slow";
  const bool slow = request.target.starts_with(kSlow);
  const std::string target = slow ? request.target.substr(kSlow.size()) : request.target;
  constexpr std::string_view kResolve = "/resolve/main/";
  fs::path path = folder / target.substr(1, target.find('?') - 1);
  if (const size_t resolve = target.find(kResolve); resolve != std::string::npos) {
    path = folder / target.substr(1, resolve - 1) / target.substr(resolve + kResolve.size());
  }
  if (!fs::is_regular_file(path)) return void(connection.Send(Answer("", "", "404 Not Found")));
  const std::string body = ReadAll(path);
  if (slow) {
    const std::string answer = Answer(body, "ETag: \"v1\"\r\n");
    connection.Send(std::string_view(answer).substr(0, answer.size() - body.size() / 2));
    return connection.Stall();
  }
  bantam::testing::SendFile(request, connection, body);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: serve_models FOLDER COMMAND...\n");
    return 2;
  }
  const fs::path folder = argv[1];
  HttpServer server([&](const ServerRequest& request, ServerConnection& connection) { Serve(folder, request, connection); });
  ::setenv("URL", server.Url("").c_str(), /*overwrite=*/1);
  const pid_t child = ::fork();
  if (child == 0) {
    ::execvp(argv[2], argv + 2);
    ::_exit(127);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
