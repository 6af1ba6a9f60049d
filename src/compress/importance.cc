#include "compress/importance.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/bytes.h"
#include "formats/gguf.h"
#include "formats/gguf_writer.h"

namespace bantam {
namespace {

constexpr std::string_view kSumsEnd = ".in_sum2";
constexpr std::string_view kCountsEnd = ".counts";
constexpr std::string_view kTypeKey = "general.type";
constexpr std::string_view kType = "imatrix";
constexpr std::string_view kTextsKey = "imatrix.datasets";
constexpr std::string_view kWindowsKey = "imatrix.chunk_count";
constexpr std::string_view kWindowTokensKey = "imatrix.chunk_size";
// Of one tensor's numbers, and of entries.
constexpr uint64_t kNumbersMax = uint64_t{1} << 28;
constexpr uint32_t kEntriesMax = 1 << 16;

Status CheckNumbers(std::string_view name, std::span<const float> numbers) {
  for (const float number : numbers) {
    if (!std::isfinite(number) || number < 0) {
      return Error(Code::kCorrupt, fmt::format("tensor {}: {}, expected mean squares, which are finite and not below 0", name, number));
    }
  }
  return Ok();
}

Result<std::vector<float>> ReadFloats(ModelFile& file, const TensorInfo& tensor) {
  if (tensor.dtype != DType::kF32 || tensor.elements() > kNumbersMax) {
    return Error(Code::kCorrupt, fmt::format("tensor {}: {} of {}, expected at most {} of F32", tensor.name, tensor.elements(),
                                             Info(tensor.dtype).name, kNumbersMax));
  }
  BANTAM_ASSIGN(const auto bytes, file.source->View(tensor.offset_bytes, tensor.size_bytes));
  std::vector<float> numbers(tensor.elements());
  std::memcpy(numbers.data(), bytes.data(), bytes.size());
  BANTAM_TRY(CheckNumbers(tensor.name, numbers));
  return numbers;
}

Result<Importance> ReadGguf(FileSystem& files, const std::string& path) {
  BANTAM_ASSIGN(ModelFile file, OpenGguf(files, path));
  Importance importance;
  for (const TensorInfo& tensor : file.directory.tensors()) {
    if (!tensor.name.ends_with(kSumsEnd)) continue;
    const std::string name(tensor.name.substr(0, tensor.name.size() - kSumsEnd.size()));
    const TensorInfo* counts = file.directory.Find(name + std::string(kCountsEnd));
    if (counts == nullptr || counts->elements() != tensor.rows() || tensor.matrices() != 1) {
      return Error(Code::kCorrupt,
                   fmt::format("{}: tensor {}: no counts that fit it; measure again (bantam quantize --calibrate)", path, tensor.name));
    }
    ColumnImportance& entry = importance.tensors[name];
    entry.columns = tensor.columns();
    BANTAM_ASSIGN(entry.sums, ReadFloats(file, tensor).With(path));
    BANTAM_ASSIGN(entry.counts, ReadFloats(file, *counts).With(path));
  }
  if (importance.tensors.empty()) {
    return Error(Code::kCorrupt, fmt::format("{}: no tensor NAME{}; expected column statistics (an imatrix file)", path, kSumsEnd));
  }
  BANTAM_ASSIGN(const auto texts, file.metadata.Texts(kTextsKey, /*count_max=*/1024).With(path));
  if (texts && !texts->empty()) importance.text = std::string(texts->front());
  BANTAM_ASSIGN(const auto windows, file.metadata.U32(kWindowsKey).With(path));
  BANTAM_ASSIGN(const auto tokens, file.metadata.U32(kWindowTokensKey).With(path));
  importance.windows = windows.value_or(0);
  importance.window_tokens = tokens.value_or(0);
  return importance;
}

// Entries of a name, the number of calls n, and n times the mean square of each column; then calls in all, and the text's name.
Result<Importance> ParseDat(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  BANTAM_ASSIGN(const uint32_t entries, reader.Read<uint32_t>("the number of entries"));
  if (entries == 0 || entries > kEntriesMax) {
    return Error(Code::kCorrupt, fmt::format("{} entries, expected 1 to {}; this is no imatrix file", entries, kEntriesMax));
  }
  Importance importance;
  for (uint32_t i = 0; i < entries; ++i) {
    BANTAM_ASSIGN(const uint32_t length, reader.Read<uint32_t>("the length of a name"));
    BANTAM_ASSIGN(const auto name, reader.Take(length, "a name"));
    BANTAM_ASSIGN(const uint32_t calls, reader.Read<uint32_t>("the number of calls"));
    BANTAM_ASSIGN(const uint32_t count, reader.Read<uint32_t>("the number of columns"));
    BANTAM_ASSIGN(const auto values, reader.Take(uint64_t{count} * sizeof(float), "the columns"));
    if (calls == 0 || count == 0) return Error(Code::kCorrupt, fmt::format("entry {}: no calls or columns", i));
    ColumnImportance& entry = importance.tensors[std::string(AsText(name))];
    entry.columns = count;
    entry.sums.resize(count);
    std::memcpy(entry.sums.data(), values.data(), values.size());
    entry.counts = {static_cast<float>(calls)};
    BANTAM_TRY(CheckNumbers(AsText(name), entry.sums));
  }
  if (reader.remaining() >= 8) {
    BANTAM_ASSIGN(importance.windows, reader.Read<uint32_t>("the number of windows"));
    BANTAM_ASSIGN(const uint32_t length, reader.Read<uint32_t>("the length of the text's name"));
    BANTAM_ASSIGN(const auto text, reader.Take(length, "the text's name"));
    importance.text = std::string(AsText(text));
  }
  return importance;
}

}  // namespace

std::vector<float> ColumnImportance::Means(size_t matrix) const {
  std::vector<float> means(columns, 1.0f);
  const size_t begin = counts[matrix] > 0 ? matrix : 0;
  const size_t end = counts[matrix] > 0 ? matrix + 1 : matrices();
  double count = 0;
  for (size_t m = begin; m < end; ++m) count += static_cast<double>(counts[m]);
  if (!(count > 0)) return means;
  for (size_t c = 0; c < columns; ++c) {
    double sum = 0;
    for (size_t m = begin; m < end; ++m) sum += static_cast<double>(sums[m * columns + c]);
    means[c] = static_cast<float>(sum / count);
  }
  return means;
}

const ColumnImportance* Importance::Find(std::string_view name) const {
  const auto at = tensors.find(name);
  return at == tensors.end() ? nullptr : &at->second;
}

Status WriteImportance(FileSystem& files, const std::string& path, const Importance& importance) {
  const std::string_view text = importance.text;
  const std::string texts = EncodeTexts({&text, 1});
  std::vector<MetadataEntry> metadata = {{kTypeKey, kType, ValueType::kString},
                                         {kTextsKey, MetadataArray{ValueType::kString, 1, AsBytes(texts)}, ValueType::kString},
                                         {kWindowsKey, uint64_t{importance.windows}, ValueType::kU32},
                                         {kWindowTokensKey, uint64_t{importance.window_tokens}, ValueType::kU32}};
  std::vector<GgufTensor> tensors;
  for (const auto& [name, entry] : importance.tensors) {
    tensors.push_back({name + std::string(kSumsEnd), DType::kF32, {entry.columns, entry.matrices()}});
    tensors.push_back({name + std::string(kCountsEnd), DType::kF32, {1, entry.matrices()}});
  }
  BANTAM_ASSIGN(const auto writer, GgufWriter::Make(files, path, std::move(metadata), tensors));
  for (const auto& [name, entry] : importance.tensors) {
    BANTAM_TRY(writer->Append(std::as_bytes(std::span(entry.sums))));
    BANTAM_TRY(writer->Append(std::as_bytes(std::span(entry.counts))));
  }
  return writer->Commit();
}

Result<Importance> ReadImportance(FileSystem& files, const std::string& path) {
  BANTAM_ASSIGN(const auto mapping, files.Map(path));
  const auto bytes = mapping->bytes();
  if (bytes.size() >= 4 && AsText(bytes.first(4)) == "GGUF") return ReadGguf(files, path);
  return ParseDat(bytes).With(path);
}

}  // namespace bantam
