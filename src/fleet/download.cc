#include "fleet/download.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/json.h"
#include "base/memory_budget.h"
#include "fleet/retry.h"

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

class Fetcher {
 public:
  Fetcher(Origin& origin, const DownloadTarget& target, const DownloadTools& tools)
      : origin_(origin), target_(target), tools_(tools), rate_(tools), buffer_(BufferBytes(tools)), started_ns_(tools.clock.NowNs()) {}

  Result<Downloaded> Run() {
    Result<Downloaded> downloaded = Fetch();
    // Nothing of it came: nothing is left to go on with.
    if (!downloaded.ok() && part_ != nullptr && part_->size() == 0) {
      part_.reset();
      // As well as it can be: what went wrong is told whatever becomes of them.
      (void)tools_.files.Remove(PartPath(target_.path));
      (void)tools_.files.Remove(PartStatePath(target_.path));
    }
    return downloaded;
  }

 private:
  Result<Downloaded> Fetch() {
    BANTAM_ASSIGN(part_, tools_.disk.OpenPart(PartPath(target_.path)));
    BANTAM_TRY(TakeUp());
    Retry retry(tools_);
    highest_ = part_->size();
    while (true) {
      const Status attempt = Attempt();
      if (attempt.ok()) return Finish();
      // What has come is kept, whatever happened.
      BANTAM_TRY(Keep());
      if (attempt.error().code() == Code::kCancelled) return Stopped();
      if (disk_full_) return attempt.error();
      const bool brought = part_->size() > highest_;
      highest_ = std::max(highest_, part_->size());
      if (const Status again = retry.After(attempt.error(), brought); !again.ok()) {
        return again.error().code() == Code::kCancelled ? Stopped() : again.error();
      }
    }
  }

  static size_t BufferBytes(const DownloadTools& tools) {
    // A few reads a second, or a slow line would come in jerks.
    constexpr uint64_t kReadsPerSecond = 8;
    constexpr uint64_t kBytesMin = 1024;
    if (tools.rate_bytes_per_s == 0) return kBufferBytes;
    return std::clamp<uint64_t>(tools.rate_bytes_per_s / kReadsPerSecond, kBytesMin, kBufferBytes);
  }

  // What tells this file from another that had the same name: its digest, wherever it comes from, or else its source.
  std::string Identity() const {
    return target_.digest.has_value() ? fmt::format("- {}", HexOf(*target_.digest)) : fmt::format("{} -", origin_.Name());
  }

  // Whether anything tells that bytes that come later belong to those that are here.
  bool Resumable() const { return !tag_.empty() || target_.digest.has_value(); }

  // What an earlier attempt left, if it was for the same file; hashes it again.
  Status TakeUp() {
    const std::string state_path = PartStatePath(target_.path);
    const Result<std::string> text = tools_.files.ReadText(state_path, kStateBytesMax);
    const Result<Json> state = text.ok() ? ParseJson(*text) : Result<Json>(text.error());
    uint64_t kept = 0;
    total_ = target_.size_bytes;
    if (state.ok() && JsonText(*state, "source") == Identity() && JsonMember(*state, "version") == kStateVersion) {
      tag_ = JsonText(*state, "tag").value_or("");
      const Json& bytes = JsonMember(*state, "bytes");
      if (bytes.is_number_unsigned()) kept = bytes.get<uint64_t>();
      const Json& total = JsonMember(*state, "total");
      if (!total_.has_value() && total.is_number_unsigned()) total_ = total.get<uint64_t>();
    }
    const uint64_t noted = kept;
    if (!Resumable() || kept > total_.value_or(UINT64_MAX)) kept = 0;
    if (target_.tag.value_or(tag_) != tag_) kept = 0;
    // Past what was flushed, a power cut may have left zeros.
    BANTAM_TRY(part_->Truncate(std::min(kept, part_->size())));
    if (part_->size() == 0) {
      tag_.clear();
      total_ = target_.size_bytes;
    }
    // What the state says must not be said of the bytes that come now.
    if (tools_.files.Exists(state_path) && (!text.ok() || noted == 0 || part_->size() != noted)) BANTAM_TRY(Keep());
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

  // Forgets what is here, on the disk too before anything takes its place.
  Status StartAgain() {
    (void)hash_.Finish();
    resumed_ = 0;
    BANTAM_TRY(part_->Truncate(0));
    return Keep();
  }

  Error Stopped() const {
    return Error(
        Code::kCancelled,
        fmt::format("{}: interrupted; {}", target_.shown,
                    Resumable() ? "the same command goes on where this one stopped"
                                : "the source does not tell one version of the file from another, so the same command starts again"));
  }

  // From what is here on, or from the start.
  Result<Opened> OpenRest() {
    BANTAM_ASSIGN(Opened opened, origin_.Open(part_->size(), tag_));
    const bool contradicts = opened.total.has_value() && total_.has_value() && *opened.total != *total_;
    if (opened.offset == 0 || !contradicts || target_.size_bytes.has_value()) return opened;
    // One version has one length: what is here is of another.
    opened.bytes.reset();  // closes the connection before the next one
    return origin_.Open(/*offset=*/0, /*tag=*/"");
  }

  // Of what the answer says the whole has.
  Status CheckTotal(std::optional<uint64_t> total) const {
    if (!total.has_value()) return Ok();
    if (*total != target_.size_bytes.value_or(*total)) {
      return Error(Code::kCorrupt, fmt::format("{}: expected {} bytes, the server has {}; it is another file now, or no file at all: see "
                                               "what the server shows in a browser, or try another source",
                                               target_.shown, *target_.size_bytes, *total));
    }
    // Who knows the digest knows what to expect.
    if (*total > target_.bytes_max && !target_.size_bytes.has_value() && !target_.digest.has_value()) {
      return Error(Code::kExhausted,
                   fmt::format("{}: {} bytes, more than the limit of {} for files that nobody vouches for; {}", target_.shown, *total,
                               target_.bytes_max,
                               target_.tag.has_value() ? "fetch it from where digests are told, such as the Hub or a catalogue"
                                                       : "give the digest with --sha256 if it is the right file"));
    }
    return Ok();
  }

  // One connection's worth.
  Status Attempt() {
    if (part_->size() > 0 && part_->size() == total_) return Ok();
    if (part_->size() > 0 && !Resumable()) BANTAM_TRY(StartAgain());
    BANTAM_ASSIGN(Opened opened, OpenRest());
    BANTAM_TRY(CheckTotal(opened.total));
    const bool another = opened.tag != tag_;
    // A part of a file may come without the length of the whole; what was known of it still holds.
    std::optional<uint64_t> total = opened.offset == 0 ? std::nullopt : total_;
    if (opened.total.has_value()) total = opened.total;
    if (target_.size_bytes.has_value()) total = target_.size_bytes;
    if (opened.offset != part_->size()) {
      if (another && !opened.tag.empty()) highest_ = 0;
      BANTAM_TRY(StartAgain());
    }
    if (another || total != total_) {
      tag_ = opened.tag;
      total_ = total;
      BANTAM_TRY(Keep());
    }
    BANTAM_TRY(CheckSpace(total_.value_or(part_->size()) - std::min(part_->size(), total_.value_or(part_->size()))));
    return Copy(opened);
  }

  Status CheckSpace(uint64_t bytes) {
    Status room = CheckModelRoom(tools_.disk, FolderOf(target_.path), bytes);
    disk_full_ = !room.ok();
    return room;
  }

  Status Copy(const Opened& opened) {
    while (true) {
      BANTAM_ASSIGN(const size_t got, opened.bytes->Read(buffer_));
      if (got == 0) break;
      if (part_->size() + got > total_.value_or(target_.bytes_max)) {
        BANTAM_TRY(StartAgain());
        return Error(Code::kCorrupt, fmt::format("{}: more than {} bytes come from the server; it is another file now, try again or try "
                                                 "another source",
                                                 target_.shown, total_.value_or(target_.bytes_max)));
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
    if (part_->size() == total_.value_or(part_->size()) && (total_.has_value() || opened.offset == 0)) return Ok();
    // The end of a part of the file is not the end of the file.
    const std::string all = total_.has_value() ? fmt::format("{}", *total_) : "an unknown number of";
    return Error(Code::kUnavailable, fmt::format("{}: {} of {} bytes came; try again", target_.shown, part_->size(), all));
  }

  bool Report() {
    constexpr double kBytesPerMegabyte = 1e6;
    const double seconds = static_cast<double>(std::max<int64_t>(tools_.clock.NowNs() - started_ns_, 1)) * 1e-9;
    const double done = static_cast<double>(part_->size());
    const double rate = (done - static_cast<double>(resumed_)) / seconds;
    const std::string of = total_.has_value() ? fmt::format(" of {:.0f}", static_cast<double>(*total_) / kBytesPerMegabyte) : "";
    return tools_.progress(
        fmt::format("{}: {:.0f}{} MB, {:.1f} MB/s", target_.shown, done / kBytesPerMegabyte, of, rate / kBytesPerMegabyte), part_->size(),
        total_.value_or(0));
  }

  // Makes what has come survive a power cut, and notes how much that is.
  Status Keep() {
    BANTAM_TRY(part_->Sync());
    flushed_ = part_->size();
    const Json state = {{"version", kStateVersion},
                        {"source", Identity()},
                        {"tag", tag_},
                        {"bytes", flushed_},
                        {"total", total_.has_value() ? Json(*total_) : Json()}};
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
      BANTAM_TRY(Drop());
      return Error(
          Code::kCorrupt,
          fmt::format("{}: what came from {} is not what was promised (SHA-256 {}, expected {}; {} bytes); it was deleted, try again "
                      "or try another source",
                      target_.shown, origin_.Name(), HexOf(done.digest), HexOf(target_.digest.value_or(done.digest)), done.bytes));
    }
    if (target_.tag.has_value()) {
      BANTAM_TRY(Keep());
      return done;
    }
    BANTAM_TRY(part_->Sync());
    if (const Status accepted = target_.digest || !target_.accept ? Ok() : target_.accept(PartPath(target_.path)); !accepted.ok()) {
      BANTAM_TRY(Drop());
      return Error(Code::kCorrupt,
                   fmt::format("{}: what came from {} is no whole model; it was deleted, try again or try another source: {}",
                               target_.shown, origin_.Name(), accepted.error().message()));
    }
    part_.reset();
    BANTAM_TRY(NamePart(target_.path, tools_));
    return done;
  }

  Status Drop() {
    part_.reset();
    BANTAM_TRY(tools_.disk.RemoveTree(PartPath(target_.path)));
    return tools_.disk.RemoveTree(PartStatePath(target_.path));
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
  uint64_t highest_ = 0;           // bytes that the part had at best
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

Status NamePart(const std::string& path, const DownloadTools& tools) {
  BANTAM_TRY(tools.disk.Rename(PartPath(path), path));
  return tools.disk.RemoveTree(PartStatePath(path));
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

Status CheckModelRoom(Disk& disk, const std::string& folder, uint64_t bytes) {
  return CheckRoom(disk, folder, bytes, "(bantam list shows models) or set XDG_CACHE_HOME to a folder on another disk");
}

}  // namespace bantam
