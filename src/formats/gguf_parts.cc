#include "formats/gguf_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/check.h"
#include "formats/gguf.h"

namespace bantam {
namespace {

// What a file says of itself; numbers of parts begin at 0.
struct Split {
  uint32_t count = 1;
  uint32_t number = 0;
  uint32_t tensors = 0;  // of all parts
};
Result<Split> ReadSplit(const Metadata& metadata) {
  BANTAM_ASSIGN(const auto count, metadata.U32("split.count"));
  BANTAM_ASSIGN(const auto number, metadata.U32("split.no"));
  BANTAM_ASSIGN(const auto tensors, metadata.U32("split.tensors.count"));
  const Split split = {count.value_or(1), number.value_or(0), tensors.value_or(0)};
  if (split.count > kGgufPartsMax || split.number >= std::max(split.count, 1u)) {
    return Error(Code::kCorrupt,
                 fmt::format("metadata keys split.count and split.no: {} and {}, expected up to {} parts and the number of one",
                             split.count, split.number, kGgufPartsMax));
  }
  return split;
}

// Five digits.
std::optional<uint32_t> ParseNumber(std::string_view digits) {
  uint32_t number = 0;
  for (const char c : digits) {
    if (c < '0' || c > '9') return std::nullopt;
    number = number * 10 + static_cast<uint32_t>(c - '0');
  }
  return number;
}

// Parts one behind the other.
class PartsSource final : public TensorSource {
 public:
  explicit PartsSource(std::vector<ModelFile> parts) : parts_(std::move(parts)) {
    uint64_t offset = 0;
    for (const ModelFile& part : parts_) {
      offsets_.push_back(offset);
      offset += part.size_bytes;
    }
  }
  uint64_t offset_bytes(size_t part) const { return offsets_[part]; }
  const std::vector<ModelFile>& parts() const { return parts_; }

  // Tensors lie within one part.
  Result<std::span<const std::byte>> View(uint64_t offset_bytes, uint64_t size_bytes) override {
    const size_t part = Find(offset_bytes);
    return parts_[part].source->View(offset_bytes - offsets_[part], size_bytes);
  }
  void Release(uint64_t offset_bytes, uint64_t size_bytes) override {
    const size_t part = Find(offset_bytes);
    parts_[part].source->Release(offset_bytes - offsets_[part], size_bytes);
  }

 private:
  size_t Find(uint64_t offset_bytes) const {
    return static_cast<size_t>(std::upper_bound(offsets_.begin(), offsets_.end(), offset_bytes) - offsets_.begin()) - 1;
  }
  std::vector<ModelFile> parts_;
  std::vector<uint64_t> offsets_;
};

Result<ModelFile> OpenPart(FileSystem& files, const std::string& path, uint32_t number, const Split& of) {
  Result<ModelFile> part = OpenGguf(files, path).With(fmt::format("part {} of {}", number + 1, of.count));
  if (!part.ok()) return part;
  BANTAM_ASSIGN(const Split split, ReadSplit(part->metadata).With(path));
  if (split.count == of.count && split.number == number && split.tensors == of.tensors) return part;
  return Error(Code::kCorrupt,
               fmt::format("{}: part {} of {} of a model of {} tensors, expected part {} of {} of one of {}; fetch the parts again", path,
                           split.number + 1, split.count, split.tensors, number + 1, of.count, of.tensors));
}

Result<ModelFile> Join(FileSystem& files, ModelFile first) {
  BANTAM_ASSIGN(const Split split, ReadSplit(first.metadata).With(first.path));
  if (split.count <= 1) return first;
  const std::string path = first.path;
  const auto name = ParseGgufPartName(path);
  if (!name.has_value() || name->number != split.number + 1 || name->count != split.count) {
    return Error(Code::kCorrupt, fmt::format("{}: part {} of {} of a model, expected a name that ends in {}; name it so, beside the others",
                                             path, split.number + 1, split.count, GgufPartPath("", split.number + 1, split.count)));
  }
  if (split.number != 0) {
    return Error(Code::kInvalidArgument, fmt::format("{}: part {} of {} of a model; name the first, {}", path, split.number + 1,
                                                     split.count, GgufPartPath(name->stem, 1, split.count)));
  }
  ModelFile whole;
  whole.path = first.path;
  whole.format = fmt::format("{} in {} files", first.format, split.count);
  std::vector<ModelFile> parts;
  parts.push_back(std::move(first));
  for (uint32_t number = 1; number < split.count; ++number) {
    BANTAM_ASSIGN(ModelFile part, OpenPart(files, GgufPartPath(name->stem, number + 1, split.count), number, split));
    whole.further_paths.push_back(part.path);
    parts.push_back(std::move(part));
  }
  auto source = std::make_unique<PartsSource>(std::move(parts));
  std::vector<TensorInfo> tensors;
  for (size_t i = 0; i < source->parts().size(); ++i) {
    const ModelFile& part = source->parts()[i];
    for (TensorInfo tensor : part.directory.tensors()) {
      tensor.offset_bytes += source->offset_bytes(i);
      tensors.push_back(tensor);
    }
    whole.size_bytes += part.size_bytes;
    whole.header_bytes += part.header_bytes;
  }
  if (tensors.size() != split.tensors) {
    return Error(Code::kCorrupt, fmt::format("{}: {} tensors in {} parts, expected {}; fetch the parts again", whole.path, tensors.size(),
                                             split.count, split.tensors));
  }
  // Names and values are viewed where the parts hold them.
  whole.metadata = source->parts()[0].metadata;
  BANTAM_ASSIGN(whole.directory, TensorDirectory::Make(std::move(tensors)).With(whole.path));
  whole.source = std::move(source);
  return whole;
}

}  // namespace

std::optional<GgufPartName> ParseGgufPartName(std::string_view path) {
  constexpr std::string_view kShape = "-00001-of-00003.gguf";
  if (path.size() <= kShape.size()) return std::nullopt;
  const std::string_view ending = path.substr(path.size() - kShape.size());
  const bool shaped = ending[0] == '-' && ending.substr(6, 4) == "-of-" && ending.substr(15) == kShape.substr(15);
  const auto number = ParseNumber(ending.substr(1, 5));
  const auto count = ParseNumber(ending.substr(10, 5));
  const std::string_view stem = path.substr(0, path.size() - kShape.size());
  if (!shaped || !number || !count || *number == 0 || *number > *count || stem.ends_with('/')) return std::nullopt;
  return GgufPartName{stem, *number, *count};
}

std::string GgufPartPath(std::string_view stem, uint32_t number, uint32_t count) {
  return fmt::format("{}-{:05}-of-{:05}.gguf", stem, number, count);
}

Result<std::vector<std::string>> GgufPartPaths(std::string_view path) {
  const auto part = ParseGgufPartName(path);
  CHECK(part.has_value());
  if (part->number != 1) {
    return Error(Code::kInvalidArgument, fmt::format("{}: part {} of {} of a model; name the first, {}", path, part->number, part->count,
                                                     GgufPartPath(part->stem, 1, part->count)));
  }
  if (part->count > kGgufPartsMax) {
    return Error(Code::kInvalidArgument,
                 fmt::format("{}: a model in {} parts, expected at most {}; choose another file of it", path, part->count, kGgufPartsMax));
  }
  std::vector<std::string> paths;
  for (uint32_t number = 1; number <= part->count; ++number) paths.push_back(GgufPartPath(part->stem, number, part->count));
  return paths;
}

Result<std::optional<std::string>> FindGgufParts(FileSystem& files, const std::string& folder) {
  BANTAM_ASSIGN(const std::vector<FileSystem::Entry> entries, files.List(folder));
  std::optional<std::string> first;
  for (const FileSystem::Entry& entry : entries) {
    const auto part = ParseGgufPartName(entry.name);
    if (!part.has_value() || part->number != 1 || part->count == 1) continue;
    if (first.has_value()) {
      return Error(Code::kInvalidArgument,
                   fmt::format("{}: a folder of several models; name the first part of one, such as {}", folder, *first));
    }
    first = fmt::format("{}/{}", folder, entry.name);
  }
  return first;
}

Result<ModelFile> OpenGgufModel(FileSystem& files, const std::string& path) {
  BANTAM_ASSIGN(ModelFile file, OpenGguf(files, path));
  return Join(files, std::move(file));
}

}  // namespace bantam
