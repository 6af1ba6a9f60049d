// Writes GGUF bytes field by field, right or deliberately wrong.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

namespace bantam::testing {

class GgufBuilder {
 public:
  GgufBuilder& U32(std::string_view key, uint32_t value) { return Scalar(key, 4, value); }
  GgufBuilder& F32(std::string_view key, float value) { return Scalar(key, 6, value); }
  GgufBuilder& Bool(std::string_view key, bool value) { return Scalar(key, 7, static_cast<uint8_t>(value)); }
  GgufBuilder& Text(std::string_view key, std::string_view value) {
    Key(key, 8);
    PutText(&metadata_, value);
    return *this;
  }
  GgufBuilder& Texts(std::string_view key, const std::vector<std::string>& values) {
    Key(key, 9);
    Put<uint32_t>(&metadata_, 8);
    Put<uint64_t>(&metadata_, values.size());
    for (const std::string& value : values) PutText(&metadata_, value);
    return *this;
  }
  GgufBuilder& F32s(std::string_view key, const std::vector<float>& values) { return Array(key, 6, values); }
  GgufBuilder& I32s(std::string_view key, const std::vector<int32_t>& values) { return Array(key, 5, values); }
  // A pair of any type id, followed by raw bytes.
  GgufBuilder& Raw(std::string_view key, uint32_t type, std::string_view bytes) {
    Key(key, type);
    metadata_ += bytes;
    return *this;
  }

  struct Tensor {
    std::string name;
    std::vector<uint64_t> dimensions;
    uint32_t type = 0;
    std::string bytes;
    int64_t offset = -1;  // in the data section; -1: behind the previous one, aligned
  };
  GgufBuilder& Add(Tensor tensor) {
    tensors_.push_back(std::move(tensor));
    return *this;
  }

  std::vector<Tensor>& tensors() { return tensors_; }

  // Rows of several matrices, or elements of vectors, one behind the other: one tensor instead of `parts`, in place of the first.
  GgufBuilder& Join(const std::vector<std::string>& parts, const std::string& name) {
    Tensor joined;
    size_t place = tensors_.size();
    for (const std::string& part : parts) {
      for (size_t i = 0; i < tensors_.size(); ++i) {
        if (tensors_[i].name != part) continue;
        if (joined.bytes.empty()) {
          joined = tensors_[i];
          place = i;
        } else {
          joined.dimensions.back() += tensors_[i].dimensions.back();
          joined.bytes += tensors_[i].bytes;
        }
        tensors_.erase(tensors_.begin() + static_cast<std::ptrdiff_t>(i));
        break;
      }
    }
    if (joined.bytes.empty()) return *this;
    joined.name = name;
    tensors_.insert(tensors_.begin() + static_cast<std::ptrdiff_t>(place), std::move(joined));
    return *this;
  }

  // Adds the tensors of one layer again, as those of another.
  GgufBuilder& CopyLayer(int from, int to) {
    const std::string prefix = "blk." + std::to_string(from) + ".";
    for (size_t i = 0, n = tensors_.size(); i < n; ++i) {
      if (!tensors_[i].name.starts_with(prefix)) continue;
      Tensor copy = tensors_[i];
      copy.name = "blk." + std::to_string(to) + "." + copy.name.substr(prefix.size());
      tensors_.push_back(std::move(copy));
    }
    return *this;
  }

  uint32_t version = 3;
  size_t alignment = 32;  // of what this writer lays out; general.alignment is the caller's to add

  std::string Build() const {
    std::string file = "GGUF";
    Put<uint32_t>(&file, version);
    Put<uint64_t>(&file, tensors_.size());
    Put<uint64_t>(&file, n_metadata_);
    file += metadata_;
    std::string data;
    for (const Tensor& tensor : tensors_) {
      PutText(&file, tensor.name);
      Put<uint32_t>(&file, static_cast<uint32_t>(tensor.dimensions.size()));
      for (const uint64_t dimension : tensor.dimensions) Put<uint64_t>(&file, dimension);
      Put<uint32_t>(&file, tensor.type);
      data.resize((data.size() + alignment - 1) / alignment * alignment);
      Put<uint64_t>(&file, tensor.offset < 0 ? data.size() : static_cast<uint64_t>(tensor.offset));
      data += tensor.bytes;
    }
    file.resize((file.size() + alignment - 1) / alignment * alignment);
    return file + data;
  }
  void Write(const std::string& path) const { std::ofstream(path, std::ios::binary) << Build(); }

 private:
  template <typename T>
  static void Put(std::string* out, T value) {
    char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    out->append(bytes, sizeof(T));
  }
  static void PutText(std::string* out, std::string_view text) {
    Put<uint64_t>(out, text.size());
    *out += text;
  }
  void Key(std::string_view key, uint32_t type) {
    PutText(&metadata_, key);
    Put<uint32_t>(&metadata_, type);
    ++n_metadata_;
  }
  template <typename T>
  GgufBuilder& Scalar(std::string_view key, uint32_t type, T value) {
    Key(key, type);
    Put<T>(&metadata_, value);
    return *this;
  }
  template <typename T>
  GgufBuilder& Array(std::string_view key, uint32_t type, const std::vector<T>& values) {
    Key(key, 9);
    Put<uint32_t>(&metadata_, type);
    Put<uint64_t>(&metadata_, values.size());
    for (const T value : values) Put<T>(&metadata_, value);
    return *this;
  }

  std::string metadata_;
  uint64_t n_metadata_ = 0;
  std::vector<Tensor> tensors_;
};

}  // namespace bantam::testing
