#include "text/structured/schema_document.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

namespace bantam {
namespace {

constexpr std::array<std::string_view, 12> kSchemaKeywords = {
    "additionalProperties", "additionalItems",       "contains", "propertyNames", "not", "if", "then", "else",
    "unevaluatedItems",     "unevaluatedProperties", "items",    "contentSchema"};
constexpr std::array<std::string_view, 5> kListKeywords = {"allOf", "anyOf", "oneOf", "prefixItems", "items"};
constexpr std::array<std::string_view, 6> kMapKeywords = {"properties",  "patternProperties", "$defs",
                                                          "definitions", "dependentSchemas",  "dependencies"};

bool IsIn(const auto& list, std::string_view word) { return std::find(list.begin(), list.end(), word) != list.end(); }

std::string_view SchemeOf(std::string_view uri) {
  const size_t colon = uri.find(':');
  if (colon == std::string_view::npos || uri.find_first_of("/?#") < colon) return {};
  return uri.substr(0, colon + 1);
}

std::string WithoutDots(std::string_view path) {
  std::vector<std::string_view> segments;
  const bool rooted = path.starts_with('/');
  size_t at = rooted ? 1 : 0;
  while (at <= path.size()) {
    const size_t end = std::min(path.find('/', at), path.size());
    const std::string_view segment = path.substr(at, end - at);
    const bool last = end == path.size();
    if (segment == "..") {
      if (!segments.empty()) segments.pop_back();
    } else if (segment != ".") {
      segments.push_back(segment);
    }
    if (last && (segment == ".." || segment == ".")) segments.emplace_back();
    at = end + 1;
  }
  std::string result;
  for (size_t i = 0; i < segments.size(); ++i) {
    if (i > 0 || rooted) result += '/';
    result += segments[i];
  }
  return result;
}

// "scheme://authority" of an absolute URI, and where its path begins.
size_t PathBegin(std::string_view uri) {
  const size_t scheme = SchemeOf(uri).size();
  if (!uri.substr(scheme).starts_with("//")) return scheme;
  return std::min(uri.find('/', scheme + 2), uri.size());
}

std::string Unescape(std::string_view text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto hex = [&](size_t at) -> int {
      const char c = at < text.size() ? text[at] : '\0';
      if (c >= '0' && c <= '9') return c - '0';
      const auto lower = static_cast<char>(c | 0x20);
      return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
    };
    if (text[i] == '%' && hex(i + 1) >= 0 && hex(i + 2) >= 0) {
      result += static_cast<char>(hex(i + 1) * 16 + hex(i + 2));
      i += 2;
    } else {
      result += text[i];
    }
  }
  return result;
}

std::string PointerToken(std::string_view token) {
  std::string result;
  for (size_t i = 0; i < token.size(); ++i) {
    if (token[i] == '~' && i + 1 < token.size() && (token[i + 1] == '0' || token[i + 1] == '1')) {
      result += token[++i] == '0' ? '~' : '/';
    } else {
      result += token[i];
    }
  }
  return result;
}

std::optional<size_t> ListIndex(std::string_view token, size_t size) {
  size_t index = 0;
  if (token.empty() || token.size() > 9) return std::nullopt;
  for (const char c : token) {
    if (c < '0' || c > '9') return std::nullopt;
    index = index * 10 + static_cast<size_t>(c - '0');
  }
  return index < size ? std::optional(index) : std::nullopt;
}

// Appends the way from `from` to `to`, where there is one. Documents nest kJsonDepthMax deep at most.
bool FindPath(const Json& from, const Json* to, std::string* path) {
  if (&from == to) return true;
  if (!from.is_structured()) return false;
  size_t index = 0;
  for (auto it = from.begin(); it != from.end(); ++it, ++index) {
    const size_t size = path->size();
    *path += '/';
    if (from.is_array()) {
      *path += fmt::format("{}", index);
    } else {
      for (const char c : it.key()) *path += c == '~' ? "~0" : c == '/' ? "~1" : std::string(1, c);
    }
    if (FindPath(*it, to, path)) return true;
    path->resize(size);
  }
  return false;
}

}  // namespace

UriParts ResolveUri(std::string_view base, std::string_view reference) {
  UriParts parts;
  const size_t hash = std::min(reference.find('#'), reference.size());
  if (hash < reference.size()) parts.fragment = reference.substr(hash + 1);
  reference = reference.substr(0, hash);
  if (reference.empty()) {
    parts.base = base;
  } else if (!SchemeOf(reference).empty()) {
    parts.base = reference;
  } else if (reference.starts_with("//")) {
    parts.base = std::string(SchemeOf(base)) + std::string(reference);
  } else {
    const size_t path = PathBegin(base);
    std::string_view base_path = base.substr(path);
    base_path = base_path.substr(0, base_path.find('?'));
    if (reference.starts_with('?')) {
      parts.base = std::string(base.substr(0, path)) + std::string(base_path) + std::string(reference);
      return parts;
    }
    std::string merged(reference);
    if (!reference.starts_with('/')) {
      const size_t slash = base_path.rfind('/');
      merged = (slash == std::string_view::npos ? (path > 0 ? "/" : "") : std::string(base_path.substr(0, slash + 1))) + merged;
    }
    parts.base = std::string(base.substr(0, path)) + WithoutDots(merged);
  }
  return parts;
}

Result<SchemaDocument> SchemaDocument::Parse(std::string_view text, size_t bytes_max) {
  if (text.size() > bytes_max)
    return Error(Code::kExhausted, fmt::format("a schema of {} bytes; at most {} are read", text.size(), bytes_max));
  BANTAM_ASSIGN(Json json, ParseJson(text));
  SchemaDocument document;
  document.root_ = std::make_unique<const Json>(std::move(json));
  document.resources_.push_back({"", document.root()});
  document.Index(*document.root_, Place::kSchema, /*resource=*/0);
  return document;
}

void SchemaDocument::IndexIds(const Json& schema, uint32_t* resource) {
  for (const char* name : {"$id", "id"}) {
    const auto id = JsonText(schema, name);
    if (!id.has_value() || id->empty()) continue;
    if (id->starts_with('#')) {
      anchors_.emplace(std::pair(*resource, id->substr(1)), &schema);
      continue;
    }
    const UriParts uri = ResolveUri(resources_[*resource].base, *id);
    if (&schema == root()) {
      resources_[0].base = uri.base;
    } else {
      resources_.push_back({uri.base, &schema});
      *resource = static_cast<uint32_t>(resources_.size() - 1);
    }
  }
  for (const char* name : {"$anchor", "$dynamicAnchor"}) {
    const auto anchor = JsonText(schema, name);
    if (!anchor.has_value()) continue;
    anchors_.emplace(std::pair(*resource, *anchor), &schema);
    if (name[1] == 'd') ++dynamic_anchors_[*anchor];
  }
}

void SchemaDocument::Index(const Json& value, Place place, uint32_t resource) {
  if (!value.is_structured()) return;
  if (value.is_object() && place == Place::kSchema) IndexIds(value, &resource);
  resource_of_.emplace(&value, resource);
  for (auto it = value.begin(); it != value.end(); ++it) {
    Place inner = Place::kElsewhere;
    if (place == Place::kSchemas || place == Place::kMembers) {
      inner = Place::kSchema;
    } else if (place == Place::kSchema && value.is_object()) {
      const std::string& key = it.key();
      if (IsIn(kMapKeywords, key) && it->is_object()) inner = Place::kMembers;
      if (IsIn(kSchemaKeywords, key) && it->is_object()) inner = Place::kSchema;
      if (IsIn(kListKeywords, key) && it->is_array()) inner = Place::kSchemas;
    }
    Index(*it, inner, resource);
  }
}

Result<const Json*> SchemaDocument::Resolve(const Json* schema, const std::string& reference) {
  while (origins_.contains(schema)) schema = origins_.at(schema);
  const auto known = resource_of_.find(schema);
  const uint32_t from = known == resource_of_.end() ? 0 : known->second;
  const UriParts uri = ResolveUri(resources_[from].base, reference);
  const std::string fragment = Unescape(uri.fragment);
  uint32_t resource = 0;
  bool found = reference.starts_with('#') || reference.empty();
  if (found) resource = from;
  for (uint32_t i = 0; !found && i < resources_.size(); ++i) {
    // A trailing empty fragment or slash makes no other document.
    if (resources_[i].base != uri.base) continue;
    resource = i;
    found = true;
  }
  if (!found) return Error(Code::kUnsupported, fmt::format("$ref \"{}\" names another document, and none is fetched", reference));
  if (fragment.empty()) return resources_[resource].schema;
  if (fragment.starts_with('/')) return Follow(resource, fragment, reference);
  const auto anchor = anchors_.find({resource, fragment});
  if (anchor != anchors_.end()) return anchor->second;
  return Error(Code::kNotFound, fmt::format("$ref \"{}\" names nothing", reference));
}

Result<const Json*> SchemaDocument::Follow(uint32_t resource, std::string_view pointer, const std::string& reference) {
  const Json* at = resources_[resource].schema;
  for (size_t begin = 1; begin <= pointer.size();) {
    const size_t end = std::min(pointer.find('/', begin), pointer.size());
    const std::string token = PointerToken(pointer.substr(begin, end - begin));
    begin = end + 1;
    const Json* next = nullptr;
    if (at->is_object()) {
      const auto member = at->find(token);
      if (member != at->end()) next = &*member;
    } else if (at->is_array()) {
      const auto index = ListIndex(token, at->size());
      if (index.has_value()) next = &(*at)[*index];
    }
    if (next == nullptr) return Error(Code::kNotFound, fmt::format("$ref \"{}\" names nothing", reference));
    at = next;
  }
  return at;
}

const Json* SchemaDocument::Make(Json schema, const Json* origin) {
  made_.push_back(std::move(schema));
  NoteOrigin(made_.back(), origin);
  return &made_.back();
}

void SchemaDocument::NoteOrigin(const Json& made, const Json* origin) {
  if (!made.is_structured()) return;
  origins_.emplace(&made, origin);
  for (const Json& inner : made) NoteOrigin(inner, origin);
}

std::string SchemaDocument::PathOf(const Json* schema) const {
  while (origins_.contains(schema)) schema = origins_.at(schema);
  std::string path = "#";
  (void)FindPath(*root_, schema, &path);
  return path;
}

bool SchemaDocument::IsAmbiguousAnchor(const std::string& name) const {
  const auto found = dynamic_anchors_.find(name);
  return found != dynamic_anchors_.end() && found->second > 1;
}

}  // namespace bantam
