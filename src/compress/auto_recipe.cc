#include "compress/auto_recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/memory_budget.h"
#include "compress/recipe.h"

namespace bantam {
namespace {

// Of a tensor: enough for two digits of the error.
constexpr uint64_t kSampledRows = 64;

constexpr DType kCandidates[] = {DType::kQ2_K, DType::kQ3_K, DType::kIQ4_XS, DType::kIQ4_NL, DType::kQ4_K,
                                 DType::kQ5_0, DType::kQ5_K, DType::kQ6_K,   DType::kQ8_0,   DType::kF16};

uint64_t MemoryBytes(DType type, const TensorInfo& tensor) {
  return MatrixBytes(Info(type).panel, tensor.rows(), tensor.columns()) * tensor.matrices();
}

// The tensor's rows that are looked at, one behind the other.
Result<std::vector<float>> SampleRows(ModelFile& file, const TensorInfo& tensor, std::vector<size_t>* matrices) {
  const uint64_t rows = tensor.rows() * tensor.matrices();
  const uint64_t count = std::min(rows, kSampledRows);
  const uint64_t row_bytes = RowBytes(tensor.dtype, tensor.columns());
  std::vector<float> values(count * tensor.columns());
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t row = i * rows / count;
    BANTAM_ASSIGN(const auto bytes, file.source->View(tensor.offset_bytes + row * row_bytes, row_bytes));
    Unpack(tensor.dtype, reinterpret_cast<const uint8_t*>(bytes.data()), tensor.columns(), values.data() + i * tensor.columns());
    matrices->push_back(row / tensor.rows());
  }
  return values;
}

// Squared error over square, of a sample packed in one format.
Result<double> SampleLoss(DType type, std::span<const float> values, const std::vector<std::vector<float>>& means, size_t columns) {
  std::vector<uint8_t> blocks(RowBytes(type, columns));
  std::vector<float> back(columns);
  double error = 0, square = 0;
  for (size_t r = 0; r < values.size() / columns; ++r) {
    const auto row = values.subspan(r * columns, columns);
    const std::vector<float>& weights = means[r];
    BANTAM_TRY(PackRow(type, row, weights, blocks.data()));
    Unpack(type, blocks.data(), columns, back.data());
    for (size_t i = 0; i < columns; ++i) {
      const double weight = weights.empty() ? 1 : static_cast<double>(weights[i]);
      error += weight * std::pow(static_cast<double>(row[i]) - static_cast<double>(back[i]), 2);
      square += weight * std::pow(static_cast<double>(row[i]), 2);
    }
  }
  return square > 0 ? error / square : 0;
}

// Leaves away what costs more bytes for no less loss.
void Sort(std::vector<FormatCost>* candidates) {
  std::stable_sort(candidates->begin(), candidates->end(),
                   [](const FormatCost& a, const FormatCost& b) { return a.bytes != b.bytes ? a.bytes < b.bytes : a.loss < b.loss; });
  std::vector<FormatCost> kept;
  for (const FormatCost& candidate : *candidates) {
    if (kept.empty() || candidate.loss < kept.back().loss) kept.push_back(candidate);
  }
  *candidates = std::move(kept);
}

}  // namespace

uint64_t KeptBytes(const ModelFile& file) {
  uint64_t bytes = 0;
  for (const TensorInfo& tensor : file.directory.tensors()) {
    if (!IsCompressible(tensor)) bytes += tensor.size_bytes;
  }
  return bytes;
}

Result<std::vector<FormatCosts>> PredictLosses(ModelFile& file, const Importance* importance, ThreadPool& pool, const Progress& progress) {
  std::vector<FormatCosts> lists;
  uint64_t done = 0;
  for (const TensorInfo& tensor : file.directory.tensors()) {
    if (progress && !progress("predicting losses", done++, file.directory.tensors().size())) {
      return Error(Code::kCancelled, "predicting losses was interrupted");
    }
    if (!IsCompressible(tensor)) continue;
    std::vector<size_t> matrices;
    BANTAM_ASSIGN(const std::vector<float> values, SampleRows(file, tensor, &matrices));
    const ColumnImportance* entry = importance == nullptr ? nullptr : importance->Find(tensor.name);
    if (entry != nullptr && (entry->columns != tensor.columns() || entry->matrices() != tensor.matrices())) entry = nullptr;
    std::vector<std::vector<float>> means(matrices.size());
    for (size_t r = 0; r < means.size() && entry != nullptr; ++r) means[r] = entry->Means(matrices[r]);
    std::vector<DType> types;
    for (const DType type : kCandidates) {
      if (tensor.columns() % Info(type).block_elements == 0) types.push_back(type);
    }
    std::vector<Result<double>> losses(types.size(), 0.0);
    pool.Run([&](int thread) {
      for (size_t i = static_cast<size_t>(thread); i < types.size(); i += static_cast<size_t>(pool.size())) {
        losses[i] = SampleLoss(types[i], values, means, tensor.columns());
      }
    });
    FormatCosts list = {std::string(tensor.name), {}};
    for (size_t i = 0; i < types.size(); ++i) {
      if (!losses[i].ok()) return Error(losses[i].error()).With(fmt::format("{}: tensor {}", file.path, tensor.name));
      list.candidates.push_back({types[i], MemoryBytes(types[i], tensor), *losses[i]});
    }
    Sort(&list.candidates);
    lists.push_back(std::move(list));
  }
  return lists;
}

Result<AutoChoice> ChooseTypes(std::span<const FormatCosts> tensors, uint64_t other_bytes, uint64_t limit_bytes) {
  std::vector<size_t> chosen(tensors.size());
  uint64_t bytes = other_bytes;
  for (const FormatCosts& list : tensors) bytes += list.candidates.front().bytes;
  if (bytes > limit_bytes) {
    return Error(Code::kExhausted, fmt::format("the smallest formats take {} of memory, and {} are allowed; allow more, or take a model of "
                                               "fewer weights",
                                               FormatBytes(bytes), FormatBytes(limit_bytes)));
  }
  while (true) {
    // Of each tensor the step that pays most, which may leave formats out.
    double best = 0;
    size_t tensor = tensors.size();
    size_t to = 0;
    for (size_t t = 0; t < tensors.size(); ++t) {
      const auto& candidates = tensors[t].candidates;
      const FormatCost& now = candidates[chosen[t]];
      for (size_t c = chosen[t] + 1; c < candidates.size(); ++c) {
        const uint64_t more = candidates[c].bytes - now.bytes;
        const double gain = (now.loss - candidates[c].loss) / static_cast<double>(more);
        if (bytes + more > limit_bytes || !(gain > best)) continue;
        best = gain;
        tensor = t;
        to = c;
      }
    }
    if (tensor == tensors.size()) break;
    bytes += tensors[tensor].candidates[to].bytes - tensors[tensor].candidates[chosen[tensor]].bytes;
    chosen[tensor] = to;
  }
  AutoChoice choice;
  for (size_t t = 0; t < tensors.size(); ++t) {
    const FormatCost& candidate = tensors[t].candidates[chosen[t]];
    choice.tensors.push_back({tensors[t].name, candidate.type, candidate.loss});
  }
  choice.weights_bytes = bytes;
  return choice;
}

}  // namespace bantam
