// Names of files that a listing or a catalogue gives, before they become paths: whatever passes here stays inside the folder it is put
// into, on any file system, and collides with nothing that Bantam keeps there itself.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace bantam {

inline constexpr size_t kPathBytesMax = 1024;
inline constexpr size_t kNameBytesMax = 200;  // of 255, so that a companion's ending still fits
inline constexpr size_t kPathDepthMax = 8;

// A relative path with '/' between its names. InvalidArgument says what is wrong: empty, absolute, "." or "..", a backslash, a colon, a
// control character, not UTF-8, too long, too deep, a name that ends in a blank or a dot or begins with a dot, or the name of a companion
// (.part, .lock, .tune.json).
Status CheckPathName(std::string_view path);

// CheckPathName for each, and that no two are the same where case does not count (FAT, exFAT), and none the folder of another.
Status CheckPathNames(std::span<const std::string> paths);

// A name in the model folder: one name of a path.
Status CheckModelName(std::string_view name);

}  // namespace bantam
