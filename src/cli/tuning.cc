#include "cli/tuning.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "base/json.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "program/memory_plan.h"

namespace bantam {
namespace {

constexpr size_t kTuningBytesMax = 65536;
constexpr uint64_t kFormat = 1;

// A whole number from `least` to `most`.
Result<uint64_t> Number(const Json& json, const char* name, uint64_t least, uint64_t most) {
  const Json& value = JsonMember(json, name);
  if (!value.is_number_unsigned() || value.get<uint64_t>() < least || value.get<uint64_t>() > most) {
    return Error(Code::kCorrupt, fmt::format("{}: expected a whole number from {} to {}", name, least, most));
  }
  return value.get<uint64_t>();
}

Result<std::string> Text(const Json& json, const char* name) {
  auto text = JsonText(json, name);
  if (!text) return Error(Code::kCorrupt, fmt::format("{}: expected a text", name));
  return std::move(*text);
}

Result<Tuning> Parse(std::string_view text) {
  BANTAM_ASSIGN(const Json json, ParseJson(text));
  BANTAM_TRY(Number(json, "format", kFormat, kFormat));
  Tuning tuning;
  BANTAM_ASSIGN(tuning.processor, Text(json, "processor"));
  BANTAM_ASSIGN(tuning.kernels, Text(json, "kernels"));
  BANTAM_ASSIGN(const uint64_t cores, Number(json, "cores", 1, INT32_MAX));
  BANTAM_ASSIGN(tuning.model_bytes, Number(json, "model_bytes", 0, INT64_MAX));
  BANTAM_ASSIGN(const uint64_t threads, Number(json, "threads", 1, static_cast<uint64_t>(ThreadPool::kThreadsMax)));
  BANTAM_ASSIGN(tuning.prefetch, Number(json, "prefetch_bytes", 0, kPrefetchMax));
  BANTAM_ASSIGN(tuning.token_tile, Number(json, "token_tile", kernels::kTileColumns, kTokenTile));
  tuning.cores = static_cast<int>(cores);
  tuning.threads = static_cast<int>(threads);
  if (tuning.token_tile % kernels::kTileColumns != 0) {
    return Error(Code::kCorrupt, fmt::format("token_tile: expected a multiple of {}", kernels::kTileColumns));
  }
  BANTAM_ASSIGN(tuning.weights, Text(json, "weights"));
  if (tuning.weights != "auto" && tuning.weights != WeightFormName(WeightForm::kRows)) {
    return Error(Code::kCorrupt, "weights: expected auto or rows");
  }
  const auto names = KernelSetNames();
  if (std::find(names.begin(), names.end(), tuning.kernels) == names.end()) {
    return Error(Code::kCorrupt, fmt::format("kernels: expected one of {}", fmt::join(names, ", ")));
  }
  return tuning;
}

}  // namespace

std::string TuningPath(const std::string& model_path) { return model_path + ".tune.json"; }

Status WriteTuning(FileWriter& writer, const Tuning& tuning) {
  const Json json = {{"format", kFormat},
                     {"processor", tuning.processor},
                     {"cores", tuning.cores},
                     {"model_bytes", tuning.model_bytes},
                     {"kernels", tuning.kernels},
                     {"weights", tuning.weights},
                     {"threads", tuning.threads},
                     {"prefetch_bytes", tuning.prefetch},
                     {"token_tile", tuning.token_tile}};
  const std::string text = DumpJson(json, /*indent=*/2) + "\n";
  BANTAM_TRY(writer.Append(std::as_bytes(std::span(text))));
  return writer.Commit();
}

Result<std::optional<Tuning>> ReadTuning(FileSystem& files, const std::string& model_path) {
  const std::string path = TuningPath(model_path);
  if (!files.Exists(path)) return std::optional<Tuning>();
  BANTAM_ASSIGN(const std::string text, files.ReadText(path, kTuningBytesMax));
  Result<Tuning> tuning = Parse(text);
  if (!tuning.ok()) return std::move(tuning).error().With(path);
  return std::optional<Tuning>(std::move(*tuning));
}

}  // namespace bantam
