#include "model/adapter/adapter_file.h"

#include <fmt/format.h>

#include <cmath>

#include "program/low_rank.h"

namespace bantam {
namespace {

Status CheckPair(const AdapterPair& pair) {
  if (pair.rank == 0 || pair.rank > kLowRankMax) {
    return Error(Code::kUnsupported, fmt::format("tensor {}: rank {}, expected 1 to {}", pair.a.name, pair.rank, kLowRankMax));
  }
  if (!std::isfinite(pair.scale)) return Error(Code::kCorrupt, fmt::format("tensor {}: a scale that is no number", pair.a.name));
  for (const auto& [matrix, columns] : {std::pair(&pair.a, pair.columns), {&pair.b, pair.rank}}) {
    if (columns % Info(matrix->dtype).block_elements == 0) continue;
    return Error(Code::kCorrupt, fmt::format("tensor {}: rows of {} elements in format {}, which has blocks of {}", matrix->name, columns,
                                             Info(matrix->dtype).name, Info(matrix->dtype).block_elements));
  }
  return Ok();
}

}  // namespace

Result<AdapterFile> OpenAdapter(FileSystem& files, const std::string& path, const Config& config) {
  const bool folder = files.Exists(path + "/adapter_config.json");
  if (!folder && files.List(path).ok()) {
    return Error(Code::kNotFound,
                 fmt::format("{}: a folder without adapter_config.json, so no adapter; name a PEFT folder or a GGUF file", path));
  }
  if (path.ends_with(".safetensors") || path.ends_with(".bin")) {
    return Error(Code::kUnsupported, fmt::format("{}: an adapter without its adapter_config.json; name the folder that holds both", path));
  }
  BANTAM_ASSIGN(AdapterFile file, folder ? OpenPeft(files, path, config) : OpenGgufAdapter(files, path, config));
  file.path = path;
  if (file.pairs.empty()) return Error(Code::kCorrupt, fmt::format("{}: an adapter of no tensors", path));
  for (const AdapterPair& pair : file.pairs) BANTAM_TRY(CheckPair(pair).With(path));
  return file;
}

}  // namespace bantam
