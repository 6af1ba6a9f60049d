// From a template's text to a tree.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/jinja_value.h"

namespace bantam::jinja {

// Nesting of blocks and expressions together; a tree is walked by recursion.
inline constexpr size_t kParseDepthMax = 200;
inline constexpr size_t kSourceBytesMax = size_t{1} << 20;

enum class NodeKind : uint8_t {
  // Expressions. Children in order; `text` is a name.
  kLiteral,      // value
  kName,         // text
  kList,         // items
  kTuple,        // items
  kDict,         // key, value, key, value, ...
  kAttribute,    // object; text
  kItem,         // object, index
  kSlice,        // object, begin, end, step: null children where left out
  kCall,         // function, arguments (see Argument)
  kFilter,       // input, arguments; text
  kTest,         // input, arguments; text
  kUnary,        // operand; text: "-", "+", "not"
  kBinary,       // left, right; text: the operator, "and" and "or" included
  kCompare,      // operands; names: the operators between them
  kConditional,  // value, condition, otherwise (may be null)
  // Arguments of calls, filters and tests.
  kNamedArgument,  // value; text
  kSpreadList,     // *value
  kSpreadDict,     // **value
  // Statements.
  kBody,         // statements
  kData,         // value: text between tags
  kOutput,       // expression
  kIf,           // condition, body, condition, body, ..., and a last body for else
  kFor,          // target, iterable, condition (may be null), body, else body (may be null); flag: recursive
  kSet,          // target, value
  kSetBlock,     // target, body, filter chain (may be null)
  kMacro,        // body, then defaults of the last parameters; text; names: parameters
  kCallBlock,    // call, body; names: parameters of the caller
  kFilterBlock,  // filter chain, body
  kWith,         // target, value, ..., body
  kBreak,
  kContinue,
  kPlaceholder,  // what a filter chain is applied to
};

struct Node {
  Node() = default;
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;
  ~Node();  // without recursion: trees can be deeper than the stack

  NodeKind kind = NodeKind::kBody;
  int line = 0;
  std::string text;
  std::vector<std::string> names;
  Value value;
  bool flag = false;
  std::vector<std::unique_ptr<Node>> children;

  const Node* Child(size_t i) const { return i < children.size() ? children[i].get() : nullptr; }
};

// With the settings of model hubs: trim_blocks, lstrip_blocks, loop controls. Errors: Corrupt (not a template), Unsupported (a
// construct that this build does not know), Exhausted (too long or too deep); they name the line.
Result<std::unique_ptr<Node>> ParseTemplate(std::string_view source);

}  // namespace bantam::jinja
