// Files of adapters (docs/formats/adapters.md): what they add to which weights, whatever the format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "formats/model_file.h"
#include "model/config.h"
#include "tensor/dtype.h"

namespace bantam {

inline constexpr size_t kPeftConfigBytesMax = size_t{1} << 20;

// y += scale * B (A x) for the product of one weight.
struct AdapterPair {
  struct Matrix {
    std::string name;  // of the tensor, for errors
    DType dtype = DType::kF32;
    uint64_t offset_bytes = 0;
  };
  std::string weight;  // as GGUF files name it
  size_t rank = 0;
  size_t columns = 0;
  size_t rows = 0;
  float scale = 1;
  Matrix a;  // [rank, columns]
  Matrix b;  // [rows, rank]
};

struct AdapterFile {
  std::string path;
  std::string format;
  std::vector<AdapterPair> pairs;  // at least one
  std::unique_ptr<TensorSource> source;
};

// Ranks and shapes are within limits; that weights are the model's is still to be looked at. Errors: those of FileSystem; Corrupt and
// Unsupported name the tensor, key or member.
Result<AdapterFile> OpenAdapter(FileSystem& files, const std::string& path, const Config& config);

// One format each.
Result<AdapterFile> OpenPeft(FileSystem& files, const std::string& folder, const Config& config);
Result<AdapterFile> OpenGgufAdapter(FileSystem& files, const std::string& path, const Config& config);

}  // namespace bantam
