#include "text/structured/text_grammar.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "text/structured/byte_automaton.h"
#include "text/structured/expression.h"
#include "text/structured/pattern.h"
#include "text/utf8.h"

namespace bantam {
namespace {

constexpr uint32_t kRepeatMax = 1'000'000;
constexpr uint32_t kUnrolledMax = 4;        // repetitions that are copied rather than counted
constexpr size_t kInlinedNodesMax = 4'000;  // of a rule that becomes a part of others
constexpr uint32_t kInlinedDepthMax = 150;

struct GbnfRule {
  std::string name;
  size_t line = 0;  // 0: not defined
  Expression body;
};

class GbnfParser {
 public:
  explicit GbnfParser(std::string_view text) : text_(text) {}

  Result<std::vector<GbnfRule>> Parse() {
    SkipSpace(/*newlines=*/true);
    while (at_ < text_.size()) {
      BANTAM_TRY(ParseRule());
      SkipSpace(/*newlines=*/true);
    }
    for (const GbnfRule& rule : rules_) {
      if (rule.line == 0) return Error(Code::kInvalidArgument, fmt::format("GBNF: the rule {} is used and not defined", rule.name));
    }
    return std::move(rules_);
  }

 private:
  size_t Line() const { return 1 + static_cast<size_t>(std::count(text_.begin(), text_.begin() + static_cast<std::ptrdiff_t>(at_), '\n')); }
  Error Malformed(std::string_view what) const { return {Code::kInvalidArgument, fmt::format("GBNF, line {}: {}", Line(), what)}; }
  bool AtEnd() const { return at_ >= text_.size(); }
  char Next() const { return AtEnd() ? '\0' : text_[at_]; }
  static bool IsName(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_'; }

  void SkipSpace(bool newlines) {
    while (!AtEnd()) {
      const char c = text_[at_];
      if (c == '#') {
        at_ = std::min(text_.find('\n', at_), text_.size());
      } else if (c == ' ' || c == '\t' || (newlines && (c == '\n' || c == '\r'))) {
        ++at_;
      } else {
        return;
      }
    }
  }
  // Behind an element: a line's end ends a rule, unless the next line goes on with an alternative.
  void SkipSpaceBehind(uint32_t depth) {
    SkipSpace(/*newlines=*/depth > 0);
    if (depth > 0) return;
    const size_t before = at_;
    SkipSpace(/*newlines=*/true);
    if (Next() != '|') at_ = before;
  }

  uint32_t RuleOf(const std::string& name) {
    const auto [found, added] = index_.emplace(name, static_cast<uint32_t>(rules_.size()));
    if (added) rules_.push_back({name, 0, {}});
    return found->second;
  }
  std::string ParseName() {
    const size_t begin = at_;
    while (!AtEnd() && IsName(text_[at_])) ++at_;
    return std::string(text_.substr(begin, at_ - begin));
  }

  Status ParseRule() {
    const size_t line = Line();
    const std::string name = ParseName();
    if (name.empty()) return Malformed("a rule's name is expected");
    SkipSpace(/*newlines=*/false);
    if (!text_.substr(at_).starts_with("::=")) return Malformed(fmt::format("::= is expected behind {}", name));
    at_ += 3;
    SkipSpace(/*newlines=*/true);
    const uint32_t rule = RuleOf(name);
    if (rules_[rule].line != 0) return Malformed(fmt::format("the rule {} is defined twice", name));
    rules_[rule].line = line;
    BANTAM_ASSIGN(Expression body, ParseAlternatives(/*depth=*/0));
    rules_[rule].body = std::move(body);
    if (!AtEnd() && Next() != '\n' && Next() != '\r') return Malformed(fmt::format("unexpected '{}'", Next()));
    return Ok();
  }

  Result<Expression> ParseAlternatives(uint32_t depth) {
    if (depth > kPatternDepthMax) return Malformed(fmt::format("more than {} groups within groups", kPatternDepthMax));
    Expression alternatives;
    alternatives.kind = Expression::Kind::kAlternatives;
    while (true) {
      BANTAM_ASSIGN(Expression sequence, ParseSequence(depth));
      alternatives.parts.push_back(std::move(sequence));
      if (Next() != '|') break;
      ++at_;
      SkipSpace(/*newlines=*/true);
    }
    if (alternatives.parts.size() > 1) return alternatives;
    Expression only = std::move(alternatives.parts[0]);
    return only;
  }

  Result<Expression> ParseSequence(uint32_t depth) {
    Expression sequence;
    while (!AtEnd()) {
      Expression part;
      const char c = Next();
      if (c == '"') {
        BANTAM_ASSIGN(part, ParseLiteral());
      } else if (c == '[') {
        ++at_;
        part.kind = Expression::Kind::kChars;
        auto chars = ParseCharacterClass(text_, &at_);
        if (!chars.ok()) return Malformed(chars.error().message());
        part.chars = std::move(*chars);
      } else if (c == '.') {
        ++at_;
        part.kind = Expression::Kind::kChars;
        part.chars = CodeRanges::All();
      } else if (c == '(') {
        ++at_;
        SkipSpace(/*newlines=*/true);
        BANTAM_ASSIGN(part, ParseAlternatives(depth + 1));
        if (Next() != ')') return Malformed("a ( without its )");
        ++at_;
      } else if (IsName(c)) {
        part.kind = Expression::Kind::kRule;
        part.rule = RuleOf(ParseName());
      } else if (c == '<' || (c == '!' && text_.substr(at_).starts_with("!<"))) {
        return Error(Code::kUnsupported,
                     fmt::format("GBNF, line {}: tokens by name or number are not supported; write their text", Line()));
      } else {
        break;
      }
      SkipSpaceBehind(depth);
      BANTAM_ASSIGN(part, ParseRepetition(std::move(part), depth));
      sequence.parts.push_back(std::move(part));
    }
    return sequence;
  }

  Result<Expression> ParseLiteral() {
    Expression literal;
    ++at_;
    while (!AtEnd() && text_[at_] != '"') {
      Expression character;
      character.kind = Expression::Kind::kChars;
      if (text_[at_] == '\\') {
        ++at_;
        auto chars = ParseEscape(text_, &at_);
        if (!chars.ok()) return Malformed(chars.error().message());
        character.chars = std::move(*chars);
      } else {
        const Utf8Character c = DecodeUtf8(text_, at_);
        at_ += c.size;
        character.chars.Add(c.code, c.code);
      }
      literal.parts.push_back(std::move(character));
    }
    if (AtEnd()) return Malformed("a \" without its end");
    ++at_;
    return literal;
  }

  std::optional<uint32_t> ParseNumber() {
    const size_t begin = at_;
    uint64_t number = 0;
    while (Next() >= '0' && Next() <= '9') number = std::min<uint64_t>(number * 10 + static_cast<uint64_t>(text_[at_++] - '0'), UINT32_MAX);
    return at_ > begin ? std::optional(static_cast<uint32_t>(number)) : std::nullopt;
  }

  Result<Expression> ParseRepetition(Expression part, uint32_t depth) {
    while (!AtEnd()) {
      uint32_t least = 0;
      uint32_t most = Expression::kUnbounded;
      const char c = Next();
      if (c != '*' && c != '+' && c != '?' && c != '{') return part;
      ++at_;
      if (c == '+') least = 1;
      if (c == '?') most = 1;
      if (c == '{') {
        SkipSpace(/*newlines=*/depth > 0);
        const auto first = ParseNumber();
        if (!first.has_value()) return Malformed("a number is expected behind {");
        least = *first;
        most = *first;
        SkipSpace(/*newlines=*/depth > 0);
        if (Next() == ',') {
          ++at_;
          SkipSpace(/*newlines=*/depth > 0);
          most = ParseNumber().value_or(Expression::kUnbounded);
          SkipSpace(/*newlines=*/depth > 0);
        }
        if (Next() != '}') return Malformed("a { without its }");
        ++at_;
      }
      if (most < least) return Malformed("repetitions whose numbers are out of order");
      if (least > kRepeatMax || (most > kRepeatMax && most != Expression::kUnbounded)) {
        return Malformed(fmt::format("more than {} repetitions", kRepeatMax));
      }
      Expression repeat;
      repeat.kind = Expression::Kind::kRepeat;
      repeat.least = least;
      repeat.most = most;
      repeat.parts.push_back(std::move(part));
      part = std::move(repeat);
      SkipSpaceBehind(depth);
    }
    return part;
  }

  std::string_view text_;
  size_t at_ = 0;
  std::map<std::string, uint32_t> index_;
  std::vector<GbnfRule> rules_;
};

bool HasRules(const Expression& expression) {
  if (expression.kind == Expression::Kind::kRule) return true;
  return std::any_of(expression.parts.begin(), expression.parts.end(), HasRules);
}

size_t CountNodes(const Expression& expression) {
  size_t count = 1;
  for (const Expression& part : expression.parts) count += CountNodes(part);
  return count;
}

uint32_t DepthOf(const Expression& expression) {
  uint32_t depth = 0;
  for (const Expression& part : expression.parts) depth = std::max(depth, DepthOf(part));
  return depth + 1;
}

// Puts rules without rules in their place, as far as they stay small: terminals of many characters are what masks are kept of.
void InlineRules(std::vector<GbnfRule>* rules) {
  std::vector<uint8_t> regular(rules->size(), 0);
  const auto replace = [&](auto&& self, Expression* expression) -> void {
    if (expression->kind == Expression::Kind::kRule && regular[expression->rule] != 0) {
      *expression = Expression((*rules)[expression->rule].body);
      return;
    }
    for (Expression& part : expression->parts) self(self, &part);
  };
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = 0; i < rules->size(); ++i) {
      if (regular[i] != 0) continue;
      Expression& body = (*rules)[i].body;
      if (CountNodes(body) > kInlinedNodesMax) continue;
      replace(replace, &body);
      if (HasRules(body) || CountNodes(body) > kInlinedNodesMax || DepthOf(body) > kInlinedDepthMax) continue;
      regular[i] = 1;
      changed = true;
    }
  }
}

class GbnfCompiler {
 public:
  GbnfCompiler(std::vector<GbnfRule> rules, const GrammarLimits& limits) : rules_(std::move(rules)), limits_(limits), builder_(limits) {}

  Result<std::shared_ptr<const Grammar>> Compile() {
    const auto root = std::find_if(rules_.begin(), rules_.end(), [](const GbnfRule& rule) { return rule.name == "root"; });
    if (root == rules_.end()) return Error(Code::kInvalidArgument, "GBNF: the rule root is missing");
    InlineRules(&rules_);
    BANTAM_TRY(CheckLeftRecursion());
    RuleOf(static_cast<uint32_t>(root - rules_.begin()));
    for (size_t i = 0; i < queue_.size(); ++i) {
      const auto [rule, index] = queue_[i];
      BANTAM_ASSIGN(const uint32_t start, Lower(rules_[index].body, builder_.End()));
      builder_.DefineRule(rule, start);
      BANTAM_TRY(builder_.CheckLimits());
    }
    return builder_.Finish();
  }

 private:
  uint32_t RuleOf(uint32_t index) {
    const auto known = numbers_.find(index);
    if (known != numbers_.end()) return known->second;
    const uint32_t rule = builder_.DeclareRule();
    numbers_.emplace(index, rule);
    queue_.emplace_back(rule, index);
    return rule;
  }

  bool Nullable(const Expression& expression, const std::vector<uint8_t>& rules) const {
    switch (expression.kind) {
      case Expression::Kind::kChars:
        return false;
      case Expression::Kind::kRule:
        return rules[expression.rule] != 0;
      case Expression::Kind::kRepeat:
        return expression.least == 0 || Nullable(expression.parts[0], rules);
      case Expression::Kind::kAlternatives:
        return std::any_of(expression.parts.begin(), expression.parts.end(), [&](const Expression& part) { return Nullable(part, rules); });
      case Expression::Kind::kSequence:
        return std::all_of(expression.parts.begin(), expression.parts.end(), [&](const Expression& part) { return Nullable(part, rules); });
      case Expression::Kind::kBegin:
      case Expression::Kind::kEnd:
        return true;
    }
    return false;
  }
  // The rules that an expression may begin with.
  void AddFirst(const Expression& expression, const std::vector<uint8_t>& nullable, std::vector<uint32_t>* first) const {
    if (expression.kind == Expression::Kind::kRule) first->push_back(expression.rule);
    for (const Expression& part : expression.parts) {
      AddFirst(part, nullable, first);
      if (expression.kind == Expression::Kind::kSequence && !Nullable(part, nullable)) break;
    }
  }
  Status CheckLeftRecursion() const {
    std::vector<uint8_t> nullable(rules_.size(), 0);
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t i = 0; i < rules_.size(); ++i) {
        if (nullable[i] != 0 || !Nullable(rules_[i].body, nullable)) continue;
        nullable[i] = 1;
        changed = true;
      }
    }
    // Rules that begin with nothing unfinished are finished; what is left goes round.
    std::vector<std::vector<uint32_t>> first(rules_.size());
    for (size_t i = 0; i < rules_.size(); ++i) AddFirst(rules_[i].body, nullable, &first[i]);
    std::vector<uint8_t> finished(rules_.size(), 0);
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t i = 0; i < rules_.size(); ++i) {
        if (finished[i] != 0) continue;
        if (!std::all_of(first[i].begin(), first[i].end(), [&](uint32_t rule) { return finished[rule] != 0; })) continue;
        finished[i] = 1;
        changed = true;
      }
    }
    const auto left = std::find(finished.begin(), finished.end(), 0);
    if (left == finished.end()) return Ok();
    const GbnfRule& rule = rules_[static_cast<size_t>(left - finished.begin())];
    return Error(Code::kInvalidArgument,
                 fmt::format("GBNF, line {}: the rule {} begins with itself (left recursion)", rule.line, rule.name));
  }

  // Nothing where the automaton would be too large.
  Result<std::optional<uint32_t>> TerminalOf(const Expression& expression) {
    CharNfa nfa;
    const auto part = AddToNfa(expression, limits_.automaton, &nfa);
    if (!part.ok()) return std::optional<uint32_t>();
    nfa.start = part->start;
    nfa.final = part->final;
    const auto dfa = CharDfa::FromNfa(nfa, limits_.automaton);
    if (!dfa.ok() || dfa->empty()) return std::optional<uint32_t>();
    auto bytes = ToBytes(*dfa, Quoting::kPlain, limits_.automaton.states_max);
    if (!bytes.ok()) return std::optional<uint32_t>();
    return std::optional(builder_.AddTerminal(std::move(*bytes)));
  }
  static std::optional<std::string> LiteralOf(const Expression& expression) {
    std::string text;
    for (const Expression& part : expression.parts) {
      const bool single =
          part.kind == Expression::Kind::kChars && part.chars.list().size() == 1 && part.chars.list()[0].first == part.chars.list()[0].last;
      if (!single) return std::nullopt;
      AppendUtf8(part.chars.list()[0].first, &text);
    }
    return expression.kind == Expression::Kind::kSequence ? std::optional(std::move(text)) : std::nullopt;
  }

  Result<uint32_t> Lower(const Expression& expression, uint32_t next) {
    BANTAM_TRY(builder_.CheckLimits());
    const auto literal = LiteralOf(expression);
    if (literal.has_value()) return builder_.Literal(*literal, next);
    if (!HasRules(expression)) {
      BANTAM_ASSIGN(const std::optional<uint32_t> terminal, TerminalOf(expression));
      if (terminal.has_value()) return builder_.Terminal(*terminal, next);
    }
    switch (expression.kind) {
      case Expression::Kind::kSequence:
        return LowerSequence(expression, next);
      case Expression::Kind::kRepeat:
        return LowerRepeat(expression, next);
      case Expression::Kind::kRule:
        return builder_.Call(RuleOf(expression.rule), next);
      case Expression::Kind::kAlternatives: {
        std::vector<uint32_t> targets;
        for (const Expression& part : expression.parts) {
          BANTAM_ASSIGN(const uint32_t target, Lower(part, next));
          targets.push_back(target);
        }
        return builder_.Split(targets);
      }
      case Expression::Kind::kChars:
      case Expression::Kind::kBegin:
      case Expression::Kind::kEnd:
        break;
    }
    // A set of no characters.
    return builder_.Split({});
  }

  // Neighbours without rules are one terminal.
  Result<uint32_t> LowerSequence(const Expression& sequence, uint32_t next) {
    const bool regular = !HasRules(sequence);  // and too large for one terminal
    for (size_t end = sequence.parts.size(); end > 0;) {
      size_t begin = end - 1;
      while (!regular && !HasRules(sequence.parts[end - 1]) && begin > 0 && !HasRules(sequence.parts[begin - 1])) --begin;
      Expression run;
      run.parts.assign(sequence.parts.begin() + static_cast<std::ptrdiff_t>(begin),
                       sequence.parts.begin() + static_cast<std::ptrdiff_t>(end));
      BANTAM_ASSIGN(next, Lower(run.parts.size() == 1 ? run.parts[0] : run, next));
      end = begin;
    }
    return next;
  }

  Result<uint32_t> LowerRepeat(const Expression& repeat, uint32_t next) {
    const Expression& part = repeat.parts[0];
    if (repeat.most == 0) return next;
    if (repeat.most == Expression::kUnbounded && repeat.least <= kUnrolledMax) {
      const uint32_t loop = builder_.Later();
      BANTAM_ASSIGN(const uint32_t body, Lower(part, loop));
      builder_.SetTargets(loop, {body, next});
      uint32_t start = loop;
      for (uint32_t i = 0; i < repeat.least; ++i) {
        BANTAM_ASSIGN(start, Lower(part, start));
      }
      return start;
    }
    if (repeat.most == 1) {
      BANTAM_ASSIGN(const uint32_t body, Lower(part, next));
      return repeat.least == 1 ? body : builder_.Split({body, next});
    }
    // A frame that counts.
    const uint32_t rule = builder_.DeclareRule();
    const uint32_t loop = builder_.Later();
    BANTAM_ASSIGN(const uint32_t body, Lower(part, builder_.Count(loop)));
    const uint32_t more = repeat.most == Expression::kUnbounded ? body : builder_.Guard(0, repeat.most - 1, body);
    const uint32_t end = builder_.End();
    builder_.SetTargets(loop, {more, repeat.least == 0 ? end : builder_.Guard(repeat.least, UINT32_MAX, end)});
    // Where some are wanted, the depth must do for them.
    uint32_t start = loop;
    if (repeat.least > 0) start = body;
    builder_.DefineRule(rule, start);
    return builder_.Call(rule, next);
  }

  std::vector<GbnfRule> rules_;
  const GrammarLimits& limits_;
  GrammarBuilder builder_;
  std::map<uint32_t, uint32_t> numbers_;
  std::vector<std::pair<uint32_t, uint32_t>> queue_;
};

}  // namespace

Result<std::shared_ptr<const Grammar>> CompileGbnf(std::string_view text, const GrammarLimits& limits) {
  if (text.size() > limits.source_bytes) {
    return Error(Code::kExhausted, fmt::format("a grammar of {} bytes; at most {} are read", text.size(), limits.source_bytes));
  }
  BANTAM_ASSIGN(std::vector<GbnfRule> rules, GbnfParser(text).Parse());
  return GbnfCompiler(std::move(rules), limits).Compile();
}

Result<std::shared_ptr<const Grammar>> CompileRegex(std::string_view pattern, const GrammarLimits& limits) {
  BANTAM_ASSIGN(const CharDfa dfa, ParsePattern(pattern, PatternMatch::kWhole, limits.automaton));
  if (dfa.empty()) return Error(Code::kInvalidArgument, "no text can match the expression");
  BANTAM_ASSIGN(ByteAutomaton bytes, ToBytes(dfa, Quoting::kPlain, limits.states));
  GrammarBuilder builder(limits);
  const uint32_t rule = builder.DeclareRule();
  builder.DefineRule(rule, builder.Terminal(builder.AddTerminal(std::move(bytes)), builder.End()));
  return builder.Finish();
}

}  // namespace bantam
