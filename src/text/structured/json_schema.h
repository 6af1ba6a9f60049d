// JSON Schema (drafts 4 to 2020-12) to a Grammar. What is guaranteed and what is refused: docs/structured-output.md.
#pragma once

#include <memory>
#include <string_view>

#include "base/result.h"
#include "text/structured/grammar.h"

namespace bantam {

enum class JsonSpacing : uint8_t {
  kCompact,  // none
  kOptional  // at most one space behind each comma and colon
};

struct JsonSchemaOptions {
  GrammarLimits limits = {};
  JsonSpacing spacing = JsonSpacing::kOptional;
};

// Every text of the grammar is JSON that satisfies the schema. Unsupported, naming the place and the keyword, where that cannot be
// guaranteed; InvalidArgument for what is no schema and for schemas that nothing satisfies; Exhausted past a limit.
Result<std::shared_ptr<const Grammar>> CompileJsonSchema(std::string_view schema, const JsonSchemaOptions& options = {});

// Any JSON value; any JSON object.
Result<std::shared_ptr<const Grammar>> CompileAnyJson(const JsonSchemaOptions& options = {});
Result<std::shared_ptr<const Grammar>> CompileAnyJsonObject(const JsonSchemaOptions& options = {});

}  // namespace bantam
