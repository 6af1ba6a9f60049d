// The tokens of a template: text between tags, and what stands within them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace bantam::jinja {

enum class TokenKind : uint8_t {
  kData,           // text between tags
  kBlockBegin,     // {%
  kBlockEnd,       // %}
  kVariableBegin,  // {{
  kVariableEnd,    // }}
  kName,
  kString,  // its content
  kInteger,
  kFloat,
  kOperator,  // and brackets, commas, ...
  kEnd,
};

struct Token {
  TokenKind kind;
  std::string text;
  int line;
};

Result<std::vector<Token>> Tokenize(std::string_view source);

}  // namespace bantam::jinja
