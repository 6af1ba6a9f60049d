#include "formats/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <optional>
#include <utility>

#include "base/bytes.h"
#include "base/json.h"
#include "formats/model_file.h"

namespace bantam {
namespace {

struct TypeInfo {
  std::string_view name;
  size_t bytes;
};
// In the order of SafetensorsType.
constexpr TypeInfo kTypes[] = {{"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I64", 8}, {"I32", 4},
                               {"I16", 2}, {"I8", 1},  {"U64", 8}, {"U32", 4},  {"U16", 2},     {"U8", 1},      {"BOOL", 1}};

std::optional<SafetensorsType> TypeFromName(std::string_view name) {
  for (size_t i = 0; i < std::size(kTypes); ++i) {
    if (kTypes[i].name == name) return static_cast<SafetensorsType>(i);
  }
  return std::nullopt;
}

// A list of whole numbers, as far as a shape may have them.
struct WholeList {
  bool present = false;
  bool whole = true;  // nothing else is in it
  size_t count = 0;
  std::array<uint64_t, kSafetensorsDimensionsMax + 1> values = {};

  void Add(uint64_t value) {
    if (count < values.size()) values[count] = value;
    ++count;
  }
  std::string Shown() const {
    if (!present || !whole) return "that is no list of whole numbers";
    return fmt::format("[{}{}]", fmt::join(values.begin(), values.begin() + std::min(count, values.size()), ","),
                       count > values.size() ? ",..." : "");
  }
};

// The elements of a shape, or nothing past the limit.
std::optional<uint64_t> Elements(const WholeList& shape) {
  uint64_t elements = 1;
  if (!shape.present || !shape.whole || shape.count > kSafetensorsDimensionsMax) return std::nullopt;
  for (size_t d = 0; d < shape.count; ++d) {
    if (shape.values[d] > kTensorElementsMax) return std::nullopt;
    if (!CheckedMultiply(elements, shape.values[d], &elements) || elements > kTensorElementsMax) return std::nullopt;
  }
  return elements;
}

// What the header says of a tensor.
struct Entry {
  std::string name;
  std::optional<std::string> dtype;
  WholeList shape;
  WholeList offsets;
  bool twice = false;  // one of them
};

Result<SafetensorsTensor> MakeTensor(const Entry& entry, uint64_t data_bytes) {
  const std::string& name = entry.name;
  if (entry.twice) return Error(Code::kCorrupt, fmt::format("tensor {}: a member of it twice; fetch the file again", name));
  if (!entry.dtype) return Error(Code::kCorrupt, fmt::format("tensor {}: no dtype; fetch the file again", name));
  const auto type = TypeFromName(*entry.dtype);
  if (!type) {
    return Error(Code::kUnsupported, fmt::format("tensor {}: element type {} is not known to this build", name, *entry.dtype));
  }
  const auto elements = Elements(entry.shape);
  const WholeList& offsets = entry.offsets;
  const bool paired = offsets.present && offsets.whole && offsets.count == 2;
  const auto [begin, end] = std::pair(offsets.values[0], offsets.values[1]);
  const bool fits = elements && paired && begin <= end && end <= data_bytes && end - begin == *elements * ElementBytes(*type);
  if (elements && paired && begin <= end && end > data_bytes) {
    return Error(Code::kCorrupt,
                 fmt::format("tensor {}: bytes up to {} of the data, of which the file has {}; it is cut short, fetch it again", name, end,
                             data_bytes));
  }
  if (!fits) {
    return Error(
        Code::kCorrupt,
        fmt::format("tensor {}: shape {} of {} at bytes {}: expected at most {} dimensions, and as many bytes as they have elements, "
                    "within the file's {} bytes of data; fetch the file again",
                    name, entry.shape.Shown(), *entry.dtype, offsets.Shown(), kSafetensorsDimensionsMax, data_bytes));
  }
  const auto first = entry.shape.values.begin();
  return SafetensorsTensor{name, *type, {first, first + static_cast<std::ptrdiff_t>(entry.shape.count)}, begin, end - begin};
}

// Makes tensors of the header's members as they are read. A tree of them would take five times the memory, and a search through all of it
// for each: checkpoints of experts have a hundred thousand.
class HeaderReader final : public JsonListener {
 public:
  explicit HeaderReader(uint64_t data_bytes) : data_bytes_(data_bytes) {}

  bool Wants(std::string_view) override { return true; }  // the outermost, and so all
  void Text(std::string_view key, std::string& text) override {
    if (depth_ == 1 && key == "dtype") {
      entry_.twice = entry_.twice || entry_.dtype.has_value();
      entry_.dtype = std::move(text);
    } else {
      Other(key);
    }
  }
  void Number(std::string_view key, double) override { Other(key); }
  void Whole(std::string_view key, uint64_t number) override {
    if (depth_ == 2 && list_ != nullptr) {
      list_->Add(number);
    } else {
      Other(key);
    }
  }
  void Other(std::string_view key) override {
    if (list_ != nullptr) list_->whole = false;
    if (depth_ != 0) return;
    Start(key);
    Finish();
  }
  void Begin(std::string_view key, JsonContainer container) override {
    ++depth_;
    if (depth_ == 1) Start(key);
    if (depth_ > 2 && list_ != nullptr) list_->whole = false;
    if (depth_ != 2) return;
    list_ = key == "shape" ? &entry_.shape : key == "data_offsets" ? &entry_.offsets : nullptr;
    if (list_ == nullptr) return;
    entry_.twice = entry_.twice || list_->present;
    list_->present = true;
    list_->whole = list_->whole && container == JsonContainer::kList;
  }
  void End() override {
    if (depth_ == 2) list_ = nullptr;
    if (--depth_ == 0) Finish();
  }

  // The first error, or all tensors.
  Result<std::vector<SafetensorsTensor>> Take() {
    BANTAM_TRY(status_);
    return std::move(tensors_);
  }

 private:
  void Start(std::string_view key) {
    entry_ = Entry();
    entry_.name = key;
  }

  void Finish() {
    if (!status_.ok()) return;
    if (entry_.name == "__metadata__") {
      if (std::exchange(has_metadata_, true)) status_ = Error(Code::kCorrupt, "the header has __metadata__ twice; fetch the file again");
      return;
    }
    if (tensors_.size() == kSafetensorsTensorsMax) {
      status_ = Error(Code::kExhausted, fmt::format("more than {} tensors, which no model has; check what file this is", tensors_.size()));
      return;
    }
    Result<SafetensorsTensor> tensor = MakeTensor(entry_, data_bytes_);
    if (tensor.ok()) {
      tensors_.push_back(std::move(*tensor));
    } else {
      status_ = tensor.error();
    }
  }

  const uint64_t data_bytes_;
  Status status_ = Ok();
  std::vector<SafetensorsTensor> tensors_;
  Entry entry_;
  WholeList* list_ = nullptr;  // of entry_, while the header is in one
  size_t depth_ = 0;           // below the outermost object
  bool has_metadata_ = false;
};

// Which of two tensors a name means would be a guess.
Status CheckNames(const std::vector<SafetensorsTensor>& tensors) {
  std::vector<std::string_view> names;
  names.reserve(tensors.size());
  for (const SafetensorsTensor& tensor : tensors) names.push_back(tensor.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice == names.end()) return Ok();
  return Error(Code::kCorrupt, fmt::format("the header names tensor {} twice; fetch the file again", *twice));
}

// Every byte belongs to one tensor: nothing hides in the file, and nothing is two things.
Status CheckOrder(const std::vector<SafetensorsTensor>& tensors, uint64_t data_bytes) {
  uint64_t at = 0;
  for (const SafetensorsTensor& tensor : tensors) {
    if (tensor.offset_bytes != at) {
      return Error(Code::kCorrupt,
                   fmt::format("tensor {} begins at byte {} of the data, expected {}: tensors overlap or leave a hole; fetch "
                               "the file again",
                               tensor.name, tensor.offset_bytes, at));
    }
    at += tensor.size_bytes;
  }
  if (at == data_bytes) return Ok();
  return Error(Code::kCorrupt, fmt::format("tensors end at byte {} of the data, expected {}; fetch the file again", at, data_bytes));
}

}  // namespace

std::string_view SafetensorsTypeName(SafetensorsType type) { return kTypes[static_cast<size_t>(type)].name; }
size_t ElementBytes(SafetensorsType type) { return kTypes[static_cast<size_t>(type)].bytes; }

Result<std::vector<SafetensorsTensor>> ReadSafetensors(std::span<const std::byte> file) {
  ByteReader reader(file);
  BANTAM_ASSIGN(const uint64_t header_bytes, reader.Read<uint64_t>("the length of the header"));
  if (header_bytes > kSafetensorsHeaderMax || header_bytes > reader.remaining()) {
    return Error(Code::kCorrupt, fmt::format("a header of {} bytes, expected at most {}: the file is damaged, unfinished or no safetensors",
                                             header_bytes, std::min<uint64_t>(kSafetensorsHeaderMax, reader.remaining())));
  }
  BANTAM_ASSIGN(const auto header, reader.Take(header_bytes, "the header"));
  const std::string text(AsText(header));  // a copy, which nobody else can write to
  const uint64_t data_bytes = reader.remaining();
  HeaderReader listener(data_bytes);
  BANTAM_ASSIGN(const Json json, ParseJson(text, &listener).With("the header"));
  if (!json.is_object()) return Error(Code::kCorrupt, "the header is no JSON object; fetch the file again");
  BANTAM_ASSIGN(std::vector<SafetensorsTensor> tensors, listener.Take());
  BANTAM_TRY(CheckNames(tensors));
  std::stable_sort(tensors.begin(), tensors.end(), [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
    return a.offset_bytes != b.offset_bytes ? a.offset_bytes < b.offset_bytes : a.size_bytes < b.size_bytes;
  });
  BANTAM_TRY(CheckOrder(tensors, data_bytes));
  for (SafetensorsTensor& tensor : tensors) tensor.offset_bytes += file.size() - data_bytes;
  return tensors;
}

}  // namespace bantam
