// Protocol Buffers' wire format, read from untrusted bytes: fields one after another, without a schema or a copy.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"

namespace bantam {

struct ProtoField {
  enum class Kind : uint8_t { kVarint, kFixed64, kBytes, kFixed32 };
  uint32_t number = 0;
  Kind kind = Kind::kVarint;
  uint64_t value = 0;      // of all kinds but kBytes
  std::string_view bytes;  // of kBytes: a text, bytes or a message

  float AsFloat() const;  // of kFixed32
};

class ProtoReader {
 public:
  // `what` names the message in errors.
  ProtoReader(std::string_view message, std::string_view what) : rest_(message), what_(what) {}

  // False at the end. Corrupt: cut off, a varint of more than 64 bits, a field number 0, groups (which nothing writes any more).
  Result<bool> Next(ProtoField* field);

 private:
  Result<uint64_t> Varint();

  std::string_view rest_;
  std::string_view what_;
  size_t fields_ = 0;
};

}  // namespace bantam
