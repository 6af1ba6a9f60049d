#include "fleet/store.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "fleet/download.h"
#include "fleet/path_name.h"
#include "formats/gguf_parts.h"

namespace bantam {
namespace {

// What follows NAME.part in the names that a pull gives: nothing, .json for the state, -1 for a part of a file, which is a download of its
// own, and what is behind a name while it is written.
bool IsPartEnding(std::string_view rest) {
  constexpr std::string_view kState = ".json";
  constexpr std::string_view kPart = ".part";
  if (rest.empty() || rest == kState) return true;
  if (rest.starts_with(kState)) return rest.substr(kState.size()).starts_with(".part-");
  if (rest[0] != '-') return false;
  const size_t digits = std::min(rest.find_first_not_of("0123456789", 1), rest.size());
  if (digits == 1) return false;
  rest.remove_prefix(digits);
  return rest.empty() || (rest.starts_with(kPart) && IsPartEnding(rest.substr(kPart.size())));
}

// The model that a file of an unfinished download belongs to; empty for other files.
std::string_view NameOfPart(std::string_view entry) {
  constexpr std::string_view kPart = ".part";
  for (size_t at = entry.find(kPart, 1); at != std::string_view::npos; at = entry.find(kPart, at + 1)) {
    if (IsPartEnding(entry.substr(at + kPart.size()))) return entry.substr(0, at);
  }
  return {};
}

// A Hugging Face folder, or that of a GGUF in parts.
bool IsModelFolder(FileSystem& files, Disk& disk, const std::string& path) {
  if (files.Exists(path + "/config.json")) return true;
  const auto entries = disk.Entries(path);
  return entries.ok() && std::any_of(entries->begin(), entries->end(), [](const DiskEntry& entry) {
           const auto part = ParseGgufPartName(entry.name);
           return part.has_value() && part->number == 1 && part->count > 1;
         });
}

bool IsModelFile(std::string_view name) { return name.ends_with(".gguf") || name.ends_with(".bantam"); }

// Files of a folder and of the folders in it, as deep as models have them.
uint64_t FolderBytes(Disk& disk, const std::string& folder, int depth) {
  constexpr int kDepthMax = 8;
  uint64_t sum = 0;
  const auto entries = disk.Entries(folder);
  if (!entries.ok()) return 0;
  for (const DiskEntry& entry : *entries) {
    if (entry.kind == DiskEntry::Kind::kFile) sum += entry.size_bytes;
    if (entry.kind == DiskEntry::Kind::kFolder && depth < kDepthMax) {
      sum += FolderBytes(disk, fmt::format("{}/{}", folder, entry.name), depth + 1);
    }
  }
  return sum;
}

}  // namespace

Result<std::vector<StoredModel>> ListStore(FileSystem& files, Disk& disk, const std::string& folder) {
  if (!files.Exists(folder)) return std::vector<StoredModel>();
  BANTAM_ASSIGN(const std::vector<DiskEntry> entries, disk.Entries(folder));
  std::map<std::string, StoredModel, std::less<>> models;
  for (const DiskEntry& entry : entries) {
    const std::string path = fmt::format("{}/{}", folder, entry.name);
    const bool is_folder = entry.kind == DiskEntry::Kind::kFolder;
    const std::string part_of(NameOfPart(entry.name));
    const bool is_model = is_folder ? IsModelFolder(files, disk, path) : IsModelFile(entry.name);
    if (!part_of.empty()) {
      StoredModel& model = models[part_of];
      // Beside a whole model a part is left from before; it goes with it.
      if (!model.name.empty() && !model.unfinished) continue;
      model.name = part_of;
      model.unfinished = true;
      model.folder = model.folder || is_folder;
      // States are small and no part of the model.
      if (entry.name.find(".json", part_of.size()) == std::string::npos)
        model.size_bytes += is_folder ? FolderBytes(disk, path, /*depth=*/0) : entry.size_bytes;
    } else if (is_model) {
      const uint64_t bytes = is_folder ? FolderBytes(disk, path, /*depth=*/0) : entry.size_bytes;
      models[entry.name] = {entry.name, is_folder, /*unfinished=*/false, bytes};
    }
  }
  std::vector<StoredModel> list;
  for (auto& [name, model] : models) list.push_back(std::move(model));
  return list;
}

Result<StoredModel> FindStored(FileSystem& files, Disk& disk, const std::string& folder, const std::string& name) {
  if (name.empty()) return Error(Code::kInvalidArgument, "an empty model name; bantam list shows the names");
  BANTAM_ASSIGN(const std::vector<StoredModel> models, ListStore(files, disk, folder));
  for (const std::string& wanted : {name, name + ".gguf", name + ".bantam"}) {
    for (const StoredModel& model : models) {
      if (model.name == wanted) return model;
    }
  }
  // Whatever else has a name that a model could have is in the way of a pull, be it an empty folder.
  if (files.Exists(folder) && CheckModelName(name).ok()) {
    BANTAM_ASSIGN(const std::vector<DiskEntry> entries, disk.Entries(folder));
    for (const DiskEntry& entry : entries) {
      if (entry.name != name) continue;
      const bool is_folder = entry.kind == DiskEntry::Kind::kFolder;
      const uint64_t bytes = is_folder ? FolderBytes(disk, fmt::format("{}/{}", folder, name), /*depth=*/0) : entry.size_bytes;
      return StoredModel{name, is_folder, /*unfinished=*/false, bytes};
    }
  }
  return Error(Code::kNotFound,
               fmt::format("{}: no such model in {}; bantam list shows them, and files elsewhere are yours to remove", name, folder));
}

Status RemoveStored(Disk& disk, const std::string& folder, const StoredModel& model) {
  const std::string path = fmt::format("{}/{}", folder, model.name);
  BANTAM_ASSIGN(const std::unique_ptr<FileLock> lock, disk.Lock(path + ".lock"));
  if (lock == nullptr) return Error(Code::kUnavailable, fmt::format("{}: it is being fetched; stop that first", model.name));
  BANTAM_ASSIGN(const std::vector<DiskEntry> entries, disk.Entries(folder));
  for (const DiskEntry& entry : entries) {
    if (NameOfPart(entry.name) == model.name) BANTAM_TRY(disk.RemoveTree(fmt::format("{}/{}", folder, entry.name)));
  }
  // What has a model's name is whole: it loses the name before anything else.
  const std::string part = PartPath(path);
  if (!model.unfinished) BANTAM_TRY(disk.Rename(path, part));
  BANTAM_TRY(disk.RemoveTree(part));
  return disk.RemoveTree(path + ".tune.json");
}

}  // namespace bantam
