#include "text/jinja_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <utility>

#include "text/jinja_lexer.h"

namespace bantam::jinja {
namespace {

using NodePtr = std::unique_ptr<Node>;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Result<NodePtr> Run() {
    BANTAM_ASSIGN(NodePtr body, Body({}));
    if (Peek().kind != TokenKind::kEnd) return Unexpected("a block");
    return body;
  }

 private:
  // Every production that can contain itself goes through here.
  class Nested {
   public:
    explicit Nested(size_t* depth) : depth_(depth) { ++*depth_; }
    ~Nested() { --*depth_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;

   private:
    size_t* depth_;
  };
  Status CheckDepth() const { return CheckLinks(0); }
  // A chain of operators without parentheses is as deep in the tree as it is long.
  Status CheckLinks(size_t links) const {
    if (depth_ + links <= kParseDepthMax) return Ok();
    return Error(Code::kExhausted, fmt::format("template line {}: nested deeper than {}; simplify it", Peek().line, kParseDepthMax));
  }

  const Token& Peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  Token Next() { return tokens_[at_ < tokens_.size() - 1 ? at_++ : at_]; }
  bool IsOperator(std::string_view op, size_t ahead = 0) const {
    return Peek(ahead).kind == TokenKind::kOperator && Peek(ahead).text == op;
  }
  bool IsName(std::string_view name, size_t ahead = 0) const { return Peek(ahead).kind == TokenKind::kName && Peek(ahead).text == name; }
  bool TakeOperator(std::string_view op) {
    if (!IsOperator(op)) return false;
    Next();
    return true;
  }
  bool TakeName(std::string_view name) {
    if (!IsName(name)) return false;
    Next();
    return true;
  }

  Error Unexpected(std::string_view wanted) const {
    const Token& token = Peek();
    std::string what = fmt::format("{:?}", token.text);
    if (token.kind == TokenKind::kEnd) what = "the end of the template";
    if (token.kind == TokenKind::kBlockEnd) what = "%}";
    if (token.kind == TokenKind::kVariableEnd) what = "}}";
    if (token.kind == TokenKind::kData) what = "text";
    return Error(Code::kCorrupt, fmt::format("template line {}: {} where {} was expected", token.line, what, wanted));
  }
  Status Expect(std::string_view op) {
    if (TakeOperator(op)) return Ok();
    return Unexpected(fmt::format("{:?}", op));
  }
  Status ExpectBlockEnd() {
    if (Peek().kind != TokenKind::kBlockEnd) return Unexpected("the block's end %}");
    Next();
    return Ok();
  }
  Result<std::string> ExpectName() {
    if (Peek().kind != TokenKind::kName) return Unexpected("a name");
    return Next().text;
  }

  NodePtr Make(NodeKind kind, std::string text = "") const {
    auto node = std::make_unique<Node>();
    node->kind = kind;
    node->line = Peek().line;
    node->text = std::move(text);
    return node;
  }
  static NodePtr With(NodePtr node, NodePtr first, NodePtr second = nullptr) {
    node->line = first->line;
    node->children.push_back(std::move(first));
    if (second != nullptr) node->children.push_back(std::move(second));
    return node;
  }

  // ---- Statements ----

  bool AtBlock(std::initializer_list<std::string_view> names) const {
    if (Peek().kind != TokenKind::kBlockBegin || Peek(1).kind != TokenKind::kName) return false;
    return std::find(names.begin(), names.end(), Peek(1).text) != names.end();
  }

  // Statements up to one of the blocks named, which is left, or the end.
  Result<NodePtr> Body(std::initializer_list<std::string_view> ends) {
    const Nested nested(&depth_);
    BANTAM_TRY(CheckDepth());
    NodePtr body = Make(NodeKind::kBody);
    while (Peek().kind != TokenKind::kEnd && !AtBlock(ends)) {
      if (Peek().kind == TokenKind::kData) {
        NodePtr data = Make(NodeKind::kData);
        data->value = Value::Str(Next().text, /*trusted=*/true);
        body->children.push_back(std::move(data));
      } else if (Peek().kind == TokenKind::kVariableBegin) {
        Next();
        NodePtr output = Make(NodeKind::kOutput);
        BANTAM_ASSIGN(NodePtr expression, TupleOrExpression());
        output->children.push_back(std::move(expression));
        if (Peek().kind != TokenKind::kVariableEnd) return Unexpected("the expression's end }}");
        Next();
        body->children.push_back(std::move(output));
      } else {
        BANTAM_ASSIGN(NodePtr statement, Statement());
        if (statement != nullptr) body->children.push_back(std::move(statement));
      }
    }
    return body;
  }

  // The body up to `end`, and the end block itself.
  Result<NodePtr> BodyAndEnd(std::string_view end) {
    BANTAM_ASSIGN(NodePtr body, Body({end}));
    if (!AtBlock({end})) return Unexpected(fmt::format("{{% {} %}}", end));
    Next();
    Next();
    // The name of a macro may be repeated here.
    if (end == "endmacro" && Peek().kind == TokenKind::kName) Next();
    BANTAM_TRY(ExpectBlockEnd());
    return body;
  }

  Result<NodePtr> Statement() {
    Next();  // {%
    if (Peek().kind != TokenKind::kName) return Unexpected("the name of a block");
    const Token tag = Next();
    if (tag.text == "if") return If();
    if (tag.text == "for") return For();
    if (tag.text == "set") return Set();
    if (tag.text == "macro") return Macro();
    if (tag.text == "call") return CallBlock();
    if (tag.text == "filter") return FilterBlock();
    if (tag.text == "with") return WithBlock();
    if (tag.text == "generation" || tag.text == "autoescape") {
      while (tag.text == "autoescape" && Peek().kind != TokenKind::kBlockEnd && Peek().kind != TokenKind::kEnd) Next();
      BANTAM_TRY(ExpectBlockEnd());
      return BodyAndEnd("end" + tag.text);
    }
    if (tag.text == "break" || tag.text == "continue") {
      NodePtr node = Make(tag.text == "break" ? NodeKind::kBreak : NodeKind::kContinue);
      BANTAM_TRY(ExpectBlockEnd());
      return node;
    }
    for (const std::string_view known : {"include", "import", "from", "extends", "block", "trans", "do", "debug"}) {
      if (tag.text != known) continue;
      return Error(Code::kUnsupported,
                   fmt::format("template line {}: {{% {} %}} is not supported; a chat template stands alone", tag.line, tag.text));
    }
    --at_;
    return Unexpected("a known block");
  }

  Result<NodePtr> If() {
    NodePtr node = Make(NodeKind::kIf);
    while (true) {
      BANTAM_ASSIGN(NodePtr condition, TupleOrExpression());
      BANTAM_TRY(ExpectBlockEnd());
      BANTAM_ASSIGN(NodePtr body, Body({"elif", "else", "endif"}));
      node->children.push_back(std::move(condition));
      node->children.push_back(std::move(body));
      if (!AtBlock({"elif", "else", "endif"})) return Unexpected("{% endif %}");
      Next();
      const std::string tag = Next().text;
      if (tag == "elif") continue;
      BANTAM_TRY(ExpectBlockEnd());
      if (tag == "else") {
        BANTAM_ASSIGN(NodePtr otherwise, BodyAndEnd("endif"));
        node->children.push_back(std::move(otherwise));
      }
      return node;
    }
  }

  // A name, a namespace's attribute, or several of them.
  Result<NodePtr> Target() {
    NodePtr tuple = Make(NodeKind::kTuple);
    bool several = false;
    do {
      if (several && Peek().kind != TokenKind::kName && !IsOperator("(")) break;
      if (TakeOperator("(")) {
        const Nested nested(&depth_);
        BANTAM_TRY(CheckDepth());
        BANTAM_ASSIGN(NodePtr inner, Target());
        BANTAM_TRY(Expect(")"));
        tuple->children.push_back(std::move(inner));
      } else {
        NodePtr name = Make(NodeKind::kName);
        BANTAM_ASSIGN(name->text, ExpectName());
        if (TakeOperator(".")) {
          NodePtr attribute = Make(NodeKind::kAttribute);
          BANTAM_ASSIGN(attribute->text, ExpectName());
          name = With(std::move(attribute), std::move(name));
        }
        tuple->children.push_back(std::move(name));
      }
      several = IsOperator(",");
    } while (TakeOperator(","));
    if (tuple->children.size() == 1 && !several) return std::move(tuple->children[0]);
    return tuple;
  }

  Result<NodePtr> For() {
    NodePtr node = Make(NodeKind::kFor);
    BANTAM_ASSIGN(NodePtr target, Target());
    if (!TakeName("in")) return Unexpected("in");
    // A condition behind the iterable is the loop's, not that of an expression.
    BANTAM_ASSIGN(NodePtr iterable, Tuple(/*conditional=*/false));
    NodePtr condition;
    if (TakeName("if")) {
      BANTAM_ASSIGN(condition, Expression());
    }
    node->flag = TakeName("recursive");
    BANTAM_TRY(ExpectBlockEnd());
    BANTAM_ASSIGN(NodePtr body, Body({"else", "endfor"}));
    NodePtr otherwise;
    if (AtBlock({"else"})) {
      Next();
      Next();
      BANTAM_TRY(ExpectBlockEnd());
      BANTAM_ASSIGN(otherwise, Body({"endfor"}));
    }
    if (!AtBlock({"endfor"})) return Unexpected("{% endfor %}");
    Next();
    Next();
    BANTAM_TRY(ExpectBlockEnd());
    node->children.push_back(std::move(target));
    node->children.push_back(std::move(iterable));
    node->children.push_back(std::move(condition));
    node->children.push_back(std::move(body));
    node->children.push_back(std::move(otherwise));
    return node;
  }

  Result<NodePtr> Set() {
    BANTAM_ASSIGN(NodePtr target, Target());
    if (TakeOperator("=")) {
      BANTAM_ASSIGN(NodePtr value, TupleOrExpression());
      BANTAM_TRY(ExpectBlockEnd());
      return With(Make(NodeKind::kSet), std::move(target), std::move(value));
    }
    NodePtr chain;
    if (IsOperator("|")) {
      BANTAM_ASSIGN(chain, Filters(Make(NodeKind::kPlaceholder)));
    }
    BANTAM_TRY(ExpectBlockEnd());
    BANTAM_ASSIGN(NodePtr body, BodyAndEnd("endset"));
    NodePtr node = With(Make(NodeKind::kSetBlock), std::move(target), std::move(body));
    node->children.push_back(std::move(chain));
    return node;
  }

  // (a, b=1): names, and defaults of the last ones.
  Status Parameters(Node* node) {
    BANTAM_TRY(Expect("("));
    while (!IsOperator(")")) {
      BANTAM_ASSIGN(std::string name, ExpectName());
      node->names.push_back(std::move(name));
      if (TakeOperator("=")) {
        BANTAM_ASSIGN(NodePtr standard, Expression());
        node->children.push_back(std::move(standard));
      } else if (node->children.size() > 1) {
        return Unexpected("a default, as the parameter before has one");
      }
      if (!TakeOperator(",")) break;
    }
    return Expect(")");
  }

  Result<NodePtr> Macro() {
    NodePtr node = Make(NodeKind::kMacro);
    BANTAM_ASSIGN(node->text, ExpectName());
    node->children.push_back(nullptr);
    BANTAM_TRY(Parameters(node.get()));
    BANTAM_TRY(ExpectBlockEnd());
    BANTAM_ASSIGN(node->children[0], BodyAndEnd("endmacro"));
    return node;
  }

  Result<NodePtr> CallBlock() {
    NodePtr node = Make(NodeKind::kCallBlock);
    NodePtr caller = Make(NodeKind::kMacro, "caller");
    caller->children.push_back(nullptr);
    if (IsOperator("(")) BANTAM_TRY(Parameters(caller.get()));
    BANTAM_ASSIGN(NodePtr call, Expression());
    if (call->kind != NodeKind::kCall) return Unexpected("a call");
    BANTAM_TRY(ExpectBlockEnd());
    BANTAM_ASSIGN(caller->children[0], BodyAndEnd("endcall"));
    node->children.push_back(std::move(call));
    node->children.push_back(std::move(caller));
    return node;
  }

  Result<NodePtr> FilterBlock() {
    NodePtr filter = Make(NodeKind::kFilter);
    BANTAM_ASSIGN(filter->text, ExpectName());
    filter->children.push_back(Make(NodeKind::kPlaceholder));
    if (IsOperator("(")) BANTAM_TRY(CallArguments(filter.get()));
    BANTAM_ASSIGN(NodePtr chain, Filters(std::move(filter)));
    BANTAM_TRY(ExpectBlockEnd());
    BANTAM_ASSIGN(NodePtr body, BodyAndEnd("endfilter"));
    return With(Make(NodeKind::kFilterBlock), std::move(chain), std::move(body));
  }

  Result<NodePtr> WithBlock() {
    NodePtr node = Make(NodeKind::kWith);
    while (Peek().kind != TokenKind::kBlockEnd) {
      BANTAM_ASSIGN(NodePtr target, Target());
      BANTAM_TRY(Expect("="));
      BANTAM_ASSIGN(NodePtr value, Expression());
      node->children.push_back(std::move(target));
      node->children.push_back(std::move(value));
      if (!TakeOperator(",")) break;
    }
    BANTAM_TRY(ExpectBlockEnd());
    BANTAM_ASSIGN(NodePtr body, BodyAndEnd("endwith"));
    node->children.push_back(std::move(body));
    return node;
  }

  // ---- Expressions, loosest binding first ----

  Result<NodePtr> TupleOrExpression() { return Tuple(/*conditional=*/true); }

  bool AtTupleEnd() const {
    const TokenKind kind = Peek().kind;
    return kind == TokenKind::kBlockEnd || kind == TokenKind::kVariableEnd || kind == TokenKind::kEnd || IsOperator(")");
  }

  // One expression, or several with commas between them.
  Result<NodePtr> Tuple(bool conditional) {
    NodePtr tuple = Make(NodeKind::kTuple);
    bool comma = false;
    while (true) {
      if (comma && (AtTupleEnd() || (!conditional && (IsName("if") || IsName("recursive"))))) break;
      BANTAM_ASSIGN(NodePtr item, conditional ? Expression() : Or());
      tuple->children.push_back(std::move(item));
      if (!TakeOperator(",")) break;
      comma = true;
    }
    if (!comma) return std::move(tuple->children[0]);
    return tuple;
  }

  Result<NodePtr> Expression() {
    const Nested nested(&depth_);
    BANTAM_TRY(CheckDepth());
    BANTAM_ASSIGN(NodePtr value, Or());
    for (size_t links = 1; IsName("if"); ++links) {
      BANTAM_TRY(CheckLinks(links));
      NodePtr node = Make(NodeKind::kConditional);
      Next();
      BANTAM_ASSIGN(NodePtr condition, Or());
      NodePtr otherwise;
      if (TakeName("else")) {
        BANTAM_ASSIGN(otherwise, Expression());
      }
      node->children.push_back(std::move(value));
      node->children.push_back(std::move(condition));
      node->children.push_back(std::move(otherwise));
      value = std::move(node);
    }
    return value;
  }

  // Operands with the same word between them, from the left.
  Result<NodePtr> Joined(std::string_view word, Result<NodePtr> (Parser::*operand)()) {
    BANTAM_ASSIGN(NodePtr left, (this->*operand)());
    for (size_t links = 1; IsName(word); ++links) {
      BANTAM_TRY(CheckLinks(links));
      NodePtr node = Make(NodeKind::kBinary, Next().text);
      BANTAM_ASSIGN(NodePtr right, (this->*operand)());
      left = With(std::move(node), std::move(left), std::move(right));
    }
    return left;
  }

  Result<NodePtr> Or() { return Joined("or", &Parser::And); }
  Result<NodePtr> And() { return Joined("and", &Parser::Not); }

  Result<NodePtr> Not() {
    if (!IsName("not")) return Comparison();
    const Nested nested(&depth_);
    BANTAM_TRY(CheckDepth());
    NodePtr node = Make(NodeKind::kUnary, Next().text);
    BANTAM_ASSIGN(NodePtr operand, Not());
    return With(std::move(node), std::move(operand));
  }

  Result<NodePtr> Comparison() {
    BANTAM_ASSIGN(NodePtr left, Sum());
    NodePtr node;
    while (true) {
      std::string op;
      if (Peek().kind == TokenKind::kOperator &&
          (IsOperator("==") || IsOperator("!=") || IsOperator("<") || IsOperator("<=") || IsOperator(">") || IsOperator(">="))) {
        op = Next().text;
      } else if (TakeName("in")) {
        op = "in";
      } else if (IsName("not") && IsName("in", 1)) {
        Next();
        Next();
        op = "not in";
      } else {
        break;
      }
      if (node == nullptr) node = With(Make(NodeKind::kCompare), std::move(left));
      node->names.push_back(std::move(op));
      BANTAM_ASSIGN(NodePtr right, Sum());
      node->children.push_back(std::move(right));
    }
    return node == nullptr ? std::move(left) : std::move(node);
  }

  using Level = Result<NodePtr> (Parser::*)();
  Result<NodePtr> Chain(std::initializer_list<std::string_view> operators, Level next) {
    BANTAM_ASSIGN(NodePtr left, (this->*next)());
    size_t links = 0;
    while (Peek().kind == TokenKind::kOperator && std::find(operators.begin(), operators.end(), Peek().text) != operators.end()) {
      BANTAM_TRY(CheckLinks(++links));
      NodePtr node = Make(NodeKind::kBinary, Next().text);
      BANTAM_ASSIGN(NodePtr right, (this->*next)());
      left = With(std::move(node), std::move(left), std::move(right));
    }
    return left;
  }
  Result<NodePtr> Sum() { return Chain({"+", "-"}, &Parser::Concatenation); }
  Result<NodePtr> Concatenation() { return Chain({"~"}, &Parser::Product); }
  Result<NodePtr> Product() { return Chain({"*", "/", "//", "%"}, &Parser::Power); }
  Result<NodePtr> Power() { return Chain({"**"}, &Parser::Unary); }

  Result<NodePtr> Unary() { return UnaryOf(/*with_filters=*/true); }
  Result<NodePtr> UnaryOf(bool with_filters) {
    NodePtr value;
    if (IsOperator("-") || IsOperator("+")) {
      const Nested nested(&depth_);
      BANTAM_TRY(CheckDepth());
      NodePtr node = Make(NodeKind::kUnary, Next().text);
      BANTAM_ASSIGN(NodePtr operand, UnaryOf(/*with_filters=*/false));
      value = With(std::move(node), std::move(operand));
    } else {
      BANTAM_ASSIGN(value, Primary());
    }
    BANTAM_ASSIGN(value, Postfix(std::move(value)));
    return with_filters ? FiltersAndTests(std::move(value)) : Result<NodePtr>(std::move(value));
  }

  Result<NodePtr> Primary() {
    const Token& token = Peek();
    switch (token.kind) {
      case TokenKind::kName:
        return NameOrConstant();
      case TokenKind::kString: {
        NodePtr node = Make(NodeKind::kLiteral);
        std::string text;
        while (Peek().kind == TokenKind::kString) text += Next().text;  // neighbours are one string
        node->value = Value::Str(std::move(text), /*trusted=*/true);
        return node;
      }
      case TokenKind::kInteger:
      case TokenKind::kFloat:
        return NumberLiteral();
      case TokenKind::kOperator:
        if (token.text == "(") return Parenthesis();
        if (token.text == "[") return ListLiteral();
        if (token.text == "{") return DictLiteral();
        break;
      case TokenKind::kData:
      case TokenKind::kBlockBegin:
      case TokenKind::kBlockEnd:
      case TokenKind::kVariableBegin:
      case TokenKind::kVariableEnd:
      case TokenKind::kEnd:
        break;
    }
    return Unexpected("an expression");
  }

  Result<NodePtr> NameOrConstant() {
    NodePtr node = Make(NodeKind::kName, Peek().text);
    Next();
    const std::string& name = node->text;
    if (name == "true" || name == "True" || name == "false" || name == "False") {
      node->kind = NodeKind::kLiteral;
      node->value = Value(name == "true" || name == "True");
    } else if (name == "none" || name == "None") {
      node->kind = NodeKind::kLiteral;
      node->value = Value(None{});
    }
    return node;
  }

  Result<NodePtr> NumberLiteral() {
    NodePtr node = Make(NodeKind::kLiteral);
    const Token token = Next();
    const char* end = token.text.data() + token.text.size();
    if (token.kind == TokenKind::kInteger) {
      int64_t value = 0;
      if (std::from_chars(token.text.data(), end, value).ec != std::errc()) {
        return Error(Code::kUnsupported, fmt::format("template line {}: the number {} passes 64 bits", token.line, token.text));
      }
      node->value = Value(value);
    } else {
      double value = 0;
      std::from_chars(token.text.data(), end, value);
      node->value = Value(value);
    }
    return node;
  }

  Result<NodePtr> Parenthesis() {
    NodePtr empty = Make(NodeKind::kTuple);
    Next();
    if (TakeOperator(")")) return empty;
    BANTAM_ASSIGN(NodePtr inner, TupleOrExpression());
    BANTAM_TRY(Expect(")"));
    return inner;
  }

  Result<NodePtr> ListLiteral() {
    NodePtr node = Make(NodeKind::kList);
    Next();
    while (!IsOperator("]")) {
      BANTAM_ASSIGN(NodePtr item, Expression());
      node->children.push_back(std::move(item));
      if (!TakeOperator(",")) break;
    }
    BANTAM_TRY(Expect("]"));
    return node;
  }

  Result<NodePtr> DictLiteral() {
    NodePtr node = Make(NodeKind::kDict);
    Next();
    while (!IsOperator("}")) {
      BANTAM_ASSIGN(NodePtr key, Expression());
      BANTAM_TRY(Expect(":"));
      BANTAM_ASSIGN(NodePtr value, Expression());
      node->children.push_back(std::move(key));
      node->children.push_back(std::move(value));
      if (!TakeOperator(",")) break;
    }
    BANTAM_TRY(Expect("}"));
    return node;
  }

  // Attributes, items and calls. The chain is as deep in the tree as it is long.
  Result<NodePtr> Postfix(NodePtr value) {
    size_t links = 0;
    while (true) {
      BANTAM_TRY(CheckLinks(++links));
      if (TakeOperator(".")) {
        NodePtr node;
        if (Peek().kind == TokenKind::kInteger) {
          node = Make(NodeKind::kItem);
          BANTAM_ASSIGN(NodePtr index, NumberLiteral());
          value = With(std::move(node), std::move(value), std::move(index));
          continue;
        }
        node = Make(NodeKind::kAttribute);
        BANTAM_ASSIGN(node->text, ExpectName());
        value = With(std::move(node), std::move(value));
      } else if (IsOperator("[")) {
        BANTAM_ASSIGN(value, Subscript(std::move(value)));
      } else if (IsOperator("(")) {
        NodePtr node = With(Make(NodeKind::kCall), std::move(value));
        BANTAM_TRY(CallArguments(node.get()));
        value = std::move(node);
      } else {
        return value;
      }
    }
  }

  Result<NodePtr> Subscript(NodePtr value) {
    Next();  // [
    NodePtr parts[3];
    size_t colons = 0;
    while (!IsOperator("]")) {
      if (TakeOperator(":")) {
        if (++colons > 2) return Unexpected("]");
        continue;
      }
      if (parts[colons] != nullptr) return Unexpected("]");
      BANTAM_ASSIGN(parts[colons], Expression());
    }
    BANTAM_TRY(Expect("]"));
    if (colons == 0) {
      if (parts[0] == nullptr) return Unexpected("an index");
      return With(Make(NodeKind::kItem), std::move(value), std::move(parts[0]));
    }
    NodePtr node = With(Make(NodeKind::kSlice), std::move(value));
    for (NodePtr& part : parts) node->children.push_back(std::move(part));
    return node;
  }
  Status CallArguments(Node* node) {
    BANTAM_TRY(Expect("("));
    while (!IsOperator(")")) {
      if (IsOperator("*") || IsOperator("**")) {
        NodePtr spread = Make(IsOperator("*") ? NodeKind::kSpreadList : NodeKind::kSpreadDict);
        Next();
        BANTAM_ASSIGN(NodePtr value, Expression());
        node->children.push_back(With(std::move(spread), std::move(value)));
      } else if (Peek().kind == TokenKind::kName && IsOperator("=", 1)) {
        NodePtr named = Make(NodeKind::kNamedArgument, Peek().text);
        Next();
        Next();
        BANTAM_ASSIGN(NodePtr value, Expression());
        node->children.push_back(With(std::move(named), std::move(value)));
      } else {
        BANTAM_ASSIGN(NodePtr value, Expression());
        node->children.push_back(std::move(value));
      }
      if (!TakeOperator(",")) break;
    }
    return Expect(")");
  }

  Result<NodePtr> Filters(NodePtr value) {
    for (size_t links = 1; IsOperator("|"); ++links) {
      BANTAM_TRY(CheckLinks(links));
      BANTAM_ASSIGN(value, Filter(std::move(value)));
    }
    return value;
  }

  Result<NodePtr> Filter(NodePtr value) {
    Next();  // |
    NodePtr node = Make(NodeKind::kFilter);
    BANTAM_ASSIGN(node->text, ExpectName());
    while (TakeOperator(".")) {
      BANTAM_ASSIGN(const std::string part, ExpectName());
      node->text += "." + part;
    }
    const int line = node->line;
    node = With(std::move(node), std::move(value));
    node->line = line;
    if (IsOperator("(")) BANTAM_TRY(CallArguments(node.get()));
    return node;
  }

  Result<NodePtr> FiltersAndTests(NodePtr value) {
    size_t links = 0;
    while (true) {
      BANTAM_TRY(CheckLinks(++links));
      if (IsOperator("|")) {
        BANTAM_ASSIGN(value, Filter(std::move(value)));
      } else if (IsName("is")) {
        BANTAM_ASSIGN(value, Test(std::move(value)));
      } else if (IsOperator("(")) {
        // What a filter gave is called.
        NodePtr node = With(Make(NodeKind::kCall), std::move(value));
        BANTAM_TRY(CallArguments(node.get()));
        value = std::move(node);
      } else {
        return value;
      }
    }
  }

  // Whether an argument without parentheses follows: x is divisibleby 3.
  bool AtBareArgument() const {
    switch (Peek().kind) {
      case TokenKind::kString:
      case TokenKind::kInteger:
      case TokenKind::kFloat:
        return true;
      case TokenKind::kName:
        return !IsName("else") && !IsName("or") && !IsName("and") && !IsName("if") && !IsName("is") && !IsName("in") && !IsName("not");
      case TokenKind::kOperator:
        return IsOperator("[") || IsOperator("{");
      case TokenKind::kData:
      case TokenKind::kBlockBegin:
      case TokenKind::kBlockEnd:
      case TokenKind::kVariableBegin:
      case TokenKind::kVariableEnd:
      case TokenKind::kEnd:
        return false;
    }
    return false;
  }

  Result<NodePtr> Test(NodePtr value) {
    Next();  // is
    const bool negated = TakeName("not");
    NodePtr node = Make(NodeKind::kTest);
    BANTAM_ASSIGN(node->text, ExpectName());
    const int line = node->line;
    node = With(std::move(node), std::move(value));
    node->line = line;
    if (IsOperator("(")) {
      BANTAM_TRY(CallArguments(node.get()));
    } else if (AtBareArgument()) {
      BANTAM_ASSIGN(NodePtr argument, Primary());
      BANTAM_ASSIGN(argument, Postfix(std::move(argument)));
      node->children.push_back(std::move(argument));
    }
    if (!negated) return node;
    return With(Make(NodeKind::kUnary, "not"), std::move(node));
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  size_t depth_ = 0;
};

}  // namespace

Node::~Node() {
  std::vector<std::unique_ptr<Node>> doomed = std::move(children);
  while (!doomed.empty()) {
    const std::unique_ptr<Node> node = std::move(doomed.back());
    doomed.pop_back();
    if (node == nullptr) continue;
    for (auto& child : node->children) doomed.push_back(std::move(child));
    node->children.clear();
  }
}

Result<std::unique_ptr<Node>> ParseTemplate(std::string_view source) {
  if (source.size() > kSourceBytesMax) {
    return Error(Code::kExhausted, fmt::format("a template of {} bytes, expected at most {}", source.size(), kSourceBytesMax));
  }
  BANTAM_ASSIGN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace bantam::jinja
