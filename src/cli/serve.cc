// bantam serve: models behind the APIs that programs know.
#include <fmt/format.h>
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/system_limits.h"
#include "cli/hosting.h"
#include "cli/model_folder.h"
#include "cli/serve_config.h"
#include "cli/service_manager.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "net/http.h"
#include "net/url.h"
#include "serve/gateway.h"
#include "serve/grpc_server.h"
#include "serve/log_lines.h"
#include "serve/usage_file.h"

namespace bantam {
namespace {

struct Options {
  std::vector<std::string> models;  // NAME=PATH, or PATH
  std::string config;
  std::string listen;
  std::string grpc;
  std::string keys;
  std::string memory;
  bool insecure = false;
  bool check = false;
  bool example = false;
  bool probe = false;
};

// "NAME=PATH", or a path whose last part is the name.
ModelEntry EntryOf(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals != std::string::npos && text.find('/') > equals) return {.name = text.substr(0, equals), .path = text.substr(equals + 1)};
  std::string name = text.substr(text.find_last_of('/') + 1);
  for (const std::string_view ending : {".gguf", ".bantam"}) {
    if (name.ends_with(ending)) name.resize(name.size() - ending.size());
  }
  return {.name = name.empty() ? text : name, .path = text};
}

// The file, with what the command line says in its place.
Result<ServeConfig> ReadConfig(FileSystem& files, const Options& options) {
  ServeConfig config;
  if (!options.config.empty()) {
    BANTAM_ASSIGN(const std::string text, files.ReadText(options.config, kConfigBytesMax));
    BANTAM_ASSIGN(config, ParseServeConfig(text).With(options.config));
  }
  if (!options.listen.empty()) config.listen = options.listen;
  if (!options.grpc.empty()) config.grpc = options.grpc;
  if (!options.keys.empty()) config.keys = options.keys;
  if (!options.memory.empty()) config.memory = options.memory;
  config.insecure = config.insecure || options.insecure;
  if (!options.models.empty()) config.models.clear();
  for (const std::string& text : options.models) {
    ModelEntry entry = EntryOf(text);
    const bool twice = std::any_of(config.models.begin(), config.models.end(), [&](const auto& one) { return one.name == entry.name; });
    if (twice || entry.name.empty() || entry.path.empty()) {
      return Error(Code::kInvalidArgument,
                   fmt::format("--model {}: expected NAME=PATH with a name of its own, such as small=models/small.gguf", text));
    }
    config.models.push_back(std::move(entry));
  }
  // Who only probes asks for none.
  if (config.models.empty() && !options.probe) {
    BANTAM_ASSIGN(std::string path, FindDemoModel(files));
    config.models.push_back({.name = kDemoName, .path = std::move(path), .aliases = {"default"}});
  }
  return config;
}

Result<std::vector<std::shared_ptr<const ApiKey>>> OpenKeys(FileSystem& files, const std::string& path) {
  std::vector<std::shared_ptr<const ApiKey>> keys;
  if (path.empty()) return keys;
  BANTAM_ASSIGN(const std::string text, files.ReadText(path, kKeyFileBytesMax));
  BANTAM_ASSIGN(std::vector<ApiKey> read, ReadKeys(text).With(path));
  if (read.empty()) return Error(Code::kInvalidArgument, fmt::format("{}: there is no key in it; make one with bantam keys add", path));
  for (ApiKey& key : read) keys.push_back(std::make_shared<const ApiKey>(std::move(key)));
  return keys;
}

Status CheckPlace(const ServeConfig& config, const std::string& listen, const ListenPlace& place, bool keys) {
  if (place.loopback || keys || config.insecure) return Ok();
  return Error(Code::kDenied,
               fmt::format("{}: others than this machine could ask there, and no keys are demanded; make some (bantam keys add) and name "
                           "their file with --keys, or say --insecure",
                           listen));
}

// Where gRPC listens, if it does.
Result<std::optional<ListenPlace>> GrpcPlaceOf(const ServeConfig& config, bool keys) {
  if (config.grpc.empty()) return std::optional<ListenPlace>();
  if (!GrpcServer::Built()) {
    return Error(Code::kUnsupported, "grpc: this program was built without gRPC; build it with -DBANTAM_GRPC=ON, or leave the setting out");
  }
  BANTAM_ASSIGN(const ListenPlace place, ParseListen(config.grpc, "--grpc"));
  BANTAM_TRY(CheckPlace(config, config.grpc, place, keys));
  return std::optional(place);
}

// Each connection is a descriptor.
void RaiseDescriptors() {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
}

std::string DescribeModel(const ServedModel& model) {
  const std::string kind =
      model.Answers() ? fmt::format("up to {} answers at once", model.facts.sequences) : "vectors and classes of texts";
  return fmt::format("{}: {}, context {}, {}; {} planned\n", Printable(model.name), model.facts.architecture, model.context, kind,
                     FormatBytes(model.facts.planned_bytes));
}

// Everything that runs, in the order in which it ends: connections, requests that are read, engines.
struct Running {
  explicit Running(ServiceManager told) : manager(std::move(told)) {}
  const ServiceManager manager;
  std::unique_ptr<LogLines> log;
  MonotonicClock clock;
  ProcessMemory memory;
  bool tls = false;  // the server speaks it
  std::unique_ptr<HttpServer> server;
  std::unique_ptr<ModelCatalog> models;
  std::unique_ptr<Gateway> gateway;
  std::unique_ptr<UsageFile> usage;  // or none
  std::unique_ptr<GrpcServer> grpc;  // or none
  ~Running() {
    if (grpc != nullptr) grpc->Stop();
    // Texts that are still computed end with what they tell the gateway.
    if (server != nullptr) server->Stop();
    if (gateway != nullptr) gateway->StopReading();
    if (models != nullptr) models->Stop();
    // Answers that ended since the drain.
    if (usage != nullptr) usage->Write();
  }
  // To standard error, whoever reads that and however slowly.
  void Say(std::string line) const { log->Add(std::move(line)); }
  // By the server's thread, which says with it that it lives.
  void FeedWatchdog() {
    if (manager.watchdog_ns() > 0) server->Post([this] { manager.Tell("WATCHDOG=1"); });
  }
};

// What keys used in earlier runs, where it is kept.
void StartUsage(FileSystem& files, const std::string& path, Running* running) {
  if (path.empty()) return;
  running->usage = std::make_unique<UsageFile>(
      UsageFile::Setup{.files = files,
                       .path = path,
                       .uses = running->gateway->uses(),
                       .clock = running->clock,
                       .time_s = [] { return std::time(nullptr); },
                       .notice = [running](const std::string& what) { running->Say(fmt::format("[{}]\n", Printable(what))); }});
  running->usage->Read();
}

void WriteLine(std::string_view line) {
  while (!line.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
    if (written < 0 && errno == EAGAIN) {
      pollfd reader = {.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
      (void)::poll(&reader, 1, /*timeout=*/-1);
      continue;
    }
    if (written < 0 && errno != EINTR) return;
    line.remove_prefix(static_cast<size_t>(std::max<ssize_t>(written, 0)));
  }
}

// Folders of which models may be loaded while the server runs, with their links followed. What cannot be read, and the root, is none.
std::vector<std::string> FoldersOfModels(FileSystem& files, const ServeConfig& config) {
  std::vector<std::string> folders;
  const auto add = [&](const std::filesystem::path& folder) {
    std::error_code unknown;
    const std::filesystem::path real = std::filesystem::canonical(folder, unknown);
    if (unknown || real.empty() || real == real.root_path()) return;
    if (std::find(folders.begin(), folders.end(), real.string()) == folders.end()) folders.push_back(real.string());
  };
  add(ModelFolder());
  for (const std::string& folder : config.model_folders) add(folder);
  for (const ModelEntry& entry : config.models) {
    const Result<std::string> path = FindModel(files, entry.path);
    std::error_code unknown;
    if (path.ok()) add(std::filesystem::weakly_canonical(*path, unknown).parent_path());
  }
  return folders;
}

// The path of a model that may be loaded while the server runs: a name in the model folder, or in one of the folders. Nobody is told
// whether other files exist.
Result<std::string> ResolveModel(const std::vector<std::string>& folders, const std::string& wanted) {
  const bool name = wanted.find('/') == std::string::npos;
  for (const std::string_view ending : {"", ".bantam", ".gguf"}) {
    std::error_code unknown;
    const std::string asked = name ? fmt::format("{}/{}{}", ModelFolder(), wanted, ending) : wanted;
    const std::filesystem::path path = std::filesystem::canonical(asked, unknown);
    if (unknown) continue;
    for (const std::filesystem::path folder : folders) {
      const auto [rest, at] = std::mismatch(folder.begin(), folder.end(), path.begin(), path.end());
      if (rest == folder.end() && at != path.end()) return path.string();
    }
  }
  return Error(Code::kNotFound,
               fmt::format("{}: there is no such model in {}; other folders are named under model_folders in the configuration", wanted,
                           folders.empty() ? ModelFolder() : fmt::format("{}", fmt::join(folders, ", "))));
}

// Of a file or a folder's files: weights are at least nearly so large in memory.
uint64_t BytesOfModel(const std::string& path) {
  std::error_code unknown;
  if (std::filesystem::is_regular_file(path, unknown)) return std::filesystem::file_size(path, unknown);
  uint64_t bytes = 0;
  std::filesystem::directory_iterator file(path, unknown);
  for (; !unknown && file != std::filesystem::directory_iterator(); file.increment(unknown)) {
    std::error_code none;
    const uint64_t size = file->file_size(none);
    if (!none && file->path().extension() == ".safetensors") bytes += size;
  }
  return bytes;
}

CatalogOptions CatalogOptionsOf(FileSystem& files, const ServeConfig& config, Running* running) {
  CatalogOptions options;
  options.load = [&files, &config, running](const CatalogEntry& known, const std::string& path,
                                            const ServedModel* least) -> Result<std::unique_ptr<HostedModel>> {
    ModelEntry entry = {.name = known.name, .aliases = known.aliases};
    for (const ModelEntry& one : config.models) {
      if (one.name == known.name) entry = one;
    }
    entry.path = path;
    entry.notice = [running, name = known.name](std::string_view change) {
      running->Say(fmt::format("[{}: {}]\n", Printable(name), change));
    };
    entry.run.memory = config.memory;
    entry.run.process = &running->memory;
    BANTAM_ASSIGN(auto model, HostModel(files, entry, running->clock, least));
    running->Say(DescribeModel(*model->served()));
    return model;
  };
  options.resolve = [folders = FoldersOfModels(files, config)](const std::string& path) { return ResolveModel(folders, path); };
  options.may_fit = [running](const std::string& path, uint64_t bytes) {
    const uint64_t limit_bytes = running->memory.budget->limit_bytes();
    const uint64_t free_bytes = limit_bytes - std::min(limit_bytes, running->memory.planned_bytes.load());
    return BytesOfModel(path) <= free_bytes + bytes;
  };
  options.memory_share = [&files] {
    const MemoryPressure now = ReadMemoryPressure(files, /*root=*/"");
    return now.limit_bytes == UINT64_MAX ? 0 : 1 - static_cast<double>(now.left_bytes) / static_cast<double>(now.limit_bytes);
  };
  options.notice = [running](std::string_view name, std::string_view change) {
    running->Say(fmt::format("[{}: {}]\n", Printable(name), Printable(change)));
  };
  options.drain_ns = std::max<int64_t>(config.drain_seconds, 1) * 1'000'000'000;
  return options;
}

// Where HTTP and gRPC listen.
struct Places {
  ListenPlace http;
  int listener = -1;  // a socket that listens already
  std::optional<ListenPlace> grpc = {};
};

// The configuration outlives what runs.
Status Start(FileSystem& files, const ServeConfig& config, const Places& places, std::vector<std::shared_ptr<const ApiKey>> keys,
             Running* running) {
  const auto& [place, listener, grpc] = places;
  constexpr size_t kLogBytesMax = 1 << 20;
  BANTAM_ASSIGN(running->log, LogLines::Start(WriteLine, kLogBytesMax));
  // Bodies, what two readers make of the largest, connections, and answers that are kept.
  constexpr uint64_t kPerConnection = 16 << 10;
  running->memory.planned_bytes = config.limits.bodies_bytes_max + 4 * config.limits.request.body_bytes_max +
                                  std::min<uint64_t>(config.limits.connections_max, 1024) * kPerConnection + config.responses.bytes_max +
                                  kLogBytesMax + (config.grpc.empty() ? 0 : GrpcServer::PlannedBytes(config.limits));
  BANTAM_ASSIGN(const uint64_t limit_bytes, MemoryLimitOf(ReadSystemLimits(files, /*root=*/"", AffinityProcessors()), config.memory));
  running->memory.budget = std::make_shared<MemoryBudget>(limit_bytes);
  std::vector<CatalogEntry> entries;
  for (const ModelEntry& entry : config.models) {
    CatalogEntry& known = entries.emplace_back(entry.catalog);
    known.name = entry.name;
    known.path = entry.path;
    known.aliases = entry.aliases;
  }
  BANTAM_ASSIGN(running->models, ModelCatalog::Make(CatalogOptionsOf(files, config, running), std::move(entries), running->clock));
  running->manager.Tell("STATUS=loading models");
  BANTAM_TRY(running->models->LoadAll(Interrupted));
  GatewayOptions options = {
      .version = BANTAM_VERSION, .access = {std::move(keys), config.hosts, config.origins}, .responses = config.responses};
  if (config.access_log) options.access_log = [running](const std::string& line) { running->Say(line + "\n"); };
  options.access_log_dropped = [running] { return running->log->dropped(); };
  BANTAM_ASSIGN(running->gateway, Gateway::Make(std::move(options), *running->models, *running->memory.budget, running->clock));
  StartUsage(files, config.usage_file, running);
  const HttpServerOptions server = {
      .address = place.address, .port = place.port, .listener = listener, .limits = config.limits, .tls = config.tls};
  BANTAM_ASSIGN(running->server, HttpServer::Start(server, *running->gateway, running->clock));
  running->tls = config.tls.has_value();
  if (!grpc) return Ok();
  const GrpcServerOptions grpc_options = {.address = grpc->address, .port = grpc->port, .limits = config.limits, .tls = config.tls};
  BANTAM_ASSIGN(running->grpc, GrpcServer::Start(grpc_options, *running->gateway, running->clock));
  return Ok();
}

std::string ShownPlace(const std::string& address, uint16_t port) {
  return address.find(':') == std::string::npos ? fmt::format("{}:{}", address, port) : fmt::format("[{}]:{}", address, port);
}

// Who may ask is read again; what else has changed is for the next start. The doors stand where they did, whatever the file says now: it
// must not take the keys away from one that it has forgotten.
Status Reload(FileSystem& files, const Options& options, const Places& bound, Running& running) {
  BANTAM_ASSIGN(const ServeConfig config, ReadConfig(files, options));
  BANTAM_ASSIGN(auto keys, OpenKeys(files, config.keys));
  for (const auto& place : {std::optional(bound.http), bound.grpc}) {
    if (place) BANTAM_TRY(CheckPlace(config, ShownPlace(place->address, place->port), *place, !keys.empty()));
  }
  if (config.tls && running.tls) {
    if (running.grpc != nullptr) BANTAM_TRY(running.grpc->UseTls(*config.tls));
    BANTAM_TRY(running.server->UseTls(*config.tls));
  }
  const size_t count = keys.size();
  running.gateway->UseAccess({std::move(keys), config.hosts, config.origins});
  running.Say(fmt::format("[keys, hosts, origins and certificates are read again: {} key{}]\n", count, count == 1 ? "" : "s"));
  return Ok();
}

// What runs may go on for a while; a second signal ends it.
void Drain(const ServeConfig& config, Running& running) {
  running.manager.Tell("STOPPING=1");
  running.gateway->Drain();
  running.Say("[no new requests are taken; what runs goes on]\n");
  const int signals = InterruptCount();
  constexpr int64_t kSliceNs = 100'000'000;
  const int64_t end_ns = running.clock.NowNs() + config.drain_seconds * 1'000'000'000;
  const auto idle = [&running](int64_t timeout_ns) {
    return running.server->AwaitIdle(timeout_ns) && (running.grpc == nullptr || running.grpc->AwaitIdle(timeout_ns));
  };
  while (!idle(kSliceNs) && running.clock.NowNs() < end_ns && InterruptCount() == signals) running.FeedWatchdog();
  running.gateway->CancelAll();
  (void)idle(/*timeout_ns=*/2'000'000'000);
  if (running.usage != nullptr) running.usage->Write();
}

// Until a signal ends it.
void Run(FileSystem& files, const Options& options, const Places& bound, Running& running) {
  constexpr int64_t kNsPerMs = 1'000'000;
  const int64_t watchdog_ms = running.manager.watchdog_ns() / kNsPerMs;
  int64_t wait_ms = 3'600'000;
  if (watchdog_ms > 0) wait_ms = std::min(wait_ms, watchdog_ms);
  if (running.usage != nullptr) wait_ms = std::min(wait_ms, UsageFile::kEveryNs / kNsPerMs);
  while (!Interrupted()) {
    AwaitInterrupt(static_cast<int>(wait_ms));
    running.FeedWatchdog();
    if (running.usage != nullptr) running.usage->WriteInTime();
    if (!TakeHangup()) continue;
    running.manager.TellReloading();
    const Status reloaded = Reload(files, options, bound, running);
    // What runs goes on as it was.
    if (!reloaded.ok()) running.Say(fmt::format("[not read again: {}]\n", Printable(reloaded.error().message())));
    running.manager.Tell("READY=1");
  }
}

// Whether a server with this configuration takes requests: for containers, which ask by a command.
Status Probe(FileSystem& files, const Options& options) {
  BANTAM_ASSIGN(const ServeConfig config, ReadConfig(files, options));
  BANTAM_ASSIGN(const ListenPlace place, ParseListen(config.listen, "--listen"));
  // Who listens everywhere is heard here.
  const std::string address = place.address == "0.0.0.0" ? "127.0.0.1" : place.address == "::" ? "::1" : place.address;
  HttpOptions http;
  // Whichever names it has: nobody asks a server by its address otherwise.
  if (config.tls) http.server_certificate_file = config.tls->certificate_file;
  const MonotonicClock clock;
  const auto transport = MakeHttpTransport(http, clock);
  HttpRequest request;
  BANTAM_ASSIGN(request.url, ParseUrl(fmt::format("{}://{}/health/ready", config.tls ? "https" : "http", ShownPlace(address, place.port))));
  request.plain_allowed = true;
  BANTAM_ASSIGN(const auto reply, Fetch(*transport, request, http.limits));
  return Ok();
}

Status Serve(FileSystem& files, const Options& options) {
  BANTAM_ASSIGN(ServeConfig config, ReadConfig(files, options));
  BANTAM_ASSIGN(const auto inherited, TakeInheritedSocket());
  if (inherited) config.listen = ShownPlace(inherited->address, inherited->port);
  BANTAM_ASSIGN(const ListenPlace place, ParseListen(config.listen, "--listen"));
  BANTAM_ASSIGN(auto keys, OpenKeys(files, config.keys));
  BANTAM_TRY(CheckPlace(config, config.listen, place, !keys.empty()));
  BANTAM_ASSIGN(const auto grpc, GrpcPlaceOf(config, !keys.empty()));
  if (options.check) {
    for (const ModelEntry& entry : config.models) BANTAM_TRY(CheckModelEntry(files, entry));
    if (config.tls) BANTAM_TRY(CheckTlsFiles(*config.tls));
    Note(fmt::format("the configuration is good: {} model{}, {} key{}, {}\n", config.models.size(), config.models.size() == 1 ? "" : "s",
                     keys.size(), keys.size() == 1 ? "" : "s", config.listen));
    return Ok();
  }
  DeferInterrupts();
  DeferHangups();
  RaiseDescriptors();
  Running running(ServiceManager::FromEnvironment());
  Places places = {place, inherited ? inherited->descriptor : -1, grpc};
  BANTAM_TRY(Start(files, config, places, std::move(keys), &running));
  places.http.port = running.server->port();
  const std::string url = fmt::format("{}://{}", config.tls ? "https" : "http", ShownPlace(place.address, places.http.port));
  if (places.grpc) {
    places.grpc->port = running.grpc->port();
    running.Say(fmt::format("gRPC on {}\n", ShownPlace(grpc->address, places.grpc->port)));
  }
  running.Say(fmt::format("listening on {}\n", url));
  running.manager.Tell(fmt::format("READY=1\nSTATUS=listening on {}", url));
  Run(files, options, places, running);
  Drain(config, running);
  return Ok();
}

}  // namespace

void AddServeVerb(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("serve", "answer over HTTP, in the APIs of OpenAI, Anthropic and Ollama");
  verb->add_option("--model", options->models,
                   "a model, as NAME=PATH or PATH (default: the demo model); may be given again. PATH may be a name in the model folder")
      ->allow_extra_args(false);
  verb->add_option("--config", options->config, "a TOML file (--example prints one)")->envname("BANTAM_SERVE_CONFIG");
  verb->add_option("--listen", options->listen, "address and port (default: 127.0.0.1:8080); port 0: any that is free")
      ->envname("BANTAM_SERVE_LISTEN");
  verb->add_option("--grpc", options->grpc, "address and port of gRPC, such as 127.0.0.1:8081 (default: none)")
      ->envname("BANTAM_SERVE_GRPC");
  verb->add_option("--keys", options->keys, "a file of keys (bantam keys): who shows none is refused")->envname("BANTAM_SERVE_KEYS");
  verb->add_option("--memory", options->memory, "hard limit for the whole process, such as 512M; auto: what is available");
  verb->add_flag("--insecure", options->insecure, "listen beyond this machine without keys");
  verb->add_flag("--check", options->check, "say whether the configuration is good, and end");
  verb->add_flag("--example", options->example, "print a configuration with all that it may say, and end");
  verb->add_flag("--probe", options->probe, "say whether a server of this configuration takes requests, and end");
  verb->footer(
      "Example: bantam serve --model small=models/small.gguf --listen 127.0.0.1:8080\n"
      "curl http://127.0.0.1:8080/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'");
  verb->callback([options, action] {
    *action = [options](FileSystem& files) {
      if (options->example) return PrintResult(ServeConfigExample());
      const Status done = options->probe ? Probe(files, *options) : Serve(files, *options);
      return done.ok() ? 0 : Fail(done.error());
    };
  });
}

}  // namespace bantam
