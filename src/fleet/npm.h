// Packages of npm's registry: which registry, and where it has a package's archive.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/file.h"
#include "base/result.h"
#include "net/http.h"

namespace bantam {

// "PACKAGE@VERSION" with an exact version: "name@1.2.3" or "@scope/name@1.2.3".
struct NpmPackage {
  std::string scope;  // "@scope", or empty
  std::string name;   // without the scope
  std::string version;
};
Result<NpmPackage> ParseNpmPackage(std::string_view text);

// What npm itself would take its registry from.
struct NpmSettings {
  std::string registry;             // npm_config_registry, or NPM_CONFIG_REGISTRY
  std::vector<std::string> npmrcs;  // paths of configurations, the first that names a registry holds
};

// "registry" or "@scope:registry" of a configuration; empty when it names none.
std::string RegistryOf(std::string_view npmrc, std::string_view scope);

// NotFound says how to name one: Bantam knows none by itself.
Result<Url> FindRegistry(FileSystem& files, const NpmSettings& settings, std::string_view scope);

// Where a package's archive is, as the registry says. Errors: those of Fetch; Corrupt.
Result<Url> FindArchive(HttpTransport& transport, const Url& registry, const NpmPackage& package, const HttpLimits& limits,
                        bool plain_allowed);

}  // namespace bantam
