#include "text/tool_calls.h"

#include <algorithm>
#include <utility>

#include "text/python_literal.h"

namespace bantam {
namespace {

using Calls = std::vector<ToolCall>;

// Arguments of one call: they are kept in order, in a list that is searched.
constexpr size_t kArgumentsMax = 1000;

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

std::optional<Json> ToJson(std::string_view text) {
  auto json = ParseJson(text);
  return json.ok() ? std::optional(std::move(json).value()) : std::nullopt;
}

bool IsName(std::string_view name) {
  constexpr size_t kNameBytesMax = 256;
  return !name.empty() && name.size() <= kNameBytesMax && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.' || c == ':' ||
           c == '/';
  });
}

std::string Dump(const Json& json) { return DumpJson(json, /*indent=*/-1); }

// What stands at the first of `names` that the object has.
const Json& FirstOf(const Json& object, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (const Json& member = JsonMember(object, name); !member.is_null()) return member;
  }
  return JsonMember(Json(), "");
}

std::optional<ToolCall> CallFromObject(const Json& object) {
  if (!object.is_object()) return std::nullopt;
  const Json& id = FirstOf(object, {"id", "tool_call_id", "call_id"});
  const Json& function = JsonMember(object, "function");
  const Json& holder = function.is_object() ? function : object;
  ToolCall call;
  if (id.is_string()) call.id = id.get<std::string>();
  if (id.is_number_integer()) call.id = Dump(id);
  const Json& name = function.is_string() ? function : FirstOf(holder, {"name", "tool_name"});
  const Json* arguments = &FirstOf(holder, {"arguments", "parameters", "args"});
  if (name.is_string()) {
    call.name = name.get<std::string>();
  }
  if (!IsName(call.name)) return std::nullopt;
  std::optional<Json> inner;
  if (arguments->is_string()) {
    const auto text = arguments->get<std::string>();
    inner = Trim(text).empty() ? std::optional(Json::object()) : ToJson(text);
    if (!inner) return std::nullopt;
    arguments = &*inner;
  }
  if (!arguments->is_object() && !arguments->is_null()) return std::nullopt;
  call.arguments = arguments->is_null() ? "{}" : Dump(*arguments);
  return call;
}

std::optional<Calls> CallsFromJson(const Json& json) {
  const Json& list = json.is_object() ? JsonMember(json, "tool_calls") : json;
  Calls calls;
  if (list.is_array()) {
    for (const Json& item : list) {
      auto call = CallFromObject(item);
      if (!call) return std::nullopt;
      calls.push_back(std::move(*call));
    }
    return calls.empty() ? std::nullopt : std::optional(std::move(calls));
  }
  const Json& wrapped = JsonMember(json, "tool_call");
  auto call = CallFromObject(wrapped.is_object() ? wrapped : json);
  if (!call) return std::nullopt;
  calls.push_back(std::move(*call));
  return calls;
}

// [{"NAME": {...}}, ...]
std::optional<Calls> FromNamedObjects(const Json& list) {
  Calls calls;
  for (const Json& item : list) {
    if (!item.is_object() || item.size() != 1 || !item.begin()->is_object() || !IsName(item.begin().key())) return std::nullopt;
    calls.push_back({"", item.begin().key(), Dump(*item.begin())});
  }
  return calls.empty() ? std::nullopt : std::optional(std::move(calls));
}

std::optional<Calls> FromJsonText(std::string_view body) {
  const auto json = ToJson(body);
  return json ? CallsFromJson(*json) : std::nullopt;
}

// The end of the JSON value that `text` begins with, npos when it is not complete.
size_t ValueEnd(std::string_view text) {
  size_t depth = 0;
  bool quoted = false;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (quoted) {
      if (c == '\\') ++at;
      quoted = c != '"';
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if ((c == '}' || c == ']') && --depth == 0) {
      return at + 1;
    }
    if (depth == 0 && !quoted && c != '}' && c != ']') break;
  }
  return std::string_view::npos;
}

// JSON values with white space, commas or semicolons between them.
std::optional<Calls> FromJsonSequence(std::string_view body) {
  if (auto calls = FromJsonText(body)) return calls;
  Calls all;
  for (body = Trim(body); !body.empty();) {
    const size_t end = body[0] == '{' || body[0] == '[' ? ValueEnd(body) : std::string_view::npos;
    auto calls = end == std::string_view::npos ? std::nullopt : FromJsonText(body.substr(0, end));
    if (!calls) return std::nullopt;
    all.insert(all.end(), calls->begin(), calls->end());
    body = body.substr(std::min(body.find_first_not_of(" \t\r\n;,", end), body.size()));
  }
  return all.empty() ? std::nullopt : std::optional(std::move(all));
}

// Whether a schema allows a text.
bool AllowsText(const Json& schema, int depth) {
  constexpr int kSchemaDepthMax = 8;
  if (depth > kSchemaDepthMax) return false;
  const Json& type = JsonMember(schema, "type");
  if (type == "string" || (type.is_array() && std::find(type.begin(), type.end(), "string") != type.end())) return true;
  for (const char* name : {"anyOf", "oneOf", "allOf"}) {
    for (const Json& one : JsonMember(schema, name)) {
      if (AllowsText(one, depth + 1)) return true;
    }
  }
  const Json& values = JsonMember(schema, "enum");
  return type.is_null() && values.is_array() && !values.empty() &&
         std::all_of(values.begin(), values.end(), [](const Json& value) { return value.is_string(); });
}

// Whether the tool's schema says that this parameter may be a text.
bool IsTextParameter(const Json& tools, std::string_view tool, const std::string& parameter) {
  if (!tools.is_array()) return false;
  for (const Json& item : tools) {
    const Json& function = JsonMember(item, "function").is_object() ? JsonMember(item, "function") : item;
    if (JsonText(function, "name") != tool) continue;
    return AllowsText(JsonMember(JsonMember(JsonMember(function, "parameters"), "properties"), parameter.c_str()), /*depth=*/0);
  }
  return false;
}

// True, None, ['a', 1]: templates in Python's ways write values as Python does, and so do the models trained on them.
std::optional<Json> PythonValue(std::string_view text) {
  const bool literal = text == "True" || text == "False" || text == "None" || text.starts_with('[') || text.starts_with('{');
  return literal ? ParsePythonValue(text) : std::nullopt;
}

// A value without quotes: JSON or Python's where it is some and the schema does not say text.
Json Value(std::string_view text, const Json& tools, std::string_view tool, const std::string& parameter) {
  if (!IsTextParameter(tools, tool, parameter)) {
    if (auto json = ToJson(Trim(text)); json && !json->is_string()) return std::move(*json);
    if (auto json = PythonValue(Trim(text))) return std::move(*json);
  }
  return std::string(text);
}

// Takes `text` up to `end` and drops both; false when there is none.
bool TakeUntil(std::string_view* text, std::string_view end, std::string_view* taken) {
  const size_t at = text->find(end);
  if (at == std::string_view::npos) return false;
  *taken = text->substr(0, at);
  text->remove_prefix(at + end.size());
  return true;
}

bool Take(std::string_view* text, std::string_view start) {
  if (!text->starts_with(start)) return false;
  text->remove_prefix(start.size());
  return true;
}

// One line feed on either side belongs to the markup.
std::string_view WithoutLineFeeds(std::string_view text) {
  if (text.starts_with('\n')) text.remove_prefix(1);
  if (text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

// A value up to the end that the next parameter, or nothing, follows: it may speak of </parameter> itself. The last end may be left out.
void TakeParameter(std::string_view* body, std::string_view* value) {
  constexpr std::string_view kEnd = "</parameter>";
  for (size_t at = body->find(kEnd); at != std::string_view::npos; at = body->find(kEnd, at + 1)) {
    const std::string_view behind = Trim(body->substr(at + kEnd.size()));
    if (!behind.empty() && !behind.starts_with("<parameter=")) continue;
    *value = body->substr(0, at);
    body->remove_prefix(at + kEnd.size());
    return;
  }
  *value = std::exchange(*body, {});
}

// NAME>...: JSON, or <parameter=KEY>VALUE</parameter> each.
std::optional<ToolCall> FromFunction(std::string_view body, const Json& tools) {
  std::string_view name;
  if (!TakeUntil(&body, ">", &name) || !IsName(Trim(name))) return std::nullopt;
  ToolCall call = {"", std::string(Trim(name)), ""};
  body = Trim(body);
  if (body.starts_with('{')) {
    const auto arguments = ToJson(body);
    if (!arguments || !arguments->is_object()) return std::nullopt;
    call.arguments = Dump(*arguments);
    return call;
  }
  Json arguments = Json::object();
  while (!body.empty()) {
    std::string_view key;
    std::string_view value;
    if (!Take(&body, "<parameter=") || !TakeUntil(&body, ">", &key)) return std::nullopt;
    TakeParameter(&body, &value);
    const std::string parameter(Trim(key));
    if (arguments.size() >= kArgumentsMax) return std::nullopt;
    arguments[parameter] = Value(WithoutLineFeeds(value), tools, call.name, parameter);
    body = Trim(body);
  }
  call.arguments = Dump(arguments);
  return call;
}

// NAME">...: <param name="KEY">VALUE</param> each.
std::optional<ToolCall> FromXmlFunction(std::string_view body, const Json& tools) {
  std::string_view name;
  if (!TakeUntil(&body, "\">", &name) || !IsName(name)) return std::nullopt;
  const std::string tool(name);
  Json arguments = Json::object();
  for (body = Trim(body); !body.empty(); body = Trim(body)) {
    std::string_view key;
    std::string_view value;
    if (!Take(&body, "<param name=\"") || !TakeUntil(&body, "\">", &key)) return std::nullopt;
    const std::string parameter(key);
    if (arguments.size() >= kArgumentsMax) return std::nullopt;
    if (Take(&body, "<![CDATA[")) {
      std::string_view rest;
      if (!TakeUntil(&body, "]]>", &value) || !TakeUntil(&body, "</param>", &rest) || !Trim(rest).empty()) return std::nullopt;
      arguments[parameter] = std::string(value);
    } else {
      if (!TakeUntil(&body, "</param>", &value)) return std::nullopt;
      arguments[parameter] = Value(value, tools, tool, parameter);
    }
  }
  return ToolCall{"", tool, Dump(arguments)};
}

// NAME, then <arg_key>KEY</arg_key><arg_value>VALUE</arg_value> each.
std::optional<ToolCall> FromArgumentPairs(std::string_view body, const Json& tools) {
  const size_t first = std::min(body.find("<arg_key>"), body.size());
  const std::string tool(Trim(body.substr(0, first)));
  if (!IsName(tool)) return std::nullopt;
  Json arguments = Json::object();
  for (body = Trim(body.substr(first)); !body.empty(); body = Trim(body)) {
    std::string_view key;
    std::string_view value;
    if (!Take(&body, "<arg_key>") || !TakeUntil(&body, "</arg_key>", &key)) return std::nullopt;
    body = Trim(body);
    if (!Take(&body, "<arg_value>") || !TakeUntil(&body, "</arg_value>", &value)) return std::nullopt;
    const std::string parameter(Trim(key));
    arguments[parameter] = Value(value, tools, tool, parameter);
  }
  return ToolCall{"", tool, Dump(arguments)};
}

std::optional<Calls> One(std::optional<ToolCall> call) {
  if (!call) return std::nullopt;
  Calls calls;
  calls.push_back(std::move(*call));
  return calls;
}

std::optional<Calls> FromToolCall(std::string_view body, const Json& tools) {
  body = Trim(body);
  if (body.starts_with('{') || body.starts_with('[')) return FromJsonSequence(body);
  if (!Take(&body, "<function=")) return One(FromArgumentPairs(body, tools));
  Calls calls;
  for (;;) {
    constexpr std::string_view kEnd = "</function>";
    size_t at = body.find(kEnd);
    const auto ends = [&] {
      const std::string_view behind = Trim(body.substr(at + kEnd.size()));
      return behind.empty() || behind.starts_with("<function=");
    };
    while (at != std::string_view::npos && !ends()) at = body.find(kEnd, at + 1);
    if (at == std::string_view::npos) return std::nullopt;
    auto call = FromFunction(body.substr(0, at), tools);
    body.remove_prefix(at + kEnd.size());
    if (!call) return std::nullopt;
    calls.push_back(std::move(*call));
    body = Trim(body);
    if (body.empty()) return calls;
    if (!Take(&body, "<function=")) return std::nullopt;
  }
}

std::optional<Calls> FromPython(std::string_view body) {
  Calls calls;
  for (auto& [name, arguments] : ParsePythonCalls(body)) {
    if (!IsName(name)) return std::nullopt;
    calls.push_back({"", std::move(name), Dump(arguments)});
  }
  return calls.empty() ? std::nullopt : std::optional(std::move(calls));
}

std::optional<Calls> FromMistral(std::string_view body) {
  body = Trim(body);
  if (body.starts_with('{') || (body.starts_with('[') && !body.starts_with("[ARGS]"))) return FromJsonText(body);
  const size_t marker = body.substr(0, body.find('{')).find("[ARGS]");
  if (marker == std::string_view::npos) {
    // NAME{...}
    const size_t brace = body.find('{');
    const auto arguments = brace == std::string_view::npos ? std::nullopt : ToJson(body.substr(brace));
    if (!arguments || !arguments->is_object() || !IsName(Trim(body.substr(0, brace)))) return std::nullopt;
    return Calls{{"", std::string(Trim(body.substr(0, brace))), Dump(*arguments)}};
  }
  std::string_view name = body.substr(0, marker);
  ToolCall call;
  if (const size_t id = name.find("[CALL_ID]"); id != std::string_view::npos) {
    call.id = std::string(Trim(name.substr(id + 9)));
    name = name.substr(0, id);
  }
  const auto arguments = ToJson(body.substr(marker + 6));
  if (!arguments || !arguments->is_object() || !IsName(Trim(name))) return std::nullopt;
  call.name = std::string(Trim(name));
  call.arguments = Dump(*arguments);
  return Calls{std::move(call)};
}

constexpr std::string_view kDeepSeekBegin =
    "<\xef\xbd\x9ctool\xe2\x96\x81"
    "call\xe2\x96\x81"
    "begin\xef\xbd\x9c>";
constexpr std::string_view kDeepSeekEnd =
    "<\xef\xbd\x9ctool\xe2\x96\x81"
    "call\xe2\x96\x81"
    "end\xef\xbd\x9c>";
constexpr std::string_view kDeepSeekSeparator = "<\xef\xbd\x9ctool\xe2\x96\x81sep\xef\xbd\x9c>";

std::optional<Calls> FromDeepSeek(std::string_view body) {
  Calls calls;
  for (body = Trim(body); !body.empty(); body = Trim(body)) {
    std::string_view part;
    std::string_view head;
    if (!Take(&body, kDeepSeekBegin)) return std::nullopt;
    if (!TakeUntil(&body, kDeepSeekEnd, &part)) part = std::exchange(body, {});
    if (!TakeUntil(&part, kDeepSeekSeparator, &head)) return std::nullopt;
    std::string_view name = Trim(head);
    // type SEPARATOR name, and the arguments as a block of code; later models: name SEPARATOR arguments.
    const size_t fence = part.find("```json");
    if (fence < part.find('{')) {
      name = Trim(part.substr(0, fence));
      part.remove_prefix(fence + 7);
      part = part.substr(0, std::min(part.rfind("```"), part.size()));
    }
    const auto arguments = ToJson(Trim(part));
    if (!arguments || !arguments->is_object() || !IsName(name)) return std::nullopt;
    calls.push_back({"", std::string(name), Dump(*arguments)});
  }
  return calls.empty() ? std::nullopt : std::optional(std::move(calls));
}

std::optional<Calls> FromGemma(std::string_view body) {
  body = Trim(body);
  if (!Take(&body, "call:")) return std::nullopt;
  const size_t brace = std::min(body.find('{'), body.size());
  const std::string_view name = Trim(body.substr(0, brace));
  const auto arguments = ParseGemmaObject(body.substr(brace));
  if (!IsName(name) || !arguments) return std::nullopt;
  return Calls{{"", std::string(name), Dump(*arguments)}};
}

// NAME.call(key=value, ...), of built-in tools.
std::optional<Calls> FromPythonTag(std::string_view body) {
  body = Trim(body);
  if (body.starts_with('{') || body.starts_with('[')) return FromJsonSequence(body);
  auto calls = FromPython(body);
  if (!calls) return std::nullopt;
  for (ToolCall& call : *calls) {
    if (!call.name.ends_with(".call")) return std::nullopt;
    call.name.resize(call.name.size() - 5);
  }
  return calls;
}

}  // namespace

std::optional<std::vector<ToolCall>> ParseToolCalls(CallFormat format, std::string_view body, const Json& tools) {
  switch (format) {
    case CallFormat::kJson:
      return FromJsonSequence(Trim(body));
    case CallFormat::kToolCall:
      return FromToolCall(body, tools);
    case CallFormat::kFunction:
      return One(FromFunction(body, tools));
    case CallFormat::kXmlFunction:
      return One(FromXmlFunction(body, tools));
    case CallFormat::kPythonic: {
      auto calls = FromJsonText(Trim(body));
      return calls ? std::move(calls) : FromPython(body);
    }
    case CallFormat::kGemma:
      return FromGemma(body);
    case CallFormat::kMistral:
      return FromMistral(body);
    case CallFormat::kDeepSeek:
      return FromDeepSeek(body);
    case CallFormat::kNamedObjects: {
      const auto list = ToJson(body);
      return list && list->is_array() ? FromNamedObjects(*list) : std::nullopt;
    }
    case CallFormat::kPythonTag:
      break;
  }
  return FromPythonTag(body);
}

}  // namespace bantam
