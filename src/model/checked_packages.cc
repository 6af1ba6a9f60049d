#include "model/checked_packages.h"

#include <fmt/format.h>

#include <utility>

#include "base/bytes.h"

namespace bantam {
namespace {

constexpr size_t kRecordBytesMax = 4096;
constexpr int64_t kSettledNs = 1'000'000'000;

}  // namespace

CheckedPackages::CheckedPackages(FileSystem& files, std::string folder, std::string_view root) : files_(files), folder_(std::move(folder)) {
  const Result<std::string> id = files.ReadText(fmt::format("{}/proc/sys/kernel/random/boot_id", root), kRecordBytesMax);
  if (id.ok()) boot_ = id->substr(0, id->find('\n'));
}

std::string CheckedPackages::PathOf(const Digest& digest) const { return fmt::format("{}/{}", folder_, HexOf(digest)); }

std::string CheckedPackages::RecordOf(const TensorSource::Contents& contents) const {
  const FileIdentity& file = contents.file;
  return fmt::format("bantam checked 1\n{}\n{}\n{} {} {} {} {}\n", HexOf(contents.digest), boot_, file.device, file.inode, file.size_bytes,
                     file.written_ns, file.changed_ns);
}

bool CheckedPackages::Has(const TensorSource& model) const {
  const auto contents = model.contents();
  if (!contents || boot_.empty()) return false;
  const Result<std::string> record = files_.ReadText(PathOf(contents->digest), kRecordBytesMax);
  return record.ok() && *record == RecordOf(*contents);
}

Status CheckedPackages::Remember(const TensorSource& model, int64_t now_ns) {
  const auto contents = model.AllChecked() ? model.contents() : std::nullopt;
  if (!contents || boot_.empty() || now_ns - contents->file.changed_ns < kSettledNs) return Ok();
  BANTAM_ASSIGN(auto writer, files_.Create(PathOf(contents->digest)));
  BANTAM_TRY(writer->Append(AsBytes(RecordOf(*contents))));
  return writer->Commit();
}

}  // namespace bantam
