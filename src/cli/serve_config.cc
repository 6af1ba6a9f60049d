#include "cli/serve_config.h"

// Errors as values; the library stays in this file.
#define TOML_EXCEPTIONS 0
#include <arpa/inet.h>
#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <limits>
#include <set>
#include <utility>

#include "base/closest.h"

namespace bantam {
namespace {

std::string Where(const toml::node& node) { return fmt::format("line {}", node.source().begin.line); }

// One table, of which every key has to be asked for.
class Table {
 public:
  Table(const toml::table& table, std::string path) : table_(table), path_(std::move(path)) {}

  Status Text(std::string_view key, std::string* into) {
    const toml::node* node = Find(key);
    if (node == nullptr) return Ok();
    if (!node->is_string()) return Wrong(key, *node, "a text");
    *into = node->as_string()->get();
    return Ok();
  }
  Status Texts(std::string_view key, std::vector<std::string>* into) {
    const toml::node* node = Find(key);
    if (node == nullptr) return Ok();
    const toml::array* list = node->as_array();
    if (list == nullptr) return Wrong(key, *node, "a list of texts");
    for (const toml::node& element : *list) {
      if (!element.is_string()) return Wrong(key, element, "a list of texts");
      into->push_back(element.as_string()->get());
    }
    return Ok();
  }
  Status Flag(std::string_view key, bool* into) {
    const toml::node* node = Find(key);
    if (node == nullptr) return Ok();
    if (!node->is_boolean()) return Wrong(key, *node, "true or false");
    *into = node->as_boolean()->get();
    return Ok();
  }
  template <typename Number>
  Status Whole(std::string_view key, int64_t low, int64_t high, Number* into, int64_t scale = 1) {
    const toml::node* node = Find(key);
    if (node == nullptr) return Ok();
    const bool fits = node->is_integer() && node->as_integer()->get() >= low && node->as_integer()->get() <= high;
    if (!fits) return Wrong(key, *node, fmt::format("a whole number from {} to {}", low, high));
    *into = static_cast<Number>(node->as_integer()->get() * scale);
    return Ok();
  }
  Result<const toml::table*> Inner(std::string_view key) {
    const toml::node* node = Find(key);
    if (node == nullptr) return static_cast<const toml::table*>(nullptr);
    if (!node->is_table()) return Wrong(key, *node, "a table");
    return node->as_table();
  }
  // "[[key]]": any number of tables.
  Result<std::vector<const toml::table*>> Tables(std::string_view key, size_t most) {
    std::vector<const toml::table*> tables;
    const toml::node* node = Find(key);
    if (node == nullptr) return tables;
    const toml::array* list = node->as_array();
    if (list == nullptr || list->size() > most)
      return Wrong(key, *node, fmt::format("at most {} tables, such as [[{}{}]]", most, path_, key));
    for (const toml::node& element : *list) {
      if (!element.is_table()) return Wrong(key, element, fmt::format("a table, such as [[{}{}]]", path_, key));
      tables.push_back(element.as_table());
    }
    return tables;
  }
  // After all that may be there were asked for.
  Status Finish() const {
    for (const auto& [key, node] : table_) {
      const std::string_view name = key.str();
      if (std::find(known_.begin(), known_.end(), name) != known_.end()) continue;
      const std::vector<std::string_view> names(known_.begin(), known_.end());
      const auto closest = Closest(name, names, /*count=*/1);
      return Error(Code::kInvalidArgument, fmt::format("{}: {}{} is not known; the nearest is {}", Where(node), path_, name, closest[0]));
    }
    return Ok();
  }
  std::string PathOf(std::string_view key) const { return fmt::format("{}{}.", path_, key); }
  Error Wrong(std::string_view key, const toml::node& node, std::string_view expected) const {
    return Error(Code::kInvalidArgument, fmt::format("{}: {}{}: expected {}", Where(node), path_, key, expected));
  }

 private:
  const toml::node* Find(std::string_view key) {
    known_.emplace_back(key);
    return table_.get(key);
  }

  const toml::table& table_;
  const std::string path_;
  std::vector<std::string> known_;
};

Status ReadLimits(const toml::table& table, std::string path, HttpServerLimits* limits) {
  Table read(table, std::move(path));
  constexpr int64_t kCount = 1'000'000;
  constexpr int64_t kBytes = int64_t{1} << 32;
  constexpr int64_t kSeconds = 86'400;
  BANTAM_TRY(read.Whole("connections", 1, kCount, &limits->connections_max));
  BANTAM_TRY(read.Whole("connections_per_address", 1, kCount, &limits->connections_per_address_max));
  BANTAM_TRY(read.Whole("header_bytes", 1024, 1 << 20, &limits->request.header_bytes_max));
  BANTAM_TRY(read.Whole("body_bytes", 1024, kBytes, &limits->request.body_bytes_max));
  BANTAM_TRY(read.Whole("bodies_bytes", 1024, kBytes, &limits->bodies_bytes_max));
  BANTAM_TRY(read.Whole("header_seconds", 1, kSeconds, &limits->header_timeout_ms, /*scale=*/1000));
  BANTAM_TRY(read.Whole("body_seconds", 1, kSeconds, &limits->body_timeout_ms, /*scale=*/1000));
  BANTAM_TRY(read.Whole("idle_seconds", 1, kSeconds, &limits->idle_timeout_ms, /*scale=*/1000));
  BANTAM_TRY(read.Whole("write_seconds", 1, kSeconds, &limits->write_timeout_ms, /*scale=*/1000));
  if (limits->request.body_bytes_max > limits->bodies_bytes_max) {
    return Error(Code::kInvalidArgument,
                 fmt::format("body_bytes = {}: more than bodies_bytes ({}): the largest would never be read; raise that too",
                             limits->request.body_bytes_max, limits->bodies_bytes_max));
  }
  return read.Finish();
}

Status ReadTls(const toml::table& table, std::string path, TlsOptions* tls) {
  Table read(table, std::move(path));
  BANTAM_TRY(read.Text("certificate", &tls->certificate_file));
  BANTAM_TRY(read.Text("key", &tls->key_file));
  BANTAM_TRY(read.Text("clients", &tls->client_certificate_file));
  BANTAM_TRY(read.Finish());
  if (!tls->certificate_file.empty() && !tls->key_file.empty()) return Ok();
  return Error(Code::kInvalidArgument, fmt::format("{}: [tls]: expected certificate and key, the paths of files in PEM", Where(table)));
}

Status ReadGrpc(const toml::table& table, std::string path, std::string* listen) {
  Table read(table, std::move(path));
  BANTAM_TRY(read.Text("listen", listen));
  return read.Finish();
}

Status ReadTargets(const toml::table& table, std::string path, AdaptiveTargets* targets) {
  Table read(table, std::move(path));
  int64_t token_ms = 0;
  int64_t watts = 0;
  int64_t percent = 0;
  BANTAM_TRY(read.Whole("token_ms", 0, 3'600'000, &token_ms));
  BANTAM_TRY(read.Whole("watts", 0, 1'000'000, &watts));
  BANTAM_TRY(read.Whole("memory_percent", 0, 100, &percent));
  BANTAM_TRY(read.Finish());
  Result<AdaptiveTargets> wanted =
      ReadAdaptiveTargets(static_cast<double>(token_ms), static_cast<double>(watts), static_cast<double>(percent));
  BANTAM_ASSIGN(*targets, std::move(wanted).With(Where(table)));
  return Ok();
}

// [[models.NAME.checks]]
Status ReadProbes(Table* model, std::vector<ModelProbe>* probes) {
  constexpr size_t kProbesMax = 100;
  constexpr int64_t kTokensMax = 4096;
  BANTAM_ASSIGN(const std::vector<const toml::table*> tables, model->Tables("checks", kProbesMax));
  for (const toml::table* table : tables) {
    Table read(*table, model->PathOf("checks"));
    ModelProbe probe;
    BANTAM_TRY(read.Text("prompt", &probe.prompt));
    BANTAM_TRY(read.Text("expect", &probe.expect));
    BANTAM_TRY(read.Whole("tokens", 1, kTokensMax, &probe.tokens_max));
    BANTAM_TRY(read.Finish());
    if (probe.prompt.empty()) return read.Wrong("prompt", *table, "what the model is asked");
    probes->push_back(std::move(probe));
  }
  return Ok();
}

Status ReadResponses(const toml::table& table, std::string path, ResponseStoreLimits* limits) {
  Table read(table, std::move(path));
  constexpr int64_t kNsPerSecond = 1'000'000'000;
  BANTAM_TRY(read.Whole("count", 0, 1'000'000, &limits->responses_max));
  BANTAM_TRY(read.Whole("bytes", 0, int64_t{1} << 32, &limits->bytes_max));
  BANTAM_TRY(read.Whole("seconds", 1, int64_t{366} * 86'400, &limits->age_max_ns, /*scale=*/kNsPerSecond));
  return read.Finish();
}

Result<ModelEntry> ReadModel(std::string name, const toml::table& table, std::string path) {
  ModelEntry entry = {.name = std::move(name)};
  entry.path = entry.name;
  Table read(table, std::move(path));
  BANTAM_TRY(read.Text("path", &entry.path));
  BANTAM_TRY(read.Texts("aliases", &entry.aliases));
  BANTAM_TRY(read.Whole("context", 0, int64_t{1} << 24, &entry.run.context));
  BANTAM_TRY(read.Whole("threads", 0, ThreadPool::kThreadsMax, &entry.run.threads));
  BANTAM_TRY(read.Text("kv", &entry.run.kv));
  BANTAM_TRY(read.Flag("kv_check", &entry.run.kv_check));
  BANTAM_TRY(read.Text("weights", &entry.run.weights));
  BANTAM_TRY(read.Text("verify", &entry.run.verify));
  BANTAM_TRY(read.Whole("sequences", 1, static_cast<int64_t>(kSequencesMax), &entry.sequences));
  BANTAM_TRY(read.Whole("requests", 1, 65'536, &entry.requests_max));
  BANTAM_TRY(read.Whole("first_token_ms", 0, 86'400'000, &entry.first_token_ms_max));
  BANTAM_TRY(read.Whole("answer_tokens", 0, int64_t{1} << 24, &entry.answer_tokens));
  BANTAM_TRY(read.Text("calibration", &entry.calibration));
  BANTAM_TRY(read.Text("chat_template", &entry.chat_template));
  BANTAM_TRY(read.Text("draft", &entry.draft));
  BANTAM_TRY(read.Text("prefix_file", &entry.prefix_file));
  BANTAM_TRY(read.Flag("narrow_kv", &entry.narrow_kv));
  BANTAM_TRY(read.Whole("exit_layer", 0, 100'000, &entry.exit_layer));
  BANTAM_ASSIGN(const toml::table* targets, read.Inner("adaptive"));
  if (targets != nullptr) BANTAM_TRY(ReadTargets(*targets, read.PathOf("adaptive"), &entry.targets));
  BANTAM_TRY(read.Flag("on_demand", &entry.catalog.on_demand));
  BANTAM_TRY(read.Flag("pinned", &entry.catalog.pinned));
  BANTAM_TRY(read.Whole("idle_seconds", 0, int64_t{1} << 31, &entry.catalog.idle_s));
  BANTAM_TRY(read.Texts("precisions", &entry.catalog.precisions));
  BANTAM_TRY(ReadProbes(&read, &entry.catalog.probes));
  BANTAM_ASSIGN(const toml::table* adapters, read.Inner("adapters"));
  if (adapters != nullptr) {
    for (const auto& [key, node] : *adapters) {
      if (!node.is_string()) return Table(*adapters, read.PathOf("adapters")).Wrong(key.str(), node, "the path of an adapter");
      entry.adapters.emplace_back(std::string(key.str()), node.as_string()->get());
    }
  }
  BANTAM_TRY(read.Finish());
  return entry;
}

Status ReadModels(const toml::table& table, const std::string& path, std::vector<ModelEntry>* models) {
  // A table keeps its keys by name; requests that name no model are for the first of the file.
  std::vector<std::pair<toml::source_position, std::string>> order;
  for (const auto& [key, node] : table) order.emplace_back(node.source().begin, key.str());
  std::sort(order.begin(), order.end());
  std::set<std::string> names;
  for (const auto& [place, name] : order) {
    const toml::node& node = *table.get(name);
    if (!node.is_table()) return Table(table, path).Wrong(name, node, "a table");
    BANTAM_ASSIGN(ModelEntry entry, ReadModel(name, *node.as_table(), fmt::format("{}{}.", path, name)));
    std::vector<std::string> all = entry.aliases;
    all.push_back(name);
    for (const std::string& one : all) {
      if (names.insert(one).second) continue;
      return Error(Code::kInvalidArgument, fmt::format("{}: {}{}: another model is called {} too", Where(node), path, name, one));
    }
    models->push_back(std::move(entry));
    if (models->size() > kModelsServedMax) {
      return Error(Code::kInvalidArgument, fmt::format("{}: expected at most {} models", Where(node), kModelsServedMax));
    }
  }
  return Ok();
}

}  // namespace

Result<ServeConfig> ParseServeConfig(std::string_view text) {
  const toml::parse_result parsed = toml::parse(text);
  if (!parsed) {
    return Error(Code::kCorrupt, fmt::format("line {}, column {}: not TOML: {}", parsed.error().source().begin.line,
                                             parsed.error().source().begin.column, parsed.error().description()));
  }
  ServeConfig config;
  Table read(parsed.table(), "");
  BANTAM_TRY(read.Text("listen", &config.listen));
  BANTAM_TRY(read.Flag("insecure", &config.insecure));
  BANTAM_TRY(read.Text("keys", &config.keys));
  BANTAM_TRY(read.Text("usage_file", &config.usage_file));
  BANTAM_TRY(read.Texts("hosts", &config.hosts));
  BANTAM_TRY(read.Texts("origins", &config.origins));
  BANTAM_TRY(read.Flag("access_log", &config.access_log));
  BANTAM_TRY(read.Text("memory", &config.memory));
  BANTAM_TRY(read.Whole("drain_seconds", 0, 86'400, &config.drain_seconds));
  BANTAM_TRY(read.Texts("model_folders", &config.model_folders));
  BANTAM_ASSIGN(const toml::table* limits, read.Inner("limits"));
  if (limits != nullptr) BANTAM_TRY(ReadLimits(*limits, read.PathOf("limits"), &config.limits));
  BANTAM_ASSIGN(const toml::table* tls, read.Inner("tls"));
  if (tls != nullptr) BANTAM_TRY(ReadTls(*tls, read.PathOf("tls"), &config.tls.emplace()));
  BANTAM_ASSIGN(const toml::table* grpc, read.Inner("grpc"));
  if (grpc != nullptr) BANTAM_TRY(ReadGrpc(*grpc, read.PathOf("grpc"), &config.grpc));
  BANTAM_ASSIGN(const toml::table* responses, read.Inner("responses"));
  if (responses != nullptr) BANTAM_TRY(ReadResponses(*responses, read.PathOf("responses"), &config.responses));
  BANTAM_ASSIGN(const toml::table* models, read.Inner("models"));
  if (models != nullptr) BANTAM_TRY(ReadModels(*models, read.PathOf("models"), &config.models));
  BANTAM_TRY(read.Finish());
  return config;
}

Result<ListenPlace> ParseListen(std::string_view text, std::string_view option) {
  const size_t colon = text.rfind(':');
  std::string address(colon == std::string_view::npos ? "127.0.0.1" : text.substr(0, colon));
  const std::string_view port_text = colon == std::string_view::npos ? text : text.substr(colon + 1);
  if (address.empty()) address = "0.0.0.0";
  if (address == "localhost") address = "127.0.0.1";
  if (address.starts_with('[') && address.ends_with(']')) address = address.substr(1, address.size() - 2);
  ListenPlace place = {.address = address};
  const char* end = port_text.data() + port_text.size();
  const auto parsed = std::from_chars(port_text.data(), end, place.port);
  in_addr four{};
  in6_addr six{};
  const bool is_four = ::inet_pton(AF_INET, address.c_str(), &four) == 1;
  const bool is_six = !is_four && ::inet_pton(AF_INET6, address.c_str(), &six) == 1;
  if (port_text.empty() || parsed.ec != std::errc() || parsed.ptr != end || (!is_four && !is_six)) {
    return Error(Code::kInvalidArgument,
                 fmt::format("{} {}: expected an address and a port, such as 127.0.0.1:8080, [::1]:8080 or 0.0.0.0:8080", option, text));
  }
  place.loopback = is_four ? address.starts_with("127.") : address == "::1";
  return place;
}

namespace {

constexpr std::string_view kExample = R"(# The configuration of bantam serve. What is commented out is the default.

# listen = "127.0.0.1:8080"   # beyond this machine only with keys
# keys = "/etc/bantam/keys.json"   # made with bantam keys; without it anybody may ask
# usage_file = ""             # where what keys used of their tokens a day is kept from one run to the next
# insecure = false            # true: listen beyond this machine without keys
# hosts = []                  # names that it is reached by, beside addresses and localhost; looked at where no keys are demanded
# origins = []                # pages of other servers that may ask, such as "https://app.example"
# access_log = true           # a line of JSON for each request on standard error, without prompts and answers
# memory = "auto"             # of the whole process, such as "2G"
# drain_seconds = 30          # how long what runs may go on after SIGTERM, and behind an old version that both do not fit beside
# model_folders = []          # folders of models that may be loaded while it runs, beside the model folder and those of the models below

# [tls]
# certificate = "/etc/bantam/certificate.pem"
# key = "/etc/bantam/key.pem"
# clients = ""                # certificates of those who vouch for clients: then each client needs one

# [grpc]                      # the same models for clients that speak gRPC (a part that some builds leave out)
# listen = ""                 # such as "127.0.0.1:8081"; keys, limits and certificates are those of HTTP
# [limits]
# connections = 2560
# connections_per_address = 256   # but for this machine's own
# header_bytes = 16384
# body_bytes = 4194304
# bodies_bytes = 16777216     # of all requests together
# header_seconds = 10
# body_seconds = 20           # and more at 64 KB a second
# idle_seconds = 75
# write_seconds = 30          # in which a client takes 1 KiB

# [responses]                 # answers of /v1/responses that are kept, in memory; the oldest make room
# count = 1024                # 0: none are
# bytes = 4194304
# seconds = 86400

# [models.NAME]               # one table for each model; without one the default model is served
# path = "NAME"               # of a file or folder, or a name in the model folder
# aliases = []
# context = 0                 # tokens; 0: the model's, at most 4096
# threads = 0
# kv = ""                     # f32, f16, q8, q8-q4, q8-rotate or q8-q4-rotate
# kv_check = true             # false: kv is taken as it is; true: a better type, where that costs the model too much
# weights = "auto"
# verify = "changed"
# sequences = 8               # requests that are computed at once, if memory allows
# requests = 256              # that wait or run; more are refused (429)
# first_token_ms = 0          # refuses what would wait longer for its first token; 0: any
# answer_tokens = 0           # most of an answer where a request does not say; 0: what the context leaves
# calibration = ""
# chat_template = ""          # a file with a template (Jinja) in place of the model's own
# draft = ""                  # a small model of the same vocabulary that guesses what answers go on with
# prefix_file = ""            # where prefixes of prompts are kept from one run to the next
# narrow_kv = false           # true: requests that come while memory is short keep their keys and values in 8 bits
# exit_layer = 0              # layers that are asked first by requests with exit_confidence; 0: all are asked
# on_demand = false           # true: loaded for the first request, not at the start
# idle_seconds = 0            # unloaded when nobody asked for so long, and loaded again for the next request; 0: never
# pinned = false              # true: never unloaded to make room for another
# precisions = []             # paths of the same model in fewer bits, which take over while 90 % of the memory is in use
# [[models.NAME.checks]]      # what a version has to answer before it takes requests; any number
# prompt = "What is the capital of France?"
# expect = "Paris"            # is in the answer
# tokens = 64
# [models.NAME.adaptive]      # what the engine keeps to by changing itself; 0: no target
# token_ms = 0                # between two tokens of an answer, for 95 of 100
# watts = 0
# memory_percent = 0          # of the limit, in use
# [models.NAME.adapters]
# polite = "/path/of/adapter"
)";

}  // namespace

std::string_view ServeConfigExample() { return kExample; }

}  // namespace bantam
