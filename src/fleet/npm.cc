#include "fleet/npm.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/ascii.h"
#include "base/json.h"

namespace bantam {
namespace {

constexpr size_t kNpmrcBytesMax = size_t{64} << 10;
constexpr size_t kManifestBytesMax = size_t{1} << 20;
constexpr size_t kPackageBytesMax = 214;  // what npm allows

bool IsName(std::string_view text) {
  const auto allowed = [](char c) { return IsAlphanumericAscii(c) || c == '-' || c == '_' || c == '.' || c == '+'; };
  return !text.empty() && text.size() <= kPackageBytesMax && text[0] != '.' && std::all_of(text.begin(), text.end(), allowed);
}

}  // namespace

Result<NpmPackage> ParseNpmPackage(std::string_view text) {
  NpmPackage package;
  std::string_view rest = text;
  const size_t slash = rest.find('/');
  if (rest.starts_with('@') && slash != std::string_view::npos) {
    package.scope = rest.substr(0, slash);
    rest.remove_prefix(slash + 1);
  }
  const size_t at = rest.find('@');
  if (at != std::string_view::npos) {
    package.name = rest.substr(0, at);
    package.version = rest.substr(at + 1);
  }
  const bool scope_fits = package.scope.empty() || IsName(std::string_view(package.scope).substr(1));
  if (!scope_fits || !IsName(package.name) || !IsName(package.version)) {
    return Error(Code::kInvalidArgument, fmt::format("npm:{}: expected npm:PACKAGE@VERSION", text.substr(0, kPackageBytesMax)));
  }
  return package;
}

std::string RegistryOf(std::string_view npmrc, std::string_view scope) {
  const std::string key = scope.empty() ? "registry" : fmt::format("{}:registry", scope);
  std::string value;
  while (!npmrc.empty()) {
    const size_t end = std::min(npmrc.find('\n'), npmrc.size());
    std::string_view line = npmrc.substr(0, end);
    npmrc.remove_prefix(std::min(end + 1, npmrc.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    const size_t equals = line.find('=');
    if (equals == std::string_view::npos || TrimmedAscii(line.substr(0, equals)) != key) continue;
    std::string_view text = TrimmedAscii(line.substr(equals + 1));
    if (text.size() >= 2 && (text.front() == '"' || text.front() == '\'') && text.back() == text.front()) {
      text = text.substr(1, text.size() - 2);
    }
    value = text;  // the last one holds
  }
  return value;
}

Result<Url> FindRegistry(FileSystem& files, const NpmSettings& settings, std::string_view scope) {
  std::string registry;
  for (const std::string_view wanted : {scope, std::string_view()}) {
    if (registry.empty() && wanted.empty()) registry = settings.registry;
    for (const std::string& path : settings.npmrcs) {
      if (!registry.empty() || !files.Exists(path)) continue;
      BANTAM_ASSIGN(const std::string text, files.ReadText(path, kNpmrcBytesMax));
      registry = RegistryOf(text, wanted);
    }
    if (!registry.empty()) break;
  }
  if (registry.empty()) {
    return Error(Code::kNotFound,
                 "the model comes from npm's registry, and no registry is set; set NPM_CONFIG_REGISTRY to its URL, which "
                 "\"npm config get registry\" prints");
  }
  return ParseUrl(registry).With("npm's registry");
}

Result<Url> FindArchive(HttpTransport& transport, const Url& registry, const NpmPackage& package, const HttpLimits& limits,
                        bool plain_allowed) {
  HttpRequest request;
  request.plain_allowed = plain_allowed;
  request.url = registry;
  if (!request.url.target.ends_with('/')) request.url.target += '/';
  request.url.target += package.scope.empty() ? "" : fmt::format("{}%2F", package.scope);
  request.url.target += fmt::format("{}/{}", package.name, EncodePath(package.version));
  request.fields.push_back({"Accept", "application/json"});
  BANTAM_ASSIGN(const std::unique_ptr<HttpReply> reply, Fetch(transport, request, limits));
  BANTAM_ASSIGN(const std::string text, ReadBody(*reply, kManifestBytesMax));
  BANTAM_ASSIGN(const Json manifest, ParseJson(text).With(ShownUrl(request.url)));
  const auto tarball = JsonText(JsonMember(manifest, "dist"), "tarball");
  if (!tarball.has_value()) {
    return Error(Code::kCorrupt, fmt::format("{}: no dist.tarball; is this npm's registry?", ShownUrl(request.url)));
  }
  BANTAM_ASSIGN(Url archive, ParseUrl(*tarball).With(ShownUrl(request.url)));
  if (registry.secure && !archive.secure) {
    return Error(Code::kDenied, fmt::format("{}: the registry sends from https to {}", ShownUrl(request.url), ShownUrl(archive)));
  }
  return archive;
}

}  // namespace bantam
