// split_model IN.gguf STEM N: IN as a model in N files, STEM-00001-of-0000N.gguf and so on (docs/formats/gguf.md), all metadata in the
// first.
#include <fmt/format.h>

#include <cstdio>
#include <string>
#include <vector>

#include "base/file.h"
#include "formats/gguf.h"
#include "formats/gguf_parts.h"
#include "formats/gguf_writer.h"

namespace {

using namespace bantam;

Status Split(const std::string& from, const std::string& stem, uint32_t count) {
  const auto files = MakeFileSystem();
  BANTAM_ASSIGN(ModelFile model, OpenGguf(*files, from));
  const auto& tensors = model.directory.tensors();
  for (uint32_t part = 0; part < count; ++part) {
    std::vector<MetadataEntry> metadata = {{"split.no", uint64_t{part}, ValueType::kU16},
                                           {"split.count", uint64_t{count}, ValueType::kU16},
                                           {"split.tensors.count", uint64_t{tensors.size()}, ValueType::kI32}};
    if (part == 0) metadata.insert(metadata.begin(), model.metadata.entries().begin(), model.metadata.entries().end());
    const size_t begin = tensors.size() * part / count;
    const size_t end = tensors.size() * (part + 1) / count;
    std::vector<GgufTensor> own;
    for (size_t i = begin; i < end; ++i) {
      const TensorInfo& tensor = tensors[i];
      own.push_back({std::string(tensor.name), tensor.dtype, {tensor.dimensions, tensor.dimensions + tensor.n_dimensions}});
    }
    BANTAM_ASSIGN(const auto writer, GgufWriter::Make(*files, GgufPartPath(stem, part + 1, count), metadata, own));
    for (size_t i = begin; i < end; ++i) {
      BANTAM_ASSIGN(const auto bytes, model.source->View(tensors[i].offset_bytes, tensors[i].size_bytes));
      BANTAM_TRY(writer->Append(bytes));
    }
    BANTAM_TRY(writer->Commit());
  }
  return Ok();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 || argv[3][0] < '1' || argv[3][0] > '9' || argv[3][1] != '\0') {
    std::fprintf(stderr, "usage: split_model IN.gguf STEM N\n");
    return 2;
  }
  const Status status = Split(argv[1], argv[2], static_cast<uint32_t>(argv[3][0] - '0'));
  if (!status.ok()) std::fprintf(stderr, "split_model: %s\n", status.error().message().c_str());
  return status.ok() ? 0 : 1;
}
