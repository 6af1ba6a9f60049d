// Where the bytes of one file come from, from any offset on.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/disk.h"
#include "net/http.h"

namespace bantam {

class ByteStream {
 public:
  virtual ~ByteStream() = default;
  // 0 at the end. Errors as HttpReply::Read.
  virtual Result<size_t> Read(std::span<std::byte> into) = 0;
};

struct Opened {
  uint64_t offset = 0;            // of the first byte that comes: what was asked for, or 0
  std::optional<uint64_t> total;  // bytes of the whole file, where known
  std::string tag;                // names this version of the file; empty: the origin has no names for versions
  std::unique_ptr<ByteStream> bytes;
};

class Origin {
 public:
  virtual ~Origin() = default;
  // What tells this file from others, without secrets: for errors, and for knowing a part again.
  virtual std::string Name() const = 0;
  // From `offset` on if the file still is the version `tag`, from its start otherwise. Without a tag only who has the file's digest may ask
  // for another offset than 0: nobody else could say that the rest belongs to what came before.
  virtual Result<Opened> Open(uint64_t offset, std::string_view tag) = 0;
};

// Of a server. `transport` must outlive it.
std::unique_ptr<Origin> MakeHttpOrigin(HttpTransport& transport, HttpRequest request, HttpLimits limits);

// Of a file of this machine.
std::unique_ptr<Origin> MakeFileOrigin(Disk& disk, std::string path);

}  // namespace bantam
