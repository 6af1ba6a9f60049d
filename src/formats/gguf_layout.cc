#include "formats/gguf_layout.h"

#include <fmt/format.h>

#include <utility>

#include "formats/gguf.h"

namespace bantam {
namespace {

// As the file numbers them, in the order of ValueType.
constexpr std::pair<ValueType, uint32_t> kTypeIds[] = {{ValueType::kU8, 0},   {ValueType::kI8, 1},   {ValueType::kU16, 2},
                                                       {ValueType::kI16, 3},  {ValueType::kU32, 4},  {ValueType::kI32, 5},
                                                       {ValueType::kF32, 6},  {ValueType::kBool, 7}, {ValueType::kString, 8},
                                                       {ValueType::kU64, 10}, {ValueType::kI64, 11}, {ValueType::kF64, 12}};

Result<MetadataArray> ReadArray(ByteReader& reader, std::string_view key) {
  BANTAM_ASSIGN(const uint32_t id, reader.Read<uint32_t>(key));
  BANTAM_ASSIGN(const uint64_t count, reader.Read<uint64_t>(key));
  const auto type = GgufType(id);
  if (!type) {
    return Error(Code::kCorrupt, fmt::format("metadata key {}: an array of type {}, expected a number, bool or string type", key, id));
  }
  if (*type != ValueType::kString) {
    uint64_t size = 0;
    if (!CheckedMultiply(count, ElementBytes(*type), &size)) size = UINT64_MAX;  // Take() refuses it with the right message
    BANTAM_ASSIGN(const auto bytes, reader.Take(size, key));
    return MetadataArray{*type, count, bytes};
  }
  // Strings have to be walked to find the end. Each is at least its 8-byte length, so the walk is bounded by the file.
  ByteReader walk = reader;
  for (uint64_t i = 0; i < count; ++i) {
    BANTAM_TRY(ReadGgufText(walk, key));
  }
  BANTAM_ASSIGN(const auto bytes, reader.Take(walk.offset() - reader.offset(), key));
  return MetadataArray{*type, count, bytes};
}

template <typename Stored, typename Wide>
Result<MetadataValue> ReadAs(ByteReader& reader, std::string_view key) {
  BANTAM_ASSIGN(const Stored value, reader.Read<Stored>(key));
  return MetadataValue(std::in_place_type<Wide>, static_cast<Wide>(value));
}

Result<MetadataValue> ReadScalar(ByteReader& reader, std::string_view key, ValueType type) {
  switch (type) {
    case ValueType::kU8:
      return ReadAs<uint8_t, uint64_t>(reader, key);
    case ValueType::kI8:
      return ReadAs<int8_t, int64_t>(reader, key);
    case ValueType::kU16:
      return ReadAs<uint16_t, uint64_t>(reader, key);
    case ValueType::kI16:
      return ReadAs<int16_t, int64_t>(reader, key);
    case ValueType::kU32:
      return ReadAs<uint32_t, uint64_t>(reader, key);
    case ValueType::kI32:
      return ReadAs<int32_t, int64_t>(reader, key);
    case ValueType::kF32:
      return ReadAs<float, double>(reader, key);
    case ValueType::kU64:
      return ReadAs<uint64_t, uint64_t>(reader, key);
    case ValueType::kI64:
      return ReadAs<int64_t, int64_t>(reader, key);
    case ValueType::kF64:
      return ReadAs<double, double>(reader, key);
    case ValueType::kBool: {
      BANTAM_ASSIGN(const uint8_t byte, reader.Read<uint8_t>(key));
      if (byte > 1) return Error(Code::kCorrupt, fmt::format("metadata key {}: a bool of value {}, expected 0 or 1", key, byte));
      return MetadataValue(byte == 1);
    }
    case ValueType::kString: {
      BANTAM_ASSIGN(const std::string_view text, ReadGgufText(reader, key));
      return MetadataValue(text);
    }
  }
  return Error(Code::kInternal, "a value type outside the list");
}

template <typename Number>
void PutNumber(std::string* out, ValueType type, Number value) {
  switch (type) {
    case ValueType::kU8:
      return AppendLittleEndian(out, static_cast<uint8_t>(value));
    case ValueType::kI8:
      return AppendLittleEndian(out, static_cast<int8_t>(value));
    case ValueType::kU16:
      return AppendLittleEndian(out, static_cast<uint16_t>(value));
    case ValueType::kI16:
      return AppendLittleEndian(out, static_cast<int16_t>(value));
    case ValueType::kU32:
      return AppendLittleEndian(out, static_cast<uint32_t>(value));
    case ValueType::kI32:
      return AppendLittleEndian(out, static_cast<int32_t>(value));
    case ValueType::kF32:
      return AppendLittleEndian(out, static_cast<float>(value));
    case ValueType::kU64:
      return AppendLittleEndian(out, static_cast<uint64_t>(value));
    case ValueType::kI64:
      return AppendLittleEndian(out, static_cast<int64_t>(value));
    case ValueType::kF64:
      return AppendLittleEndian(out, static_cast<double>(value));
    case ValueType::kBool:
    case ValueType::kString:
      break;
  }
  CHECK(!"a number is stored as a number");
}

void PutValue(std::string* out, const MetadataEntry& entry) {
  const uint32_t stored = GgufTypeId(entry.stored);
  if (const auto* flag = std::get_if<bool>(&entry.value)) {
    AppendLittleEndian<uint32_t>(out, GgufTypeId(ValueType::kBool));
    AppendLittleEndian<uint8_t>(out, *flag ? 1 : 0);
  } else if (const auto* text = std::get_if<std::string_view>(&entry.value)) {
    AppendLittleEndian<uint32_t>(out, GgufTypeId(ValueType::kString));
    PutGgufText(out, *text);
  } else if (const auto* array = std::get_if<MetadataArray>(&entry.value)) {
    AppendLittleEndian<uint32_t>(out, kGgufArray);
    AppendLittleEndian<uint32_t>(out, GgufTypeId(array->type));
    AppendLittleEndian<uint64_t>(out, array->count);
    *out += AsText(array->bytes);
  } else if (const auto* i = std::get_if<int64_t>(&entry.value)) {
    AppendLittleEndian<uint32_t>(out, stored);
    PutNumber(out, entry.stored, *i);
  } else if (const auto* u = std::get_if<uint64_t>(&entry.value)) {
    AppendLittleEndian<uint32_t>(out, stored);
    PutNumber(out, entry.stored, *u);
  } else if (const auto* d = std::get_if<double>(&entry.value)) {
    AppendLittleEndian<uint32_t>(out, stored);
    PutNumber(out, entry.stored, *d);
  }
}

}  // namespace

std::optional<ValueType> GgufType(uint32_t id) {
  for (const auto& [type, type_id] : kTypeIds) {
    if (type_id == id) return type;
  }
  return std::nullopt;
}

uint32_t GgufTypeId(ValueType type) { return kTypeIds[static_cast<size_t>(type)].second; }

Result<std::string_view> ReadGgufText(ByteReader& reader, std::string_view what) {
  BANTAM_ASSIGN(const uint64_t size, reader.Read<uint64_t>(what));
  BANTAM_ASSIGN(const auto bytes, reader.Take(size, what));
  return AsText(bytes);
}

Result<std::string_view> ReadGgufName(ByteReader& reader, std::string_view what) {
  BANTAM_ASSIGN(const std::string_view name, ReadGgufText(reader, what));
  if (name.empty() || name.size() > kGgufKeyBytesMax) {
    return Error(Code::kCorrupt, fmt::format("{} of {} bytes before offset {}: expected 1 to {}; the file is damaged", what, name.size(),
                                             reader.offset(), kGgufKeyBytesMax));
  }
  return name;
}

Result<MetadataEntry> ReadGgufPair(ByteReader& reader) {
  BANTAM_ASSIGN(const std::string_view key, ReadGgufName(reader, "a metadata key"));
  BANTAM_ASSIGN(const uint32_t id, reader.Read<uint32_t>(key));
  if (id == kGgufArray) {
    BANTAM_ASSIGN(const MetadataArray array, ReadArray(reader, key));
    return MetadataEntry{key, array};
  }
  const auto type = GgufType(id);
  if (!type) {
    return Error(Code::kCorrupt, fmt::format("metadata key {}: value type {}, expected 0 to 12; the file is damaged or newer than "
                                             "GGUF version 3",
                                             key, id));
  }
  BANTAM_ASSIGN(const MetadataValue value, ReadScalar(reader, key, *type));
  return MetadataEntry{key, value, *type};
}

void PutGgufText(std::string* out, std::string_view text) {
  AppendLittleEndian<uint64_t>(out, text.size());
  *out += text;
}

void PutGgufPair(std::string* out, const MetadataEntry& entry) {
  PutGgufText(out, entry.key);
  PutValue(out, entry);
}

std::string EncodeTexts(std::span<const std::string_view> texts) {
  std::string bytes;
  for (const std::string_view text : texts) PutGgufText(&bytes, text);
  return bytes;
}

}  // namespace bantam
