// Calibration: what a confidence means on questions whose answers somebody checked.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/result.h"

namespace bantam {

// A map from confidences as they are computed to shares of answers that were right: lines between points that rise (as isotonic regression
// gives them: Zadrozny and Elkan, "Transforming classifier scores into accurate multiclass probability estimates", 2002). Below the first
// point and above the last one it stays level.
class Calibration {
 public:
  static constexpr size_t kPointsMax = 1024;

  // {"confidence": [[computed, right], ...]}, both from 0 to 1, the first rising, the second not falling; 1 to kPointsMax points.
  // InvalidArgument says which point is wrong.
  static Result<Calibration> Read(const Json& json);
  // Of a file. Errors name it; also those of FileSystem::ReadText.
  static Result<Calibration> Open(FileSystem& files, const std::string& path);

  float Map(float confidence) const;

 private:
  std::vector<std::pair<float, float>> points_;
};

}  // namespace bantam
