#include "text/structured/schema_forms.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/structured/pattern.h"
#include "text/structured/string_formats.h"
#include "text/utf8.h"

namespace bantam {
namespace {

// How deep required members are followed to see that an alternative cannot be. Giving up keeps the alternative.
constexpr size_t kOpenMax = 20;
// Alternatives that are open at once: each is a level of recursion.
constexpr uint32_t kChoicesMax = 100;

void AddUnique(const Json* schema, SchemaSet* set) {
  if (IsTrivialSchema(*schema)) return;
  if (std::find(set->begin(), set->end(), schema) == set->end()) set->push_back(schema);
}

}  // namespace

JsonKind KindOf(const Json& value) {
  if (value.is_null()) return JsonKind::kNull;
  if (value.is_boolean()) return JsonKind::kBoolean;
  if (value.is_number()) return JsonKind::kNumeric;
  if (value.is_string()) return JsonKind::kString;
  return value.is_array() ? JsonKind::kArray : JsonKind::kObject;
}

bool JsonEquals(const Json& a, const Json& b) {
  if (KindOf(a) != KindOf(b)) return false;
  if (a.is_number()) return Decimal::Of(a).Compare(Decimal::Of(b)) == 0;
  if (!a.is_structured()) return a == b;
  if (a.size() != b.size()) return false;
  if (a.is_array()) return std::equal(a.begin(), a.end(), b.begin(), JsonEquals);
  for (const auto& [key, value] : a.items()) {
    const auto other = b.find(key);
    if (other == b.end() || !JsonEquals(value, *other)) return false;
  }
  return true;
}

bool ContainsJson(const std::vector<Json>& values, const Json& value) {
  return std::any_of(values.begin(), values.end(), [&](const Json& other) { return JsonEquals(other, value); });
}

JsonValues::JsonValues(const std::vector<Json>& values) {
  for (const Json& value : values) {
    if (value.is_string()) {
      texts_.insert(value.get_ref<const std::string&>());
    } else {
      others_.push_back(&value);
    }
  }
}

bool JsonValues::Has(const Json& value) const {
  if (value.is_string()) return texts_.contains(value.get_ref<const std::string&>());
  return std::any_of(others_.begin(), others_.end(), [&](const Json* other) { return JsonEquals(*other, value); });
}

bool IsTrivialSchema(const Json& schema) { return (schema.is_boolean() && schema.get<bool>()) || (schema.is_object() && schema.empty()); }

uint64_t CountCharacters(std::string_view text) {
  uint64_t count = 0;
  for (size_t at = 0; at < text.size(); at += DecodeUtf8(text, at).size) ++count;
  return count;
}

Error SchemaForms::Refuse(Code code, const Json* schema, std::string_view keyword, std::string_view message) const {
  std::string path = document_.PathOf(schema);
  if (!keyword.empty()) path += fmt::format("/{}", keyword);
  return {code, fmt::format("schema at {}: {}", path, message)};
}

Result<const std::vector<SchemaForm>*> SchemaForms::Of(const SchemaSet& set) {
  const auto known = known_.find(set);
  if (known != known_.end()) return &known->second;
  open_.insert(set);
  Draft draft;
  draft.form.where = set.empty() ? document_.root() : set[0];
  for (const Json* schema : set) draft.unread.push_back({schema, nullptr});
  std::vector<SchemaForm> forms;
  Status status = Expand(std::move(draft), &forms);
  open_.erase(set);
  BANTAM_TRY(std::move(status));
  return &known_.emplace(set, std::move(forms)).first->second;
}

Result<bool> SchemaForms::IsEmpty(const SchemaSet& set) {
  if (set.empty() || open_.contains(set) || open_.size() > kOpenMax) return false;
  BANTAM_ASSIGN(const std::vector<SchemaForm>* forms, Of(set));
  return forms->empty();
}

// As deep as there are choices within one another, each of which is bounded by the number of forms.
Status SchemaForms::Expand(Draft draft, std::vector<SchemaForm>* forms) {
  for (size_t i = 0; i < draft.unread.size(); ++i) {
    const Unread unread = draft.unread[i];
    BANTAM_TRY(AddSchema(unread, &draft));
    if (draft.form.kinds == 0) return Ok();
  }
  draft.unread.clear();
  BANTAM_TRY(Tidy(&draft.form));
  if (draft.form.kinds == 0) return Ok();
  if (draft.choices.empty()) {
    if (forms->size() >= limits_.forms) {
      return Refuse(Code::kExhausted, draft.form.where, "", fmt::format("its alternatives combine to more than {}", limits_.forms));
    }
    forms->push_back(std::move(draft.form));
    return Ok();
  }
  if (draft.depth >= kChoicesMax) {
    return Refuse(Code::kExhausted, draft.form.where, "", fmt::format("more than {} alternatives hold at once", kChoicesMax));
  }
  const Choice choice = std::move(draft.choices.back());
  draft.choices.pop_back();
  for (const SchemaSet& branch : choice.branches) {
    Draft taken = draft;
    ++taken.depth;
    for (const Json* schema : branch) taken.unread.push_back({schema, choice.parent});
    BANTAM_TRY(Expand(std::move(taken), forms));
  }
  return Ok();
}

// What a schema says beside its alternatives.
const Json* SchemaForms::ContextOf(const Json& schema) {
  const auto known = contexts_.find(&schema);
  if (known != contexts_.end()) return known->second;
  Json context = Json::object();
  for (const char* name : {"type", "enum", "const", "properties", "required", "additionalProperties"}) {
    const auto said = schema.find(name);
    if (said != schema.end()) context[name] = *said;
  }
  return contexts_[&schema] = document_.Make(std::move(context), &schema);
}

bool SchemaForms::Disjoint(const Json* a, const Json* b, const Json* context) {
  const auto key = std::pair(a, b);
  const auto known = disjoint_.find(key);
  if (known != disjoint_.end()) return known->second;
  if (open_.size() > kOpenMax) return false;
  const auto forms = Of({context, a, b});
  // What cannot be taken apart here is an error where it is needed.
  const bool disjoint = forms.ok() && (*forms)->empty();
  disjoint_.emplace(key, disjoint);
  return disjoint;
}

Status SchemaForms::Tidy(SchemaForm* form) {
  if (form->values.has_value()) return TidyValues(form);
  if (form->text.least > form->text.most) form->Remove(JsonKind::kString);
  const NumberSpec& number = form->number;
  if (number.low.has_value() && number.high.has_value()) {
    const int order = number.low->value.Compare(number.high->value);
    if (order > 0 || (order == 0 && (number.low->exclusive || number.high->exclusive))) form->Remove(JsonKind::kNumeric);
  }
  if (number.integer && number.fractional) form->Remove(JsonKind::kNumeric);
  if (form->Has(JsonKind::kArray)) BANTAM_TRY(TidyList(form));
  if (form->Has(JsonKind::kObject)) BANTAM_TRY(TidyObject(form));
  return Ok();
}

Status SchemaForms::TidyValues(SchemaForm* form) {
  std::vector<Json> kept;
  uint8_t kinds = 0;
  for (const Json& value : *form->values) {
    if (!form->Has(KindOf(value))) continue;
    BANTAM_ASSIGN(const bool matches, FormMatches(*form, value));
    if (!matches) continue;
    kinds |= BitOf(KindOf(value));
    kept.push_back(value);
  }
  form->kinds = kinds;
  form->values = std::move(kept);
  return Ok();
}

Status SchemaForms::TidyObject(SchemaForm* form) {
  if (form->members.least > form->members.most || form->members.required.size() > form->members.most) {
    form->Remove(JsonKind::kObject);
    return Ok();
  }
  for (const std::string& name : form->members.required) {
    BANTAM_ASSIGN(const SchemaSet set, MemberSet(*form, name));
    BANTAM_ASSIGN(const bool empty, IsEmpty(set));
    if (!empty) continue;
    form->Remove(JsonKind::kObject);
    return Ok();
  }
  return Ok();
}

Status SchemaForms::TidyList(SchemaForm* form) {
  for (size_t i = 0; i <= PrefixSize(*form) && i < form->list.most; ++i) {
    BANTAM_ASSIGN(const bool empty, IsEmpty(ItemSet(*form, i)));
    if (empty) form->list.most = i;
  }
  if (form->list.least > form->list.most) form->Remove(JsonKind::kArray);
  return Ok();
}

Result<SchemaSet> SchemaForms::MemberSet(const SchemaForm& form, const std::string& name) {
  SchemaSet set;
  for (const Json* part : form.members.parts) {
    bool known = false;
    const Json& properties = JsonMember(*part, "properties");
    const auto found = properties.find(name);
    if (properties.is_object() && found != properties.end()) {
      known = true;
      AddUnique(&*found, &set);
    }
    const Json& patterns = JsonMember(*part, "patternProperties");
    for (auto it = patterns.begin(); patterns.is_object() && it != patterns.end(); ++it) {
      const auto pattern = Pattern(it.key());
      if (!pattern.ok()) return Refuse(pattern.error().code(), part, "patternProperties", pattern.error().message());
      if (!(*pattern)->Matches(name)) continue;
      known = true;
      AddUnique(&*it, &set);
    }
    const auto other = part->find("additionalProperties");
    if (!known && other != part->end()) AddUnique(&*other, &set);
  }
  return set;
}

size_t SchemaForms::PrefixSize(const SchemaForm& form) {
  size_t size = 0;
  for (const Json* part : form.list.parts) {
    for (const char* name : {"prefixItems", "items"}) {
      const Json& items = JsonMember(*part, name);
      if (items.is_array()) size = std::max(size, items.size());
    }
  }
  return size;
}

SchemaSet SchemaForms::ItemSet(const SchemaForm& form, size_t index) {
  SchemaSet set;
  for (const Json* part : form.list.parts) {
    const auto items = part->find("items");
    const auto prefix = part->find("prefixItems");
    const bool has_items = items != part->end();
    if (prefix != part->end() && prefix->is_array() && index < prefix->size()) {
      AddUnique(&(*prefix)[index], &set);
    } else if (has_items && items->is_array()) {
      const auto rest = part->find("additionalItems");
      if (index < items->size()) {
        AddUnique(&(*items)[index], &set);
      } else if (rest != part->end()) {
        AddUnique(&*rest, &set);
      }
    } else if (has_items) {
      AddUnique(&*items, &set);
    }
  }
  return set;
}

Result<const CharDfa*> SchemaForms::Pattern(const std::string& pattern) {
  const auto known = patterns_.find(pattern);
  if (known != patterns_.end()) return &known->second;
  BANTAM_ASSIGN(CharDfa dfa, ParsePattern(pattern, PatternMatch::kSearch, limits_.automaton));
  return &patterns_.emplace(pattern, std::move(dfa)).first->second;
}

Result<CharDfa> SchemaForms::Texts(const SchemaForm& form) {
  CharDfa texts = CharDfa::Anything();
  bool whole = true;
  const auto combine = [&](const CharDfa& other, CharDfa::Product product) -> Status {
    if (whole && product == CharDfa::Product::kBoth) {
      texts = other;
    } else {
      BANTAM_ASSIGN(texts, CharDfa::Combine(texts, other, product, limits_.automaton));
      if (texts.size() < 2000) texts.Minimize();
    }
    whole = false;
    return Ok();
  };
  const auto refuse = [&](const Error& error, std::string_view what) { return Refuse(error.code(), form.where, what, error.message()); };
  for (const std::string& name : form.text.formats) {
    const auto format = FindStringFormat(name);
    if (!format.has_value() || format->pattern.empty()) continue;
    const std::string key = fmt::format("^(?:{})$", format->pattern);
    BANTAM_ASSIGN(const CharDfa* dfa, Pattern(key));
    const Status status = combine(*dfa, CharDfa::Product::kBoth);
    if (!status.ok()) return refuse(status.error(), "format");
  }
  for (const bool negated : {false, true}) {
    for (const std::string& pattern : negated ? form.text.not_patterns : form.text.patterns) {
      const auto dfa = Pattern(pattern);
      if (!dfa.ok()) return refuse(dfa.error(), "pattern");
      const Status status = combine(**dfa, negated ? CharDfa::Product::kFirstOnly : CharDfa::Product::kBoth);
      if (!status.ok()) return refuse(status.error(), "pattern");
    }
  }
  std::vector<std::string> excluded;
  for (const Json& value : form.excluded) {
    if (value.is_string()) excluded.push_back(value.get<std::string>());
  }
  if (!excluded.empty()) {
    const Status status = combine(CharDfa::Texts(excluded), CharDfa::Product::kFirstOnly);
    if (!status.ok()) return refuse(status.error(), "");
  }
  return texts;
}

Result<std::optional<CharDfa>> SchemaForms::Names(const SchemaForm& form) {
  if (form.members.names.empty()) return std::optional<CharDfa>();
  BANTAM_ASSIGN(const std::vector<SchemaForm>* forms, Of(form.members.names));
  CharDfa names;
  const auto add = [&](const CharDfa& more) -> Status {
    BANTAM_ASSIGN(names, CharDfa::Combine(names, more, CharDfa::Product::kEither, limits_.automaton));
    return Ok();
  };
  for (const SchemaForm& one : *forms) {
    if (!one.Has(JsonKind::kString)) continue;
    for (const SchemaForm::Refusal& refusal : one.refusals) {
      if ((refusal.kinds & BitOf(JsonKind::kString)) != 0) return Error(Code::kUnsupported, refusal.message);
    }
    if (one.values.has_value()) {
      std::vector<std::string> texts;
      for (const Json& value : *one.values) {
        if (value.is_string()) texts.push_back(value.get<std::string>());
      }
      BANTAM_TRY(add(CharDfa::Texts(texts)));
      continue;
    }
    BANTAM_ASSIGN(CharDfa texts, Texts(one));
    if (one.text.least > 0 || one.text.most != UINT64_MAX) {
      auto bounded = CharDfa::WithLength(texts, one.text.least, one.text.most, limits_.automaton);
      if (!bounded.ok()) return Refuse(bounded.error().code(), form.where, "propertyNames", bounded.error().message());
      texts = std::move(*bounded);
    }
    BANTAM_TRY(add(texts));
  }
  return std::optional<CharDfa>(std::move(names));
}

Result<bool> SchemaForms::Matches(const SchemaSet& set, const Json& value) {
  if (set.empty()) return true;
  BANTAM_ASSIGN(const std::vector<SchemaForm>* forms, Of(set));
  for (const SchemaForm& form : *forms) {
    if (form.values.has_value() && !ContainsJson(*form.values, value)) continue;
    if ((form.kinds & BitOf(KindOf(value))) == 0) continue;
    BANTAM_ASSIGN(const bool matches, FormMatches(form, value));
    if (matches) return true;
  }
  return false;
}

Result<bool> SchemaForms::FormMatches(const SchemaForm& form, const Json& value) {
  if (ContainsJson(form.excluded, value)) return false;
  for (const SchemaForm::Refusal& refusal : form.refusals) {
    if ((refusal.kinds & BitOf(KindOf(value))) != 0) return Error(Code::kUnsupported, refusal.message);
  }
  switch (KindOf(value)) {
    case JsonKind::kNull:
    case JsonKind::kBoolean:
      return true;
    case JsonKind::kNumeric:
      return MeetsNumberSpec(form.number, value);
    case JsonKind::kString:
      return StringMatches(form, value.get<std::string>());
    case JsonKind::kArray:
      return ListMatches(form, value);
    case JsonKind::kObject:
      return ObjectMatches(form, value);
  }
  return false;
}

Result<bool> SchemaForms::StringMatches(const SchemaForm& form, const std::string& text) {
  const uint64_t characters = CountCharacters(text);
  if (characters < form.text.least || characters > form.text.most) return false;
  if (form.text.patterns.empty() && form.text.not_patterns.empty() && form.text.formats.empty()) return true;
  BANTAM_ASSIGN(const CharDfa texts, Texts(form));
  return texts.Matches(text);
}

Result<bool> SchemaForms::ListMatches(const SchemaForm& form, const Json& value) {
  if (value.size() < form.list.least || value.size() > form.list.most) return false;
  for (size_t i = 0; i < value.size(); ++i) {
    BANTAM_ASSIGN(const bool matches, Matches(ItemSet(form, i), value[i]));
    if (!matches) return false;
    for (size_t j = 0; form.list.unique && j < i; ++j) {
      if (JsonEquals(value[i], value[j])) return false;
    }
  }
  return true;
}

Result<bool> SchemaForms::ObjectMatches(const SchemaForm& form, const Json& value) {
  if (value.size() < form.members.least || value.size() > form.members.most) return false;
  for (const std::string& name : form.members.required) {
    if (!value.contains(name)) return false;
  }
  for (const auto& [name, member] : value.items()) {
    BANTAM_ASSIGN(const SchemaSet set, MemberSet(form, name));
    BANTAM_ASSIGN(bool matches, Matches(set, member));
    if (!matches) return false;
    if (form.members.names.empty()) continue;
    BANTAM_ASSIGN(matches, Matches(form.members.names, Json(name)));
    if (!matches) return false;
  }
  return true;
}

}  // namespace bantam
