// JSON values for what the program reads and prints. The library stays behind this file and base/json.cc.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace bantam {

// Members keep the order in which they were added.
using Json = nlohmann::ordered_json;

// Text that is always valid JSON: bytes that are not UTF-8 (a hostile file's names) become U+FFFD instead of an exception.
// `indent` < 0 prints one line.
std::string DumpJson(const Json& value, int indent);

// The beginning of the same, for error messages.
std::string ShortJson(const Json& value);

// One JSON value (RFC 8259, UTF-8) and white space around it. Errors: Corrupt, with line and column; also past kJsonDepthMax containers
// within containers, and for an object of more than kJsonMembersMax members (whose order is kept in a list, which is searched); Exhausted
// for more than kJsonNodesMax values.
inline constexpr size_t kJsonDepthMax = 100;
inline constexpr size_t kJsonMembersMax = 20'000;
inline constexpr size_t kJsonNodesMax = 1'000'000;
Result<Json> ParseJson(std::string_view text);

// ParseJson, and Corrupt for an object that has two members of one name: readers do not agree on which of them counts (RFC 8259, section
// 4). Whoever reads what strangers send allows fewer members: the time is that of their number, squared.
Result<Json> ParseJsonOfUniqueNames(std::string_view text, size_t members_max = kJsonMembersMax);

// A member of `object` where it is one and has it: null, nothing and `fallback` otherwise, and for another kind of value.
const Json& JsonMember(const Json& object, const char* name);
std::optional<std::string> JsonText(const Json& object, const char* name);
bool JsonFlag(const Json& object, const char* name, bool fallback);

enum class JsonContainer : uint8_t { kObject, kList };

// Takes the large lists of a document as they are read, so that no tree of them is built.
class JsonListener {
 public:
  virtual ~JsonListener() = default;
  // Whether the container at `path` is streamed: names of members joined by '.', elements of lists add nothing.
  virtual bool Wants(std::string_view path) = 0;
  // What stands inside, in order. `key` is the name of the member that holds it, empty inside a list.
  virtual void Text(std::string_view key, std::string& text) = 0;
  virtual void Number(std::string_view key, double number) = 0;
  // A whole number of 0 and above, for those who need all of its bits.
  virtual void Whole(std::string_view key, uint64_t number) { Number(key, static_cast<double>(number)); }
  // null, true or false.
  virtual void Other(std::string_view) {}
  // A list or an object within the streamed container.
  virtual void Begin(std::string_view key, JsonContainer container) = 0;
  virtual void End() = 0;
};

// ParseJson, but containers that `listener` wants are empty in the result. Other errors: Exhausted for more than kJsonNodesMax
// values outside of them.
Result<Json> ParseJson(std::string_view text, JsonListener* listener);

}  // namespace bantam
