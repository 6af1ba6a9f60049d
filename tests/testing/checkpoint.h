// Tiny Hugging Face folders, as tests/data/huggingface/README.md describes them.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/json.h"

namespace bantam::testing {

// One tensor of a safetensors file.
struct StoredTensor {
  std::string dtype;
  std::vector<uint64_t> shape;
  std::string bytes;
};
using StoredTensors = std::map<std::string, StoredTensor>;

// The values that a checkpoint's description stands for.
StoredTensors ValuesOf(const Json& description);

// A whole safetensors file.
std::string SafetensorsFile(const StoredTensors& tensors);

void WriteText(const std::string& path, std::string_view text);

// config.json and model.safetensors.
void WriteCheckpoint(const std::string& folder, const Json& config, const StoredTensors& tensors);

// A description of tests/data/huggingface.
Json ReadDescription(const std::string& path);

}  // namespace bantam::testing
