// Filters that rewrite a text.
#pragma once

#include "base/result.h"
#include "text/jinja_builtins.h"
#include "text/jinja_value.h"

namespace bantam::jinja {

Result<Value> FilterTitle(Environment& environment, const Value& input, const Arguments& arguments);
Result<Value> FilterWordWrap(Environment& environment, const Value& input, const Arguments& arguments);
Result<Value> FilterStripTags(Environment& environment, const Value& input, const Arguments& arguments);
Result<Value> FilterFileSize(Environment& environment, const Value& input, const Arguments& arguments);

}  // namespace bantam::jinja
