#include "serve/openapi.h"

#include "base/check.h"
#include "base/json.h"

namespace bantam {
namespace {

constexpr std::string_view kDocument =
#include "serve/openapi.inc"
    ;
constexpr std::string_view kVersion = R"("version": "0")";

}  // namespace

std::string OpenApiDocument(std::string_view version) {
  std::string document(kDocument);
  const size_t at = document.find(kVersion);
  CHECK(at != std::string::npos);
  return document.replace(at, kVersion.size(), "\"version\": " + DumpJson(Json(std::string(version)), /*indent=*/-1));
}

}  // namespace bantam
