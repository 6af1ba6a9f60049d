#include "cli/kv_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>
#include <utility>

#include "base/json.h"
#include "compress/compare.h"
#include "compress/window_runner.h"
#include "model/model_digest.h"

namespace bantam {
namespace {

constexpr size_t kWindow = 128;
constexpr size_t kWindows = 3;
// Logits of so many tokens are in memory at once, twice.
constexpr size_t kStepTokens = 32;
constexpr size_t kFileBytesMax = 65536;
constexpr uint64_t kFormat = 2;
// Of a type with which the model's logits are no numbers.
constexpr double kNoNumbers = 1e6;

// Prose, speech, numbers, names, code and other languages: what a model reads of each is not what decides, but that it reads all of them.
constexpr std::string_view kText =
    "The harbour master wrote the tides into a long green book, one line for each ship, and on the last page of every month he added up "
    "what the port had earned. In March 1987 it was 14,206 crowns; a year later it was half as much. \"Where have they all gone?\" asked "
    "his daughter, who was seven and wanted to know everything. He put down his pen. \"South,\" he said, \"where the water is warmer and "
    "the fuel costs 0.85 less per litre.\"\n\n"
    "To bake bread you need 500 g of flour, 320 ml of water, 10 g of salt and a little yeast. Mix them, wait for an hour, fold the dough "
    "three times, and let it rise over night. The oven should be at 230 degrees; after forty minutes the crust is dark and sounds hollow "
    "when you knock on it.\n\n"
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n    return total / len(values)\n\n"
    "Die Katze liegt auf dem Dach und wartet, bis es dunkel wird. La pluie tombe depuis trois jours sur la ville. El tren sale a las nueve "
    "y media. \xe4\xbb\x8a\xe5\xa4\xa9\xe5\xa4\xa9\xe6\xb0\x94\xe5\xbe\x88\xe5\xa5\xbd\xe3\x80\x82\n\n"
    "Dear Ms Okafor, thank you for your order 4471-B. The sensor reports a temperature every ten seconds; when three readings in a row lie "
    "above the limit, the pump is switched off and an alarm is sent to the control room. Please read the safety notes before you open the "
    "case. The reason is simple: although the board is fed with 5 V, its capacitors keep up to 60 V for several minutes.\n\n"
    "Q: What is the capital of Norway? A: Oslo. Q: Who wrote Faust? A: Goethe. Q: How many legs does a spider have? A: Eight.\n";

}  // namespace

std::string KvChecksPath(const std::string& model_path) { return model_path + ".kv.json"; }

std::string KvRopeName(const RopeOverride& rope) {
  return rope.scaling == RopeScaling::kNone ? "" : fmt::format("{}:{}", RopeScalingName(rope.scaling), rope.factor);
}

std::optional<KvChecks> ReadKvChecks(FileSystem& files, const std::string& model_path) {
  const std::string path = KvChecksPath(model_path);
  if (!files.Exists(path)) return std::nullopt;
  const Result<std::string> text = files.ReadText(path, kFileBytesMax);
  if (!text.ok()) return std::nullopt;
  const Result<Json> json = ParseJson(*text);
  if (!json.ok()) return std::nullopt;
  const Json& format = JsonMember(*json, "format");
  const auto model = DigestFromHex(JsonText(*json, "model").value_or(""));
  if (!format.is_number_unsigned() || format.get<uint64_t>() != kFormat || !model) return std::nullopt;
  KvChecks checks = {.model = *model, .files = DigestFromHex(JsonText(*json, "files").value_or(""))};
  const Json& measured = JsonMember(*json, "measured");
  if (!measured.is_object() || measured.size() > kKvRopesMax) return std::nullopt;
  for (const auto& [rope, divergences] : measured.items()) {
    if (!divergences.is_object()) return std::nullopt;
    for (const auto& [name, value] : divergences.items()) {
      const auto type = KvTypeFromName(name);
      if (!type || !value.is_number() || !(value.get<double>() >= 0)) return std::nullopt;
      checks.by_rope[rope][*type] = value.get<double>();
    }
  }
  return checks;
}

Status WriteKvChecks(FileSystem& files, const std::string& model_path, KvChecks checks, const std::string& rope) {
  while (checks.by_rope.size() > kKvRopesMax) {
    checks.by_rope.erase(checks.by_rope.begin()->first == rope ? std::next(checks.by_rope.begin()) : checks.by_rope.begin());
  }
  Json measured = Json::object();
  for (const auto& [name, divergences] : checks.by_rope) {
    for (const auto& [type, divergence] : divergences) measured[name][std::string(KvTypeName(type))] = divergence;
  }
  Json json = {{"format", kFormat}, {"model", HexOf(checks.model)}, {"measured", measured}};
  if (checks.files) json["files"] = HexOf(*checks.files);
  const std::string text = DumpJson(json, /*indent=*/2) + "\n";
  BANTAM_ASSIGN(const auto writer, files.Create(KvChecksPath(model_path)));
  BANTAM_TRY(writer->Append(std::as_bytes(std::span(text))));
  return writer->Commit();
}

Result<KvChecks> FindKvChecks(FileSystem& files, const KnownModel& model, const Progress& progress) {
  std::optional<KvChecks> kept = ReadKvChecks(files, model.file.path);
  const std::optional<Digest> name = NameFiles(files, model.file, model.now_ns);
  if (kept && name && kept->files == name) return *std::move(kept);
  BANTAM_ASSIGN(const Digest digest, DigestModel(model.file, progress));
  if (!kept || kept->model != digest) return KvChecks{.model = digest, .files = name};
  kept->files = name;
  // Where it cannot be written down, the next start reads the weights again.
  if (name) (void)WriteKvChecks(files, model.file.path, *kept, /*rope=*/"");
  return *std::move(kept);
}

KvChoice ChooseKvType(const KvDivergences& known, KvType wanted) {
  for (KvType type = wanted;;) {
    const auto better = BetterKvType(type);
    if (!better) return {type, /*known=*/true};
    const auto found = known.find(type);
    if (found == known.end()) return {type, /*known=*/false};
    if (found->second <= kKvDivergenceMax) return {type, /*known=*/true};
    type = *better;
  }
}

std::string KvFallbackNote(const KvDivergences& known, KvType wanted, KvType taken) {
  const auto figure = [&](KvType type) {
    const auto found = known.find(type);
    if (found == known.end()) return std::string();
    return found->second >= kNoNumbers ? std::string(" (its logits are no numbers)") : fmt::format(" ({:.4f})", found->second);
  };
  return fmt::format(
      "[keys and values in {} cost this model more than a mean KL divergence of {}{}: {}{} is taken; --no-kv-check takes them anyway]\n",
      KvTypeName(wanted), kKvDivergenceMax, figure(wanted), KvTypeName(taken), figure(taken));
}

Result<std::vector<uint32_t>> KvCheckTokens(const Tokenizer& tokenizer, const Program& program) {
  BANTAM_ASSIGN(const std::vector<uint32_t> text, tokenizer.Encode(kText, /*special=*/false));
  const std::vector<uint32_t>& prefix = tokenizer.spec().prefix;
  const size_t window = std::min(kWindow, program.context_max);
  std::vector<uint32_t> tokens;
  size_t next = 0;
  while (tokens.size() < kWindows * window) {
    const bool begins = tokens.size() % window == 0;
    const uint32_t token = begins && !prefix.empty() ? prefix.front() : text.empty() ? 0 : text[next++ % text.size()];
    tokens.push_back(token < program.vocabulary ? token : 0);
  }
  return tokens;
}

bool CanCheckKv(const Program& program) {
  constexpr size_t kContextLeast = 16;
  return program.context_max >= kContextLeast;
}

Result<double> MeasureKvType(const Model& model, KvType type, std::span<const uint32_t> tokens, const Resources& resources,
                             const std::function<bool(bool one)>& stop) {
  PlanOptions options;
  options.context = tokens.size() / kWindows;
  options.step_tokens = std::min(kStepTokens, options.context);
  options.step_outputs = options.step_tokens;
  options.threads = resources.pool.size();
  options.kv_type = KvType::kF16;
  BANTAM_ASSIGN(const auto base, WindowRunner::Make(model, options, resources));
  options.kv_type = type;
  BANTAM_ASSIGN(const auto candidate, WindowRunner::Make(model, options, resources));
  bool one = false;  // window is done
  const auto stopped = [&] { return stop(one); };
  const auto comparison = Compare(
      *base, *candidate, tokens, {}, resources.pool, [&](const Comparison&, size_t) { one = true; }, stopped);
  // With f16 they may be none either: nothing is better then.
  if (!comparison.ok() && comparison.error().code() == Code::kCorrupt) return kNoNumbers;
  BANTAM_TRY(Status(comparison.ok() ? Ok() : Status(comparison.error())));
  return comparison->divergence.value;
}

}  // namespace bantam
