// One file out of a gzip-compressed tar archive (POSIX ustar with pax or GNU long names), read front to back as it comes. Whatever the
// archive says, memory stays constant and no more than a limit is unpacked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace bantam {

class TarGzMember {
 public:
  using Sink = std::function<Status(std::span<const std::byte>)>;

  // Hands the bytes of the file `member` to `sink`. Exhausted past `member_bytes_max` of it, or past that and kOtherBytesMax in the
  // archive.
  static constexpr uint64_t kOtherBytesMax = uint64_t{16} << 20;
  TarGzMember(std::string member, uint64_t member_bytes_max, Sink sink);
  ~TarGzMember();
  TarGzMember(const TarGzMember&) = delete;
  TarGzMember& operator=(const TarGzMember&) = delete;

  // The next bytes of the archive. Errors: Corrupt (not gzip, not tar), Exhausted, and what the sink says.
  Status Append(std::span<const std::byte> compressed);
  // After the last: Corrupt when the archive ended early, NotFound when the file was not in it.
  Status Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace bantam
