// One file from its origin to its place: resumed, limited, verified, and there only when it is whole.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/disk.h"
#include "base/file.h"
#include "base/progress.h"
#include "fleet/origin.h"
#include "security/sha256.h"

namespace bantam {

// Of a file whose length nobody tells.
inline constexpr uint64_t kUnknownBytesMax = uint64_t{16} << 30;
// Bytes that a power cut may cost: the part is flushed and its length noted each time so many have come.
inline constexpr uint64_t kSyncBytes = uint64_t{64} << 20;
// Further attempts after those in a row that bring nothing, and in all.
inline constexpr int kIdleRetriesMax = 5;
inline constexpr int kRetriesMax = 100;

// Waits; Cancelled when a stop comes meanwhile.
using Pause = std::function<Status(int64_t duration_ns)>;

struct DownloadTools {
  FileSystem& files;
  Disk& disk;
  const Clock& clock;
  Pause pause;
  // Of an unknown length the total is 0.
  Progress progress = [](std::string_view, uint64_t, uint64_t) { return true; };
  uint64_t rate_bytes_per_s = 0;  // 0: no limit
  int idle_retries_max = kIdleRetriesMax;
};

struct DownloadTarget {
  std::string path;  // of the whole file; its part is PATH.part, what is known of that PATH.part.json
  std::string shown;
  std::optional<uint64_t> size_bytes;  // where a listing tells
  std::optional<Digest> digest;
  uint64_t bytes_max = kUnknownBytesMax;  // where it does not
  // Of a file that gets its name together with others, and has no digest: the tag that the origin gives it now. What is here of another
  // version starts again, and what is whole stays a part until NamePart.
  std::optional<std::string> tag = {};
  // Of a file without a digest: says whether what came, at this path, may have the file's name. Nothing: whatever it is.
  std::function<Status(const std::string& path)> accept = {};
};

struct Downloaded {
  uint64_t bytes = 0;
  uint64_t resumed_bytes = 0;  // that were there from an earlier attempt
  Digest digest = {};
};

std::string PartPath(const std::string& path);
std::string PartStatePath(const std::string& path);

// Errors: those of origin and disk, the part being kept for the next attempt; Corrupt for a wrong size or digest and what
// is not accepted, the part being removed;
// Unavailable for a disk that is too small; Cancelled.
Result<Downloaded> Download(Origin& origin, const DownloadTarget& target, const DownloadTools& tools);

// Gives a part that Download left whole its file's name.
Status NamePart(const std::string& path, const DownloadTools& tools);

// Digest and length of what is there.
Result<Downloaded> DigestOf(const std::string& path, const std::string& shown, const DownloadTools& tools);

// CheckRoom (base/disk.h), for the folder of models.
Status CheckModelRoom(Disk& disk, const std::string& folder, uint64_t bytes);

}  // namespace bantam
