#include "model/checked_packages.h"

#include <fmt/format.h>

#include <utility>

#include "base/bytes.h"

namespace bantam {
namespace {

constexpr size_t kRecordBytesMax = 4096;
constexpr std::string_view kHead = "bantam checked 1\n";
constexpr int64_t kSettledNs = 1'000'000'000;

}  // namespace

CheckedPackages::CheckedPackages(FileSystem& files, std::string folder, std::string_view root) : files_(files), folder_(std::move(folder)) {
  const Result<std::string> id = files.ReadText(fmt::format("{}/proc/sys/kernel/random/boot_id", root), kRecordBytesMax);
  if (id.ok()) boot_ = id->substr(0, id->find('\n'));
}

std::string CheckedPackages::PathOf(const Digest& digest) const { return fmt::format("{}/{}", folder_, HexOf(digest)); }

std::string CheckedPackages::RecordOf(const TensorSource::Contents& contents) const {
  const FileIdentity& file = contents.file;
  return fmt::format("{}{}\n{}\n{} {} {} {} {}\n", kHead, HexOf(contents.digest), boot_, file.device, file.inode, file.size_bytes,
                     file.written_ns, file.changed_ns);
}

bool CheckedPackages::Has(const TensorSource& model) const {
  const auto contents = model.contents();
  if (!contents || boot_.empty()) return false;
  const Result<std::string> record = files_.ReadText(PathOf(contents->digest), kRecordBytesMax);
  return record.ok() && *record == RecordOf(*contents);
}

// Records of other boots say nothing any more.
Status CheckedPackages::RemoveOthers() {
  BANTAM_ASSIGN(const auto entries, files_.List(folder_));
  size_t kept = 0;
  for (const FileSystem::Entry& entry : entries) {
    if (!DigestFromHex(entry.name)) continue;  // not ours
    const std::string path = fmt::format("{}/{}", folder_, entry.name);
    const Result<std::string> record = files_.ReadText(path, kRecordBytesMax);
    if (record.ok() && record->starts_with(fmt::format("{}{}\n{}\n", kHead, entry.name, boot_))) {
      ++kept;
    } else {
      BANTAM_TRY(files_.Remove(path));
    }
  }
  if (kept < kRecordsMax) return Ok();
  return Error(Code::kExhausted, fmt::format("{}: {} records, expected at most {}; remove some", folder_, kept, kRecordsMax));
}

Status CheckedPackages::Remember(const TensorSource& model, int64_t now_ns) {
  const auto contents = model.AllChecked() ? model.contents() : std::nullopt;
  if (!contents || boot_.empty() || now_ns - contents->file.changed_ns < kSettledNs) return Ok();
  BANTAM_TRY(RemoveOthers());
  BANTAM_ASSIGN(auto writer, files_.Create(PathOf(contents->digest)));
  BANTAM_TRY(writer->Append(AsBytes(RecordOf(*contents))));
  return writer->Commit();
}

}  // namespace bantam
