// Grammars of plain text: GBNF, the grammar language of llama.cpp, and regular expressions.
#pragma once

#include <memory>
#include <string_view>

#include "base/result.h"
#include "text/structured/grammar.h"

namespace bantam {

// Texts of the rule `root`. InvalidArgument, with the line, for what is no GBNF, rules that are missing and rules that begin with
// themselves; Unsupported for tokens by name or number; Exhausted past a limit.
Result<std::shared_ptr<const Grammar>> CompileGbnf(std::string_view text, const GrammarLimits& limits = {});

// Texts that are the expression, from beginning to end. Errors as of ParsePattern.
Result<std::shared_ptr<const Grammar>> CompileRegex(std::string_view pattern, const GrammarLimits& limits = {});

}  // namespace bantam
