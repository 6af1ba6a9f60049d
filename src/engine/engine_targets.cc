#include "engine/engine_targets.h"

#include <memory>

#include "base/power_meter.h"

namespace bantam {

Status UseAdaptiveTargets(FileSystem& files, const AdaptiveTargets& targets, size_t sequences, EngineOptions* options) {
  if (!targets.any()) return Ok();
  if (targets.watts > 0) {
    const auto meter = std::make_shared<PowerMeter>(files, /*root=*/"");
    BANTAM_TRY(meter->Check());
    options->watts = [meter](int64_t now_ns) { return meter->Read(now_ns); };
  }
  options->adaptive = AdaptiveController::Make(targets, sequences);
  return Ok();
}

}  // namespace bantam
