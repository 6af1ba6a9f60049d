#include "serve/grpc_certificates.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/file.h"

namespace bantam {
namespace {

constexpr size_t kFileBytesMax = 1 << 20;

std::string PathOf(int descriptor) { return descriptor < 0 ? "" : fmt::format("/proc/self/fd/{}", descriptor); }

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number() const { return number_; }
  // In the place of one that was there, if one was: whoever opens its path has all of the old one or all of this.
  bool MoveTo(int* place) {
    if (*place < 0) {
      *place = std::exchange(number_, -1);
      return true;
    }
    return ::dup3(number_, *place, O_CLOEXEC) == *place;
  }

 private:
  int number_;
};

Status Fill(int descriptor, std::string_view text) {
  while (descriptor >= 0 && !text.empty()) {
    const ssize_t written = ::write(descriptor, text.data(), text.size());
    if (written < 0 && errno != EINTR) break;
    text.remove_prefix(static_cast<size_t>(written < 0 ? 0 : written));
  }
  if (descriptor >= 0 && text.empty()) return Ok();
  return Error(Code::kExhausted, fmt::format("certificates: no file in memory for them: {}", std::strerror(errno)));
}

}  // namespace

GrpcCertificates::~GrpcCertificates() {
  for (const int descriptor : {identity_, roots_}) {
    if (descriptor >= 0) ::close(descriptor);
  }
}

std::string GrpcCertificates::identity_path() const { return PathOf(identity_); }
std::string GrpcCertificates::roots_path() const { return PathOf(roots_); }

Status GrpcCertificates::Use(const TlsOptions& options) {
  BANTAM_TRY(CheckTlsFiles(options));
  const bool asks_clients = !options.client_certificate_file.empty();
  if (identity_ >= 0 && asks_clients != (roots_ >= 0)) {
    return Error(Code::kInvalidArgument, "certificates: whether clients need one is for the next start of the server");
  }
  const auto files = MakeFileSystem();
  BANTAM_ASSIGN(const std::string key, files->ReadText(options.key_file, kFileBytesMax));
  BANTAM_ASSIGN(const std::string certificate, files->ReadText(options.certificate_file, kFileBytesMax));
  std::string clients;
  if (asks_clients) {
    BANTAM_ASSIGN(clients, files->ReadText(options.client_certificate_file, kFileBytesMax));
  }
  // Both in one: readers of PEM pass over what they do not look for.
  Descriptor identity(::memfd_create("bantam certificate", MFD_CLOEXEC));
  BANTAM_TRY(Fill(identity.number(), fmt::format("{}\n{}", key, certificate)));
  Descriptor roots(asks_clients ? ::memfd_create("bantam clients", MFD_CLOEXEC) : -1);
  if (asks_clients) BANTAM_TRY(Fill(roots.number(), clients));
  // What was checked may have been something else.
  const std::string path = PathOf(identity.number());
  if (!CheckTlsFiles({path, path, PathOf(roots.number())}).ok()) {
    return Error(Code::kUnavailable, fmt::format("{}: changed while it was read; try again", options.certificate_file));
  }
  if (identity.MoveTo(&identity_) && (!asks_clients || roots.MoveTo(&roots_))) return Ok();
  return Error(Code::kExhausted, fmt::format("certificates: {}", std::strerror(errno)));
}

}  // namespace bantam
