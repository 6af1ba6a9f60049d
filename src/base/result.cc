#include "base/result.h"

namespace bantam {
namespace {

struct CodeRow {
  std::string_view name;
  int exit_status;
};

constexpr CodeRow Row(Code code) {
  switch (code) {
    case Code::kInvalidArgument:
      return {"invalid argument", 2};
    case Code::kNotFound:
      return {"not found", 3};
    case Code::kCorrupt:
      return {"corrupt", 3};
    case Code::kUnsupported:
      return {"unsupported", 3};
    case Code::kExhausted:
      return {"exhausted", 4};
    case Code::kDenied:
      return {"denied", 3};
    case Code::kUnavailable:
      return {"unavailable", 5};
    case Code::kCancelled:
      return {"cancelled", 130};
    case Code::kInternal:
      return {"internal", 5};
  }
  return {"internal", 5};
}

}  // namespace

std::string_view CodeName(Code code) { return Row(code).name; }
int ExitStatus(Code code) { return Row(code).exit_status; }

}  // namespace bantam
