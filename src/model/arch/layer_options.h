// What layers of any family may be: block-sparse, or with the weights of another layer (ADR 0012).
#pragma once

#include "model/arch/registry.h"
#include "model/config.h"

namespace bantam {

// Reads <family>.attention.block_sparse.* and <family>.layer_weights into the plans of layers.
Status ReadLayerOptions(const FamilyMetadata& metadata, Config* config);

}  // namespace bantam
