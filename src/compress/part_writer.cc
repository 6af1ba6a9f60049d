#include "compress/part_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/bytes.h"
#include "base/json.h"

namespace bantam {
namespace {

constexpr size_t kNoteBytesMax = 65536;

}  // namespace

Result<std::unique_ptr<PartWriter>> PartWriter::Make(FileSystem& files, Disk& disk, const std::string& path, const std::string& plan) {
  std::unique_ptr<PartWriter> writer(new PartWriter(files, disk, path, plan));
  BANTAM_ASSIGN(writer->lock_, disk.Lock(path + ".part.lock"));
  if (writer->lock_ == nullptr) {
    return Error(Code::kUnavailable, fmt::format("{}: another process is making it; wait for that to end, or name another file", path));
  }
  const bool there = files.Exists(writer->PartPath());
  writer->kept_ = there ? writer->ReadNote() : 0;
  BANTAM_ASSIGN(writer->part_, disk.OpenPart(writer->PartPath()));
  if (there && writer->part_->size() > 0 && !files.Exists(writer->NotePath())) {
    return Error(
        Code::kInvalidArgument,
        fmt::format("{}: there already, and of no earlier call; remove it, or name another file for what is made", writer->PartPath()));
  }
  writer->kept_ = std::min(writer->kept_, writer->part_->size());
  writer->safe_ = writer->kept_;
  // The note first: a part is never longer than what it says of another plan.
  BANTAM_TRY(writer->WriteNote(writer->kept_));
  BANTAM_TRY(writer->part_->Truncate(writer->kept_));
  return writer;
}

uint64_t PartWriter::ReadNote() {
  const auto text = files_.ReadText(NotePath(), kNoteBytesMax);
  if (!text.ok()) return 0;
  const auto json = ParseJson(*text);
  if (!json.ok() || JsonText(*json, "plan") != plan_) return 0;
  const Json& bytes = JsonMember(*json, "safe_bytes");
  return bytes.is_number_unsigned() ? bytes.get<uint64_t>() : 0;
}

Status PartWriter::WriteNote(uint64_t bytes) {
  const std::string text = DumpJson(Json{{"format", 1}, {"plan", plan_}, {"safe_bytes", bytes}}, /*indent=*/2) + "\n";
  BANTAM_ASSIGN(const auto note, files_.Create(NotePath()));
  BANTAM_TRY(note->Append(AsBytes(text)));
  return note->Commit();
}

Status PartWriter::Append(std::span<const std::byte> bytes) {
  std::array<std::byte, 65536> there;
  while (!bytes.empty() && position_ < kept_) {
    const size_t n = static_cast<size_t>(std::min<uint64_t>({bytes.size(), kept_ - position_, there.size()}));
    BANTAM_ASSIGN(const size_t got, part_->Read(position_, std::span(there).first(n)));
    if (got == 0 || std::memcmp(there.data(), bytes.data(), got) != 0) {
      return Error(Code::kCorrupt, fmt::format("{}: not what an earlier call made; remove it and try again", PartPath()));
    }
    position_ += got;
    bytes = bytes.subspan(got);
  }
  if (bytes.empty()) return Ok();
  BANTAM_TRY(part_->Append(bytes));
  position_ += bytes.size();
  return Ok();
}

Status PartWriter::Overwrite(uint64_t, std::span<const std::byte>) {
  return Error(Code::kUnsupported, fmt::format("{}: a part is written from its beginning to its end", PartPath()));
}

Status PartWriter::Mark(uint64_t sync_bytes) {
  if (position_ < safe_ + sync_bytes) return Ok();
  BANTAM_TRY(part_->Sync());
  BANTAM_TRY(WriteNote(position_));
  safe_ = position_;
  return Ok();
}

Status PartWriter::Commit() {
  BANTAM_TRY(part_->Sync());
  BANTAM_TRY(disk_.Rename(PartPath(), path_));
  part_.reset();
  return disk_.RemoveTree(NotePath());
}

}  // namespace bantam
