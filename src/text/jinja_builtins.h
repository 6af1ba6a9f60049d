// Filters, tests, methods and functions of templates.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"
#include "text/jinja.h"
#include "text/jinja_value.h"

namespace bantam::jinja {

// What a render has left, counted by everything that makes or walks something.
class Meter {
 public:
  explicit Meter(const RenderLimits& limits) : limits_(limits), begin_ns_(MonotonicClock().NowNs()) {}
  Status Steps(uint64_t n);
  Status Bytes(uint64_t n);
  // A search for `size` bytes among n may compare each with each.
  Status Search(uint64_t n, uint64_t size) { return Steps(n * (size + 16) / 4096); }
  const RenderLimits& limits() const { return limits_; }

 private:
  const RenderLimits& limits_;
  Status Time();

  int64_t begin_ns_;
  uint64_t steps_ = 0;
  uint64_t clock_steps_ = 0;  // at which the clock is looked at next
  uint64_t bytes_ = 0;
};

// What built-ins need of the interpreter.
struct Environment {
  Meter& meter;
  const RenderOptions& options;
};

// "WHAT of a TYPE", or of a name that is undefined.
Error Wrong(std::string_view what, const Value& value);

// The elements that a loop over the value visits: of a list, the keys of a dict, the characters of a string; none of undefined.
Result<List> Elements(Environment& environment, const Value& value);

// object.name and object[index] as Python and Jinja resolve them; undefined when there is none.
Result<Value> GetAttribute(Environment& environment, const Value& object, std::string_view name);
Result<Value> GetItem(Environment& environment, const Value& object, const Value& index);
Result<Value> GetSlice(Environment& environment, const Value& object, const Value (&bounds)[3]);

Result<Value> CallFilter(Environment& environment, std::string_view name, const Value& input, const Arguments& arguments);
Result<bool> CallTest(Environment& environment, std::string_view name, const Value& input, const Arguments& arguments);
Result<bool> Contains(Environment& environment, const Value& container, const Value& item);

// & < > " and ' as HTML entities.
Result<Text> EscapeHtml(Environment& environment, const Text& text);

// range, namespace, dict, raise_exception, strftime_now, joiner, cycler. `environment` outlives them.
void AddGlobals(Environment& environment, Dict* globals);

}  // namespace bantam::jinja
