// The OpenAPI document of the routes.
#pragma once

#include <string>
#include <string_view>

namespace bantam {

// serve/openapi.json, which tests hold against the tables of routes and the readers of bodies, with this version.
std::string OpenApiDocument(std::string_view version);

}  // namespace bantam
