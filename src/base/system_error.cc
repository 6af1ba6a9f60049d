#include "base/system_error.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace bantam {

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

Error SystemError(const std::string& path, std::string_view action, int error_number) {
  Code code = Code::kUnavailable;
  std::string_view remedy = "try again or check the disk";
  if (error_number == ENOENT || error_number == ENOTDIR) {
    code = Code::kNotFound;
    remedy = "check the path";
  } else if (error_number == EACCES || error_number == EPERM || error_number == EROFS) {
    code = Code::kDenied;
    remedy = "check its permissions";
  } else if (error_number == EISDIR || error_number == ENAMETOOLONG || error_number == ELOOP) {
    code = Code::kInvalidArgument;
    remedy = "name a file";
  } else if (error_number == ENOMEM || error_number == EMFILE || error_number == ENFILE) {
    code = Code::kExhausted;
    remedy = "close other programs or raise the process's limits";
  } else if (error_number == ENOSPC || error_number == EDQUOT) {
    remedy = "free some space on the disk";
  }
  return Error(code, fmt::format("{}: cannot {}: {}; {}", path, action, std::strerror(error_number), remedy));
}

}  // namespace bantam
