// The configuration of bantam serve: one TOML file (docs/serve.md), in which what is not known is an error.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/hosting.h"
#include "net/http_server.h"
#include "serve/response_store.h"

namespace bantam {

inline constexpr size_t kConfigBytesMax = size_t{1} << 20;

struct ServeConfig {
  std::string listen = "127.0.0.1:8080";
  bool insecure = false;
  std::string keys = {};        // a file of bantam keys
  std::string usage_file = {};  // where what they used of their day is kept from one run to the next; empty: nowhere
  std::vector<std::string> hosts = {};
  std::vector<std::string> origins = {};
  bool access_log = true;
  std::string memory = "auto";
  int64_t drain_seconds = 30;
  HttpServerLimits limits = {};
  std::optional<TlsOptions> tls = {};
  std::string grpc = {};                        // where gRPC listens; empty: nowhere
  std::vector<std::string> model_folders = {};  // of which models may be loaded while it runs, beside those of models that are named
  ResponseStoreLimits responses = {};
  std::vector<ModelEntry> models = {};
};

// Errors: Corrupt (not TOML, with line and column) and InvalidArgument, naming the key, its line, and for one that is not known the
// nearest.
Result<ServeConfig> ParseServeConfig(std::string_view text);

// "127.0.0.1:8080", "[::1]:8080", ":8080" (all addresses), "8080" (this machine only).
struct ListenPlace {
  std::string address;
  uint16_t port = 0;
  bool loopback = false;
};
Result<ListenPlace> ParseListen(std::string_view text, std::string_view option);

// All of it, with what each key means and its default.
std::string_view ServeConfigExample();

}  // namespace bantam
