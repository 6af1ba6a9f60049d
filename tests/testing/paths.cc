#include "testing/paths.h"

namespace bantam::testing {

std::string DataPath(std::string_view name) { return std::string(BANTAM_TEST_DATA) + "/" + std::string(name); }

std::string SharedPath(std::string_view name) { return std::string(BANTAM_SHARED) + "/" + std::string(name); }

}  // namespace bantam::testing
