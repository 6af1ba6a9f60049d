#include "testing/gguf_variant.h"

#include <algorithm>

#include "base/check.h"
#include "formats/gguf.h"
#include "formats/gguf_writer.h"

namespace bantam::testing {

Status WriteVariant(const std::string& from, const std::string& to, const GgufVariant& variant) {
  const auto files = MakeFileSystem();
  BANTAM_ASSIGN(ModelFile file, OpenGguf(*files, from));
  std::vector<MetadataEntry> metadata = variant.metadata;
  for (const MetadataEntry& entry : file.metadata.entries()) {
    const bool replaced =
        std::any_of(metadata.begin(), metadata.end(), [&](const MetadataEntry& changed) { return changed.key == entry.key; });
    if (!replaced) metadata.push_back(entry);
  }
  std::vector<GgufTensor> tensors;
  std::string data;
  for (const TensorInfo& tensor : file.directory.tensors()) {
    tensors.push_back({std::string(tensor.name), tensor.dtype, {tensor.dimensions, tensor.dimensions + tensor.n_dimensions}});
    BANTAM_ASSIGN(const auto bytes, file.source->View(tensor.offset_bytes, tensor.size_bytes));
    data.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  for (const GgufVariant::FloatTensor& tensor : variant.tensors) {
    tensors.push_back({tensor.name, DType::kF32, {tensor.values.size()}});
    data.append(reinterpret_cast<const char*>(tensor.values.data()), 4 * tensor.values.size());
  }
  BANTAM_ASSIGN(const auto writer, GgufWriter::Make(*files, to, metadata, tensors));
  BANTAM_TRY(writer->Append(std::as_bytes(std::span(data))));
  return writer->Commit();
}

GgufVariant RopeVariant(std::string_view name) {
  GgufVariant variant;
  const auto number = [&](std::string_view key, double value) { variant.metadata.push_back({key, value, ValueType::kF32}); };
  const auto original = [&](uint64_t tokens) {
    variant.metadata.push_back({"llama.rope.scaling.original_context_length", tokens, ValueType::kU32});
  };
  const auto type = [&](std::string_view value) { variant.metadata.push_back({"llama.rope.scaling.type", value}); };
  if (name == "linear") {
    type("linear");
    number("llama.rope.scaling.factor", 4);
    return variant;
  }
  if (name == "yarn") {
    type("yarn");
    original(32);
    number("llama.rope.scaling.factor", 4);
    number("llama.rope.scaling.attn_factor", 1.1);
    return variant;
  }
  CHECK(name == "longrope-short" || name == "longrope-long");
  type("longrope");
  original(name == "longrope-long" ? 32 : 4096);
  number("llama.rope.scaling.attn_factor", 1.19);
  std::vector<float> near(4);
  std::vector<float> far(4);
  for (size_t i = 0; i < 4; ++i) {
    near[i] = 1 + 0.1f * static_cast<float>(i);
    far[i] = 1 + 0.5f * static_cast<float>(i);
  }
  variant.tensors = {{"rope_factors_short.weight", near}, {"rope_factors_long.weight", far}};
  return variant;
}

}  // namespace bantam::testing
