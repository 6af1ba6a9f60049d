#include "formats/model_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/bytes.h"

namespace bantam {
namespace {

double LoadNumber(ValueType type, const std::byte* at) {
  switch (type) {
    case ValueType::kU8:
    case ValueType::kBool:
      return LoadUnaligned<uint8_t>(at);
    case ValueType::kI8:
      return LoadUnaligned<int8_t>(at);
    case ValueType::kU16:
      return LoadUnaligned<uint16_t>(at);
    case ValueType::kI16:
      return LoadUnaligned<int16_t>(at);
    case ValueType::kU32:
      return LoadUnaligned<uint32_t>(at);
    case ValueType::kI32:
      return LoadUnaligned<int32_t>(at);
    case ValueType::kF32:
      return static_cast<double>(LoadUnaligned<float>(at));
    case ValueType::kU64:
      return static_cast<double>(LoadUnaligned<uint64_t>(at));
    case ValueType::kI64:
      return static_cast<double>(LoadUnaligned<int64_t>(at));
    case ValueType::kF64:
      return LoadUnaligned<double>(at);
    case ValueType::kString:
      return 0;
  }
  return 0;
}

// Indices of `items` sorted by their name, and whether all names differ.
template <typename Item, typename NameOf>
bool SortByName(const std::vector<Item>& items, NameOf name_of, std::vector<uint32_t>* order, std::string_view* twice) {
  order->resize(items.size());
  for (uint32_t i = 0; i < order->size(); ++i) (*order)[i] = i;
  std::sort(order->begin(), order->end(), [&](uint32_t a, uint32_t b) { return name_of(items[a]) < name_of(items[b]); });
  for (size_t i = 1; i < order->size(); ++i) {
    if (name_of(items[(*order)[i - 1]]) == name_of(items[(*order)[i]])) {
      *twice = name_of(items[(*order)[i]]);
      return false;
    }
  }
  return true;
}

template <typename Item, typename NameOf>
const Item* FindByName(const std::vector<Item>& items, NameOf name_of, const std::vector<uint32_t>& order, std::string_view name) {
  const auto at = std::lower_bound(order.begin(), order.end(), name,
                                   [&](uint32_t index, std::string_view wanted) { return name_of(items[index]) < wanted; });
  if (at == order.end() || name_of(items[*at]) != name) return nullptr;
  return &items[*at];
}

std::string_view KeyOf(const MetadataEntry& entry) { return entry.key; }
std::string_view NameOf(const TensorInfo& tensor) { return tensor.name; }

}  // namespace

uint64_t ModelFile::held_bytes() const {
  constexpr uint64_t kIndexBytes = sizeof(uint32_t);  // by name, beside each entry
  return header_bytes + metadata.entries().size() * (sizeof(MetadataEntry) + kIndexBytes) +
         directory.tensors().size() * (sizeof(TensorInfo) + kIndexBytes) + (source == nullptr ? 0 : source->held_bytes());
}

Status SizeTensor(TensorInfo* tensor) {
  uint64_t elements = 1;
  for (uint32_t d = 0; d < tensor->n_dimensions; ++d) {
    if (tensor->dimensions[d] == 0 || !CheckedMultiply(elements, tensor->dimensions[d], &elements) || elements > kTensorElementsMax) {
      return Error(Code::kCorrupt,
                   fmt::format("tensor {}: dimension {} of {} elements makes no possible size", tensor->name, d, tensor->dimensions[d]));
    }
  }
  const DTypeInfo& info = Info(tensor->dtype);
  if (tensor->columns() % info.block_elements != 0) {
    return Error(Code::kCorrupt, fmt::format("tensor {}: rows of {} elements, expected a multiple of {} for {}", tensor->name,
                                             tensor->columns(), info.block_elements, info.name));
  }
  tensor->size_bytes = elements / info.block_elements * info.block_bytes;
  return Ok();
}

size_t ElementBytes(ValueType type) {
  switch (type) {
    case ValueType::kU8:
    case ValueType::kI8:
    case ValueType::kBool:
      return 1;
    case ValueType::kU16:
    case ValueType::kI16:
      return 2;
    case ValueType::kU32:
    case ValueType::kI32:
    case ValueType::kF32:
      return 4;
    case ValueType::kU64:
    case ValueType::kI64:
    case ValueType::kF64:
      return 8;
    case ValueType::kString:
      return 0;
  }
  return 0;
}

Result<Metadata> Metadata::Make(std::vector<MetadataEntry> entries) {
  Metadata metadata;
  metadata.entries_ = std::move(entries);
  std::string_view twice;
  if (!SortByName(metadata.entries_, KeyOf, &metadata.by_key_, &twice)) {
    return Error(Code::kCorrupt, fmt::format("metadata key {} occurs twice; convert the model again", twice));
  }
  return metadata;
}

Error Metadata::Problem(std::string_view key, std::string_view problem) const {
  if (origin_.file.empty()) return Error(Code::kCorrupt, fmt::format("metadata key {}: {}; convert the model again", key, problem));
  const auto known = std::find_if(origin_.members.begin(), origin_.members.end(), [&](const auto& member) { return member.first == key; });
  const std::string name = known == origin_.members.end() ? fmt::format("(as {})", key) : known->second;
  return Error(Code::kCorrupt, fmt::format("{} {}: {}; correct it, or fetch the file again", origin_.file, name, problem));
}

const MetadataValue* Metadata::Find(std::string_view key) const {
  const MetadataEntry* entry = FindByName(entries_, KeyOf, by_key_, key);
  return entry == nullptr ? nullptr : &entry->value;
}

Result<std::optional<uint32_t>> Metadata::U32(std::string_view key) const {
  const MetadataValue* value = Find(key);
  if (value == nullptr) return std::optional<uint32_t>();
  constexpr uint64_t kMax = std::numeric_limits<uint32_t>::max();
  if (const auto* u = std::get_if<uint64_t>(value); u != nullptr && *u <= kMax) return std::optional(static_cast<uint32_t>(*u));
  if (const auto* i = std::get_if<int64_t>(value); i != nullptr && *i >= 0 && static_cast<uint64_t>(*i) <= kMax) {
    return std::optional(static_cast<uint32_t>(*i));
  }
  return Problem(key, "expected an integer from 0 to 4294967295");
}

Result<std::optional<double>> Metadata::Number(std::string_view key) const {
  const MetadataValue* value = Find(key);
  if (value == nullptr) return std::optional<double>();
  double number = 0;
  if (const auto* d = std::get_if<double>(value)) {
    number = *d;
  } else if (const auto* u = std::get_if<uint64_t>(value)) {
    number = static_cast<double>(*u);
  } else if (const auto* i = std::get_if<int64_t>(value)) {
    number = static_cast<double>(*i);
  } else {
    return Problem(key, "expected a number");
  }
  if (!std::isfinite(number)) return Problem(key, "expected a finite number");
  return std::optional(number);
}

Result<std::optional<bool>> Metadata::Bool(std::string_view key) const {
  const MetadataValue* value = Find(key);
  if (value == nullptr) return std::optional<bool>();
  if (const auto* b = std::get_if<bool>(value)) return std::optional(*b);
  return Problem(key, "expected true or false");
}

Result<std::optional<std::string_view>> Metadata::Text(std::string_view key) const {
  const MetadataValue* value = Find(key);
  if (value == nullptr) return std::optional<std::string_view>();
  if (const auto* text = std::get_if<std::string_view>(value)) return std::optional(*text);
  return Problem(key, "expected a string");
}

Result<std::optional<std::vector<std::string_view>>> Metadata::Texts(std::string_view key, size_t count_max) const {
  const MetadataValue* value = Find(key);
  if (value == nullptr) return std::optional<std::vector<std::string_view>>();
  const auto* array = std::get_if<MetadataArray>(value);
  if (array == nullptr || array->type != ValueType::kString || array->count > count_max) {
    return Problem(key, fmt::format("expected an array of at most {} strings", count_max));
  }
  std::vector<std::string_view> texts;
  texts.reserve(static_cast<size_t>(array->count));
  ByteReader reader(array->bytes);
  for (uint64_t i = 0; i < array->count; ++i) {
    BANTAM_ASSIGN(const uint64_t size, reader.Read<uint64_t>(key));
    BANTAM_ASSIGN(const auto bytes, reader.Take(size, key));
    texts.push_back(AsText(bytes));
  }
  return std::optional(std::move(texts));
}

Result<std::optional<std::string_view>> Metadata::Bytes(std::string_view key, size_t count_max) const {
  const MetadataValue* value = Find(key);
  if (value == nullptr) return std::optional<std::string_view>();
  const auto* array = std::get_if<MetadataArray>(value);
  if (array == nullptr || (array->type != ValueType::kU8 && array->type != ValueType::kI8) || array->count > count_max) {
    return Problem(key, fmt::format("expected an array of at most {} bytes", count_max));
  }
  return std::optional(AsText(array->bytes));
}

Result<std::optional<std::vector<double>>> Metadata::Numbers(std::string_view key, size_t count_max) const {
  const MetadataValue* value = Find(key);
  if (value == nullptr) return std::optional<std::vector<double>>();
  const auto* array = std::get_if<MetadataArray>(value);
  if (array == nullptr || array->type == ValueType::kString || array->count > count_max) {
    return Problem(key, fmt::format("expected an array of at most {} numbers", count_max));
  }
  const size_t step = ElementBytes(array->type);
  std::vector<double> numbers(static_cast<size_t>(array->count));
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = LoadNumber(array->type, array->bytes.data() + i * step);
  return std::optional(std::move(numbers));
}

Result<TensorDirectory> TensorDirectory::Make(std::vector<TensorInfo> tensors) {
  TensorDirectory directory;
  directory.tensors_ = std::move(tensors);
  const auto& all = directory.tensors_;
  std::string_view twice;
  if (!SortByName(all, NameOf, &directory.by_name_, &twice)) {
    return Error(Code::kCorrupt, fmt::format("tensor {} occurs twice; convert the model again", twice));
  }
  std::vector<uint32_t> by_offset = directory.by_name_;
  std::sort(by_offset.begin(), by_offset.end(), [&](uint32_t a, uint32_t b) { return all[a].offset_bytes < all[b].offset_bytes; });
  for (size_t i = 1; i < by_offset.size(); ++i) {
    const TensorInfo& before = all[by_offset[i - 1]];
    const TensorInfo& after = all[by_offset[i]];
    if (before.offset_bytes + before.size_bytes > after.offset_bytes) {
      return Error(Code::kCorrupt,
                   fmt::format("tensors {} and {} share bytes of the file; convert the model again", before.name, after.name));
    }
  }
  return directory;
}

const TensorInfo* TensorDirectory::Find(std::string_view name) const { return FindByName(tensors_, NameOf, by_name_, name); }

}  // namespace bantam
