// What verbs print of a package.
#pragma once

#include <string>

#include "base/json.h"
#include "formats/package.h"

namespace bantam {

// The digest, and a line per section.
std::string PackageText(const PackageManifest& manifest);
Json PackageJson(const PackageManifest& manifest);

}  // namespace bantam
