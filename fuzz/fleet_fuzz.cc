// What servers, archives and catalogues may send to a pull. The first byte says which parser; names that pass stay in the folder.
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/check.h"
#include "fleet/catalogue.h"
#include "fleet/hub.h"
#include "fleet/npm.h"
#include "fleet/path_name.h"
#include "fleet/tar_member.h"
#include "net/http.h"

namespace {

using namespace bantam;

void CheckStaysInside(const std::string& path) {
  CHECK(!path.empty() && path[0] != '/' && path.find('\0') == std::string::npos && path.find('\\') == std::string::npos);
  const std::string framed = "/" + path + "/";
  CHECK(framed.find("/../") == std::string::npos && framed.find("/./") == std::string::npos && framed.find("//") == std::string::npos);
}

void Archive(std::string_view text) {
  constexpr uint64_t kBytesMax = 1 << 16;
  uint64_t unpacked = 0;
  TarGzMember member("package/model.part", kBytesMax, [&](std::span<const std::byte> bytes) {
    unpacked += bytes.size();
    return Ok();
  });
  // In two pieces, so that every state is left and taken up.
  const auto bytes = std::as_bytes(std::span(text));
  if (!member.Append(bytes.first(bytes.size() / 2)).ok() || !member.Append(bytes.subspan(bytes.size() / 2)).ok()) return;
  (void)member.Finish().ok();
  CHECK(unpacked <= kBytesMax);
}

void List(std::string_view text) {
  const auto catalogue = ParseCatalogue(text);
  if (!catalogue.ok()) return;
  for (const CatalogueEntry& entry : catalogue->entries) {
    CheckStaysInside(entry.name);
    for (const RemoteFile& file : entry.files) CheckStaysInside(file.path);
  }
}

void Listing(std::string_view text) {
  const auto files = ParseHubListing(text);
  if (!files.ok()) return;
  std::vector<std::string> names = {"", "Q4_K_M"};
  for (const HubFile& file : *files) names.push_back(file.path);
  constexpr size_t kNamesMax = 8;
  names.resize(std::min(names.size(), kNamesMax));
  for (const std::string& file : names) {
    const auto choice = ChooseHubFiles({"me/model", "main", file}, *files);
    if (!choice.ok()) continue;
    CHECK(!choice->files.empty());
    for (const HubFile& chosen : choice->files) CHECK(chosen.path.starts_with(choice->within));
    if (CheckModelName(choice->name).ok()) CheckStaysInside(choice->name);
  }
}

void Fields(std::string_view text) {
  if (const auto range = ParseContentRange(text)) {
    CHECK(range->first <= range->last && range->last < range->total.value_or(UINT64_MAX));
  }
  (void)NextLink(text);
  (void)RegistryOf(text, "@me");
  (void)ParseNpmPackage(text).ok();
  (void)ParseHubReference(text).ok();
  if (CheckPathName(text).ok()) CheckStaysInside(std::string(text));
  // An URL that was read is written so that it reads the same.
  static const Url base = ParseUrl("https://h/a/b?c").value();
  for (const Result<Url>& url : {ParseUrl(text), ResolveUrl(base, text)}) {
    if (!url.ok()) continue;
    const auto again = ParseUrl(UrlText(*url));
    CHECK(!again.ok() || (again->SameOrigin(*url) && again->target == url->target));
    CHECK(url->target.starts_with('/') && url->target.find_first_of(" \r\n") == std::string::npos);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 4) {
    case 0:
      Archive(text);
      break;
    case 1:
      List(text);
      break;
    case 2:
      Listing(text);
      break;
    default:
      Fields(text);
  }
  return 0;
}
