#include "serve/usage_file.h"

#include <fmt/format.h>

#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace bantam {

void UsageFile::Read() {
  if (!setup_.files.Exists(setup_.path)) return;
  const Result<std::string> text = setup_.files.ReadText(setup_.path, kKeyDaysBytesMax);
  const auto days = text.ok() ? ReadKeyDays(*text, setup_.time_s()).With(setup_.path) : Result<std::vector<KeyDay>>(text.error());
  if (days.ok()) return setup_.uses.Resume(*days, setup_.clock.NowNs());
  foreign_ = true;
  setup_.notice(fmt::format("{}; keys begin their day anew, and what they use is not kept: remove the file, or name another",
                            days.error().message()));
}

Status UsageFile::WriteDays() const {
  const std::string text = WriteKeyDays(setup_.uses.Days(setup_.clock.NowNs()), setup_.time_s());
  BANTAM_ASSIGN(const std::unique_ptr<FileWriter> file, setup_.files.Create(setup_.path));
  BANTAM_TRY(file->Append(std::as_bytes(std::span(text))));
  return file->Commit();
}

void UsageFile::Write() {
  const uint64_t changes = setup_.uses.changes();
  if (foreign_ || changes == written_changes_) return;
  written_ns_ = setup_.clock.NowNs();
  const Status written = WriteDays();
  if (written.ok()) {
    written_changes_ = changes;
    problem_.clear();
    return;
  }
  // It is tried again; a disk that stays full says so once.
  const std::string problem = written.error().message();
  if (problem != std::exchange(problem_, problem)) setup_.notice(fmt::format("what keys used is not kept: {}", problem));
}

void UsageFile::WriteInTime() {
  if (written_ns_ == INT64_MIN || setup_.clock.NowNs() - written_ns_ >= kEveryNs) Write();
}

}  // namespace bantam
