#include "compress/sparsify.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <numeric>
#include <vector>

namespace bantam {
namespace {

using kernels::kColumnsMax;

constexpr size_t kBlockColumns = 128;
constexpr size_t kGroupMax = 32;

// Marks the `count` smallest of these scores; of equal ones the first.
void MarkSmallest(std::span<const float> scores, size_t count, std::span<uint8_t> marks) {
  std::vector<uint32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0u);
  count = std::min(count, order.size());
  const auto less = [&](uint32_t a, uint32_t b) { return scores[a] < scores[b] || (scores[a] == scores[b] && a < b); };
  std::nth_element(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(), less);
  std::fill(marks.begin(), marks.end(), uint8_t{0});
  for (size_t i = 0; i < count; ++i) marks[order[i]] = 1;
}

size_t PartOf(size_t count, double part) { return static_cast<size_t>(static_cast<double>(count) * part); }

// Zeros where scores [count] are smallest: among all of them, or group by group.
void ZeroSmallest(std::span<float> values, std::span<const float> scores, const Sparsity& sparsity) {
  std::vector<uint8_t> marks(values.size());
  const size_t group = sparsity.zeros == 0 ? values.size() : sparsity.group;
  for (size_t at = 0; at < values.size(); at += group) {
    const size_t n = std::min(group, values.size() - at);
    const size_t zeros = sparsity.zeros == 0 ? PartOf(n, sparsity.part) : sparsity.zeros * n / group;
    MarkSmallest(scores.subspan(at, n), zeros, std::span(marks).subspan(at, n));
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (marks[i] != 0) values[i] = 0;
  }
}

// With H = R R^T the error of a row is |(w - q) R|^2. The columns before j are chosen: with e = w - q of those, what column j should be is
// w_j + x_j, where x solves x R = (e R) over the columns that are left, the first of which needs its own diagonal alone. A weight that
// becomes zero then costs (w_j + x_j)^2 R_jj^2.
class SparseChooser {
 public:
  SparseChooser(const SparseRows& matrix, const Sparsity& sparsity, const GramFactor& factor, const KernelSet& kernels)
      : matrix_(matrix),
        sparsity_(sparsity),
        r_(factor.r),
        kernels_(kernels),
        errors_(matrix.rows * matrix.n),
        asked_(matrix.rows * kBlockColumns),
        scores_(matrix.rows * kBlockColumns),
        marks_(matrix.rows * kBlockColumns) {}

  void Run(ThreadPool& pool) {
    for (size_t begin = 0; begin < matrix_.n; begin += kBlockColumns) {
      const size_t count = std::min(kBlockColumns, matrix_.n - begin);
      pool.Run([&](int thread) {
        const auto [first, end] = Share(matrix_.rows, thread, pool.size());
        AskOfEarlier(begin, count, first, end);
        if (sparsity_.zeros == 0) {
          for (size_t row = first; row < end; ++row) Score(row, begin, /*from=*/0, count, scores_.data() + row * count);
        }
      });
      if (sparsity_.zeros == 0) {
        const size_t all = matrix_.rows * count;
        MarkSmallest(std::span(scores_).first(all), PartOf(all, sparsity_.part), std::span(marks_).first(all));
      }
      pool.Run([&](int thread) {
        const auto [first, end] = Share(matrix_.rows, thread, pool.size());
        for (size_t row = first; row < end; ++row) Choose(row, begin, count);
      });
    }
  }

 private:
  float* Asked(size_t row) { return asked_.data() + row * kBlockColumns; }
  float R(size_t i, size_t j) const { return r_.At(i, j); }

  // (e R) of a block's columns, over the errors in front of the block.
  void AskOfEarlier(size_t begin, size_t count, size_t first, size_t end) {
    alignas(64) float sums[kColumnsMax * kPanelRows];
    for (size_t row = first; row < end; row += kColumnsMax) {
      const size_t rows = std::min(kColumnsMax, end - row);
      for (size_t at = 0; at < count; at += kPanelRows) {
        std::fill_n(sums, rows * kPanelRows, 0.0f);
        if (begin > 0) {
          const size_t panel = (begin + at) / kPanelRows;
          const kernels::Panel weights = {reinterpret_cast<const uint8_t*>(r_.Panel(panel)), begin, nullptr, 1};
          const void* columns[kColumnsMax];
          for (size_t c = 0; c < rows; ++c) columns[c] = errors_.data() + (row + c) * matrix_.n;
          kernels_.product[static_cast<size_t>(PanelKind::kF32)](weights, columns, rows, sums);
        }
        for (size_t c = 0; c < rows; ++c) {
          std::copy_n(sums + c * kPanelRows, std::min(kPanelRows, count - at), Asked(row + c) + at);
        }
      }
    }
  }

  // What it would cost to make columns [from, to) of a block zero, each alone, by what is asked of them.
  void Score(size_t row, size_t begin, size_t from, size_t to, float* scores) {
    std::array<float, kBlockColumns> x;
    for (size_t j = from; j < to; ++j) {
      float sum = Asked(row)[j];
      for (size_t i = from; i < j; ++i) sum -= x[i] * R(begin + i, begin + j);
      const float diagonal = R(begin + j, begin + j);
      x[j] = sum / diagonal;
      const float cost = (matrix_.values[row * matrix_.n + begin + j] + x[j]) * diagonal;
      scores[j - from] = cost * cost;
    }
  }

  void Choose(size_t row, size_t begin, size_t count) {
    float* values = matrix_.values + row * matrix_.n + begin;
    float* errors = errors_.data() + row * matrix_.n + begin;
    float* asked = Asked(row);
    uint8_t* marks = marks_.data() + row * count;
    for (size_t j = 0; j < count; ++j) {
      if (sparsity_.zeros != 0 && j % sparsity_.group == 0) {
        const size_t n = std::min(sparsity_.group, count - j);
        std::array<float, kGroupMax> scores;
        Score(row, begin, j, j + n, scores.data());
        MarkSmallest(std::span(scores).first(n), sparsity_.zeros * n / sparsity_.group, std::span(marks + j, n));
      }
      const float chosen = marks[j] != 0 ? 0 : values[j] + asked[j] / R(begin + j, begin + j);
      errors[j] = values[j] - chosen;
      values[j] = chosen;
      for (size_t k = j + 1; k < count; ++k) asked[k] += errors[j] * R(begin + j, begin + k);
    }
  }

  const SparseRows matrix_;
  const Sparsity sparsity_;
  const UpperPanels& r_;
  const KernelSet& kernels_;
  std::vector<float> errors_;  // [rows][n]
  std::vector<float> asked_;   // [rows][kBlockColumns], of the block at work
  std::vector<float> scores_;  // [rows][columns of the block]
  std::vector<uint8_t> marks_;
};

}  // namespace

Result<SparseMethod> SparseMethodFromName(std::string_view name) {
  if (name == "magnitude") return SparseMethod::kMagnitude;
  if (name == "wanda") return SparseMethod::kWanda;
  if (name == "sparsegpt") return SparseMethod::kSparseGpt;
  return Error(Code::kInvalidArgument, fmt::format("{}: expected magnitude, wanda or sparsegpt", name));
}

Result<Sparsity> ParseSparsity(std::string_view text) {
  const auto number = [](std::string_view digits) {
    size_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return error == std::errc() && end == digits.data() + digits.size() ? value : 0;
  };
  const size_t colon = text.find(':');
  if (colon != std::string_view::npos) {
    const Sparsity sparsity = {0, number(text.substr(0, colon)), number(text.substr(colon + 1))};
    const bool divides = sparsity.group > 0 && kBlockColumns % sparsity.group == 0;
    if (divides && sparsity.zeros > 0 && sparsity.zeros < sparsity.group && sparsity.group <= kGroupMax) return sparsity;
  } else if (text.ends_with('%')) {
    const size_t percent = number(text.substr(0, text.size() - 1));
    if (percent >= 1 && percent <= 99) return Sparsity{static_cast<double>(percent) / 100};
  }
  return Error(Code::kInvalidArgument,
               fmt::format("{}: expected a part of the weights, 1% to 99%, or so many of a few neighbours, such as 2:4", text));
}

void SparsifyByMagnitude(const SparseRows& matrix, const Sparsity& sparsity) {
  const std::span<float> values(matrix.values, matrix.rows * matrix.n);
  std::vector<float> scores(sparsity.zeros == 0 ? values.size() : matrix.n);
  const size_t at_once = scores.size();  // groups do not reach over the end of a row
  for (size_t at = 0; at < values.size(); at += at_once) {
    const std::span<float> part = values.subspan(at, at_once);
    std::transform(part.begin(), part.end(), scores.begin(), [](float value) { return std::fabs(value); });
    ZeroSmallest(part, scores, sparsity);
  }
}

void SparsifyByWanda(const SparseRows& matrix, const Sparsity& sparsity, std::span<const float> means) {
  std::vector<float> scores(matrix.n);
  for (size_t row = 0; row < matrix.rows; ++row) {
    const std::span<float> values(matrix.values + row * matrix.n, matrix.n);
    for (size_t j = 0; j < matrix.n; ++j) scores[j] = std::fabs(values[j]) * std::sqrt(means[j]);
    ZeroSmallest(values, scores, sparsity);
  }
}

void SparsifyBySparseGpt(const SparseRows& matrix, const Sparsity& sparsity, const GramFactor& factor, const KernelSet& kernels,
                         ThreadPool& pool) {
  CHECK(factor.r.n() == matrix.n && std::is_sorted(factor.order.begin(), factor.order.end()));
  SparseChooser(matrix, sparsity, factor, kernels).Run(pool);
}

}  // namespace bantam
