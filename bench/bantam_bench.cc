// Measures this machine: memory, kernels, and a model beside a peer. Prints a table to stderr and JSON to stdout.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory_budget.h"
#include "base/rng.h"
#include "base/system_limits.h"
#include "base/threads.h"
#include "engine/machine.h"
#include "engine/session.h"
#include "engine/speed.h"
#include "formats/gguf.h"
#include "kernels/input_column.h"
#include "kernels/kernels.h"
#include "kernels/tiles.h"
#include "model/load.h"
#include "model/vocabulary.h"
#include "tensor/dtype.h"
#include "tensor/panel.h"

namespace bantam {
namespace {

struct Options {
  std::string only;  // part of the case's name
  std::string model;
  std::string text;
  std::string peer;
  std::vector<int> threads;
  size_t prompt = 128;
  size_t decode = 64;
  int repetitions = 5;
};

class Report {
 public:
  explicit Report(std::string only) : only_(std::move(only)) {}
  bool Wants(const std::string& name) const { return name.find(only_) != std::string::npos; }
  void Add(const std::string& name, const Json& values) {
    std::string line = fmt::format("{:<44}", name);
    for (const auto& [key, value] : values.items()) line += fmt::format(" {} {:.4g}", key, value.get<double>());
    std::fprintf(stderr, "%s\n", line.c_str());
    Json row = {{"case", name}};
    row.update(values);
    rows_.push_back(row);
  }
  const Json& rows() const { return rows_; }

 private:
  std::string only_;
  Json rows_ = Json::array();
};

// Seconds of one call: the median of `repetitions` timings of enough calls to last 20 ms.
double SecondsPerCall(const std::function<void()>& call, int repetitions, const Clock& clock) {
  size_t calls = 1;
  while (true) {
    const int64_t begin = clock.NowNs();
    for (size_t i = 0; i < calls; ++i) call();
    if (clock.NowNs() - begin > 20'000'000) break;
    calls *= 2;
  }
  std::vector<double> seconds;
  for (int i = 0; i < repetitions; ++i) {
    const int64_t begin = clock.NowNs();
    for (size_t c = 0; c < calls; ++c) call();
    seconds.push_back(static_cast<double>(clock.NowNs() - begin) * 1e-9 / static_cast<double>(calls));
  }
  return Median(seconds);
}

void BenchBandwidth(const Options& options, const KernelSet& kernels, Report& report) {
  MonotonicClock clock;
  const std::vector<std::byte> memory(size_t{256} << 20, std::byte{1});
  for (const int threads : options.threads) {
    const std::string name = fmt::format("memory.read.t{}", threads);
    if (!report.Wants(name)) continue;
    const auto threads_owner = ThreadPool::Make(threads).value();
    ThreadPool& pool = *threads_owner;
    report.Add(name, {{"GB/s", MeasureReadBandwidth(memory, kernels, pool, clock) * 1e-9}});
  }
}

// Panels of 2048 columns, which stay in the first-level cache, by some columns; and with the tiles of 128 tokens, which stay in the second.
void BenchProducts(const Options& options, const KernelSet& kernels, Report& report) {
  constexpr size_t kColumns = 2048;
  MonotonicClock clock;
  Rng rng(1);
  for (size_t kind = 0; kind < kPanelKinds; ++kind) {
    const PanelInfo& info = Info(static_cast<PanelKind>(kind));
    std::vector<uint8_t> bytes(PanelBytes(info.kind, kColumns));
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(rng.Next() & 0x3b);  // no infinities among the f16 scales
    std::vector<float> x(kColumns);
    for (float& value : x) value = static_cast<float>(rng.Uniform() - 0.5);
    const InputColumn column(kernels, info.kind, x);
    const PanelTable table;
    const kernels::Panel panel = {bytes.data(), kColumns, table.value.data(), 1};
    for (const size_t n : {size_t{1}, kernels::kColumnsMax}) {
      const std::string name = fmt::format("product.{}.{}.n{}", kernels.name, info.name, n);
      if (!report.Wants(name)) continue;
      std::vector<const void*> columns(n, column.data());
      std::vector<float> out(n * kernels::kRows);
      const double seconds =
          SecondsPerCall([&] { kernels.product[kind](panel, columns.data(), n, out.data()); }, options.repetitions, clock);
      const double multiplies = static_cast<double>(kColumns * kernels::kRows * n);
      report.Add(name, {{"GB/s", static_cast<double>(bytes.size()) / seconds * 1e-9}, {"GMAC/s", multiplies / seconds * 1e-9}});
    }
    const std::string name = fmt::format("product.{}.{}.tiles", kernels.name, info.name);
    if (kernels.tiles[kind].chunk_blocks == 0 || !report.Wants(name)) continue;
    constexpr size_t kTokens = 128;
    std::vector<kernels::ActivationTile> tiles(kTokens / kernels::kTileColumns * kColumns / 32);
    for (kernels::ActivationTile& tile : tiles) {
      std::memset(&tile, 1, sizeof(tile));
      std::fill_n(tile.scale, kernels::kTileColumns, 0.01f);
    }
    const std::vector<kernels::Panel> panels(kernels::kTilePanels, panel);
    std::vector<UnpackedChunk> chunks(panels.size());
    constexpr size_t kSumsStride = kTokens * kernels::kRows;
    std::vector<float> sums(panels.size() * kSumsStride);
    const double seconds = SecondsPerCall(
        [&] {
          MultiplyTiles(kernels.tiles[kind], {panels, bytes.size(), 0}, tiles, chunks.data(), sums.data(), kSumsStride);
        },
        options.repetitions, clock);
    const double multiplies = static_cast<double>(panels.size() * kColumns * kernels::kRows * kTokens);
    report.Add(name,
               {{"GB/s", static_cast<double>(panels.size() * bytes.size()) / seconds * 1e-9}, {"GMAC/s", multiplies / seconds * 1e-9}});
  }
}

// What loading does, and running weights that are kept as in the file: 16 rows to a panel.
void BenchPacking(const Options& options, Report& report) {
  constexpr size_t kColumns = 4096;
  const MonotonicClock clock;
  Rng rng(/*seed=*/3);
  for (size_t i = 0; i < kDTypes; ++i) {
    const DTypeInfo& info = Info(static_cast<DType>(i));
    const std::string name = fmt::format("pack.{}", info.name);
    if (!report.Wants(name)) continue;
    std::vector<uint8_t> rows(kPanelRows * RowBytes(info.dtype, kColumns));
    for (uint8_t& byte : rows) byte = static_cast<uint8_t>(rng.Next());
    const uint8_t* row[kPanelRows];
    for (size_t r = 0; r < kPanelRows; ++r) row[r] = rows.data() + r * (rows.size() / kPanelRows);
    std::vector<uint8_t> panel(PanelBytes(info.panel, kColumns));
    const double seconds = SecondsPerCall([&] { PackPanel(info.dtype, row, kColumns, panel.data()); }, options.repetitions, clock);
    report.Add(name,
               {{"Gweights/s", kPanelRows * kColumns / seconds * 1e-9}, {"GB/s", static_cast<double>(panel.size()) / seconds * 1e-9}});
  }
}

struct Speed {
  double prompt = 0;  // tokens per second
  double decode = 0;
};

class LoadedModel {
 public:
  static Result<std::unique_ptr<LoadedModel>> Make(const Options& options, int threads, const KernelSet& kernels) {
    std::unique_ptr<LoadedModel> loaded(new LoadedModel(threads));
    const auto files = MakeFileSystem();
    BANTAM_ASSIGN(ModelFile file, OpenGguf(*files, options.model));
    BANTAM_ASSIGN(ModelOutline outline, OutlineModel(file, kernels));
    PlanOptions plan_options;
    plan_options.context = std::max(options.prompt, options.decode + 1);
    plan_options.threads = threads;
    const MemoryPlan plan = PlanMemory(outline.program, plan_options, {});
    BANTAM_ASSIGN(loaded->model_, LoadModel(std::move(outline), file, {loaded->budget_, loaded->pool_}, nullptr));
    BANTAM_ASSIGN(loaded->session_, Session::Make(*loaded->model_, plan, {loaded->budget_, loaded->pool_}));
    return loaded;
  }

  // As the peer's bench does: the prompt in one go, then single tokens from an empty context.
  Speed Run(const Options& options) {
    const SpeedTest prompt = {.prompt = true, .tokens = options.prompt};
    const SpeedTest decode = {.prompt = false, .tokens = options.decode};
    return {static_cast<double>(prompt.tokens) / TimeRun(*session_, prompt, clock_).value(),
            static_cast<double>(decode.tokens) / TimeRun(*session_, decode, clock_).value()};
  }

  double Bandwidth() { return MeasureReadBandwidth(model_->weights.bytes(), *model_->kernels, pool_, clock_); }
  double BytesPerToken() const { return static_cast<double>(DecodeReadBytes(model_->program)); }

 private:
  explicit LoadedModel(int threads) : budget_(UINT64_MAX), pool_owner_(ThreadPool::Make(threads).value()), pool_(*pool_owner_) {}

  MonotonicClock clock_;
  MemoryBudget budget_;
  std::unique_ptr<ThreadPool> pool_owner_;
  ThreadPool& pool_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Session> session_;
};

// What the peer prints, as JSON. `arguments` follow its path.
Result<Json> RunPeer(const Options& options, const std::string& arguments) {
  if ((options.peer + options.model + options.text).find('\'') != std::string::npos) {
    return Error(Code::kInvalidArgument, "--peer, --model and --text: expected paths without single quotes; rename the file");
  }
  FILE* pipe = ::popen(fmt::format("'{}' {} 2>/dev/null", options.peer, arguments).c_str(), "r");
  if (pipe == nullptr) return Error(Code::kUnavailable, fmt::format("{}: cannot be started", options.peer));
  std::string text;
  std::array<char, 4096> chunk{};
  for (size_t got = 0; (got = std::fread(chunk.data(), 1, chunk.size(), pipe)) > 0;) text.append(chunk.data(), got);
  ::pclose(pipe);
  return Json::parse(text, nullptr, /*allow_exceptions=*/false);
}

// llama-bench prints one JSON object per test: the prompt's has n_gen 0.
Result<Speed> RunPeerModel(const Options& options, int threads) {
  BANTAM_ASSIGN(const Json rows, RunPeer(options, fmt::format("-m '{}' -t {} -p {} -n {} -r 1 -o json", options.model, threads,
                                                              options.prompt, options.decode)));
  Speed speed;
  if (rows.is_array()) {
    for (const Json& row : rows) (row.value("n_gen", 0) == 0 ? speed.prompt : speed.decode) = row.value("avg_ts", 0.0);
  }
  if (speed.prompt <= 0 || speed.decode <= 0) {
    return Error(Code::kUnavailable,
                 fmt::format("{}: expected the JSON that llama-bench -o json prints; check that it runs", options.peer));
  }
  return speed;
}

Status BenchModel(const Options& options, const KernelSet& kernels, Report& report) {
  for (const int threads : options.threads) {
    const std::string name = fmt::format("model.{}.t{}", kernels.name, threads);
    if (!report.Wants(name)) continue;
    BANTAM_ASSIGN(const auto loaded, LoadedModel::Make(options, threads, kernels));
    loaded->Run(options);  // the first run finds cold caches
    std::vector<double> prompt;
    std::vector<double> decode;
    std::vector<double> peer_prompt;
    std::vector<double> peer_decode;
    for (int i = 0; i < options.repetitions; ++i) {
      const Speed ours = loaded->Run(options);
      prompt.push_back(ours.prompt);
      decode.push_back(ours.decode);
      if (options.peer.empty()) continue;
      BANTAM_ASSIGN(const Speed peer, RunPeerModel(options, threads));
      peer_prompt.push_back(peer.prompt);
      peer_decode.push_back(peer.decode);
    }
    const double bandwidth = loaded->Bandwidth();
    Json values = {{"prompt", Median(prompt)},
                   {"decode", Median(decode)},
                   {"GB/s", Median(decode) * loaded->BytesPerToken() * 1e-9},
                   {"%bandwidth", 100 * Median(decode) * loaded->BytesPerToken() / bandwidth}};
    if (!options.peer.empty()) {
      values["peer_prompt"] = Median(peer_prompt);
      values["peer_decode"] = Median(peer_decode);
      values["prompt_ratio"] = Median(prompt) / Median(peer_prompt);
      values["decode_ratio"] = Median(decode) / Median(peer_decode);
    }
    report.Add(name, values);
  }
  return Ok();
}

// One thread over the whole text, the vocabulary loaded before; the peer is llama_tokenize.cc.
Status BenchTokenizer(const Options& options, Report& report) {
  const auto files = MakeFileSystem();
  const MonotonicClock clock;
  const auto seconds_since = [&](int64_t begin) { return static_cast<double>(clock.NowNs() - begin) * 1e-9; };
  BANTAM_ASSIGN(const std::string text, files->ReadText(options.text, size_t{1} << 30));
  const PromptPiece piece = {text, /*trusted=*/false};
  std::vector<double> load;
  std::vector<double> encode;
  std::vector<double> peer;
  size_t tokens = 0;
  for (int i = 0; i < options.repetitions; ++i) {
    int64_t begin = clock.NowNs();
    BANTAM_ASSIGN(const ModelFile file, OpenGguf(*files, options.model));
    BANTAM_ASSIGN(const Tokenizer tokenizer, ReadVocabulary(file));
    load.push_back(seconds_since(begin) * 1e3);
    begin = clock.NowNs();
    BANTAM_ASSIGN(const auto ids, tokenizer.Encode(std::span(&piece, 1)));
    encode.push_back(seconds_since(begin));
    tokens = ids.size();
    if (options.peer.empty()) continue;
    BANTAM_ASSIGN(const Json row, RunPeer(options, fmt::format("'{}' '{}'", options.model, options.text)));
    if (!row.is_object() || row.value("tokens", size_t{0}) != tokens) {
      return Error(Code::kUnavailable, fmt::format("{}: expected {} tokens as JSON, as llama_tokenize prints; it printed {}", options.peer,
                                                   tokens, DumpJson(row, /*indent=*/-1)));
    }
    peer.push_back(row.value("seconds", 0.0));
  }
  Json values = {{"load_ms", Median(load)},
                 {"tokens/s", static_cast<double>(tokens) / Median(encode)},
                 {"MB/s", static_cast<double>(text.size()) / Median(encode) * 1e-6}};
  if (!options.peer.empty()) {
    values["peer_tokens/s"] = static_cast<double>(tokens) / Median(peer);
    values["ratio"] = Median(peer) / Median(encode);
  }
  report.Add("tokenizer", values);
  return Ok();
}

int Main(int argc, char** argv) {
  CLI::App app("Measures this machine, the kernels, and a model beside a peer. Table on stderr, JSON on stdout.", "bantam_bench");
  Options options;
  app.add_option("--only", options.only, "cases whose name contains this");
  app.add_option("--model", options.model, "a .gguf file: prompt and decode speed");
  app.add_option("--text", options.text, "with --model: how fast its vocabulary turns this file into tokens, instead");
  app.add_option("--peer", options.peer, "path of llama-bench, or with --text of llama_tokenize: runs in turn with ours");
  app.add_option("-t,--threads", options.threads, "thread counts, such as 1,2")
      ->delimiter(',')
      ->check(CLI::Range(1, ThreadPool::kThreadsMax));
  app.add_option("-p,--prompt", options.prompt, "tokens of the prompt")->check(CLI::Range(1, 1 << 16))->capture_default_str();
  app.add_option("-n,--decode", options.decode, "tokens to decode")->check(CLI::Range(1, 1 << 16))->capture_default_str();
  app.add_option("--repetitions", options.repetitions, "the median of this many")->check(CLI::Range(1, 1000))->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const auto files = MakeFileSystem();
  const int processors = ReadSystemLimits(*files, /*root=*/"", AffinityProcessors()).cores;
  if (options.threads.empty()) options.threads = processors == 1 ? std::vector<int>{1} : std::vector<int>{1, processors};
  if (options.repetitions % 2 == 0) ++options.repetitions;

  Report report(options.only);
  const auto fail = [](const Error& error) {
    std::fprintf(stderr, "bantam_bench: %s\n", error.message().c_str());
    return ExitStatus(error.code());
  };
  if (!options.text.empty()) {
    const Status done = BenchTokenizer(options, report);
    if (!done.ok()) return fail(done.error());
    std::printf("%s\n", DumpJson(report.rows(), /*indent=*/2).c_str());
    return 0;
  }
  BenchBandwidth(options, *RunnableKernels().front(), report);
  if (options.model.empty()) BenchPacking(options, report);
  for (const KernelSet* kernels : RunnableKernels()) {
    if (options.model.empty()) BenchProducts(options, *kernels, report);
  }
  if (!options.model.empty()) {
    const Status done = BenchModel(options, *RunnableKernels().front(), report);
    if (!done.ok()) return fail(done.error());
  }
  std::printf("%s\n", DumpJson(report.rows(), /*indent=*/2).c_str());
  return 0;
}

}  // namespace
}  // namespace bantam

int main(int argc, char** argv) { return bantam::Main(argc, argv); }
