// Python's two ways of formatting strings.
#pragma once

#include "base/result.h"
#include "text/jinja_builtins.h"
#include "text/jinja_value.h"

namespace bantam::jinja {

// "%s and %d" % values: printf's formats, with positional values or one dict of named ones.
Result<Value> PercentFormat(Environment& environment, const Text& text, const Arguments& arguments);

// "{} {0} {name.attribute[key]!r:>10.2f}".format(...).
Result<Value> BraceFormat(Environment& environment, const Text& text, const Arguments& arguments);

}  // namespace bantam::jinja
