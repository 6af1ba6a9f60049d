// Schemas that hold only where another one does not: for `not`, `oneOf` and `if`.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "text/structured/schema_forms.h"

namespace bantam {
namespace {

Json OfType(const char* type) { return {{"type", type}}; }

Json With(Json schema, const std::string& key, Json value) {
  schema[key] = std::move(value);
  return schema;
}

constexpr std::array<const char*, 6> kTypeNames = {"null", "boolean", "number", "string", "array", "object"};

struct Opposite {
  std::string_view key;
  const char* type;
  const char* other;
  int step;  // added to a whole number
};
constexpr std::array<Opposite, 6> kCounts = {{{"minLength", "string", "maxLength", -1},
                                              {"maxLength", "string", "minLength", 1},
                                              {"minItems", "array", "maxItems", -1},
                                              {"maxItems", "array", "minItems", 1},
                                              {"minProperties", "object", "maxProperties", -1},
                                              {"maxProperties", "object", "minProperties", 1}}};

void NegateType(const Json& value, std::vector<Json>* any) {
  const Json list = value.is_array() ? value : Json::array({value});
  const auto has = [&](const char* name) { return std::find(list.begin(), list.end(), name) != list.end(); };
  Json others = Json::array();
  for (const char* name : kTypeNames) {
    const bool part = std::string_view(name) == "number" && has("integer");
    if (!has(name) && !part) others.push_back(name);
  }
  if (!others.empty()) any->push_back({{"type", others}});
  if (has("integer") && !has("number")) any->push_back(With(OfType("number"), kFractionKeyword, true));
}

void NegateBound(const Json& schema, const std::string& key, const Json& value, std::vector<Json>* any) {
  if (!value.is_number()) return;
  const bool low = key.ends_with("inimum");
  const bool exclusive = key.starts_with("exclusive") || JsonFlag(schema, low ? "exclusiveMinimum" : "exclusiveMaximum", false);
  const char* other = low ? (exclusive ? "maximum" : "exclusiveMaximum") : (exclusive ? "minimum" : "exclusiveMinimum");
  any->push_back(With(OfType("number"), other, value));
}

}  // namespace

Result<const Json*> SchemaForms::Negate(const Json* schema, uint32_t depth) {
  const auto known = negated_.find(schema);
  if (known != negated_.end()) return known->second;
  if (depth > limits_.negation_depth || ++steps_ > limits_.steps) return Error(Code::kUnsupported, "its opposite is too deep");
  std::vector<Json> any;
  if (schema->is_boolean()) {
    const Json* made = document_.Make(!schema->get<bool>(), schema);
    negated_.emplace(schema, made);
    return made;
  }
  if (!schema->is_object()) return Error(Code::kInvalidArgument, "a schema has to be an object, true or false");
  // The opposite of some keywords cannot be written down. Leaving it out loses texts and admits none.
  std::string lost;
  for (const auto& [key, value] : schema->items()) {
    const Status status = NegateKeyword(schema, key, value, depth, &any);
    if (!status.ok()) lost = status.error().message();
  }
  if (any.empty() && !lost.empty()) return Error(Code::kUnsupported, lost);
  const Json* made = document_.Make(any.empty() ? Json(false) : any.size() == 1 ? any[0] : Json{{"anyOf", any}}, schema);
  negated_.emplace(schema, made);
  return made;
}

Status SchemaForms::NegateKeyword(const Json* schema, const std::string& key, const Json& value, uint32_t depth, std::vector<Json>* any) {
  const auto count = std::find_if(kCounts.begin(), kCounts.end(), [&](const Opposite& opposite) { return key == opposite.key; });
  if (count != kCounts.end()) {
    BANTAM_ASSIGN(const uint64_t number, Whole(schema, key, value));
    if (number + static_cast<uint64_t>(count->step) != UINT64_MAX) {
      any->push_back(With(OfType(count->type), count->other, number + static_cast<uint64_t>(count->step)));
    }
  } else if (key == "type") {
    NegateType(value, any);
  } else if (key == "enum") {
    any->push_back({{kExcludedKeyword, value}});
  } else if (key == "const") {
    any->push_back({{kExcludedKeyword, Json::array({value})}});
  } else if (key == kExcludedKeyword) {
    any->push_back({{"enum", value}});
  } else if (key == "minimum" || key == "maximum" || key == "exclusiveMinimum" || key == "exclusiveMaximum") {
    NegateBound(*schema, key, value, any);
  } else if (key == "pattern" || key == kNotPatternKeyword) {
    any->push_back(With(OfType("string"), key == "pattern" ? kNotPatternKeyword : "pattern", value));
  } else if (key == "required" && value.is_array()) {
    for (const Json& name : value) {
      if (name.is_string()) any->push_back(With(OfType("object"), "properties", {{name.get<std::string>(), false}}));
    }
  } else if (key == "properties" && value.is_object()) {
    for (auto it = value.begin(); it != value.end(); ++it) {
      if (IsTrivialSchema(*it)) continue;
      BANTAM_ASSIGN(const Json* other, Negate(&*it, depth + 1));
      any->push_back({{"type", "object"}, {"required", Json::array({it.key()})}, {"properties", {{it.key(), *other}}}});
    }
  } else {
    return NegateCombination(schema, key, value, depth, any);
  }
  return Ok();
}

Status SchemaForms::NegateCombination(const Json* schema, const std::string& key, const Json& value, uint32_t depth,
                                      std::vector<Json>* any) {
  constexpr std::array<std::string_view, 12> kLost = {
      "items",      "prefixItems", "additionalItems", "additionalProperties",  "patternProperties", "propertyNames",
      "multipleOf", "uniqueItems", "format",          "unevaluatedProperties", "unevaluatedItems",  kFractionKeyword};
  if (key == "$ref" && value.is_string()) {
    BANTAM_ASSIGN(const Json* target, document_.Resolve(schema, value.get<std::string>()));
    BANTAM_ASSIGN(const Json* other, Negate(target, depth + 1));
    any->push_back(*other);
  } else if (key == "not") {
    any->push_back({{"allOf", Json::array({value})}});
  } else if (key == "allOf" && value.is_array()) {
    for (const Json& part : value) {
      BANTAM_ASSIGN(const Json* other, Negate(&part, depth + 1));
      any->push_back(*other);
    }
  } else if ((key == "anyOf" || key == "oneOf") && value.is_array()) {
    // Of oneOf, what several alternatives hold of is lost.
    Json all = Json::array();
    for (const Json& part : value) {
      BANTAM_ASSIGN(const Json* other, Negate(&part, depth + 1));
      all.push_back(*other);
    }
    any->push_back({{"allOf", std::move(all)}});
  } else if (key == "contains") {
    BANTAM_ASSIGN(const Json* other, Negate(&value, depth + 1));
    if (schema->contains("minContains") || schema->contains("maxContains"))
      return Error(Code::kUnsupported, "its opposite cannot be enforced");
    any->push_back(With(OfType("array"), "items", *other));
  } else if (key == "if") {
    return NegateConditional(*schema, value, depth, any);
  } else if ((key == "dependentRequired" || key == "dependentSchemas" || key == "dependencies") && value.is_object()) {
    return NegateDependencies(value, depth, any);
  } else if (std::find(kLost.begin(), kLost.end(), key) != kLost.end() && !IsTrivialSchema(value)) {
    return Error(Code::kUnsupported, fmt::format("the opposite of {} cannot be enforced", key == kFractionKeyword ? "an integer" : key));
  }
  return Ok();
}

// The condition holds and what follows from it does not, or the other way round.
Status SchemaForms::NegateConditional(const Json& schema, const Json& condition, uint32_t depth, std::vector<Json>* any) {
  const auto then = schema.find("then");
  if (then != schema.end()) {
    BANTAM_ASSIGN(const Json* other, Negate(&*then, depth + 1));
    any->push_back({{"allOf", Json::array({condition, *other})}});
  }
  const auto otherwise = schema.find("else");
  if (otherwise != schema.end()) {
    BANTAM_ASSIGN(const Json* not_condition, Negate(&condition, depth + 1));
    BANTAM_ASSIGN(const Json* other, Negate(&*otherwise, depth + 1));
    any->push_back({{"allOf", Json::array({*not_condition, *other})}});
  }
  return Ok();
}

// A member is there and what depends on it is not.
Status SchemaForms::NegateDependencies(const Json& dependencies, uint32_t depth, std::vector<Json>* any) {
  for (auto it = dependencies.begin(); it != dependencies.end(); ++it) {
    const Json present = {{"type", "object"}, {"required", Json::array({it.key()})}};
    if (it->is_array() || it->is_string()) {
      for (const Json& name : it->is_array() ? *it : Json::array({*it})) {
        if (name.is_string()) any->push_back(With(present, "properties", {{name.get<std::string>(), false}}));
      }
      continue;
    }
    BANTAM_ASSIGN(const Json* other, Negate(&*it, depth + 1));
    any->push_back(With(present, "allOf", Json::array({*other})));
  }
  return Ok();
}

}  // namespace bantam
