#include "fleet/origin.h"

#include <fmt/format.h>

#include <utility>

namespace bantam {
namespace {

class ReplyStream final : public ByteStream {
 public:
  explicit ReplyStream(std::unique_ptr<HttpReply> reply) : reply_(std::move(reply)) {}
  Result<size_t> Read(std::span<std::byte> into) override { return reply_->Read(into); }

 private:
  std::unique_ptr<HttpReply> reply_;
};

class EmptyStream final : public ByteStream {
 public:
  Result<size_t> Read(std::span<std::byte>) override { return size_t{0}; }
};

// Only a strong tag says that bytes are the same; If-Range takes no other (RFC 9110, section 13.1.5).
std::string StrongTag(const HttpReply& reply) {
  constexpr size_t kTagBytesMax = 512;
  const std::string tag = reply.Field("ETag").value_or("");
  return tag.starts_with('"') && tag.size() <= kTagBytesMax ? tag : "";
}

class HttpOrigin final : public Origin {
 public:
  HttpOrigin(HttpTransport& transport, HttpRequest request, HttpLimits limits)
      : transport_(transport), request_(std::move(request)), limits_(limits) {}

  std::string Name() const override { return ShownUrl(request_.url); }

  Result<Opened> Open(uint64_t offset, std::string_view tag) override {
    HttpRequest request = request_;
    request.end_allowed = offset > 0;
    if (offset > 0) request.fields.push_back({"Range", fmt::format("bytes={}-", offset)});
    if (offset > 0 && !tag.empty()) request.fields.push_back({"If-Range", std::string(tag)});
    BANTAM_ASSIGN(std::unique_ptr<HttpReply> reply, Fetch(transport_, request, limits_));
    Opened opened;
    opened.tag = StrongTag(*reply);
    opened.total = reply->body_bytes;
    if (reply->status != 200) {
      opened.offset = offset;
      bool same = tag.empty() || opened.tag == tag;
      if (reply->status == 206) {
        BANTAM_ASSIGN(opened.total, CheckRange(*reply, offset));
      } else {
        // 416: all of it is here already, or the file there is another, which is shorter.
        opened.total = ParseUnsatisfiedRange(reply->Field("Content-Range").value_or(""));
        same = same && opened.total == offset;
      }
      // A server that does not heed If-Range, or says nothing of the version: the part that is here may be of another.
      if (!same) {
        reply.reset();  // closes the connection before the next one
        return Open(/*offset=*/0, /*tag=*/"");
      }
    }
    if (reply->status == 416) {
      opened.bytes = std::make_unique<EmptyStream>();
    } else {
      opened.bytes = std::make_unique<ReplyStream>(std::move(reply));
    }
    return opened;
  }

 private:
  // The total that an answer of 206 tells, once what it tells fits what was asked.
  Result<std::optional<uint64_t>> CheckRange(const HttpReply& reply, uint64_t offset) const {
    const std::string value = reply.Field("Content-Range").value_or("");
    const std::optional<ContentRange> range = ParseContentRange(value);
    const bool asked = offset > 0 && range.has_value() && range->first == offset;
    if (!asked || reply.body_bytes.value_or(range->last - range->first + 1) != range->last - range->first + 1) {
      return Error(Code::kCorrupt, fmt::format("{}: asked for bytes from {} on, the server sends \"{}\"; try another server", Name(),
                                               offset, value.substr(0, 60)));
    }
    return range->total;
  }

  HttpTransport& transport_;
  const HttpRequest request_;
  const HttpLimits limits_;
};

class FileStream final : public ByteStream {
 public:
  FileStream(std::unique_ptr<PartFile> file, uint64_t offset) : file_(std::move(file)), offset_(offset) {}
  Result<size_t> Read(std::span<std::byte> into) override {
    BANTAM_ASSIGN(const size_t got, file_->Read(offset_, into));
    offset_ += got;
    return got;
  }

 private:
  std::unique_ptr<PartFile> file_;
  uint64_t offset_;
};

class FileOrigin final : public Origin {
 public:
  FileOrigin(Disk& disk, std::string path) : disk_(disk), path_(std::move(path)) {}
  std::string Name() const override { return fmt::format("file:{}", path_); }
  // It has no tags: who asks for the rest has a digest, which tells whether that belongs to what is there.
  Result<Opened> Open(uint64_t offset, std::string_view) override {
    BANTAM_ASSIGN(std::unique_ptr<PartFile> file, disk_.OpenForReading(path_));
    Opened opened;
    opened.total = file->size();
    opened.offset = offset <= file->size() ? offset : 0;
    opened.bytes = std::make_unique<FileStream>(std::move(file), opened.offset);
    return opened;
  }

 private:
  Disk& disk_;
  const std::string path_;
};

}  // namespace

std::unique_ptr<Origin> MakeHttpOrigin(HttpTransport& transport, HttpRequest request, HttpLimits limits) {
  return std::make_unique<HttpOrigin>(transport, std::move(request), limits);
}

std::unique_ptr<Origin> MakeFileOrigin(Disk& disk, std::string path) { return std::make_unique<FileOrigin>(disk, std::move(path)); }

}  // namespace bantam
