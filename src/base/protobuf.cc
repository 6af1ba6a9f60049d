#include "base/protobuf.h"

#include <fmt/format.h>

#include <bit>

#include "base/bytes.h"

namespace bantam {

float ProtoField::AsFloat() const { return std::bit_cast<float>(static_cast<uint32_t>(value)); }

Result<uint64_t> ProtoReader::Varint() {
  uint64_t value = 0;
  for (unsigned shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(rest_.front());
    rest_.remove_prefix(1);
    if (shift == 63 && byte > 1) break;
    value |= uint64_t{byte & 0x7fu} << shift;
    if (byte < 0x80) return value;
  }
  return Error(Code::kCorrupt, fmt::format("{}: field {}: expected a number of at most 64 bits; the file is damaged", what_, fields_));
}

Result<bool> ProtoReader::Next(ProtoField* field) {
  if (rest_.empty()) return false;
  ++fields_;
  BANTAM_ASSIGN(const uint64_t tag, Varint());
  const uint64_t number = tag >> 3;
  if (number == 0 || number > UINT32_MAX >> 3) {
    return Error(Code::kCorrupt,
                 fmt::format("{}: field {}: number {}, expected 1 to 2^29 - 1; the file is damaged", what_, fields_, number));
  }
  field->number = static_cast<uint32_t>(number);
  const unsigned wire = tag & 7;
  if (wire == 0) {
    field->kind = ProtoField::Kind::kVarint;
    BANTAM_ASSIGN(field->value, Varint());
    return true;
  }
  uint64_t size = wire == 1 ? 8 : 4;
  if (wire == 2) {
    BANTAM_ASSIGN(size, Varint());
  } else if (wire != 1 && wire != 5) {
    return Error(Code::kCorrupt,
                 fmt::format("{}: field {}: wire type {}, expected 0, 1, 2 or 5; the file is damaged", what_, number, wire));
  }
  if (size > rest_.size()) {
    return Error(Code::kCorrupt,
                 fmt::format("{}: field {}: {} bytes, but {} are left; the file is cut off", what_, number, size, rest_.size()));
  }
  field->bytes = rest_.substr(0, size);
  field->kind = wire == 2 ? ProtoField::Kind::kBytes : wire == 1 ? ProtoField::Kind::kFixed64 : ProtoField::Kind::kFixed32;
  if (wire == 1) field->value = LoadUnaligned<uint64_t>(rest_.data());
  if (wire == 5) field->value = LoadUnaligned<uint32_t>(rest_.data());
  rest_.remove_prefix(size);
  return true;
}

}  // namespace bantam
