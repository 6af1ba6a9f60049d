// The keywords of JSON Schema, from draft 4 to 2020-12, as SchemaForms reads them.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "text/structured/pattern.h"
#include "text/structured/schema_forms.h"
#include "text/structured/string_formats.h"

namespace bantam {
namespace {

constexpr std::array<std::pair<std::string_view, uint8_t>, 7> kTypes = {{{"null", BitOf(JsonKind::kNull)},
                                                                         {"boolean", BitOf(JsonKind::kBoolean)},
                                                                         {"number", BitOf(JsonKind::kNumeric)},
                                                                         {"integer", BitOf(JsonKind::kNumeric)},
                                                                         {"string", BitOf(JsonKind::kString)},
                                                                         {"array", BitOf(JsonKind::kArray)},
                                                                         {"object", BitOf(JsonKind::kObject)}}};

struct NamedRefusal {
  std::string_view name;
  uint8_t kinds;
};
// Assertions of some draft that nothing here enforces.
constexpr std::array<NamedRefusal, 7> kRefused = {{{"unevaluatedItems", BitOf(JsonKind::kArray)},
                                                   {"unevaluatedProperties", BitOf(JsonKind::kObject)},
                                                   {"contains", BitOf(JsonKind::kArray)},
                                                   {"divisibleBy", BitOf(JsonKind::kNumeric)},
                                                   {"disallow", kAllKinds},
                                                   {"extends", kAllKinds},
                                                   {"$recursiveRef", kAllKinds}}};

// Values in both lists, each once.
void Intersect(const std::vector<Json>& values, SchemaForm* form) {
  std::vector<Json> kept;
  std::set<std::string_view> texts;
  const JsonValues before(form->values.has_value() ? *form->values : values);
  for (const Json& value : values) {
    const bool again = value.is_string() ? !texts.insert(value.get_ref<const std::string&>()).second : ContainsJson(kept, value);
    if (!again && before.Has(value)) kept.push_back(value);
  }
  form->values = std::move(kept);
}

void RaiseLow(const NumberBound& bound, SchemaForm* form) {
  auto& low = form->number.low;
  const int order = low.has_value() ? bound.value.Compare(low->value) : 1;
  if (order > 0 || (order == 0 && bound.exclusive)) low = bound;
}

void LowerHigh(const NumberBound& bound, SchemaForm* form) {
  auto& high = form->number.high;
  const int order = high.has_value() ? bound.value.Compare(high->value) : -1;
  if (order < 0 || (order == 0 && bound.exclusive)) high = bound;
}

}  // namespace

Status SchemaForms::AddSchema(const Unread& unread, Draft* draft) {
  const Json& schema = *unread.schema;
  if (++steps_ > limits_.steps)
    return Refuse(Code::kExhausted, unread.schema, "", fmt::format("more than {} steps are needed", limits_.steps));
  if (schema.is_boolean()) {
    if (!schema.get<bool>()) draft->form.kinds = 0;
    return Ok();
  }
  if (!schema.is_object()) return Refuse(Code::kInvalidArgument, unread.schema, "", "a schema has to be an object, true or false");
  for (const Link* link = unread.parent; link != nullptr; link = link->parent) {
    if (link->schema == unread.schema)
      return Refuse(Code::kUnsupported, unread.schema, "", "it refers to itself without a value in between");
  }
  if (std::find(draft->seen.begin(), draft->seen.end(), unread.schema) != draft->seen.end()) return Ok();
  draft->seen.push_back(unread.schema);
  links_.push_back({unread.schema, unread.parent});
  const Link* link = &links_.back();
  BANTAM_TRY(AddReferences(schema, link, draft));
  for (const auto& [key, value] : schema.items()) BANTAM_TRY(AddKeyword(unread.schema, key, value, &draft->form));
  BANTAM_TRY(AddCombinations(schema, link, draft));
  BANTAM_TRY(AddConditional(schema, link, draft));
  return AddDependencies(schema, link, draft);
}

Status SchemaForms::AddKeyword(const Json* schema, const std::string& key, const Json& value, SchemaForm* form) {
  if (key == "type") {
    uint8_t kinds = 0;
    bool integer = false;
    bool number = false;
    for (const Json& name : value.is_array() ? value : Json::array({value})) {
      const auto* found =
          std::find_if(kTypes.begin(), kTypes.end(), [&](const auto& type) { return name.is_string() && name == type.first; });
      if (found == kTypes.end()) return Refuse(Code::kInvalidArgument, schema, key, fmt::format("{} is no type", ShortJson(name)));
      kinds |= found->second;
      integer = integer || found->first == "integer";
      number = number || found->first == "number";
    }
    form->kinds &= kinds;
    if (integer && !number) form->number.integer = true;
  } else if (key == "enum") {
    if (!value.is_array()) return Refuse(Code::kInvalidArgument, schema, key, "it has to be a list");
    Intersect(std::vector<Json>(value.begin(), value.end()), form);
  } else if (key == "const") {
    Intersect({value}, form);
  } else if (key == kExcludedKeyword) {
    form->excluded.insert(form->excluded.end(), value.begin(), value.end());
    for (const Json& one : value) {
      if (one.is_number()) form->number.excluded.push_back(Decimal::Of(one));
      if (one.is_structured()) {
        const JsonKind kind = KindOf(one);
        form->refusals.push_back({BitOf(kind), Refuse(Code::kUnsupported, schema, "", "a list or an object cannot be excluded").message()});
      }
    }
  }
  for (const NamedRefusal& refused : kRefused) {
    if (key != refused.name || IsTrivialSchema(value)) continue;
    if (key == "contains" && JsonMember(*schema, "minContains") == 0 && !schema->contains("maxContains")) continue;
    form->refusals.push_back({refused.kinds, Refuse(Code::kUnsupported, schema, key, "this keyword cannot be enforced").message()});
  }
  BANTAM_TRY(AddNumberKeyword(schema, key, value, form));
  BANTAM_TRY(AddTextKeyword(schema, key, value, form));
  BANTAM_TRY(AddListKeyword(schema, key, value, form));
  return AddMemberKeyword(schema, key, value, form);
}

Status SchemaForms::AddNumberKeyword(const Json* schema, const std::string& key, const Json& value, SchemaForm* form) {
  const bool bound = key == "minimum" || key == "maximum" || key == "exclusiveMinimum" || key == "exclusiveMaximum" || key == "multipleOf";
  if (key == kFractionKeyword) form->number.fractional = true;
  if (key == "format" && value.is_string()) {
    if (value == "int32") {
      form->number.integer = true;
      RaiseLow({*Decimal::Parse("-2147483648"), false}, form);
      LowerHigh({*Decimal::Parse("2147483647"), false}, form);
    } else if (value == "int64") {
      form->number.integer = true;
    }
  }
  if (!bound) return Ok();
  // Draft 4: `exclusiveMinimum: true` is said of `minimum`.
  if (value.is_boolean() && key.starts_with("exclusive")) return Ok();
  if (!value.is_number()) return Refuse(Code::kInvalidArgument, schema, key, "it has to be a number");
  const Decimal number = Decimal::Of(value);
  if (key == "minimum") RaiseLow({number, JsonFlag(*schema, "exclusiveMinimum", false)}, form);
  if (key == "maximum") LowerHigh({number, JsonFlag(*schema, "exclusiveMaximum", false)}, form);
  if (key == "exclusiveMinimum") RaiseLow({number, true}, form);
  if (key == "exclusiveMaximum") LowerHigh({number, true}, form);
  if (key == "multipleOf") {
    if (number.negative || number.zero()) return Refuse(Code::kInvalidArgument, schema, key, "it has to be above 0");
    form->number.multiples.push_back(number);
  }
  return Ok();
}

Result<uint64_t> SchemaForms::Whole(const Json* schema, const std::string& key, const Json& value) const {
  const Decimal number = value.is_number() ? Decimal::Of(value) : *Decimal::Parse("-1");
  if (number.negative || !number.integer()) return Refuse(Code::kInvalidArgument, schema, key, "it has to be a whole number of 0 or more");
  uint64_t whole = 0;
  for (const char c : number.whole) whole = std::min<uint64_t>(whole * 10 + static_cast<uint64_t>(c - '0'), UINT32_MAX);
  return whole;
}

Status SchemaForms::AddTextKeyword(const Json* schema, const std::string& key, const Json& value, SchemaForm* form) {
  if (key == "minLength") {
    BANTAM_ASSIGN(const uint64_t least, Whole(schema, key, value));
    form->text.least = std::max(form->text.least, least);
  } else if (key == "maxLength") {
    BANTAM_ASSIGN(const uint64_t most, Whole(schema, key, value));
    form->text.most = std::min(form->text.most, most);
  } else if (key == "pattern" || key == kNotPatternKeyword) {
    if (!value.is_string()) return Refuse(Code::kInvalidArgument, schema, key, "it has to be a text");
    auto& list = key == "pattern" ? form->text.patterns : form->text.not_patterns;
    std::string pattern = value.get<std::string>();
    const auto counted = key == "pattern" ? AsRepeatedClass(pattern) : std::nullopt;
    if (counted.has_value()) {
      pattern = counted->characters;
      form->text.least = std::max(form->text.least, counted->least);
      form->text.most = std::min(form->text.most, counted->most);
    }
    if (std::find(list.begin(), list.end(), pattern) == list.end()) list.push_back(std::move(pattern));
    // Messages point at the schema with the pattern.
    form->where = schema;
  } else if (key == "format" && value.is_string() && FindStringFormat(value.get<std::string>()).has_value()) {
    auto& list = form->text.formats;
    if (std::find(list.begin(), list.end(), value.get<std::string>()) == list.end()) list.push_back(value.get<std::string>());
  }
  return Ok();
}

Status SchemaForms::AddListKeyword(const Json* schema, const std::string& key, const Json& value, SchemaForm* form) {
  if (key == "minItems") {
    BANTAM_ASSIGN(const uint64_t least, Whole(schema, key, value));
    form->list.least = std::max(form->list.least, least);
  } else if (key == "maxItems") {
    BANTAM_ASSIGN(const uint64_t most, Whole(schema, key, value));
    form->list.most = std::min(form->list.most, most);
  } else if (key == "contains" && IsTrivialSchema(value)) {
    // Every item is one.
    const auto least = schema->find("minContains");
    const auto most = schema->find("maxContains");
    uint64_t number = 1;
    if (least != schema->end()) {
      BANTAM_ASSIGN(number, Whole(schema, "minContains", *least));
    }
    form->list.least = std::max(form->list.least, number);
    if (most != schema->end()) {
      BANTAM_ASSIGN(number, Whole(schema, "maxContains", *most));
      form->list.most = std::min(form->list.most, number);
    }
  } else if (key == "uniqueItems") {
    if (!value.is_boolean()) return Refuse(Code::kInvalidArgument, schema, key, "it has to be true or false");
    form->list.unique = form->list.unique || value.get<bool>();
  } else if (key == "items" || key == "prefixItems") {
    if (key == "prefixItems" && !value.is_array()) return Refuse(Code::kInvalidArgument, schema, key, "it has to be a list");
    if (form->list.parts.empty() || form->list.parts.back() != schema) form->list.parts.push_back(schema);
  }
  return Ok();
}

Status SchemaForms::AddMemberKeyword(const Json* schema, const std::string& key, const Json& value, SchemaForm* form) {
  SchemaForm::Members& members = form->members;
  const auto require = [&](const std::string& name) {
    if (std::find(members.required.begin(), members.required.end(), name) == members.required.end()) members.required.push_back(name);
  };
  if (key == "minProperties") {
    BANTAM_ASSIGN(const uint64_t least, Whole(schema, key, value));
    members.least = std::max(members.least, least);
  } else if (key == "maxProperties") {
    BANTAM_ASSIGN(const uint64_t most, Whole(schema, key, value));
    members.most = std::min(members.most, most);
  } else if (key == "required" && !value.is_boolean()) {
    if (!value.is_array()) return Refuse(Code::kInvalidArgument, schema, key, "it has to be a list of names");
    for (const Json& name : value) {
      if (!name.is_string()) return Refuse(Code::kInvalidArgument, schema, key, "it has to be a list of names");
      require(name.get<std::string>());
    }
  } else if (key == "propertyNames") {
    if (!IsTrivialSchema(value)) members.names.push_back(&value);
  } else if (key == "properties" || key == "patternProperties" || key == "additionalProperties") {
    if (key != "additionalProperties" && !value.is_object()) return Refuse(Code::kInvalidArgument, schema, key, "it has to be an object");
    if (std::find(members.parts.begin(), members.parts.end(), schema) == members.parts.end()) members.parts.push_back(schema);
    // Draft 3 says of the member itself that it is required.
    for (auto it = value.begin(); key == "properties" && it != value.end(); ++it) {
      if (JsonFlag(*it, "required", false)) require(it.key());
    }
  }
  return Ok();
}

Status SchemaForms::AddReferences(const Json& schema, const Link* link, Draft* draft) {
  const auto reference = JsonText(schema, "$ref");
  if (reference.has_value()) {
    auto target = document_.Resolve(&schema, *reference);
    if (!target.ok()) return Refuse(target.error().code(), &schema, "", target.error().message());
    draft->unread.push_back({*target, link});
  }
  const auto dynamic = JsonText(schema, "$dynamicRef");
  if (!dynamic.has_value()) return Ok();
  // With one anchor of the name it is an ordinary reference.
  const size_t hash = dynamic->find('#');
  if (hash == std::string::npos || document_.IsAmbiguousAnchor(dynamic->substr(hash + 1))) {
    return Refuse(Code::kUnsupported, &schema, "$dynamicRef", "this keyword cannot be enforced where several anchors have the name");
  }
  auto target = document_.Resolve(&schema, *dynamic);
  if (!target.ok()) return Refuse(target.error().code(), &schema, "", target.error().message());
  draft->unread.push_back({*target, link});
  return Ok();
}

Status SchemaForms::AddCombinations(const Json& schema, const Link* link, Draft* draft) {
  for (const char* name : {"allOf", "anyOf", "oneOf"}) {
    const auto list = schema.find(name);
    if (list == schema.end()) continue;
    if (!list->is_array() || list->empty()) return Refuse(Code::kInvalidArgument, &schema, name, "it has to be a list of schemas");
    if (list->size() == 1 || name == std::string_view("allOf")) {
      for (const Json& part : *list) draft->unread.push_back({&part, link});
    } else if (name[0] == 'a') {
      Choice choice{{}, link};
      for (const Json& part : *list) choice.branches.push_back({&part});
      draft->choices.push_back(std::move(choice));
    } else {
      BANTAM_TRY(AddOneOf(schema, link, draft));
    }
  }
  const auto negated = schema.find("not");
  if (negated == schema.end()) return Ok();
  auto other = Negate(&*negated, /*depth=*/0);
  if (!other.ok()) return Refuse(other.error().code(), &schema, "not", other.error().message());
  draft->unread.push_back({*other, link});
  return Ok();
}

Status SchemaForms::AddOneOf(const Json& schema, const Link* link, Draft* draft) {
  const Json& list = *schema.find("oneOf");
  Choice choice{{}, link};
  for (size_t i = 0; i < list.size(); ++i) {
    SchemaSet branch = {&list[i]};
    for (size_t j = 0; j < list.size(); ++j) {
      if (i == j) continue;
      if (Disjoint(&list[std::min(i, j)], &list[std::max(i, j)], ContextOf(schema))) continue;
      auto other = Negate(&list[j], /*depth=*/0);
      if (!other.ok()) {
        return Refuse(other.error().code(), &schema, "oneOf",
                      fmt::format("alternatives {} and {} may both hold, and that cannot be ruled out: {}", i, j, other.error().message()));
      }
      branch.push_back(*other);
    }
    choice.branches.push_back(std::move(branch));
  }
  draft->choices.push_back(std::move(choice));
  return Ok();
}

Status SchemaForms::AddConditional(const Json& schema, const Link* link, Draft* draft) {
  const auto condition = schema.find("if");
  const auto then = schema.find("then");
  const auto otherwise = schema.find("else");
  if (condition == schema.end() || (then == schema.end() && otherwise == schema.end())) return Ok();
  auto negated = Negate(&*condition, /*depth=*/0);
  if (!negated.ok()) return Refuse(negated.error().code(), &schema, "if", negated.error().message());
  Choice choice{{}, link};
  choice.branches.push_back({&*condition});
  if (then != schema.end()) choice.branches.back().push_back(&*then);
  choice.branches.push_back({*negated});
  if (otherwise != schema.end()) choice.branches.back().push_back(&*otherwise);
  draft->choices.push_back(std::move(choice));
  return Ok();
}

// A member is absent, or what depends on it holds.
Status SchemaForms::AddDependencies(const Json& schema, const Link* link, Draft* draft) {
  for (const char* keyword : {"dependentRequired", "dependentSchemas", "dependencies"}) {
    const auto all = schema.find(keyword);
    if (all == schema.end()) continue;
    if (!all->is_object()) return Refuse(Code::kInvalidArgument, &schema, keyword, "it has to be an object");
    for (auto it = all->begin(); it != all->end(); ++it) {
      Json required = Json::array({it.key()});
      Choice choice{{}, link};
      choice.branches.push_back({document_.Make({{"properties", {{it.key(), false}}}}, &schema)});
      SchemaSet present;
      if (it->is_array() || it->is_string()) {
        for (const Json& name : it->is_array() ? *it : Json::array({*it})) required.push_back(name);
      } else {
        present.push_back(&*it);
      }
      // Other kinds of values have no members to depend on.
      present.push_back(document_.Make({{"type", "object"}, {"required", std::move(required)}}, &schema));
      choice.branches.push_back(std::move(present));
      draft->choices.push_back(std::move(choice));
    }
  }
  return Ok();
}

}  // namespace bantam
