#include "base/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

#include "base/check.h"

namespace bantam {
namespace {

std::string Place(std::string_view text, size_t at) {
  const std::string_view before = text.substr(0, std::min(at, text.size()));
  const size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0
  return fmt::format("line {}, byte {}", 1 + std::count(before.begin(), before.end(), '\n'), before.size() - line_start + 1);
}

Error TooMany() {
  return Error(Code::kExhausted,
               fmt::format("JSON of more than {} values, or {} members of one object; this is not a file of the kind expected",
                           kJsonNodesMax, kJsonMembersMax));
}

// Calls visit(place, character) for what stands outside of strings, until it gives an error.
template <typename Visit>
Status ForEachOutsideStrings(std::string_view text, const Visit& visit) {
  bool in_string = false;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (in_string) {
      if (c == '\\') ++at;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else {
      BANTAM_TRY(visit(at, c));
    }
  }
  return Ok();
}

// The library builds trees of any depth, and those who walk them recurse; it also looks at all members of an object for each that
// is added. Both are bounded first; a listener's lists may have any number of members.
Status CheckShape(std::string_view text, size_t members_max, size_t values_max) {
  size_t members[kJsonDepthMax + 1] = {};
  size_t depth = 0;
  size_t values = 0;  // at most: each but the first of a container stands behind a comma
  return ForEachOutsideStrings(text, [&](size_t at, char c) -> Status {
    if ((c == ',' || c == '[' || c == '{') && ++values > values_max) return TooMany();
    if (c == '[' || c == '{') {
      if (++depth > kJsonDepthMax) {
        return Error(Code::kCorrupt, fmt::format("{}: JSON nested deeper than {}", Place(text, at), kJsonDepthMax));
      }
      members[depth] = 0;
    } else if (c == ']' || c == '}') {
      depth -= depth > 0 ? 1 : 0;
    } else if (c == ':' && ++members[depth] > members_max) {
      return Error(Code::kCorrupt, fmt::format("{}: a JSON object of more than {} members", Place(text, at), members_max));
    }
    return Ok();
  });
}

// Follows the library's parser to where it stops.
struct ErrorFinder : nlohmann::json_sax<Json> {
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return true; }
  bool key(string_t&) override { return true; }
  bool end_object() override { return true; }
  bool start_array(std::size_t) override { return true; }
  bool end_array() override { return true; }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    at = position == 0 ? 0 : position - 1;
    return false;
  }
  size_t at = 0;
};

// Finds a name that an object has twice.
struct NameFinder : ErrorFinder {
  bool start_object(std::size_t) override {
    names.emplace_back();
    return true;
  }
  bool end_object() override {
    names.pop_back();
    return true;
  }
  bool key(string_t& value) override {
    if (names.back().insert(value).second) return true;
    twice = value;
    return false;
  }
  std::vector<std::unordered_set<std::string>> names;  // of the objects that are open
  std::optional<std::string> twice;
};

// Builds the tree, and hands over what the listener wants.
class Streamer : public nlohmann::json_sax<Json> {
 public:
  Streamer(JsonListener* listener, Json* root) : listener_(listener), root_(root) {}

  bool null() override { return Other(nullptr); }
  bool boolean(bool value) override { return Other(value); }
  bool number_integer(number_integer_t value) override { return Number(value); }
  bool number_unsigned(number_unsigned_t value) override {
    if (streamed_ == 0) return Value(value);
    listener_->Whole(InnerKey(), value);
    return true;
  }
  bool number_float(number_float_t value, const string_t&) override { return Number(value); }
  bool string(string_t& value) override {
    if (streamed_ == 0) return Value(std::move(value));
    listener_->Text(InnerKey(), value);
    return true;
  }
  bool binary(binary_t&) override { return false; }
  bool key(string_t& value) override {
    key_ = std::move(value);
    return true;
  }
  bool start_object(std::size_t) override { return Open(Json::object()); }
  bool end_object() override { return Close(); }
  bool start_array(std::size_t) override { return Open(Json::array()); }
  bool end_array() override { return Close(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override { return false; }

  bool too_many() const { return too_many_; }

 private:
  template <typename T>
  bool Number(T value) {
    if (streamed_ == 0) return Value(value);
    listener_->Number(InnerKey(), static_cast<double>(value));
    return true;
  }

  template <typename T>
  bool Other(T value) {
    if (streamed_ == 0) return Value(value);
    listener_->Other(InnerKey());
    return true;
  }

  // Names of members stand in objects; in a list the last one is that of something else.
  std::string_view InnerKey() const { return inner_objects_.back() ? std::string_view(key_) : std::string_view(); }

  // Where the next value goes, or null past the limit.
  Json* Place(Json value) {
    too_many_ =
        ++nodes_ > kJsonNodesMax || (!open_.empty() && open_.back().json->is_object() && open_.back().json->size() >= kJsonMembersMax);
    if (too_many_) return nullptr;
    if (open_.empty()) {
      *root_ = std::move(value);
      return root_;
    }
    Json& parent = *open_.back().json;
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    Json& member = parent[key_];
    member = std::move(value);
    return &member;
  }

  template <typename T>
  bool Value(T&& value) {
    return Place(Json(std::forward<T>(value))) != nullptr;
  }

  bool Open(Json container) {
    const bool object = container.is_object();
    if (streamed_ != 0) {
      listener_->Begin(InnerKey(), object ? JsonContainer::kObject : JsonContainer::kList);
      ++streamed_;
      inner_objects_.push_back(object);
      return true;
    }
    const size_t path_size = path_.size();
    if (!open_.empty() && open_.back().json->is_object()) {
      if (!path_.empty()) path_ += '.';
      path_ += key_;
    }
    Json* placed = Place(std::move(container));
    if (placed == nullptr) return false;
    open_.push_back({placed, path_size});
    if (listener_->Wants(path_)) {
      streamed_ = 1;
      inner_objects_.push_back(object);
    }
    return true;
  }

  bool Close() {
    if (streamed_ != 0) {
      --streamed_;
      inner_objects_.pop_back();
      if (streamed_ != 0) {
        listener_->End();
        return true;
      }
    }
    path_.resize(open_.back().path_size);
    open_.pop_back();
    return true;
  }

  struct Container {
    Json* json;
    size_t path_size;  // of the path outside it
  };

  JsonListener* listener_;
  Json* root_;
  std::vector<Container> open_;
  std::vector<bool> inner_objects_;  // of the streamed containers that are open, whether it is an object
  std::string path_;
  std::string key_;
  size_t streamed_ = 0;  // depth below and including the streamed container
  size_t nodes_ = 0;
  bool too_many_ = false;
};

Error Invalid(std::string_view text) {
  ErrorFinder finder;
  Json::sax_parse(text, &finder);
  return Error(Code::kCorrupt, fmt::format("{}: no valid JSON here", Place(text, finder.at)));
}

}  // namespace

std::string DumpJson(const Json& value, int indent) {
  return value.dump(indent, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

std::string ShortJson(const Json& value) {
  constexpr size_t kShown = 100;
  const std::string text = DumpJson(value, /*indent=*/-1);
  return text.size() <= kShown ? text : text.substr(0, kShown) + "...";
}

Result<Json> ParseJson(std::string_view text) {
  BANTAM_TRY(CheckShape(text, kJsonMembersMax, kJsonNodesMax));
  Json json = Json::parse(text, /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (!json.is_discarded()) return json;
  return Invalid(text);
}

Result<Json> ParseJsonOfUniqueNames(std::string_view text, size_t members_max) {
  BANTAM_TRY(CheckShape(text, members_max, kJsonNodesMax));
  BANTAM_ASSIGN(Json json, ParseJson(text));
  NameFinder finder;
  Json::sax_parse(text, &finder);
  if (!finder.twice) return json;
  return Error(Code::kCorrupt,
               fmt::format("member {} occurs twice; which of the two counts is not said: correct the file, or fetch it again",
                           ShortJson(*finder.twice)));
}

const Json& JsonMember(const Json& object, const char* name) {
  static const Json kNone;
  const auto member = object.is_object() ? object.find(name) : object.end();
  return object.is_object() && member != object.end() ? *member : kNone;
}

std::optional<std::string> JsonText(const Json& object, const char* name) {
  const Json& member = JsonMember(object, name);
  return member.is_string() ? std::optional(member.get<std::string>()) : std::nullopt;
}

bool JsonFlag(const Json& object, const char* name, bool fallback) {
  const Json& member = JsonMember(object, name);
  return member.is_boolean() ? member.get<bool>() : fallback;
}

Result<Json> ParseJson(std::string_view text, JsonListener* listener) {
  BANTAM_TRY(CheckShape(text, /*members_max=*/SIZE_MAX, /*values_max=*/text.size()));
  Json root;
  Streamer streamer(listener, &root);
  if (Json::sax_parse(text, &streamer)) return root;
  if (streamer.too_many()) return TooMany();
  return Invalid(text);
}

}  // namespace bantam
