// SchemaDocument: a JSON Schema with its references, before it means anything.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace bantam {

// A reference resolved against a base (RFC 3986, section 5.2), without its fragment; the fragment beside it.
struct UriParts {
  std::string base;
  std::string fragment;
};
UriParts ResolveUri(std::string_view base, std::string_view reference);

class SchemaDocument {
 public:
  static Result<SchemaDocument> Parse(std::string_view text, size_t bytes_max);

  const Json* root() const { return &*root_; }
  // The schema that `reference`, standing in `schema`, names. Unsupported for another document, NotFound for nothing.
  Result<const Json*> Resolve(const Json* schema, const std::string& reference);
  // A schema that stands nowhere in the document but is said of `origin`.
  const Json* Make(Json schema, const Json* origin);
  // "#/properties/name": where a schema stands, for messages.
  std::string PathOf(const Json* schema) const;
  // Whether several $dynamicAnchor in the document have the name.
  bool IsAmbiguousAnchor(const std::string& name) const;

 private:
  SchemaDocument() = default;
  enum class Place : uint8_t { kSchema, kSchemas, kMembers, kElsewhere };
  void Index(const Json& value, Place place, uint32_t resource);
  void IndexIds(const Json& schema, uint32_t* resource);
  void NoteOrigin(const Json& made, const Json* origin);
  Result<const Json*> Follow(uint32_t resource, std::string_view pointer, const std::string& reference);

  std::unique_ptr<const Json> root_;
  struct Resource {
    std::string base;
    const Json* schema;
  };
  std::vector<Resource> resources_;
  std::unordered_map<const Json*, uint32_t> resource_of_;
  std::map<std::pair<uint32_t, std::string>, const Json*> anchors_;
  std::map<std::string, int> dynamic_anchors_;
  std::deque<Json> made_;
  std::unordered_map<const Json*, const Json*> origins_;
};

}  // namespace bantam
