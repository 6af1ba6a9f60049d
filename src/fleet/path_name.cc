#include "fleet/path_name.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/ascii.h"
#include "text/utf8.h"

namespace bantam {
namespace {

Error BadName(std::string_view path, std::string_view problem) {
  constexpr size_t kShownBytes = 100;
  return Error(Code::kInvalidArgument,
               fmt::format("{}: a file name that is refused: {}; ask whoever offers it for another", path.substr(0, kShownBytes), problem));
}

// What is wrong with one name of a path; empty if nothing.
std::string_view NameProblem(std::string_view name) {
  if (name.empty()) return "an empty name between slashes";
  if (name.size() > kNameBytesMax) return "a name of more than 200 bytes";
  if (name.starts_with('.')) return "a name that begins with a dot";
  if (name.ends_with('.') || name.ends_with(' ') || name.starts_with(' ')) return "a name with a dot or a blank at its end";
  const std::string lower = LowerAscii(name);
  for (const std::string_view ending : {".part", ".lock", ".tune.json"}) {
    if (lower.ends_with(ending)) return "an ending that Bantam keeps for files of its own";
  }
  if (lower.find(".part.") != std::string::npos || lower.find(".part-") != std::string::npos) {
    return "an ending that Bantam keeps for files of its own";
  }
  return {};
}

std::string_view CharacterProblem(std::string_view path) {
  for (size_t at = 0; at < path.size();) {
    const Utf8Character character = DecodeUtf8(path, at);
    if (character.malformed()) return "it is not UTF-8";
    if (character.code < 0x20 || (character.code >= 0x7f && character.code < 0xa0)) return "a control character";
    if (character.code == U'\\' || character.code == U':') return "a backslash or a colon";
    at += character.size;
  }
  return {};
}

}  // namespace

Status CheckPathName(std::string_view path) {
  if (path.empty()) return BadName(path, "it is empty");
  if (path.size() > kPathBytesMax) return BadName(path, "it has more than 1024 bytes");
  if (path.starts_with('/')) return BadName(path, "it is absolute");
  if (const std::string_view problem = CharacterProblem(path); !problem.empty()) return BadName(path, problem);
  if (static_cast<size_t>(std::count(path.begin(), path.end(), '/')) >= kPathDepthMax)
    return BadName(path, "folders within folders too deep");
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    if (const std::string_view problem = NameProblem(path.substr(begin, end - begin)); !problem.empty()) return BadName(path, problem);
    begin = end + 1;
  }
  return Ok();
}

Status CheckPathNames(std::span<const std::string> paths) {
  std::set<std::string> files;
  std::set<std::string> folders;
  for (const std::string& path : paths) {
    BANTAM_TRY(CheckPathName(path));
    const std::string lower = LowerAscii(path);
    if (!files.insert(lower).second) return BadName(path, "another file has it, or differs only in case");
    for (size_t slash = lower.find('/'); slash != std::string::npos; slash = lower.find('/', slash + 1)) {
      folders.insert(lower.substr(0, slash));
    }
  }
  for (const std::string& folder : folders) {
    if (files.contains(folder)) return BadName(folder, "it is a file and a folder");
  }
  return Ok();
}

Status CheckModelName(std::string_view name) {
  if (name.find('/') != std::string_view::npos) return BadName(name, "a slash in it");
  return CheckPathName(name);
}

}  // namespace bantam
