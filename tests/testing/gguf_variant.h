// A model file with some metadata changed and tensors added.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "formats/model_file.h"

namespace bantam::testing {

struct GgufVariant {
  std::vector<MetadataEntry> metadata;  // replaces or adds
  struct FloatTensor {
    std::string name;
    std::vector<float> values;
  };
  std::vector<FloatTensor> tensors;  // added, of one dimension
};

Status WriteVariant(const std::string& from, const std::string& to, const GgufVariant& variant);

// stories260K of tests/data/models with its rotary embedding stretched: "linear", "yarn", "longrope-short" or "longrope-long". Their logits
// lie beside it.
GgufVariant RopeVariant(std::string_view name);

}  // namespace bantam::testing
