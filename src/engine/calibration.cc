#include "engine/calibration.h"

#include <fmt/format.h>

#include <algorithm>

namespace bantam {

Result<Calibration> Calibration::Read(const Json& json) {
  const Json& points = JsonMember(json, "confidence");
  if (!points.is_array() || points.empty() || points.size() > kPointsMax) {
    return Error(Code::kInvalidArgument,
                 fmt::format("a calibration: expected {{\"confidence\": [[computed, right], ...]}} with 1 to {} points", kPointsMax));
  }
  Calibration calibration;
  for (const Json& point : points) {
    const auto is_share = [](const Json& value) { return value.is_number() && value.get<double>() >= 0 && value.get<double>() <= 1; };
    const std::string where = fmt::format("confidence[{}] of a calibration", calibration.points_.size());
    if (!point.is_array() || point.size() != 2 || !is_share(point[0]) || !is_share(point[1])) {
      return Error(Code::kInvalidArgument, fmt::format("{}: {}: expected [computed, right], both from 0 to 1", where, ShortJson(point)));
    }
    const std::pair next(point[0].get<float>(), point[1].get<float>());
    if (!calibration.points_.empty() &&
        (next.first <= calibration.points_.back().first || next.second < calibration.points_.back().second)) {
      return Error(Code::kInvalidArgument,
                   fmt::format("{}: {}: expected points in rising order, whose shares do not fall", where, ShortJson(point)));
    }
    calibration.points_.push_back(next);
  }
  return calibration;
}

Result<Calibration> Calibration::Open(FileSystem& files, const std::string& path) {
  constexpr size_t kFileBytesMax = 1 << 20;
  BANTAM_ASSIGN(const std::string text, files.ReadText(path, kFileBytesMax));
  BANTAM_ASSIGN(const Json json, ParseJson(text).With(path));
  return Read(json).With(path);
}

float Calibration::Map(float confidence) const {
  const auto above =
      std::upper_bound(points_.begin(), points_.end(), confidence, [](float c, const auto& point) { return c < point.first; });
  if (above == points_.begin()) return points_.front().second;
  if (above == points_.end()) return points_.back().second;
  const auto& [x0, y0] = *(above - 1);
  const auto& [x1, y1] = *above;
  return y0 + (y1 - y0) * (confidence - x0) / (x1 - x0);
}

}  // namespace bantam
