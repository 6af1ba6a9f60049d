// Jinja templates, as chat models carry them: the language of Jinja 2 with the settings of model hubs (trim_blocks, lstrip_blocks, loop
// controls, tojson without HTML escapes, raise_exception, strftime_now, generation blocks). A template is foreign code: it reaches
// nothing but its context, and its steps, depth and output are limited.
#pragma once

#include <cstdint>
#include <ctime>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "text/jinja_parser.h"
#include "text/jinja_value.h"

namespace bantam::jinja {

struct RenderLimits {
  uint64_t steps = 5'000'000;           // nodes of the tree that are looked at, and elements of lists
  uint64_t bytes = uint64_t{64} << 20;  // of all strings made on the way
  size_t output_bytes = size_t{16} << 20;
  size_t depth = 400;        // of nodes within nodes, macro calls included
  int64_t time_ms = 10'000;  // from the start of rendering
};

struct RenderOptions {
  RenderLimits limits;
  std::tm now = {};  // what strftime_now sees, in local time
};

class Template {
 public:
  // Errors: those of ParseTemplate.
  static Result<Template> Parse(std::string_view source);

  // Errors: Corrupt (the template raised an exception, or does what its values do not allow), Unsupported (a filter, test or method
  // that this build does not know), Exhausted (a limit); they name the line.
  Result<Text> Render(const Dict& context, const RenderOptions& options) const;

 private:
  explicit Template(std::unique_ptr<Node> body) : body_(std::move(body)) {}
  std::unique_ptr<Node> body_;
};

}  // namespace bantam::jinja
