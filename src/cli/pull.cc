// bantam pull: models from the Hub, from a server, from a catalogue.
#include "fleet/pull.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>

#include "base/json.h"
#include "base/memory_budget.h"
#include "cli/load.h"
#include "cli/model_folder.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "model/open.h"

namespace bantam {
namespace {

struct PullVerbOptions {
  PullRequest request;
  std::string catalogue;
  std::string limit_rate;
  unsigned timeout_s = 30;
  int retries = kIdleRetriesMax;
  bool insecure_http = false;
  bool json = false;
};

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// The first that is set.
std::string Environment(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (std::string value = Environment(name); !value.empty()) return value;
  }
  return "";
}

// Looks for Ctrl-C many times a second.
Status WaitFor(int64_t duration_ns) {
  const MonotonicClock clock;
  const int64_t end_ns = clock.NowNs() + duration_ns;
  while (!Interrupted()) {
    const int64_t left_ns = end_ns - clock.NowNs();
    if (left_ns <= 0) return Ok();
    constexpr int64_t kSliceNs = 20'000'000;
    std::this_thread::sleep_for(std::chrono::nanoseconds(std::min(left_ns, kSliceNs)));
  }
  return Error(Code::kCancelled, "interrupted");
}

PullSettings Settings(const PullVerbOptions& options) {
  PullSettings settings;
  settings.folder = ModelFolder();
  settings.plain_allowed = options.insecure_http;
  const std::string endpoint = Environment("HF_ENDPOINT");
  settings.hub = {endpoint.empty() ? "https://huggingface.co" : endpoint, Environment({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}),
                  options.insecure_http};
  settings.npm.registry = Environment({"npm_config_registry", "NPM_CONFIG_REGISTRY"});
  const std::string user = Environment({"npm_config_userconfig", "NPM_CONFIG_USERCONFIG"});
  settings.npm.npmrcs = {user.empty() ? Environment("HOME") + "/.npmrc" : user, "/usr/local/etc/npmrc", "/usr/etc/npmrc", "/etc/npmrc"};
  return settings;
}

HttpOptions Http(const PullVerbOptions& options) {
  constexpr int64_t kMsPerSecond = 1000;
  HttpOptions http;
  http.limits.stall_timeout_ms = std::max(options.timeout_s, 1u) * kMsPerSecond;
  http.limits.connect_timeout_ms = std::min(http.limits.connect_timeout_ms, http.limits.stall_timeout_ms);
  http.user_agent = fmt::format("bantam/{}", BANTAM_VERSION);
  http.proxy = {Environment({"https_proxy", "HTTPS_PROXY"}), Environment({"http_proxy", "HTTP_PROXY"}),
                Environment({"no_proxy", "NO_PROXY"})};
  http.stopped = Interrupted;
  return http;
}

std::string Verified(const Pulled& pulled) {
  const auto known = std::count_if(pulled.files.begin(), pulled.files.end(), [](const PulledFile& file) { return file.verified; });
  if (known == std::ssize(pulled.files)) return "SHA-256 verified";
  if (pulled.files.size() == 1) {
    return fmt::format("SHA-256 {}, which nobody vouches for{}", HexOf(pulled.files[0].digest),
                       pulled.already ? "; only --sha256 can tell whether it is what the source has now" : "");
  }
  if (known == 0) return fmt::format("{} files, which nobody vouches for", pulled.files.size());
  return fmt::format("SHA-256 verified for {} of {} files; the source has none for the others", known, pulled.files.size());
}

// What a verb is to be told to find it.
std::string ShortName(const std::string& name) {
  constexpr std::string_view kEnding = ".gguf";
  return name.ends_with(kEnding) ? name.substr(0, name.size() - kEnding.size()) : name;
}

int Report(const Pulled& pulled, const PullPlan& plan, bool json) {
  if (!json) {
    const std::string licence = plan.licence.empty() ? "" : fmt::format("; licence {}", Printable(plan.licence));
    Note(fmt::format("{}{}, {}{}\nNext: bantam run {}\n", pulled.already ? "it was there already: " : "", FormatBytes(pulled.bytes),
                     Verified(pulled), licence, ShortName(pulled.name)));
    return PrintResult(pulled.path + "\n");
  }
  Json files = Json::array();
  for (const PulledFile& file : pulled.files) {
    files.push_back({{"path", file.path}, {"bytes", file.bytes}, {"sha256", HexOf(file.digest)}, {"verified", file.verified}});
  }
  const Json report = {{"path", pulled.path},
                       {"name", pulled.name},
                       {"bytes", pulled.bytes},
                       {"resumed_bytes", pulled.resumed_bytes},
                       {"already", pulled.already},
                       {"licence", plan.licence.empty() ? Json() : Json(plan.licence)},
                       {"files", files}};
  return PrintResult(DumpJson(report, /*indent=*/2) + "\n");
}

int PrintCatalogue(const Catalogue& catalogue, bool json) {
  std::string text;
  Json rows = Json::array();
  for (const CatalogueEntry& entry : catalogue.entries) {
    text += fmt::format("{:<36} {:>10}  {:<12} {}\n", Printable(entry.name), FormatBytes(entry.size_bytes()), Printable(entry.licence),
                        Printable(entry.description));
    rows.push_back({{"name", entry.name}, {"bytes", entry.size_bytes()}, {"licence", entry.licence}, {"description", entry.description}});
  }
  return PrintResult(json ? DumpJson(rows, /*indent=*/2) + "\n" : text);
}

Result<Catalogue> ReadCatalogue(const std::string& place, const PullSettings& settings, const PullTools& tools) {
  if (place.empty()) return ParseCatalogue(BuiltinCatalogue());
  BANTAM_ASSIGN(const std::string text, ReadDocument(place, kCatalogueBytesMax, settings, tools));
  return ParseCatalogue(text, settings.plain_allowed).With(ShownUrl(place));
}

// A page that a server shows for a file, or a file that was cut short where it came from, gets no name. What a newer build may read does.
Status AcceptModel(FileSystem& files, const std::string& path) {
  const Result<ModelFile> model = OpenModel(files, path);
  return model.ok() || model.error().code() != Code::kCorrupt ? Ok() : Status(model.error());
}

Result<int> PullModel(FileSystem& files, const PullVerbOptions& options) {
  PullSettings settings = Settings(options);
  settings.accept = [&files](const std::string& path) { return AcceptModel(files, path); };
  const MonotonicClock clock;
  const std::unique_ptr<Disk> disk = MakeDisk();
  const HttpOptions http = Http(options);
  const std::unique_ptr<HttpTransport> transport = MakeHttpTransport(http, clock);
  PullTools tools = {*transport, {files, *disk, clock, WaitFor, MakeProgressLine()}};
  tools.download.idle_retries_max = options.retries;
  if (!options.limit_rate.empty()) {
    BANTAM_ASSIGN(tools.download.rate_bytes_per_s, ParseBytes(options.limit_rate, "--limit-rate"));
  }
  BANTAM_ASSIGN(const Catalogue catalogue, ReadCatalogue(options.catalogue, settings, tools));
  if (options.request.reference.empty()) return PrintCatalogue(catalogue, options.json);
  BANTAM_ASSIGN(const PullPlan plan, MakePlan(options.request, catalogue, settings, tools));
  BANTAM_ASSIGN(const Pulled pulled, Pull(plan, settings, tools));
  if (const Result<ModelFile> model = OpenModel(files, pulled.path); !model.ok()) {
    Note(fmt::format("[this build cannot read it: {}]\n", Printable(model.error().message())));
  }
  return Report(pulled, plan, options.json);
}

int RunPull(FileSystem& files, const PullVerbOptions& options) {
  DeferInterrupts();
  Result<int> code = PullModel(files, options);
  if (code.ok()) return *code;
  return Fail(code.error());
}

}  // namespace

void AddPullVerb(CLI::App& app, Action* action) {
  auto options = std::make_shared<PullVerbOptions>();
  CLI::App* verb = app.add_subcommand("pull", "fetch a model into the model folder; without a model, list the catalogue");
  verb->add_option(
      "MODEL", options->request.reference,
      "hf:OWNER/REPO[@REVISION][:FILE], https://..., file:PATH, or a name of the catalogue; FILE may be a part such as Q4_K_M");
  verb->add_option("--name", options->request.name, "what to call it in the model folder (default: as its source does)");
  verb->add_option("--sha256", options->request.sha256, "the SHA-256 that the file must have, 64 hexadecimal digits");
  verb->add_option("--catalogue", options->catalogue, "a catalogue instead of the one that the program carries: a file or an https URL");
  verb->add_option("--limit-rate", options->limit_rate, "bytes per second at most, such as 2M (default: no limit)");
  verb->add_option("--timeout", options->timeout_s, "seconds without a byte after which a connection is given up")
      ->check(WholeNumber(/*max=*/3600));
  verb->add_option("--retries", options->retries, "how often in a row a connection that brings nothing is tried again")
      ->check(WholeNumber(/*max=*/100));
  verb->add_flag("--insecure-http", options->insecure_http,
                 "also fetch over http, where anybody on the way can read and change what is sent");
  verb->add_flag("--json", options->json, "print JSON");
  verb->footer(
      "Examples: bantam pull tinyllama-1.1b-chat-iq2_xxs\n"
      "          bantam pull hf:OWNER/REPO:Q4_K_M --limit-rate 2M");
  verb->callback([=] { *action = [=](FileSystem& files) { return RunPull(files, *options); }; });
}

}  // namespace bantam
