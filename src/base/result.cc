#include "base/result.h"

namespace bantam {
int ExitStatus(Code code) {
  switch (code) {
    case Code::kInvalidArgument:
      return 2;
    case Code::kNotFound:
    case Code::kCorrupt:
    case Code::kUnsupported:
    case Code::kDenied:
      return 3;
    case Code::kExhausted:
      return 4;
    case Code::kUnavailable:
    case Code::kInternal:
      return 5;
    case Code::kCancelled:
      return 130;
  }
  return 5;
}

}  // namespace bantam
