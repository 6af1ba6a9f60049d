// A catalogue: names of models and where their files are (docs/formats/catalogue.md).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "fleet/plan.h"

namespace bantam {

inline constexpr size_t kCatalogueBytesMax = size_t{4} << 20;
inline constexpr size_t kCatalogueEntriesMax = 10'000;
inline constexpr size_t kCatalogueFilesMax = 1'024;   // of an entry
inline constexpr size_t kCataloguePiecesMax = 1'024;  // of a file

struct CatalogueEntry {
  std::string name;
  std::string description;
  std::string licence;
  std::vector<RemoteFile> files;

  uint64_t size_bytes() const;
};

struct Catalogue {
  std::vector<CatalogueEntry> entries;
};

// Every field checked; `plain_allowed`: URLs of http to any host too. Corrupt names the entry and the member; Unsupported for a version
// that this build does not know.
Result<Catalogue> ParseCatalogue(std::string_view text, bool plain_allowed = false);

// The one that the program carries.
std::string_view BuiltinCatalogue();

// NotFound names the closest ones.
Result<const CatalogueEntry*> FindEntry(const Catalogue& catalogue, std::string_view name);

}  // namespace bantam
