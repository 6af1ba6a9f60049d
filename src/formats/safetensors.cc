#include "formats/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <optional>

#include "base/bytes.h"
#include "base/json.h"
#include "formats/model_file.h"

namespace bantam {
namespace {

// A tensor is an object of three members, two of them lists.
constexpr size_t kValuesMax = kJsonMembersMax * (5 + kSafetensorsDimensionsMax);

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

std::optional<uint64_t> Whole(const Json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  return value.get<uint64_t>();
}

// The elements of a shape, or nothing past the limit.
std::optional<uint64_t> ReadShape(const Json& shape, std::vector<uint64_t>* dimensions) {
  uint64_t elements = 1;
  if (!shape.is_array() || shape.size() > kSafetensorsDimensionsMax) return std::nullopt;
  for (const Json& entry : shape) {
    const auto dimension = Whole(entry);
    if (!dimension || *dimension > kTensorElementsMax) return std::nullopt;
    if (!CheckedMultiply(elements, *dimension, &elements) || elements > kTensorElementsMax) return std::nullopt;
    dimensions->push_back(*dimension);
  }
  return elements;
}

Result<SafetensorsTensor> ReadEntry(const std::string& name, const Json& entry, uint64_t data_bytes) {
  SafetensorsTensor tensor;
  tensor.name = name;
  const auto type_name = JsonText(entry, "dtype");
  if (!type_name) return Error(Code::kCorrupt, fmt::format("tensor {}: no dtype; fetch the file again", name));
  const auto type = TypeFromName(*type_name);
  if (!type) {
    return Error(Code::kUnsupported, fmt::format("tensor {}: element type {} is not known to this build", name, *type_name));
  }
  tensor.type = *type;
  const auto elements = ReadShape(JsonMember(entry, "shape"), &tensor.shape);
  const Json& offsets = JsonMember(entry, "data_offsets");
  const bool paired = offsets.is_array() && offsets.size() == 2;
  const auto begin = paired ? Whole(offsets[0]) : std::nullopt;
  const auto end = paired ? Whole(offsets[1]) : std::nullopt;
  const bool fits = elements && begin && end && *begin <= *end && *end <= data_bytes && *end - *begin == *elements * ElementBytes(*type);
  if (!fits) {
    return Error(
        Code::kCorrupt,
        fmt::format("tensor {}: shape {} of {} at bytes {}: expected at most {} dimensions, and as many bytes as they have elements, "
                    "within the file's {} bytes of data; fetch the file again",
                    name, ShortJson(JsonMember(entry, "shape")), *type_name, ShortJson(offsets), kSafetensorsDimensionsMax, data_bytes));
  }
  tensor.offset_bytes = *begin;
  tensor.size_bytes = *end - *begin;
  return tensor;
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
  BANTAM_ASSIGN(const Json json, ParseJson(text, kValuesMax).With("the header"));
  if (!json.is_object()) return Error(Code::kCorrupt, "the header is no JSON object; fetch the file again");
  // A JSON parser keeps one of two members of the same name, and which one differs between parsers.
  if (JsonRootMembers(text) != json.size()) return Error(Code::kCorrupt, "the header names a tensor twice; fetch the file again");
  const uint64_t data_bytes = reader.remaining();
  std::vector<SafetensorsTensor> tensors;
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") continue;
    BANTAM_ASSIGN(SafetensorsTensor tensor, ReadEntry(name, entry, data_bytes));
    tensors.push_back(std::move(tensor));
  }
  std::stable_sort(tensors.begin(), tensors.end(), [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
    return a.offset_bytes != b.offset_bytes ? a.offset_bytes < b.offset_bytes : a.size_bytes < b.size_bytes;
  });
  BANTAM_TRY(CheckOrder(tensors, data_bytes));
  for (SafetensorsTensor& tensor : tensors) tensor.offset_bytes += file.size() - data_bytes;
  return tensors;
}

}  // namespace bantam
