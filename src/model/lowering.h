// The one lowering: from a Config and a tensor directory to a Program in its plain form.
#pragma once

#include "base/result.h"
#include "formats/model_file.h"
#include "model/config.h"
#include "program/program.h"

namespace bantam {

// Checks that every tensor is there and has the shape that the config implies. Errors: Corrupt (missing, wrong shape),
// Unsupported (a layout this build does not read).
Result<Program> Lower(const Config& config, const TensorDirectory& tensors);

}  // namespace bantam
