// From what a user wants an engine to keep to, to what does it.
#pragma once

#include <cstddef>

#include "base/file.h"
#include "base/result.h"
#include "engine/adaptive.h"
#include "engine/engine.h"

namespace bantam {

// Gives the options a controller for an engine of so many sequences, and a power meter where there is a target in watts. Without targets it
// does nothing. Errors: Unsupported where power is a target and nothing measures it. The files outlive the engine.
Status UseAdaptiveTargets(FileSystem& files, const AdaptiveTargets& targets, size_t sequences, EngineOptions* options);

}  // namespace bantam
