// UsageFile: what keys used of their day, kept in a file from one run of the server to the next.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/clock.h"
#include "base/file.h"
#include "serve/key_uses.h"

namespace bantam {

// Of one thread, which may wait for the disk.
class UsageFile {
 public:
  // Between two times that it is written, at least: what a death without warning forgets is no older.
  static constexpr int64_t kEveryNs = 30'000'000'000;

  struct Setup {
    FileSystem& files;
    std::string path;
    KeyUses& uses;
    const Clock& clock;
    std::function<int64_t()> time_s;                      // the wall clock, since 1970
    std::function<void(const std::string& what)> notice;  // told what went wrong; nothing else is to be done about it
  };
  // All of the setup outlives it.
  explicit UsageFile(Setup setup) : setup_(std::move(setup)) {}

  // What the last run left, if it left anything. Keys begin their day anew where that is damaged, and nothing is written over it: it may be
  // another file, named by mistake.
  void Read();
  // Unless nothing changed since the last time.
  void Write();
  // The same, if the last time is long enough ago.
  void WriteInTime();

 private:
  Status WriteDays() const;

  const Setup setup_;
  bool foreign_ = false;  // what is there is none of ours
  uint64_t written_changes_ = 0;
  int64_t written_ns_ = INT64_MIN;
  std::string problem_ = {};  // of the last time, as it was told
};

}  // namespace bantam
