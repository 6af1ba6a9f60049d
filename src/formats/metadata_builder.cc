#include "formats/metadata_builder.h"

#include <algorithm>
#include <cstring>

#include "formats/gguf_writer.h"

namespace bantam {
namespace {

// Copies one thing after another into a block that is large enough.
class Block {
 public:
  explicit Block(std::byte* at) : at_(at) {}

  std::span<const std::byte> Add(const void* bytes, size_t size) {
    if (size != 0) std::memcpy(at_, bytes, size);
    const std::span<const std::byte> added(at_, size);
    at_ += size;
    return added;
  }
  std::string_view Add(std::string_view text) {
    const auto bytes = Add(text.data(), text.size());
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

 private:
  std::byte* at_;
};

std::string Encoded(const std::vector<std::string>& texts) {
  return EncodeTexts(std::vector<std::string_view>(texts.begin(), texts.end()));
}

}  // namespace

void MetadataBuilder::Set(std::string_view key, Value value) {
  const auto same = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.key == key; });
  if (same != entries_.end()) {
    same->value = std::move(value);
  } else {
    entries_.push_back({std::string(key), std::move(value)});
  }
}

Status MetadataBuilder::Build(const std::vector<Tensor>& tensors, ModelFile* file) const {
  size_t size = 0;
  for (const Entry& entry : entries_) {
    size += entry.key.size();
    if (const auto* text = std::get_if<std::string>(&entry.value)) size += text->size();
    if (const auto* counts = std::get_if<std::vector<uint32_t>>(&entry.value)) size += counts->size() * sizeof(uint32_t);
    if (const auto* numbers = std::get_if<std::vector<float>>(&entry.value)) size += numbers->size() * sizeof(float);
    if (const auto* texts = std::get_if<std::vector<std::string>>(&entry.value)) size += Encoded(*texts).size();
  }
  for (const Tensor& tensor : tensors) size += tensor.name.size();
  file->header_bytes = size;
  file->header = std::make_unique_for_overwrite<std::byte[]>(size);
  Block block(file->header.get());
  std::vector<MetadataEntry> entries;
  for (const Entry& entry : entries_) {
    MetadataEntry made;
    made.key = block.Add(entry.key);
    if (const auto* count = std::get_if<uint32_t>(&entry.value)) {
      made.value = uint64_t{*count};
      made.stored = ValueType::kU32;
    } else if (const auto* number = std::get_if<double>(&entry.value)) {
      made.value = *number;
      made.stored = ValueType::kF32;
    } else if (const auto* flag = std::get_if<bool>(&entry.value)) {
      made.value = *flag;
      made.stored = ValueType::kBool;
    } else if (const auto* text = std::get_if<std::string>(&entry.value)) {
      made.value = block.Add(*text);
      made.stored = ValueType::kString;
    } else if (const auto* bytes = std::get_if<std::span<const std::byte>>(&entry.value)) {
      made.value = MetadataArray{ValueType::kU8, bytes->size(), *bytes};
    } else if (const auto* counts = std::get_if<std::vector<uint32_t>>(&entry.value)) {
      made.value = MetadataArray{ValueType::kU32, counts->size(), block.Add(counts->data(), counts->size() * sizeof(uint32_t))};
    } else if (const auto* numbers = std::get_if<std::vector<float>>(&entry.value)) {
      made.value = MetadataArray{ValueType::kF32, numbers->size(), block.Add(numbers->data(), numbers->size() * sizeof(float))};
    } else if (const auto* texts = std::get_if<std::vector<std::string>>(&entry.value)) {
      const std::string encoded = Encoded(*texts);
      made.value = MetadataArray{ValueType::kString, texts->size(), block.Add(encoded.data(), encoded.size())};
    }
    entries.push_back(made);
  }
  BANTAM_ASSIGN(file->metadata, Metadata::Make(std::move(entries)));
  file->metadata.SetOrigin(origin_);
  std::vector<TensorInfo> infos;
  for (const Tensor& tensor : tensors) {
    infos.push_back(tensor.info);
    infos.back().name = block.Add(tensor.name);
  }
  BANTAM_ASSIGN(file->directory, TensorDirectory::Make(std::move(infos)));
  return Ok();
}

}  // namespace bantam
