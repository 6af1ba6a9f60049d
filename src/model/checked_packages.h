// Packages whose weights were checked since the machine started, and whose files have not changed since: their weights are used without
// being checked again (docs/formats/package.md).
#pragma once

#include <cstdint>
#include <string>

#include "base/file.h"
#include "formats/model_file.h"

namespace bantam {

// In a folder that nobody but the user writes to: a file per package, named by its digest.
class CheckedPackages {
 public:
  // `root`: in front of /proc.
  CheckedPackages(FileSystem& files, std::string folder, std::string_view root);

  bool Has(const TensorSource& model) const;
  // Records of which as many are kept; those of other boots are removed first.
  static constexpr size_t kRecordsMax = 1000;

  // A model all of whose weights were checked; others are left out, as is one whose file was written within the last second: it could be
  // written again within one tick of the kernel's clock for files. `now_ns` since 1970. Errors: those of FileSystem; Exhausted
  // (kRecordsMax of this boot).
  Status Remember(const TensorSource& model, int64_t now_ns);

 private:
  std::string PathOf(const Digest& digest) const;
  std::string RecordOf(const TensorSource::Contents& contents) const;
  Status RemoveOthers();

  FileSystem& files_;
  const std::string folder_;
  std::string boot_;  // the machine's since it started; empty: unknown, and nothing is remembered
};

}  // namespace bantam
