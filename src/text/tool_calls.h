// The ways in which models write calls of tools, each from the text between its markers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace bantam {

struct ToolCall {
  std::string id;  // empty where the model gave none
  std::string name;
  std::string arguments;  // a JSON object
  bool operator==(const ToolCall&) const = default;
};

enum class CallFormat : uint8_t {
  kJson,          // an object with name and arguments, or a list of them
  kToolCall,      // what stands in <tool_call>: JSON, <function=...>, or <arg_key> pairs
  kFunction,      // NAME>{...} or NAME> with <parameter=...>, behind <function=
  kXmlFunction,   // NAME"> with <param name="...">, behind <function name="
  kPythonic,      // [name(key=value, ...), ...] in Python's literals, or JSON
  kGemma,         // call:NAME{key:value, ...}
  kMistral,       // a JSON list, or NAME[ARGS]{...}
  kDeepSeek,      // parts between markers of their own
  kNamedObjects,  // a JSON list of objects whose only member has the tool's name
  kPythonTag      // JSON, or NAME.call(key=value, ...)
};

// The calls in `body`; nothing when it is malformed. `tools` is the request's list of tools, or null: their schemas decide whether a
// value without quotes is a text.
std::optional<std::vector<ToolCall>> ParseToolCalls(CallFormat format, std::string_view body, const Json& tools);

}  // namespace bantam
