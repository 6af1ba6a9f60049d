#include "text/structured/json_schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "text/structured/byte_automaton.h"
#include "text/structured/pattern.h"
#include "text/structured/schema_forms.h"

namespace bantam {
namespace {

constexpr size_t kPatternPropertiesMax = 8;   // classes of names double with each
constexpr uint64_t kLengthStatesMax = 5'000;  // of a pattern's states times a bound of length
constexpr uint64_t kUniqueValuesMax = 256;

// As the automata write it: no escapes but those that JSON requires.
std::string JsonString(const std::string& text) { return Json(text).dump(); }

class SchemaCompiler {
 public:
  SchemaCompiler(SchemaDocument* document, const JsonSchemaOptions& options)
      : limits_(options.limits), spacing_(options.spacing), forms_(document, {.automaton = Shared(&limits_, &spent_)}), builder_(limits_) {}

  Result<std::shared_ptr<const Grammar>> Compile(const Json* root) {
    if (spacing_ == JsonSpacing::kOptional) {
      BANTAM_ASSIGN(space_, PatternTerminal(" ?"));
      BANTAM_ASSIGN(comma_, PatternTerminal(", ?"));
    } else {
      BANTAM_ASSIGN(comma_, PatternTerminal(","));
    }
    SchemaSet set;
    if (!IsTrivialSchema(*root)) set.push_back(root);
    RuleOf(set);
    // Rules are built one after the other, however schemas nest.
    for (size_t i = 0; i < queue_.size(); ++i) {
      const auto [rule, schemas] = queue_[i];
      const uint32_t end = builder_.End();
      BANTAM_ASSIGN(const uint32_t start, Values(schemas, end));
      builder_.DefineRule(rule, start);
      BANTAM_TRY(builder_.CheckLimits());
    }
    auto grammar = builder_.Finish();
    if (!grammar.ok()) return std::move(grammar).error().With("schema at #");
    return grammar;
  }

 private:
  using State = uint32_t;

  Result<uint32_t> PatternTerminal(const char* pattern) {
    BANTAM_ASSIGN(const CharDfa dfa, ParsePattern(pattern, PatternMatch::kWhole, limits_.automaton));
    BANTAM_ASSIGN(ByteAutomaton bytes, ToBytes(dfa, Quoting::kPlain, limits_.automaton.states_max));
    return builder_.AddTerminal(std::move(bytes));
  }
  State Comma(State next) { return builder_.Terminal(comma_, next); }
  State Colon(State next) { return builder_.Literal(":", spacing_ == JsonSpacing::kOptional ? builder_.Terminal(space_, next) : next); }

  uint32_t RuleOf(const SchemaSet& set) {
    const auto known = rules_.find(set);
    if (known != rules_.end()) return known->second;
    const uint32_t rule = builder_.DeclareRule();
    rules_.emplace(set, rule);
    queue_.emplace_back(rule, set);
    return rule;
  }

  // A value of the set, then `next`: scalars in place, others as a rule.
  Result<State> Value(const SchemaSet& set, State next) {
    BANTAM_ASSIGN(const std::vector<SchemaForm>* forms, forms_.Of(set));
    const bool scalar = std::all_of(forms->begin(), forms->end(), [](const SchemaForm& form) {
      return form.values.has_value() ? form.values->size() == 1 : !form.Has(JsonKind::kArray) && !form.Has(JsonKind::kObject);
    });
    if (scalar && forms->size() <= 4) return Values(set, next);
    return builder_.Call(RuleOf(set), next);
  }

  Result<State> Values(const SchemaSet& set, State next) {
    BANTAM_ASSIGN(const std::vector<SchemaForm>* forms, forms_.Of(set));
    std::vector<State> targets;
    for (const SchemaForm& form : *forms) BANTAM_TRY(AddForm(form, next, &targets));
    return targets.size() == 1 ? targets[0] : builder_.Split(targets);
  }

  Status AddForm(const SchemaForm& form, State next, std::vector<State>* targets) {
    if (form.values.has_value()) return AddValues(*form.values, next, targets);
    for (const SchemaForm::Refusal& refusal : form.refusals) {
      if ((refusal.kinds & form.kinds) != 0) return Error(Code::kUnsupported, refusal.message);
    }
    std::vector<Json> words;
    if (form.Has(JsonKind::kNull)) words.emplace_back(nullptr);
    if (form.Has(JsonKind::kBoolean)) words.insert(words.end(), {Json(true), Json(false)});
    std::erase_if(words, [&](const Json& word) { return ContainsJson(form.excluded, word); });
    BANTAM_TRY(AddValues(words, next, targets));
    if (form.Has(JsonKind::kNumeric)) BANTAM_TRY(AddNumber(form, next, targets));
    if (form.Has(JsonKind::kString)) BANTAM_TRY(AddString(form, next, targets));
    if (form.Has(JsonKind::kArray)) BANTAM_TRY(AddList(form, next, targets));
    if (form.Has(JsonKind::kObject)) BANTAM_TRY(AddObject(form, next, targets));
    return Ok();
  }

  Status AddValues(const std::vector<Json>& values, State next, std::vector<State>* targets) {
    constexpr size_t kLiteralsMax = 4;
    std::vector<std::string> texts;
    for (const Json& value : values) {
      if (value.is_string()) texts.push_back(value.get<std::string>());
    }
    for (const Json& value : values) {
      if (!value.is_string() || texts.size() <= kLiteralsMax) targets->push_back(builder_.Literal(value.dump(), next));
    }
    if (texts.size() <= kLiteralsMax) return Ok();
    // Many texts share their beginnings.
    BANTAM_ASSIGN(ByteAutomaton bytes, ToBytes(CharDfa::Texts(texts), Quoting::kJson, limits_.states));
    targets->push_back(builder_.Terminal(builder_.AddTerminal(std::move(bytes)), next));
    return Ok();
  }

  Status AddNumber(const SchemaForm& form, State next, std::vector<State>* targets);
  Status AddString(const SchemaForm& form, State next, std::vector<State>* targets);
  Result<ByteAutomaton> StringBytes(const SchemaForm& form, const CharDfa& texts);
  Status AddList(const SchemaForm& form, State next, std::vector<State>* targets);
  Result<State> RestOfList(const SchemaForm& form, size_t prefix, State close);
  Status AddUniqueList(const SchemaForm& form, State next, std::vector<State>* targets);

  // Members or items in a fixed order.
  struct Entry {
    std::string name;     // as it stands before the colon
    SchemaSet set;        // of the value
    std::string literal;  // instead of both: all of the entry
    bool required = false;
  };
  // A class of names that are not spelled out in the schema.
  struct Extra {
    uint32_t name;  // terminal
    SchemaSet set;
  };
  struct Sequence {
    std::vector<Entry> entries;
    std::vector<Extra> extras;
    uint64_t least = 0;
    uint64_t most = UINT64_MAX;
  };
  struct Bounds;
  // Names that the same patterns match.
  struct NameClass {
    CharDfa names;
    std::vector<bool> matched;
  };
  Status AddObject(const SchemaForm& form, State next, std::vector<State>* targets);
  Result<Sequence> MembersOf(const SchemaForm& form);
  static std::vector<std::string> NamePatterns(const SchemaForm& form);
  static SchemaSet ExtraSet(const SchemaForm& form, const std::vector<std::string>& patterns, const std::vector<bool>& matched);
  Result<std::vector<NameClass>> NameClasses(const SchemaForm& form, const std::vector<std::string>& declared,
                                             const std::vector<std::string>& patterns);
  Status AddExtras(const SchemaForm& form, const std::vector<std::string>& declared, Sequence* sequence);
  Result<State> SequenceStates(const Sequence& sequence, State close);

  // All automata of a schema are made from one allowance.
  static const AutomatonLimits& Shared(GrammarLimits* limits, uint64_t* spent) {
    limits->automaton.spent = spent;
    return limits->automaton;
  }

  GrammarLimits limits_;
  JsonSpacing spacing_;
  uint64_t spent_ = 0;
  SchemaForms forms_;
  GrammarBuilder builder_;
  std::map<SchemaSet, uint32_t> rules_;
  std::vector<std::pair<uint32_t, SchemaSet>> queue_;
  std::map<std::string, uint32_t> terminals_;
  uint32_t space_ = 0;
  uint32_t comma_ = 0;
};

Status SchemaCompiler::AddNumber(const SchemaForm& form, State next, std::vector<State>* targets) {
  const std::string key = "number " + KeyOf(form.number);
  auto known = terminals_.find(key);
  if (known == terminals_.end()) {
    auto numbers = NumberAutomaton(form.number, limits_.automaton);
    if (!numbers.ok()) return forms_.Refuse(numbers.error().code(), form.where, "", numbers.error().message());
    uint32_t terminal = kNoState;
    if (!numbers->empty()) {
      BANTAM_ASSIGN(ByteAutomaton bytes, ToBytes(*numbers, Quoting::kPlain, limits_.automaton.states_max));
      terminal = builder_.AddTerminal(std::move(bytes));
    }
    known = terminals_.emplace(key, terminal).first;
  }
  if (known->second != kNoState) targets->push_back(builder_.Terminal(known->second, next));
  return Ok();
}

Status SchemaCompiler::AddString(const SchemaForm& form, State next, std::vector<State>* targets) {
  std::string key = fmt::format("string {} {}", form.text.least, form.text.most);
  for (const auto& list : {form.text.formats, form.text.patterns, form.text.not_patterns}) {
    key += '\0';
    for (const std::string& text : list) key += JsonString(text);
  }
  for (const Json& value : form.excluded) key += value.dump();
  const auto known = terminals_.find(key);
  if (known != terminals_.end()) {
    targets->push_back(builder_.Terminal(known->second, next));
    return Ok();
  }
  BANTAM_ASSIGN(const CharDfa texts, forms_.Texts(form));
  if (texts.empty()) return Ok();
  auto bytes = StringBytes(form, texts);
  if (!bytes.ok()) return forms_.Refuse(bytes.error().code(), form.where, "", bytes.error().message());
  if (bytes->flags.empty()) return Ok();
  const uint32_t terminal = builder_.AddTerminal(std::move(*bytes));
  terminals_.emplace(std::move(key), terminal);
  targets->push_back(builder_.Terminal(terminal, next));
  return Ok();
}

// Without states when no text has such a length.
Result<ByteAutomaton> SchemaCompiler::StringBytes(const SchemaForm& form, const CharDfa& texts) {
  const uint32_t states_max = limits_.states;
  const uint64_t least = form.text.least;
  const uint64_t most = form.text.most;
  if (least == 0 && most == UINT64_MAX) return ToBytes(texts, Quoting::kJson, states_max);
  if (texts.Extensible()) {
    if (texts.Distances()[0] > most) return ByteAutomaton();
    return ToCountedBytes(texts, least, most, states_max);
  }
  // Not every length occurs: the states have to know how many characters there were.
  AutomatonLimits limits = limits_.automaton;
  limits.states_max = std::max<uint32_t>(limits.states_max, kLengthStatesMax);
  BANTAM_ASSIGN(CharDfa bounded, CharDfa::WithLength(texts, least, most, limits));
  if (bounded.empty()) return ByteAutomaton();
  return ToBytes(bounded, Quoting::kJson, states_max);
}

Status SchemaCompiler::AddList(const SchemaForm& form, State next, std::vector<State>* targets) {
  uint64_t most = form.list.most;
  const size_t prefix = SchemaForms::PrefixSize(form);
  for (size_t i = 0; i <= prefix && i < most; ++i) {
    BANTAM_ASSIGN(const bool empty, forms_.IsEmpty(SchemaForms::ItemSet(form, i)));
    if (empty) most = i;
  }
  if (form.list.least > most) return Ok();
  if (form.list.unique && most > 1) return AddUniqueList(form, next, targets);
  const State close = builder_.Literal("]", next);
  // From the end to the beginning: what follows i items.
  SchemaForm bounded = form;
  bounded.list.most = most;
  BANTAM_ASSIGN(State after, RestOfList(bounded, prefix, close));
  for (size_t i = std::min<uint64_t>(prefix, most); i-- > 0;) {
    BANTAM_ASSIGN(const State item, Value(SchemaForms::ItemSet(form, i), after));
    std::vector<State> choices = {i == 0 ? item : Comma(item)};
    if (i >= form.list.least) choices.push_back(close);
    after = builder_.Split(choices);
  }
  targets->push_back(builder_.Literal("[", after));
  return Ok();
}

// What follows the items that have schemas of their own.
Result<uint32_t> SchemaCompiler::RestOfList(const SchemaForm& form, size_t prefix, State close) {
  if (form.list.most <= prefix) return close;
  const uint64_t least = form.list.least > prefix ? form.list.least - prefix : 0;
  const uint64_t most = form.list.most == UINT64_MAX ? UINT64_MAX : form.list.most - prefix;
  const SchemaSet set = SchemaForms::ItemSet(form, prefix);
  const bool counted = least > 1 || most != UINT64_MAX;
  const State again = builder_.Later();
  BANTAM_ASSIGN(const State item, Value(set, counted ? builder_.Count(again) : again));
  const auto bound = [](uint64_t number) { return static_cast<uint32_t>(std::min<uint64_t>(number, UINT32_MAX)); };
  State more = Comma(item);
  State done = close;
  if (most != UINT64_MAX) more = builder_.Guard(0, bound(most - 1), more);
  if (least > 1) done = builder_.Guard(bound(least), UINT32_MAX, done);
  builder_.SetTargets(again, {more, done});
  // The first of them; the others follow it.
  if (prefix > 0) {
    std::vector<State> choices = {Comma(item)};
    if (least == 0) choices.push_back(close);
    return builder_.Split(choices);
  }
  std::vector<State> choices = {item};
  if (least == 0) choices.push_back(close);
  return builder_.Split(choices);
}

// Lists without repetition: of values that are known, in their order.
Status SchemaCompiler::AddUniqueList(const SchemaForm& form, State next, std::vector<State>* targets) {
  const auto refuse = [&] {
    return forms_.Refuse(Code::kUnsupported, form.where, "uniqueItems",
                         "it can be enforced only where the items are of an enum or maxItems is 1");
  };
  if (SchemaForms::PrefixSize(form) > 0) return refuse();
  BANTAM_ASSIGN(const std::vector<SchemaForm>* items, forms_.Of(SchemaForms::ItemSet(form, 0)));
  std::vector<Json> values;
  for (const SchemaForm& item : *items) {
    std::vector<Json> these;
    if (item.values.has_value()) {
      these = *item.values;
    } else if ((item.kinds & ~(BitOf(JsonKind::kNull) | BitOf(JsonKind::kBoolean))) == 0) {
      for (const Json& word : {Json(nullptr), Json(true), Json(false)}) {
        if ((item.kinds & BitOf(KindOf(word))) != 0 && !ContainsJson(item.excluded, word)) these.push_back(word);
      }
    } else {
      return refuse();
    }
    for (const Json& value : these) {
      if (!ContainsJson(values, value)) values.push_back(value);
    }
  }
  if (values.size() > kUniqueValuesMax) return refuse();
  Sequence sequence;
  for (const Json& value : values) sequence.entries.push_back({"", {}, value.dump(), false});
  sequence.least = form.list.least;
  sequence.most = form.list.most;
  if (sequence.least > values.size()) return Ok();
  BANTAM_ASSIGN(const State begin, SequenceStates(sequence, builder_.Literal("]", next)));
  targets->push_back(builder_.Literal("[", begin));
  return Ok();
}

Status SchemaCompiler::AddObject(const SchemaForm& form, State next, std::vector<State>* targets) {
  BANTAM_ASSIGN(const Sequence sequence, MembersOf(form));
  const auto required =
      static_cast<uint64_t>(std::count_if(sequence.entries.begin(), sequence.entries.end(), [](const Entry& e) { return e.required; }));
  if (required < form.members.required.size() || required > sequence.most) return Ok();
  if (sequence.extras.empty() && sequence.entries.size() < sequence.least) return Ok();
  // Names that are made up may repeat, and readers count repetitions once.
  if (!sequence.extras.empty() && sequence.least > std::max<uint64_t>(required, 1)) {
    return forms_.Refuse(Code::kUnsupported, form.where, "minProperties",
                         "it can be enforced only up to the number of required members, or where no other names are allowed");
  }
  BANTAM_ASSIGN(const State begin, SequenceStates(sequence, builder_.Literal("}", next)));
  targets->push_back(builder_.Literal("{", begin));
  return Ok();
}

Result<SchemaCompiler::Sequence> SchemaCompiler::MembersOf(const SchemaForm& form) {
  Sequence sequence;
  sequence.least = form.members.least;
  sequence.most = form.members.most;
  std::vector<std::string> declared;
  std::set<std::string> seen;
  const auto declare = [&](const std::string& name) {
    if (seen.insert(name).second) declared.push_back(name);
  };
  for (const Json* part : form.members.parts) {
    const Json& properties = JsonMember(*part, "properties");
    for (auto it = properties.begin(); properties.is_object() && it != properties.end(); ++it) declare(it.key());
  }
  for (const std::string& name : form.members.required) declare(name);
  const std::set<std::string> required(form.members.required.begin(), form.members.required.end());
  for (const std::string& name : declared) {
    BANTAM_ASSIGN(SchemaSet set, forms_.MemberSet(form, name));
    BANTAM_ASSIGN(bool possible, forms_.IsEmpty(set));
    possible = !possible;
    if (possible && !form.members.names.empty()) {
      BANTAM_ASSIGN(possible, forms_.Matches(form.members.names, Json(name)));
    }
    if (!possible) continue;
    std::string text = JsonString(name);
    sequence.entries.push_back({std::move(text), std::move(set), "", required.contains(name)});
  }
  BANTAM_TRY(AddExtras(form, declared, &sequence));
  return sequence;
}

std::vector<std::string> SchemaCompiler::NamePatterns(const SchemaForm& form) {
  std::vector<std::string> patterns;
  for (const Json* part : form.members.parts) {
    const Json& of_part = JsonMember(*part, "patternProperties");
    for (auto it = of_part.begin(); of_part.is_object() && it != of_part.end(); ++it) {
      if (std::find(patterns.begin(), patterns.end(), it.key()) == patterns.end()) patterns.push_back(it.key());
    }
  }
  return patterns;
}

// The schemas of members that no schema names, by the patterns that their names match.
SchemaSet SchemaCompiler::ExtraSet(const SchemaForm& form, const std::vector<std::string>& patterns, const std::vector<bool>& matched) {
  SchemaSet set;
  const auto add = [&](const Json& schema) {
    if (!IsTrivialSchema(schema) && std::find(set.begin(), set.end(), &schema) == set.end()) set.push_back(&schema);
  };
  for (const Json* part : form.members.parts) {
    bool known = false;
    const Json& of_part = JsonMember(*part, "patternProperties");
    for (auto it = of_part.begin(); of_part.is_object() && it != of_part.end(); ++it) {
      const auto index = static_cast<size_t>(std::find(patterns.begin(), patterns.end(), it.key()) - patterns.begin());
      if (!matched[index]) continue;
      known = true;
      add(*it);
    }
    const auto other = part->find("additionalProperties");
    if (!known && other != part->end()) add(*other);
  }
  return set;
}

Result<std::vector<SchemaCompiler::NameClass>> SchemaCompiler::NameClasses(const SchemaForm& form, const std::vector<std::string>& declared,
                                                                           const std::vector<std::string>& patterns) {
  const AutomatonLimits& limits = limits_.automaton;
  BANTAM_ASSIGN(const std::optional<CharDfa> allowed, forms_.Names(form));
  BANTAM_ASSIGN(CharDfa names, CharDfa::Combine(allowed.has_value() ? *allowed : CharDfa::Anything(), CharDfa::Texts(declared),
                                                CharDfa::Product::kFirstOnly, limits));
  std::vector<NameClass> classes;
  classes.push_back({std::move(names), {}});
  for (const std::string& pattern : patterns) {
    const auto dfa = forms_.Pattern(pattern);
    if (!dfa.ok()) return forms_.Refuse(dfa.error().code(), form.where, "patternProperties", dfa.error().message());
    std::vector<NameClass> split;
    for (const NameClass& one : classes) {
      for (const bool matches : {true, false}) {
        const auto product = matches ? CharDfa::Product::kBoth : CharDfa::Product::kFirstOnly;
        BANTAM_ASSIGN(CharDfa part, CharDfa::Combine(one.names, **dfa, product, limits));
        if (part.empty()) continue;
        std::vector<bool> matched = one.matched;
        matched.push_back(matches);
        split.push_back({std::move(part), std::move(matched)});
      }
    }
    classes = std::move(split);
  }
  return classes;
}

Status SchemaCompiler::AddExtras(const SchemaForm& form, const std::vector<std::string>& declared, Sequence* sequence) {
  const std::vector<std::string> patterns = NamePatterns(form);
  if (patterns.size() > kPatternPropertiesMax) {
    return forms_.Refuse(Code::kExhausted, form.where, "patternProperties", fmt::format("more than {} patterns", kPatternPropertiesMax));
  }
  // Objects with the same members and nothing special have their names in common.
  const bool simple = patterns.empty() && form.members.names.empty();
  std::string key = "names ";
  for (const std::string& name : declared) key += JsonString(name);
  if (simple) {
    SchemaSet set = ExtraSet(form, patterns, {});
    BANTAM_ASSIGN(const bool empty, forms_.IsEmpty(set));
    if (empty) return Ok();
    const auto known = terminals_.find(key);
    if (known != terminals_.end()) {
      sequence->extras.push_back({known->second, std::move(set)});
      return Ok();
    }
  }
  BANTAM_ASSIGN(const std::vector<NameClass> classes, NameClasses(form, declared, patterns));
  for (const NameClass& one : classes) {
    if (one.names.empty()) continue;
    SchemaSet set = ExtraSet(form, patterns, one.matched);
    BANTAM_ASSIGN(const bool empty, forms_.IsEmpty(set));
    if (empty) continue;
    BANTAM_ASSIGN(ByteAutomaton bytes, ToBytes(one.names, Quoting::kJson, limits_.states));
    const uint32_t terminal = builder_.AddTerminal(std::move(bytes));
    if (simple) terminals_.emplace(key, terminal);
    sequence->extras.push_back({terminal, std::move(set)});
  }
  return Ok();
}

// Bounds on the entries of a sequence, as guards of a count; without effect where the schema leaves it open.
struct SchemaCompiler::Bounds {
  Bounds(const Sequence& sequence, uint64_t required)
      : least(sequence.least),
        most(sequence.most),
        from_below(least > required),
        from_above(most < sequence.entries.size() || (!sequence.extras.empty() && most != UINT64_MAX)) {}

  static uint32_t Narrow(uint64_t number) { return static_cast<uint32_t>(std::min<uint64_t>(number, UINT32_MAX)); }
  State Count(GrammarBuilder& builder, State next) const { return from_below || from_above ? builder.Count(next) : next; }
  // One more may come while `reserved` have to follow it.
  State Room(GrammarBuilder& builder, uint64_t reserved, State next) const {
    if (!from_above) return next;
    return most < reserved + 1 ? builder.Split({}) : builder.Guard(0, Narrow(most - 1 - reserved), next);
  }
  // There are enough, when `left` more may come.
  State Enough(GrammarBuilder& builder, uint64_t left, State next) const {
    return from_below && least > left ? builder.Guard(Narrow(least - left), UINT32_MAX, next) : next;
  }

  uint64_t least;
  uint64_t most;
  bool from_below;
  bool from_above;
};

// Entries in their order, those that are not required left out or not; then any number of extras.
Result<uint32_t> SchemaCompiler::SequenceStates(const Sequence& sequence, State close) {
  const auto& entries = sequence.entries;
  const auto required =
      static_cast<uint64_t>(std::count_if(entries.begin(), entries.end(), [](const Entry& entry) { return entry.required; }));
  const bool has_extras = !sequence.extras.empty();
  const Bounds bounds(sequence, required);
  const State end = bounds.Enough(builder_, 0, close);
  // choose: an entry comes next. after: one has just ended.
  State choose = builder_.Later();
  State after = end;
  if (has_extras) {
    after = builder_.Later();
    std::vector<State> names;
    for (const Extra& extra : sequence.extras) {
      BANTAM_ASSIGN(const State value, Value(extra.set, bounds.Count(builder_, after)));
      names.push_back(builder_.Terminal(extra.name, Colon(value)));
    }
    builder_.SetTargets(choose, names);
    choose = bounds.Room(builder_, 0, choose);
    builder_.SetTargets(after, {bounds.Room(builder_, 0, Comma(choose)), end});
  }
  uint64_t reserved = 0;  // required entries behind this one
  for (size_t i = entries.size(); i-- > 0;) {
    const Entry& entry = entries[i];
    const State behind = bounds.Count(builder_, after);
    State value = builder_.Literal(entry.literal, behind);
    if (entry.literal.empty()) {
      BANTAM_ASSIGN(value, Value(entry.set, behind));
      value = builder_.Literal(entry.name, Colon(value));
    }
    if (entry.required) {
      choose = value;
      ++reserved;
    } else {
      const State without = has_extras ? choose : bounds.Enough(builder_, entries.size() - i - 1, choose);
      choose = builder_.Split({bounds.Room(builder_, reserved, value), without});
    }
    std::vector<State> follow = {reserved > 0 ? Comma(choose) : bounds.Room(builder_, 0, Comma(choose))};
    if (reserved == 0) follow.push_back(end);
    after = builder_.Split(follow);
  }
  std::vector<State> begin = {choose};
  if (reserved == 0 && sequence.least == 0) begin.push_back(close);
  State start = builder_.Split(begin);
  if (!bounds.from_below) return start;
  // Where entries have to be chosen, the depth that is left must do for each.
  for (const Entry& entry : entries) {
    if (entry.literal.empty() && !entry.required) start = builder_.Need(RuleOf(entry.set), start);
  }
  for (const Extra& extra : sequence.extras) start = builder_.Need(RuleOf(extra.set), start);
  return start;
}

Result<std::shared_ptr<const Grammar>> CompileParsed(SchemaDocument document, const JsonSchemaOptions& options) {
  return SchemaCompiler(&document, options).Compile(document.root());
}

}  // namespace

Result<std::shared_ptr<const Grammar>> CompileJsonSchema(std::string_view schema, const JsonSchemaOptions& options) {
  BANTAM_ASSIGN(SchemaDocument document, SchemaDocument::Parse(schema, options.limits.source_bytes));
  return CompileParsed(std::move(document), options);
}

Result<std::shared_ptr<const Grammar>> CompileAnyJson(const JsonSchemaOptions& options) { return CompileJsonSchema("true", options); }

Result<std::shared_ptr<const Grammar>> CompileAnyJsonObject(const JsonSchemaOptions& options) {
  return CompileJsonSchema(R"({"type":"object"})", options);
}

}  // namespace bantam
