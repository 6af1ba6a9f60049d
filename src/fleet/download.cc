#include "fleet/download.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/json.h"
#include "base/memory_budget.h"

namespace bantam {
namespace {

constexpr size_t kBufferBytes = size_t{256} << 10;
constexpr size_t kStateBytesMax = size_t{16} << 10;
constexpr int kStateVersion = 1;
constexpr int64_t kNsPerSecond = 1'000'000'000;

// Lets bytes through at a rate, by waiting after them.
class RateLimit {
 public:
  RateLimit(const DownloadTools& tools) : tools_(tools), due_ns_(tools.clock.NowNs()) {}

  Status Passed(uint64_t bytes) {
    if (tools_.rate_bytes_per_s == 0) return Ok();
    const int64_t now_ns = tools_.clock.NowNs();
    const double share_ns = static_cast<double>(bytes) / static_cast<double>(tools_.rate_bytes_per_s) * static_cast<double>(kNsPerSecond);
    due_ns_ = std::max(due_ns_, now_ns - kNsPerSecond) + static_cast<int64_t>(share_ns);  // what was missed in a pause is not caught up
    return due_ns_ > now_ns ? tools_.pause(due_ns_ - now_ns) : Ok();
  }

 private:
  const DownloadTools& tools_;
  int64_t due_ns_;
};

std::string FolderOf(const std::string& path) { return path.substr(0, path.rfind('/')); }

class Fetcher {
 public:
  Fetcher(Origin& origin, const DownloadTarget& target, const DownloadTools& tools)
      : origin_(origin), target_(target), tools_(tools), rate_(tools), buffer_(BufferBytes(tools)), started_ns_(tools.clock.NowNs()) {}

  Result<Downloaded> Run() {
    BANTAM_ASSIGN(part_, tools_.disk.OpenPart(PartPath(target_.path)));
    BANTAM_TRY(TakeUp());
    int64_t idle = 0;
    for (int failures = 0;; ++failures) {
      const uint64_t before = part_->size();
      const Status attempt = Attempt();
      if (attempt.ok()) break;
      // What has come is kept, whatever happened.
      BANTAM_TRY(Keep());
      idle = part_->size() > before ? 0 : idle + 1;
      if (attempt.error().code() != Code::kUnavailable || disk_full_ || idle > tools_.idle_retries_max || failures == kRetriesMax) {
        return attempt.error();
      }
      BANTAM_TRY(tools_.pause(kNsPerSecond << std::min<int64_t>(idle, kIdleRetriesMax - 1)));
    }
    return Finish();
  }

 private:
  static size_t BufferBytes(const DownloadTools& tools) {
    // A few reads a second, or a slow line would come in jerks.
    constexpr uint64_t kReadsPerSecond = 8;
    constexpr uint64_t kBytesMin = 1024;
    if (tools.rate_bytes_per_s == 0) return kBufferBytes;
    return std::clamp<uint64_t>(tools.rate_bytes_per_s / kReadsPerSecond, kBytesMin, kBufferBytes);
  }

  // What tells this file from another that had the same name.
  std::string Identity() const { return fmt::format("{} {}", origin_.Name(), target_.digest.has_value() ? HexOf(*target_.digest) : "-"); }

  // What an earlier attempt left, if it was for the same file; hashes it again.
  Status TakeUp() {
    const Result<std::string> text = tools_.files.ReadText(PartStatePath(target_.path), kStateBytesMax);
    const Result<Json> state = text.ok() ? ParseJson(*text) : Result<Json>(text.error());
    uint64_t kept = 0;
    if (state.ok() && JsonText(*state, "source") == Identity() && JsonMember(*state, "version") == kStateVersion) {
      tag_ = JsonText(*state, "tag").value_or("");
      const Json& bytes = JsonMember(*state, "bytes");
      if (bytes.is_number_unsigned()) kept = bytes.get<uint64_t>();
    }
    // Without a digest or a tag nobody could say whether the rest belongs to it; past what was flushed, a power cut may have left zeros.
    if (tag_.empty() && !target_.digest.has_value()) kept = 0;
    if (kept > target_.size_bytes.value_or(UINT64_MAX)) kept = 0;
    BANTAM_TRY(part_->Truncate(std::min(kept, part_->size())));
    uint64_t offset = 0;
    while (offset < part_->size()) {
      BANTAM_ASSIGN(const size_t got, part_->Read(offset, buffer_));
      if (got == 0) break;
      hash_.Update(std::span(buffer_).first(got));
      offset += got;
      if (!tools_.progress(fmt::format("{}: checking what is here", target_.shown), offset, part_->size())) return Stopped();
    }
    resumed_ = offset;
    flushed_ = offset;
    return Ok();
  }

  Status StartAgain() {
    (void)hash_.Finish();
    resumed_ = 0;
    flushed_ = 0;
    return part_->Truncate(0);
  }

  Error Stopped() const { return Error(Code::kCancelled, fmt::format("{}: interrupted", target_.shown)); }

  // One connection's worth.
  Status Attempt() {
    if (target_.size_bytes.has_value() && part_->size() == *target_.size_bytes && part_->size() > 0) return Ok();
    BANTAM_ASSIGN(Opened opened, origin_.Open(part_->size(), tag_));
    if (opened.offset != part_->size()) BANTAM_TRY(StartAgain());
    if (tag_ != opened.tag) {
      tag_ = opened.tag;
      BANTAM_TRY(Keep());
    }
    if (target_.size_bytes.has_value() && opened.total.value_or(*target_.size_bytes) != *target_.size_bytes) {
      return Error(Code::kCorrupt, fmt::format("{}: expected {} bytes, the server has {}; it is another file now", target_.shown,
                                               *target_.size_bytes, *opened.total));
    }
    total_ = target_.size_bytes.has_value() ? target_.size_bytes : opened.total;
    if (total_.value_or(0) > target_.bytes_max && !target_.size_bytes.has_value()) {
      return Error(Code::kExhausted, fmt::format("{}: {} bytes, more than the limit of {}", target_.shown, *total_, target_.bytes_max));
    }
    BANTAM_TRY(CheckSpace(total_.value_or(part_->size()) - std::min(part_->size(), total_.value_or(part_->size()))));
    return Copy(*opened.bytes);
  }

  Status CheckSpace(uint64_t bytes) {
    Status room = CheckRoom(tools_.disk, FolderOf(target_.path), bytes);
    disk_full_ = !room.ok();
    return room;
  }

  Status Copy(ByteStream& stream) {
    while (true) {
      BANTAM_ASSIGN(const size_t got, stream.Read(buffer_));
      if (got == 0) break;
      if (part_->size() + got > total_.value_or(target_.bytes_max)) {
        BANTAM_TRY(StartAgain());
        return Error(Code::kCorrupt, fmt::format("{}: more than {} bytes come from the server; it is another file now", target_.shown,
                                                 total_.value_or(target_.bytes_max)));
      }
      const auto bytes = std::span<const std::byte>(buffer_).first(got);
      const uint64_t before = part_->size();
      if (const Status written = part_->Append(bytes); !written.ok()) {
        disk_full_ = true;  // or broken: no server can help
        BANTAM_TRY(part_->Truncate(before));
        return written;
      }
      hash_.Update(bytes);
      if (part_->size() - flushed_ >= kSyncBytes) {
        BANTAM_TRY(Keep());
        if (!total_.has_value()) BANTAM_TRY(CheckSpace(kSyncBytes));
      }
      if (!Report()) return Stopped();
      BANTAM_TRY(rate_.Passed(got));
    }
    if (total_.has_value() && part_->size() < *total_) {
      return Error(Code::kUnavailable, fmt::format("{}: {} of {} bytes came; try again", target_.shown, part_->size(), *total_));
    }
    return Ok();
  }

  bool Report() {
    constexpr double kBytesPerMegabyte = 1e6;
    const double seconds = static_cast<double>(std::max<int64_t>(tools_.clock.NowNs() - started_ns_, 1)) * 1e-9;
    const double done = static_cast<double>(part_->size());
    const double rate = (done - static_cast<double>(resumed_)) / seconds;
    const std::string of = total_.has_value() ? fmt::format(" of {:.0f}", static_cast<double>(*total_) / kBytesPerMegabyte) : "";
    return tools_.progress(
        fmt::format("{}: {:.0f}{} MB, {:.1f} MB/s", target_.shown, done / kBytesPerMegabyte, of, rate / kBytesPerMegabyte), part_->size(),
        total_.value_or(part_->size() + 1));
  }

  // Makes what has come survive a power cut, and notes how much that is.
  Status Keep() {
    BANTAM_TRY(part_->Sync());
    flushed_ = part_->size();
    const Json state = {{"version", kStateVersion}, {"source", Identity()}, {"tag", tag_}, {"bytes", flushed_}};
    const std::string text = DumpJson(state, /*indent=*/2) + "\n";
    // Not through FileSystem::Create, which writes to where a link leads.
    const std::string path = PartStatePath(target_.path);
    const std::string beside = path + ".part-new";
    BANTAM_ASSIGN(std::unique_ptr<PartFile> state_file, tools_.disk.OpenPart(beside));
    BANTAM_TRY(state_file->Truncate(0));
    BANTAM_TRY(state_file->Append(std::as_bytes(std::span(text))));
    BANTAM_TRY(state_file->Sync());
    state_file.reset();
    return tools_.disk.Rename(beside, path);
  }

  Result<Downloaded> Finish() {
    const Downloaded done = {part_->size(), resumed_, hash_.Finish()};
    if (done.bytes != target_.size_bytes.value_or(done.bytes) || done.digest != target_.digest.value_or(done.digest)) {
      part_.reset();
      BANTAM_TRY(tools_.disk.RemoveTree(PartPath(target_.path)));
      BANTAM_TRY(tools_.disk.RemoveTree(PartStatePath(target_.path)));
      return Error(
          Code::kCorrupt,
          fmt::format("{}: what came from {} is not what was promised (SHA-256 {}, expected {}; {} bytes); it was deleted, try again "
                      "or try another source",
                      target_.shown, origin_.Name(), HexOf(done.digest), HexOf(target_.digest.value_or(done.digest)), done.bytes));
    }
    BANTAM_TRY(part_->Sync());
    part_.reset();
    BANTAM_TRY(tools_.disk.Rename(PartPath(target_.path), target_.path));
    BANTAM_TRY(tools_.disk.RemoveTree(PartStatePath(target_.path)));
    return done;
  }

  Origin& origin_;
  const DownloadTarget& target_;
  const DownloadTools& tools_;
  RateLimit rate_;
  std::vector<std::byte> buffer_;
  const int64_t started_ns_;
  std::unique_ptr<PartFile> part_;
  Sha256 hash_;                    // of all that is in the part
  std::string tag_;                // of the version that the part is of
  std::optional<uint64_t> total_;  // bytes of the whole
  uint64_t resumed_ = 0;
  uint64_t flushed_ = 0;
  bool disk_full_ = false;
};

}  // namespace

std::string PartPath(const std::string& path) { return path + ".part"; }
std::string PartStatePath(const std::string& path) { return path + ".part.json"; }

Result<Downloaded> Download(Origin& origin, const DownloadTarget& target, const DownloadTools& tools) {
  return Fetcher(origin, target, tools).Run();
}

Result<Downloaded> DigestOf(const std::string& path, const std::string& shown, const DownloadTools& tools) {
  BANTAM_ASSIGN(const std::unique_ptr<PartFile> file, tools.disk.OpenForReading(path));
  Sha256 hash;
  Downloaded done;
  std::vector<std::byte> buffer(kBufferBytes);
  while (true) {
    BANTAM_ASSIGN(const size_t got, file->Read(done.bytes, buffer));
    if (got == 0) break;
    hash.Update(std::span(buffer).first(got));
    done.bytes += got;
    if (!tools.progress(fmt::format("{}: checking what is here", shown), done.bytes, std::max(done.bytes, file->size()))) {
      return Error(Code::kCancelled, fmt::format("{}: interrupted", shown));
    }
  }
  done.digest = hash.Finish();
  return done;
}

Status CheckRoom(Disk& disk, const std::string& folder, uint64_t bytes) {
  uint64_t wanted = 0;
  BANTAM_ASSIGN(const uint64_t free, disk.FreeBytes(folder));
  if (CheckedAdd(bytes, kDiskReserveBytes, &wanted) && wanted <= free) return Ok();
  return Error(Code::kUnavailable,
               fmt::format("{}: {} more are needed and {} of the disk are free, {} of which stay free; remove something "
                           "(bantam list shows models) or set XDG_CACHE_HOME to a folder on another disk",
                           folder, FormatBytes(bytes), FormatBytes(free), FormatBytes(kDiskReserveBytes)));
}

}  // namespace bantam
