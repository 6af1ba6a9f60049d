// The tables of routes: a new route is a line in one of them.
#pragma once

#include <span>

#include "serve/call.h"

namespace bantam {

std::span<const Route> OpenAiRoutes();
std::span<const Route> ResponsesRoutes();
std::span<const Route> AnthropicRoutes();
std::span<const Route> OllamaRoutes();
std::span<const Route> ServiceRoutes();
std::span<const Route> ModelRoutes();
std::span<const Route> InferenceRoutes();
std::span<const Route> LlamaCppRoutes();
// All of them; the first that matches counts.
std::span<const Route> AllRoutes();

// The dialect of what has no route: by the beginning of its path.
const Dialect& DialectOfPath(std::string_view path);
extern const Dialect kOpenAiDialect;
extern const Dialect kAnthropicDialect;
extern const Dialect kOllamaDialect;
extern const Dialect kInferenceDialect;

}  // namespace bantam
