// Makes the metadata and the tensor directory of a model whose format has neither in GGUF's form.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "formats/model_file.h"

namespace bantam {

class MetadataBuilder {
 public:
  // A later value takes the place of an earlier one of the same key.
  void SetCount(std::string_view key, uint32_t value) { Set(key, value); }
  // Rounded to f32, as GGUF files have them: a folder and the file made of it compute the same.
  void SetNumber(std::string_view key, double value) { Set(key, double{static_cast<float>(value)}); }
  void SetFlag(std::string_view key, bool value) { Set(key, value); }
  void SetText(std::string_view key, std::string value) { Set(key, std::move(value)); }
  void SetCounts(std::string_view key, std::vector<uint32_t> values) { Set(key, std::move(values)); }
  void SetNumbers(std::string_view key, std::vector<float> values) { Set(key, std::move(values)); }
  void SetTexts(std::string_view key, std::vector<std::string> values) { Set(key, std::move(values)); }
  // An array of numbers of one byte each, which the caller keeps as long as the model file.
  void AttachBytes(std::string_view key, std::span<const std::byte> bytes) { Set(key, bytes); }

  // The file that all of it was made of, and the member behind a key: for errors.
  void SetOrigin(std::string_view file) { origin_.file = file; }
  void SetMember(std::string_view key, std::string_view member) { origin_.members.emplace_back(key, member); }

  struct Tensor {
    std::string name;
    TensorInfo info;  // all but the name
  };

  // Fills header, metadata and directory. Errors: those of TensorDirectory::Make.
  Status Build(const std::vector<Tensor>& tensors, ModelFile* file) const;

 private:
  using Value = std::variant<uint32_t, double, bool, std::string, std::vector<uint32_t>, std::vector<float>, std::vector<std::string>,
                             std::span<const std::byte>>;
  struct Entry {
    std::string key;
    Value value;
  };
  void Set(std::string_view key, Value value);

  std::vector<Entry> entries_;
  Metadata::Origin origin_;
};

}  // namespace bantam
