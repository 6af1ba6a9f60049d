#include "text/jinja.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "base/check.h"
#include "text/jinja_builtins.h"

namespace bantam::jinja {
namespace {

// Names of one block; what is not here is sought further out.
struct Scope {
  std::shared_ptr<Scope> outer;
  std::map<std::string, Value, std::less<>> names;

  const Value* Find(std::string_view name) const {
    for (const Scope* scope = this; scope != nullptr; scope = scope->outer.get()) {
      const auto at = scope->names.find(name);
      if (at != scope->names.end()) return &at->second;
    }
    return nullptr;
  }
};
using ScopePtr = std::shared_ptr<Scope>;

// How a statement ended.
enum class Flow : uint8_t { kOn, kBreak, kContinue };

class Interpreter {
 public:
  Interpreter(const RenderOptions& options) : meter_(options.limits), environment_{meter_, options} {}

  Result<Text> Run(const Node& body, const Dict& context) {
    Dict globals;
    AddGlobals(environment_, &globals);
    ScopePtr scope = Inner(nullptr);
    for (const auto* dict : {&std::as_const(globals), &context}) {
      for (const auto& [name, value] : dict->items()) scope->names[name.text()->bytes()] = value;
    }
    scope = Inner(scope);
    Text out;
    BANTAM_TRY(Execute(body, scope, &out));
    return out;
  }

 private:
  static ScopePtr Inner(ScopePtr outer) {
    auto scope = std::make_shared<Scope>();
    scope->outer = std::move(outer);
    return scope;
  }

  // Adds the line to an error that has none yet.
  static Error AtLine(const Node& node, Error error) {
    if (error.message().starts_with("template line ")) return error;
    return std::move(error).With(fmt::format("template line {}", node.line));
  }

  class Deeper {
   public:
    explicit Deeper(size_t* depth) : depth_(depth) { ++*depth_; }
    ~Deeper() { --*depth_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;

   private:
    size_t* depth_;
  };
  Status Enter(const Node& node) {
    if (depth_ > meter_.limits().depth) {
      return Error(Code::kExhausted, fmt::format("template line {}: calls nested deeper than {}", node.line, meter_.limits().depth));
    }
    if (Status status = meter_.Steps(1); !status.ok()) return AtLine(node, status.error());
    return Ok();
  }

  // ---- Statements ----

  Result<Flow> Execute(const Node& node, const ScopePtr& scope, Text* out) {
    const Deeper deeper(&depth_);
    BANTAM_TRY(Enter(node));
    switch (node.kind) {
      case NodeKind::kBody:
        for (const auto& child : node.children) {
          BANTAM_ASSIGN(const Flow flow, Execute(*child, scope, out));
          if (flow != Flow::kOn) return flow;
        }
        return Flow::kOn;
      case NodeKind::kData:
        BANTAM_TRY(Emit(node, *node.value.text(), out));
        return Flow::kOn;
      case NodeKind::kOutput: {
        BANTAM_ASSIGN(const Value value, Evaluate(*node.children[0], scope));
        BANTAM_TRY(Emit(node, ToText(value), out));
        return Flow::kOn;
      }
      case NodeKind::kIf:
        return ExecuteIf(node, scope, out);
      case NodeKind::kFor:
        return ExecuteFor(node, scope, out);
      case NodeKind::kSet: {
        BANTAM_ASSIGN(Value value, Evaluate(*node.children[1], scope));
        BANTAM_TRY(Assign(*node.children[0], std::move(value), scope));
        return Flow::kOn;
      }
      case NodeKind::kSetBlock:
        return ExecuteSetBlock(node, scope);
      case NodeKind::kMacro:
        scope->names[node.text] = MakeMacro(node, scope);
        return Flow::kOn;
      case NodeKind::kCallBlock: {
        const ScopePtr inner = Inner(scope);
        inner->names["caller"] = MakeMacro(*node.children[1], scope);
        BANTAM_ASSIGN(const Value value, EvaluateCall(*node.children[0], scope, &inner->names["caller"]));
        BANTAM_TRY(Emit(node, ToText(value), out));
        return Flow::kOn;
      }
      case NodeKind::kFilterBlock: {
        Text text;
        BANTAM_TRY(Execute(*node.children[1], Inner(scope), &text));
        BANTAM_ASSIGN(const Value value, ApplyChain(*node.children[0], scope, Value(std::move(text))));
        BANTAM_TRY(Emit(node, ToText(value), out));
        return Flow::kOn;
      }
      case NodeKind::kWith: {
        const ScopePtr inner = Inner(scope);
        for (size_t i = 0; i + 1 < node.children.size(); i += 2) {
          BANTAM_ASSIGN(Value value, Evaluate(*node.children[i + 1], scope));
          BANTAM_TRY(Assign(*node.children[i], std::move(value), inner));
        }
        return Execute(*node.children.back(), inner, out);
      }
      case NodeKind::kBreak:
        return Flow::kBreak;
      case NodeKind::kContinue:
        return Flow::kContinue;
      default:
        break;
    }
    return Error(Code::kInternal, fmt::format("template line {}: an expression where a statement was expected", node.line));
  }

  Status Emit(const Node& node, const Text& text, Text* out) {
    if (Status status = meter_.Bytes(text.bytes().size()); !status.ok()) return AtLine(node, status.error());
    if (out->bytes().size() + text.bytes().size() > meter_.limits().output_bytes) {
      return Error(Code::kExhausted, fmt::format("template line {}: output longer than {} bytes", node.line, meter_.limits().output_bytes));
    }
    out->Append(text);
    return Ok();
  }

  Result<Flow> ExecuteSetBlock(const Node& node, const ScopePtr& scope) {
    Text text;
    BANTAM_TRY(Execute(*node.children[1], Inner(scope), &text));
    Value value(std::move(text));
    if (node.children[2] != nullptr) {
      BANTAM_ASSIGN(value, ApplyChain(*node.children[2], scope, value));
    }
    BANTAM_TRY(Assign(*node.children[0], std::move(value), scope));
    return Flow::kOn;
  }

  Result<Flow> ExecuteIf(const Node& node, const ScopePtr& scope, Text* out) {
    size_t i = 0;
    for (; i + 1 < node.children.size(); i += 2) {
      BANTAM_ASSIGN(const Value condition, Evaluate(*node.children[i], scope));
      if (condition.Truthy()) return Execute(*node.children[i + 1], scope, out);
    }
    if (i < node.children.size()) return Execute(*node.children[i], scope, out);
    return Flow::kOn;
  }

  Result<Flow> ExecuteFor(const Node& node, const ScopePtr& scope, Text* out) {
    BANTAM_ASSIGN(const Value iterable, Evaluate(*node.children[1], scope));
    BANTAM_TRY(Loop(node, iterable, scope, out, /*level=*/0));
    return Flow::kOn;
  }

  // One loop over `iterable`, called again by loop(...) of a recursive one.
  Status Loop(const Node& node, const Value& iterable, const ScopePtr& scope, Text* out, int64_t level) {
    Result<List> elements = Elements(environment_, iterable);
    if (!elements.ok()) return AtLine(node, std::move(elements).error());
    List items;
    for (Value& element : *elements) {
      if (node.children[2] != nullptr) {
        const ScopePtr inner = Inner(scope);
        BANTAM_TRY(Assign(*node.children[0], element, inner));
        BANTAM_ASSIGN(const Value kept, Evaluate(*node.children[2], inner));
        if (!kept.Truthy()) continue;
      }
      items.push_back(std::move(element));
    }
    if (items.empty() && node.children[4] != nullptr) {
      BANTAM_TRY(Execute(*node.children[4], Inner(scope), out));
      return Ok();
    }
    auto changed = std::make_shared<std::pair<bool, List>>(false, List());
    for (size_t i = 0; i < items.size(); ++i) {
      if (Status status = meter_.Steps(kStepsPerTurn); !status.ok()) return AtLine(node, status.error());
      const ScopePtr inner = Inner(scope);
      inner->names["loop"] = LoopVariable(node, items, i, {scope, level, changed});
      BANTAM_TRY(Assign(*node.children[0], items[i], inner));
      BANTAM_ASSIGN(const Flow flow, Execute(*node.children[3], inner, out));
      if (flow == Flow::kBreak) break;
    }
    return Ok();
  }

  struct LoopState {
    ScopePtr scope;
    int64_t level;
    std::shared_ptr<std::pair<bool, List>> changed;  // what loop.changed() saw last
  };
  Value LoopVariable(const Node& node, const List& items, size_t i, const LoopState& state) {
    Dict loop;
    const auto n = static_cast<int64_t>(items.size());
    const auto at = static_cast<int64_t>(i);
    loop.Set("index", Value(at + 1));
    loop.Set("index0", Value(at));
    loop.Set("revindex", Value(n - at));
    loop.Set("revindex0", Value(n - at - 1));
    loop.Set("first", Value(i == 0));
    loop.Set("last", Value(i + 1 == items.size()));
    loop.Set("length", Value(n));
    loop.Set("depth", Value(state.level + 1));
    loop.Set("depth0", Value(state.level));
    if (i > 0) loop.Set("previtem", items[i - 1]);
    if (i + 1 < items.size()) loop.Set("nextitem", items[i + 1]);
    loop.Set("cycle", Value(Callable{"cycle", [at](const Arguments& arguments) -> Result<Value> {
                                       if (arguments.positional.empty()) return Error(Code::kInvalidArgument, "cycle() of no values");
                                       return arguments.positional[static_cast<size_t>(at) % arguments.positional.size()];
                                     }}));
    loop.Set("changed", Value(Callable{"changed", [seen = state.changed](const Arguments& arguments) -> Result<Value> {
                                         const List& now = arguments.positional;
                                         const bool same = seen->first && std::equal(now.begin(), now.end(), seen->second.begin(),
                                                                                     seen->second.end(), Equal);
                                         *seen = {true, now};
                                         return Value(!same);
                                       }}));
    if (node.flag) {
      loop.Set("__call__", Value(Callable{"loop",
                                          [this, &node, weak = std::weak_ptr<Scope>(state.scope),
                                           level = state.level](const Arguments& arguments) -> Result<Value> {
                                            const ScopePtr scope = weak.lock();
                                            if (scope == nullptr || arguments.positional.size() != 1) {
                                              return Error(Code::kInvalidArgument, "loop() takes one iterable, within its loop");
                                            }
                                            const Deeper deeper(&depth_);
                                            BANTAM_TRY(Enter(node));
                                            Text text;
                                            BANTAM_TRY(Loop(node, arguments.positional[0], scope, &text, level + 1));
                                            return Value(std::move(text));
                                          }}));
    }
    return Value(std::move(loop));
  }

  Status Assign(const Node& target, Value value, const ScopePtr& scope) {
    if (target.kind == NodeKind::kName) {
      scope->names[target.text] = std::move(value);
      return Ok();
    }
    if (target.kind == NodeKind::kAttribute) {
      const Value* object = scope->Find(target.children[0]->text);
      Dict* space = object == nullptr ? nullptr : object->name_space();
      if (space == nullptr) {
        return Error(Code::kInvalidArgument, fmt::format("template line {}: {}.{} is set, and {} is no namespace", target.line,
                                                         target.children[0]->text, target.text, target.children[0]->text));
      }
      if (value.holds_namespace() || value.depth() >= kValueDepthMax) {
        return Error(Code::kUnsupported, fmt::format("template line {}: a namespace within a namespace is not supported", target.line));
      }
      space->Set(target.text, std::move(value));
      return Ok();
    }
    Result<List> elements = Elements(environment_, value);
    if (!elements.ok()) return AtLine(target, std::move(elements).error());
    if (elements->size() != target.children.size()) {
      return Error(Code::kInvalidArgument,
                   fmt::format("template line {}: {} values for {} names", target.line, elements->size(), target.children.size()));
    }
    for (size_t i = 0; i < target.children.size(); ++i) BANTAM_TRY(Assign(*target.children[i], std::move((*elements)[i]), scope));
    return Ok();
  }

  Value MakeMacro(const Node& node, const ScopePtr& scope) {
    for (ScopePtr kept = scope; kept != nullptr; kept = kept->outer) kept_.push_back(kept);
    return Value(Callable{node.text, [this, &node, weak = std::weak_ptr<Scope>(scope)](const Arguments& arguments) -> Result<Value> {
                            const ScopePtr made_in = weak.lock();
                            CHECK(made_in != nullptr);
                            return CallMacro(node, made_in, arguments);
                          }});
  }

  // What a macro is given beside its parameters is an error unless its body reads it.
  Status CheckSurplus(const Node& node, const Arguments& arguments) {
    if (arguments.positional.size() > node.names.size()) {
      BANTAM_ASSIGN(const bool reads, Mentions(*node.children[0], "varargs"));
      if (!reads) {
        return Error(Code::kInvalidArgument, fmt::format("macro '{}' takes not more than {} argument(s)", node.text, node.names.size()));
      }
    }
    for (const auto& [name, value] : arguments.named) {
      if (name == "caller" || std::find(node.names.begin(), node.names.end(), name) != node.names.end()) continue;
      BANTAM_ASSIGN(const bool reads, Mentions(*node.children[0], "kwargs"));
      if (!reads) return Error(Code::kInvalidArgument, fmt::format("macro '{}' takes no keyword argument '{}'", node.text, name));
      break;
    }
    return Ok();
  }
  // Whether a name is read anywhere below a node. Without recursion: trees can be deeper than the stack.
  Result<bool> Mentions(const Node& top, std::string_view name) {
    std::vector<const Node*> open = {&top};
    while (!open.empty()) {
      const Node& node = *open.back();
      open.pop_back();
      BANTAM_TRY(meter_.Steps(1));
      if (node.kind == NodeKind::kName && node.text == name) return true;
      for (const auto& child : node.children) {
        if (child) open.push_back(child.get());
      }
    }
    return false;
  }

  Result<Value> CallMacro(const Node& node, const ScopePtr& made_in, const Arguments& arguments) {
    const Deeper deeper(&depth_);
    BANTAM_TRY(Enter(node));
    const ScopePtr scope = Inner(made_in);
    const size_t defaults = node.children.size() - 1;
    for (size_t i = 0; i < node.names.size(); ++i) {
      const Value* given = arguments.Get(i, node.names[i]);
      const size_t first_default = node.names.size() - defaults;
      if (given != nullptr) {
        scope->names[node.names[i]] = *given;
      } else if (i >= first_default) {
        BANTAM_ASSIGN(scope->names[node.names[i]], Evaluate(*node.children[1 + i - first_default], scope));
      } else {
        scope->names[node.names[i]] = Value(Undefined{node.names[i]});
      }
    }
    BANTAM_TRY(CheckSurplus(node, arguments));
    List rest;
    for (size_t i = node.names.size(); i < arguments.positional.size(); ++i) rest.push_back(arguments.positional[i]);
    scope->names["varargs"] = Value(std::move(rest), /*tuple=*/true);
    Dict others;
    for (const auto& [name, value] : arguments.named) {
      if (name == "caller") {
        scope->names["caller"] = value;
      } else if (std::find(node.names.begin(), node.names.end(), name) == node.names.end()) {
        others.Set(Value::Str(name, /*trusted=*/false), value);  // it may be the key of a message
      }
    }
    scope->names["kwargs"] = Value(std::move(others));
    Text out;
    BANTAM_TRY(Execute(*node.children[0], scope, &out));
    return Value(std::move(out));
  }

  // A filter chain whose innermost input is `input`.
  Result<Value> ApplyChain(const Node& chain, const ScopePtr& scope, const Value& input) {
    const ScopePtr inner = Inner(scope);
    placeholders_.push_back(input);
    Result<Value> value = Evaluate(chain, inner);
    placeholders_.pop_back();
    return value;
  }

  // ---- Expressions ----

  Result<Value> Evaluate(const Node& node, const ScopePtr& scope) {
    const Deeper deeper(&depth_);
    BANTAM_TRY(Enter(node));
    Result<Value> value = EvaluateNode(node, scope);
    if (!value.ok()) return AtLine(node, std::move(value).error());
    if (value->depth() > kValueDepthMax) {
      return Error(Code::kExhausted, fmt::format("template line {}: lists nested deeper than {}", node.line, kValueDepthMax));
    }
    if (value->weight() > kWeightMax) {
      return Error(Code::kExhausted, fmt::format("template line {}: a value of more than {} bytes", node.line, kWeightMax));
    }
    return value;
  }
  // What looks at values as a whole takes time by their size.
  template <typename... Values>
  Status Charge(const Values&... values) {
    return meter_.Steps((0 + ... + (values.weight() / kWeightPerStep)));
  }
  Status ChargeArguments(const Arguments& arguments) {
    for (const Value& value : arguments.positional) BANTAM_TRY(Charge(value));
    for (const auto& [name, value] : arguments.named) BANTAM_TRY(Charge(value));
    return Ok();
  }

  Result<Value> EvaluateNode(const Node& node, const ScopePtr& scope) {
    switch (node.kind) {
      case NodeKind::kLiteral:
        return node.value;
      case NodeKind::kName: {
        const Value* value = scope->Find(node.text);
        return value == nullptr ? Value(Undefined{node.text}) : *value;
      }
      case NodeKind::kList:
      case NodeKind::kTuple: {
        List list;
        for (const auto& child : node.children) {
          BANTAM_ASSIGN(Value item, Evaluate(*child, scope));
          list.push_back(std::move(item));
        }
        return Value(std::move(list), node.kind == NodeKind::kTuple);
      }
      case NodeKind::kDict: {
        Dict dict;
        for (size_t i = 0; i + 1 < node.children.size(); i += 2) {
          BANTAM_ASSIGN(const Value key, Evaluate(*node.children[i], scope));
          BANTAM_ASSIGN(Value value, Evaluate(*node.children[i + 1], scope));
          dict.Set(key, std::move(value));
        }
        return Value(std::move(dict));
      }
      case NodeKind::kAttribute: {
        BANTAM_ASSIGN(const Value object, Evaluate(*node.children[0], scope));
        return GetAttribute(environment_, object, node.text);
      }
      case NodeKind::kItem: {
        BANTAM_ASSIGN(const Value object, Evaluate(*node.children[0], scope));
        BANTAM_ASSIGN(const Value index, Evaluate(*node.children[1], scope));
        return GetItem(environment_, object, index);
      }
      case NodeKind::kSlice:
        return EvaluateSlice(node, scope);
      case NodeKind::kCall:
        return EvaluateCall(node, scope, /*caller=*/nullptr);
      case NodeKind::kFilter:
      case NodeKind::kTest:
        return EvaluateFilterOrTest(node, scope);
      case NodeKind::kUnary:
        return EvaluateUnary(node, scope);
      case NodeKind::kBinary:
        return EvaluateBinary(node, scope);
      case NodeKind::kCompare:
        return EvaluateCompare(node, scope);
      case NodeKind::kConditional: {
        BANTAM_ASSIGN(const Value condition, Evaluate(*node.children[1], scope));
        if (condition.Truthy()) return Evaluate(*node.children[0], scope);
        if (node.children[2] == nullptr) return Value();
        return Evaluate(*node.children[2], scope);
      }
      case NodeKind::kPlaceholder:
        return placeholders_.back();
      default:
        break;
    }
    return Error(Code::kInternal, "a statement where an expression was expected");
  }

  Result<Value> EvaluateSlice(const Node& node, const ScopePtr& scope) {
    BANTAM_ASSIGN(const Value object, Evaluate(*node.children[0], scope));
    Value bounds[3] = {Value(None{}), Value(None{}), Value(None{})};
    for (size_t i = 0; i < 3; ++i) {
      if (node.children[i + 1] == nullptr) continue;
      BANTAM_ASSIGN(bounds[i], Evaluate(*node.children[i + 1], scope));
    }
    return GetSlice(environment_, object, bounds);
  }

  Result<Arguments> EvaluateArguments(const Node& node, const ScopePtr& scope) {
    Arguments arguments;
    for (size_t i = 1; i < node.children.size(); ++i) {
      const Node& child = *node.children[i];
      const bool wrapped =
          child.kind == NodeKind::kNamedArgument || child.kind == NodeKind::kSpreadList || child.kind == NodeKind::kSpreadDict;
      BANTAM_ASSIGN(Value value, Evaluate(wrapped ? *child.children[0] : child, scope));
      if (child.kind == NodeKind::kNamedArgument) {
        arguments.named.emplace_back(child.text, std::move(value));
      } else if (child.kind == NodeKind::kSpreadList) {
        BANTAM_ASSIGN(const List items, Elements(environment_, value));
        arguments.positional.insert(arguments.positional.end(), items.begin(), items.end());
      } else if (child.kind == NodeKind::kSpreadDict) {
        if (value.dict() == nullptr) return Error(Code::kInvalidArgument, fmt::format("** of a {}", value.TypeName()));
        for (const auto& [key, item] : value.dict()->items()) arguments.named.emplace_back(ToText(key).bytes(), item);
      } else {
        arguments.positional.push_back(std::move(value));
      }
    }
    return arguments;
  }

  Result<Value> EvaluateCall(const Node& node, const ScopePtr& scope, const Value* caller) {
    BANTAM_ASSIGN(const Value function, Evaluate(*node.children[0], scope));
    BANTAM_ASSIGN(Arguments arguments, EvaluateArguments(node, scope));
    if (caller != nullptr) arguments.named.emplace_back("caller", *caller);
    const Callable* callable = function.callable();
    // The loop variable of a recursive loop is called too.
    BANTAM_TRY(ChargeArguments(arguments));
    if (callable == nullptr && function.dict() != nullptr && function.dict()->Find("__call__") != nullptr) {
      callable = function.dict()->Find("__call__")->callable();
    }
    if (callable == nullptr) {
      const std::string what = function.is_undefined() ? fmt::format("{} is undefined", function.undefined_name())
                                                       : fmt::format("a {} is no function", function.TypeName());
      return Error(Code::kInvalidArgument, fmt::format("template line {}: {} and cannot be called", node.line, what));
    }
    Result<Value> value = callable->call(arguments);
    if (!value.ok()) return AtLine(node, std::move(value).error());
    return value;
  }

  Result<Value> EvaluateFilterOrTest(const Node& node, const ScopePtr& scope) {
    BANTAM_ASSIGN(const Value input, Evaluate(*node.children[0], scope));
    BANTAM_ASSIGN(const Arguments arguments, EvaluateArguments(node, scope));
    BANTAM_TRY(Charge(input));
    BANTAM_TRY(ChargeArguments(arguments));
    if (node.kind == NodeKind::kFilter) return CallFilter(environment_, node.text, input, arguments);
    BANTAM_ASSIGN(const bool result, CallTest(environment_, node.text, input, arguments));
    return Value(result);
  }

  Result<Value> EvaluateUnary(const Node& node, const ScopePtr& scope) {
    BANTAM_ASSIGN(const Value operand, Evaluate(*node.children[0], scope));
    if (node.text == "not") return Value(!operand.Truthy());
    int64_t integer = 0;
    if (operand.Integer(&integer)) {
      if (node.text == "+") return Value(integer);
      int64_t negative = 0;
      if (__builtin_sub_overflow(int64_t{0}, integer, &negative)) return Error(Code::kInvalidArgument, "a number beyond 64 bits");
      return Value(negative);
    }
    if (operand.as_float() == nullptr) return Error(Code::kInvalidArgument, fmt::format("{} of a {}", node.text, operand.TypeName()));
    return Value(node.text == "-" ? -*operand.as_float() : *operand.as_float());
  }

  Result<Value> EvaluateBinary(const Node& node, const ScopePtr& scope) {
    BANTAM_ASSIGN(Value left, Evaluate(*node.children[0], scope));
    if (node.text == "and") return left.Truthy() ? Evaluate(*node.children[1], scope) : Result<Value>(std::move(left));
    if (node.text == "or") return left.Truthy() ? Result<Value>(std::move(left)) : Evaluate(*node.children[1], scope);
    BANTAM_ASSIGN(const Value right, Evaluate(*node.children[1], scope));
    BANTAM_TRY(Charge(left, right));
    if (node.text == "~") return Concatenated(ToText(left), ToText(right));
    return Arithmetic(node.text, left, right);
  }

  Result<Value> Concatenated(Text left, const Text& right) {
    BANTAM_TRY(meter_.Bytes(left.bytes().size() + right.bytes().size()));
    left.Append(right);
    return Value(std::move(left));
  }

  Result<Value> Arithmetic(const std::string& op, const Value& left, const Value& right) {
    if (op == "+" && left.text() != nullptr && right.text() != nullptr) {
      if (!left.is_markup() && !right.is_markup()) return Concatenated(*left.text(), *right.text());
      Text parts[2] = {*left.text(), *right.text()};
      if (!left.is_markup()) {
        BANTAM_ASSIGN(parts[0], EscapeHtml(environment_, parts[0]));
      }
      if (!right.is_markup()) {
        BANTAM_ASSIGN(parts[1], EscapeHtml(environment_, parts[1]));
      }
      parts[0].Append(parts[1]);
      return Value::Markup(std::move(parts[0]));
    }
    if (op == "+" && left.list() != nullptr && right.list() != nullptr && left.is_tuple() == right.is_tuple()) {
      BANTAM_TRY(meter_.Steps(left.list()->size() + right.list()->size()));
      List list = *left.list();
      list.insert(list.end(), right.list()->begin(), right.list()->end());
      return Value(std::move(list), left.is_tuple());
    }
    if (op == "*") {
      int64_t times = 0;
      if (left.Integer(&times) && (right.text() != nullptr || right.list() != nullptr)) return Repeated(right, times);
      if (right.Integer(&times) && (left.text() != nullptr || left.list() != nullptr)) return Repeated(left, times);
    }
    if (op == "%" && left.text() != nullptr) return CallFilter(environment_, "format", left, {{right}, {}});
    int64_t a = 0;
    int64_t b = 0;
    if (left.Integer(&a) && right.Integer(&b) && op != "/") return IntegerArithmetic(op, a, b);
    double x = 0;
    double y = 0;
    if (!left.Number(&x) || !right.Number(&y)) {
      const Value& odd = left.is_undefined() ? left : right;
      if (odd.is_undefined())
        return Error(Code::kInvalidArgument, fmt::format("{} is undefined and cannot be used with {}", odd.undefined_name(), op));
      return Error(Code::kInvalidArgument, fmt::format("a {} {} a {}", left.TypeName(), op, right.TypeName()));
    }
    if ((op == "/" || op == "//" || op == "%") && y == 0) return Error(Code::kInvalidArgument, "division by zero");
    if (op == "+") return Value(x + y);
    if (op == "-") return Value(x - y);
    if (op == "*") return Value(x * y);
    if (op == "/") return Value(x / y);
    if (op == "//") return Value(std::floor(x / y));
    if (op == "%") return Value(x - y * std::floor(x / y));
    return Value(std::pow(x, y));
  }

  Result<Value> Repeated(const Value& value, int64_t times) {
    const auto n = static_cast<uint64_t>(std::max<int64_t>(times, 0));
    const uint64_t each = value.text() != nullptr ? value.text()->bytes().size() : value.list()->size();
    uint64_t total = 0;
    if (__builtin_mul_overflow(n, std::max<uint64_t>(each, 1), &total)) total = UINT64_MAX;
    BANTAM_TRY(value.text() != nullptr ? meter_.Bytes(total) : meter_.Steps(total));
    Text text;
    List list;
    for (uint64_t i = 0; i < n && each > 0; ++i) {
      if (value.text() != nullptr) {
        text.Append(*value.text());
      } else {
        list.insert(list.end(), value.list()->begin(), value.list()->end());
      }
    }
    return value.text() != nullptr ? Value(std::move(text)) : Value(std::move(list), value.is_tuple());
  }

  static Result<Value> IntegerArithmetic(const std::string& op, int64_t a, int64_t b) {
    int64_t result = 0;
    bool overflow = false;
    if (op == "+") {
      overflow = __builtin_add_overflow(a, b, &result);
    } else if (op == "-") {
      overflow = __builtin_sub_overflow(a, b, &result);
    } else if (op == "*") {
      overflow = __builtin_mul_overflow(a, b, &result);
    } else if (op == "**") {
      if (b < 0) return Value(std::pow(static_cast<double>(a), static_cast<double>(b)));
      result = 1;
      // More than 63 doublings pass 64 bits; 0, 1 and -1 need no more than the last bit.
      const int64_t times = a == 0 || a == 1 || a == -1 ? (b == 0 ? 0 : 2 - b % 2) : b;
      for (int64_t i = 0; i < times && !overflow; ++i) overflow = __builtin_mul_overflow(result, a, &result);
    } else {
      if (b == 0) return Error(Code::kInvalidArgument, "division by zero");
      if (b == -1) {  // the smallest number has no negative
        if (op == "%") return Value(int64_t{0});
        overflow = __builtin_sub_overflow(int64_t{0}, a, &result);
      } else {
        // Python rounds down, C towards zero.
        const int64_t quotient = a / b - ((a % b != 0 && (a < 0) != (b < 0)) ? 1 : 0);
        result = op == "//" ? quotient : a - quotient * b;
      }
    }
    if (overflow) return Error(Code::kInvalidArgument, "a number beyond 64 bits");
    return Value(result);
  }

  Result<Value> EvaluateCompare(const Node& node, const ScopePtr& scope) {
    BANTAM_ASSIGN(Value left, Evaluate(*node.children[0], scope));
    for (size_t i = 0; i < node.names.size(); ++i) {
      const std::string& op = node.names[i];
      BANTAM_ASSIGN(Value right, Evaluate(*node.children[i + 1], scope));
      bool holds = false;
      BANTAM_TRY(Charge(left, right));
      if (op == "==" || op == "!=") {
        holds = Equal(left, right) == (op == "==");
      } else if (op == "in" || op == "not in") {
        BANTAM_ASSIGN(const bool inside, Contains(environment_, right, left));
        holds = inside == (op == "in");
      } else {
        BANTAM_ASSIGN(const int order, Compare(left, right));
        holds = op == "<" ? order < 0 : op == "<=" ? order <= 0 : op == ">" ? order > 0 : order >= 0;
      }
      if (!holds) return Value(false);
      left = std::move(right);
    }
    return Value(true);
  }

  static constexpr size_t kValueDepthMax = 100;
  static constexpr uint64_t kWeightMax = uint64_t{32} << 20;
  static constexpr uint64_t kWeightPerStep = 64;
  static constexpr uint64_t kStepsPerTurn = 20;  // a turn of a loop makes its scope and its loop variable

  Meter meter_;
  Environment environment_;
  size_t depth_ = 0;
  std::vector<Value> placeholders_;
  std::vector<ScopePtr> kept_;  // that macros were made in; macros and loops hold no scope themselves, or both would live for ever
};

}  // namespace

Result<Template> Template::Parse(std::string_view source) {
  BANTAM_ASSIGN(std::unique_ptr<Node> body, ParseTemplate(source));
  return Template(std::move(body));
}

Result<Text> Template::Render(const Dict& context, const RenderOptions& options) const {
  Result<Text> text = Interpreter(options).Run(*body_, context);
  // What a template does wrong is the fault of a file, not of the caller.
  if (!text.ok() && text.error().code() == Code::kInvalidArgument) return Error(Code::kCorrupt, text.error().message());
  return text;
}

}  // namespace bantam::jinja
