// Tensors of a model that is made of another: some as they are there, others made when they are read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/model_file.h"

namespace bantam {

// All values of a tensor. Corrupt for those that are no numbers.
Result<std::vector<float>> ReadValues(const TensorInfo& tensor, TensorSource& source);
Status ReadValues(const TensorInfo& tensor, TensorSource& source, std::span<float> values);

class MadeSource : public TensorSource {
 public:
  // In the order in which they were added.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  // Keeps what metadata and names view.
  std::string_view Keep(std::string bytes) { return kept_.emplace_back(std::move(bytes)); }

  Result<std::span<const std::byte>> View(uint64_t offset_bytes, uint64_t size_bytes) override;
  void Release(uint64_t offset_bytes, uint64_t size_bytes) override;
  uint64_t held_bytes() const override { return made_.size(); }

 protected:
  // The source of the whole model outlives it.
  explicit MadeSource(TensorSource& whole) : whole_(whole) {}

  // Name, format and dimensions of a tensor. `copied`: the one of the whole model that it is; null: it is made.
  void Add(TensorInfo info, const TensorInfo* copied);
  // The tensor's bytes, which are zeros before.
  virtual Status Make(size_t index, std::span<std::byte> bytes) = 0;
  TensorSource& whole() { return whole_; }

 private:
  size_t Find(uint64_t offset_bytes) const;

  TensorSource& whole_;
  std::deque<std::string> kept_;
  std::vector<TensorInfo> tensors_;
  std::vector<const TensorInfo*> copied_;
  size_t made_index_ = SIZE_MAX;
  std::vector<std::byte> made_;  // the tensor that was made last
};

}  // namespace bantam
