// What a JSON Schema says, taken apart: a set of schemas that all hold becomes a list of forms of which one holds.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "text/structured/char_automaton.h"
#include "text/structured/number_automaton.h"
#include "text/structured/schema_document.h"

namespace bantam {

// Kinds of values, as bits.
enum class JsonKind : uint8_t { kNull = 1, kBoolean = 2, kNumeric = 4, kString = 8, kArray = 16, kObject = 32 };
inline constexpr uint8_t kAllKinds = 63;
constexpr uint8_t BitOf(JsonKind kind) { return static_cast<uint8_t>(kind); }
JsonKind KindOf(const Json& value);

// Schemas that all hold, without repetition. Nothing holds of the empty set: any value will do.
using SchemaSet = std::vector<const Json*>;

// Schemas in conjunction, without alternatives.
struct SchemaForm {
  uint8_t kinds = kAllKinds;
  std::optional<std::vector<Json>> values;  // one of these
  std::vector<Json> excluded;               // none of these
  NumberSpec number;
  struct Text {
    uint64_t least = 0;
    uint64_t most = UINT64_MAX;
    std::vector<std::string> patterns;
    std::vector<std::string> not_patterns;
    std::vector<std::string> formats;
  } text;
  struct List {
    std::vector<const Json*> parts;  // schemas with prefixItems or items
    uint64_t least = 0;
    uint64_t most = UINT64_MAX;
    bool unique = false;
  } list;
  struct Members {
    std::vector<const Json*> parts;  // schemas with properties, patternProperties or additionalProperties
    std::vector<std::string> required;
    uint64_t least = 0;
    uint64_t most = UINT64_MAX;
    SchemaSet names;
  } members;
  // Keywords that nothing here can enforce, of the kinds that they speak of: an error, should one of the kinds remain.
  struct Refusal {
    uint8_t kinds;
    std::string message;
  };
  std::vector<Refusal> refusals;
  const Json* where = nullptr;  // a schema of the set, for messages

  bool Has(JsonKind kind) const { return (kinds & BitOf(kind)) != 0; }
  void Remove(JsonKind kind) { kinds = static_cast<uint8_t>(kinds & ~BitOf(kind)); }
};

struct SchemaLimits {
  uint32_t forms = 512;      // of one set
  uint32_t steps = 200'000;  // schemas that are looked at, in all
  uint32_t negation_depth = 16;
  AutomatonLimits automaton;
};

class SchemaForms {
 public:
  SchemaForms(SchemaDocument* document, const SchemaLimits& limits) : document_(*document), limits_(limits) {}

  // The forms of a set; none: no value satisfies it. Errors name the schema and the keyword.
  Result<const std::vector<SchemaForm>*> Of(const SchemaSet& set);
  // Whether no value is known to satisfy it; false where that is not known.
  Result<bool> IsEmpty(const SchemaSet& set);
  // The schemas that hold of the member `name`, and of the item at `index`.
  Result<SchemaSet> MemberSet(const SchemaForm& form, const std::string& name);
  static SchemaSet ItemSet(const SchemaForm& form, size_t index);
  // Items that have schemas of their own.
  static size_t PrefixSize(const SchemaForm& form);
  // Whether a value satisfies the set, as far as the forms say.
  Result<bool> Matches(const SchemaSet& set, const Json& value);
  // The texts that a form's strings may be, its bounds of length aside.
  Result<CharDfa> Texts(const SchemaForm& form);
  // The texts that names of members may be, given propertyNames; nothing when all may.
  Result<std::optional<CharDfa>> Names(const SchemaForm& form);
  Result<const CharDfa*> Pattern(const std::string& pattern);
  Error Refuse(Code code, const Json* schema, std::string_view keyword, std::string_view message) const;

 private:
  struct Link {
    const Json* schema;
    const Link* parent;
  };
  struct Unread {
    const Json* schema;
    const Link* parent;
  };
  // One of the branches holds, each of which is some schemas.
  struct Choice {
    std::vector<SchemaSet> branches;
    const Link* parent;
  };
  struct Draft {
    SchemaForm form;
    std::vector<Unread> unread;
    std::vector<Choice> choices;
    SchemaSet seen;
    uint32_t depth = 0;  // choices that were made
  };

  Status Expand(Draft draft, std::vector<SchemaForm>* forms);
  Status AddSchema(const Unread& unread, Draft* draft);
  Status AddKeyword(const Json* schema, const std::string& key, const Json& value, SchemaForm* form);
  Status AddNumberKeyword(const Json* schema, const std::string& key, const Json& value, SchemaForm* form);
  Status AddTextKeyword(const Json* schema, const std::string& key, const Json& value, SchemaForm* form);
  Status AddListKeyword(const Json* schema, const std::string& key, const Json& value, SchemaForm* form);
  Status AddMemberKeyword(const Json* schema, const std::string& key, const Json& value, SchemaForm* form);
  Status AddReferences(const Json& schema, const Link* link, Draft* draft);
  Status AddCombinations(const Json& schema, const Link* link, Draft* draft);
  Status AddOneOf(const Json& schema, const Link* link, Draft* draft);
  Status AddConditional(const Json& schema, const Link* link, Draft* draft);
  Status AddDependencies(const Json& schema, const Link* link, Draft* draft);
  Result<uint64_t> Whole(const Json* schema, const std::string& key, const Json& value) const;

  // Takes out kinds and values that cannot be.
  Status Tidy(SchemaForm* form);
  Status TidyValues(SchemaForm* form);
  Status TidyObject(SchemaForm* form);
  Status TidyList(SchemaForm* form);
  bool Disjoint(const Json* a, const Json* b, const Json* context);
  const Json* ContextOf(const Json& schema);
  Result<bool> FormMatches(const SchemaForm& form, const Json& value);
  Result<bool> StringMatches(const SchemaForm& form, const std::string& text);
  Result<bool> ListMatches(const SchemaForm& form, const Json& value);
  Result<bool> ObjectMatches(const SchemaForm& form, const Json& value);

  // A schema that holds only where `schema` does not; Unsupported where none can be written down.
  Result<const Json*> Negate(const Json* schema, uint32_t depth);
  Status NegateKeyword(const Json* schema, const std::string& key, const Json& value, uint32_t depth, std::vector<Json>* any);
  Status NegateCombination(const Json* schema, const std::string& key, const Json& value, uint32_t depth, std::vector<Json>* any);

  Status NegateConditional(const Json& schema, const Json& condition, uint32_t depth, std::vector<Json>* any);
  Status NegateDependencies(const Json& dependencies, uint32_t depth, std::vector<Json>* any);

  SchemaDocument& document_;
  SchemaLimits limits_;
  std::map<SchemaSet, std::vector<SchemaForm>> known_;
  std::set<SchemaSet> open_;  // being made
  std::map<std::pair<const Json*, const Json*>, bool> disjoint_;
  std::map<const Json*, const Json*> contexts_;
  std::map<const Json*, const Json*> negated_;
  std::map<std::string, CharDfa> patterns_;
  std::deque<Link> links_;
  uint32_t steps_ = 0;
};

// Equality of JSON Schema: numbers by value, members in any order.
bool JsonEquals(const Json& a, const Json& b);
bool ContainsJson(const std::vector<Json>& values, const Json& value);
// The same for many values, of which most are texts. The list outlives it.
class JsonValues {
 public:
  explicit JsonValues(const std::vector<Json>& values);
  bool Has(const Json& value) const;

 private:
  std::set<std::string_view> texts_;
  std::vector<const Json*> others_;
};
// Whether everything satisfies it: true, {}.
bool IsTrivialSchema(const Json& schema);
// Characters of a text, as minLength counts them.
uint64_t CountCharacters(std::string_view text);

// Keywords that only this program writes.
inline constexpr const char* kExcludedKeyword =
    "\x01"
    "excluded";
inline constexpr const char* kFractionKeyword =
    "\x01"
    "fraction";
inline constexpr const char* kNotPatternKeyword =
    "\x01"
    "notPattern";

}  // namespace bantam
