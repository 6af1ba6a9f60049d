#include "compress/awq.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <optional>
#include <utility>

#include "compress/grams_ahead.h"
#include "tensor/group_pack.h"

namespace bantam {
namespace {

using kernels::kColumnsMax;

// Of each matrix so many rows are packed with every candidate.
constexpr size_t kSampledRows = 64;
// Formats of more bits lose too little to gain by it.
constexpr int kBitsMax = 6;
constexpr float kMagnitudeMin = 1e-4f;

// e G e^T for up to kColumnsMax rows of errors, each [n].
void AddQuadratic(const float* const* errors, size_t count, const UpperPanels& gram, const KernelSet& kernels, double* sums) {
  alignas(64) float products[kColumnsMax * kPanelRows];
  for (size_t p = 0; p < gram.panels(); ++p) {
    const size_t first = p * kPanelRows;
    const float* values = gram.Panel(p);
    std::fill_n(products, count * kPanelRows, 0.0f);
    if (p > 0) {
      const kernels::Panel panel = {reinterpret_cast<const uint8_t*>(values), first, nullptr, 1};
      const void* columns[kColumnsMax];
      for (size_t c = 0; c < count; ++c) columns[c] = errors[c];
      kernels.product[static_cast<size_t>(PanelKind::kF32)](panel, columns, count, products);
    }
    const size_t width = std::min(kPanelRows, gram.n() - first);
    for (size_t c = 0; c < count; ++c) {
      const float* e = errors[c] + first;
      for (size_t j = 0; j < width; ++j) {
        // The triangle above the diagonal counts twice.
        double above = static_cast<double>(products[c * kPanelRows + j]);
        for (size_t i = 0; i < j; ++i) above += static_cast<double>(e[i]) * static_cast<double>(values[(first + i) * kPanelRows + j]);
        const double own = static_cast<double>(e[j]) * static_cast<double>(values[(first + j) * kPanelRows + j]);
        sums[c] += static_cast<double>(e[j]) * (2 * above + own);
      }
    }
  }
}

}  // namespace

std::vector<float> AwqScales(const std::vector<float>& magnitudes, double alpha) {
  std::vector<float> scales;
  for (const float magnitude : magnitudes) {
    scales.push_back(std::max(static_cast<float>(std::pow(static_cast<double>(magnitude), alpha)), kMagnitudeMin));
  }
  const auto [least, most] = std::minmax_element(scales.begin(), scales.end());
  const float middle = std::sqrt(*least * *most);
  for (float& scale : scales) scale /= middle;
  return scales;
}

Result<double> OutputError(const ScaledRows& rows, const PackedAs& as, const UpperPanels& gram, const KernelSet& kernels,
                           ThreadPool& pool) {
  const size_t n = rows.scales.size();
  const size_t count = rows.values.size() / n;
  std::vector<float> means(rows.means.size());
  for (size_t i = 0; i < means.size(); ++i) means[i] = rows.means[i] / (rows.scales[i] * rows.scales[i]);
  std::vector<float> errors(rows.values.size());
  std::vector<double> sums(count);
  std::mutex lock;
  std::optional<Error> failed;
  pool.Run([&](int thread) {
    const auto [begin, end] = Share(count, thread, pool.size());
    std::vector<float> row(n);
    std::vector<uint8_t> blocks(RowBytes(as.dtype, n));
    for (size_t r = begin; r < end; ++r) {
      const float* values = rows.values.data() + r * n;
      for (size_t i = 0; i < n; ++i) row[i] = values[i] * rows.scales[i];
      const Status packed =
          as.group == 0 ? PackRow(as.dtype, row, means, blocks.data()) : PackGroups(as.dtype, as.group, row, means, blocks.data());
      if (!packed.ok()) {
        const std::lock_guard<std::mutex> guard(lock);
        failed = packed.error();
        return;
      }
      float* error = errors.data() + r * n;
      Unpack(as.dtype, blocks.data(), n, error);
      for (size_t i = 0; i < n; ++i) error[i] = values[i] - error[i] / rows.scales[i];
    }
    for (size_t r = begin; r < end; r += kColumnsMax) {
      const size_t at_once = std::min(kColumnsMax, end - r);
      const float* some[kColumnsMax];
      for (size_t c = 0; c < at_once; ++c) some[c] = errors.data() + (r + c) * n;
      AddQuadratic(some, at_once, gram, kernels, sums.data() + r);
    }
  });
  if (failed) return *std::move(failed);
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

namespace {

// A matrix that reads a point, as far as it is looked at.
struct Reader {
  PackedAs as;
  std::vector<float> values;  // [sampled][n]
  double weight = 1;          // rows of the matrix for each that is sampled
};

class Search {
 public:
  Search(const AwqSetup& setup, const Progress& progress) : setup_(setup), progress_(progress) {}

  Result<AwqReport> Run() {
    std::vector<ScalePoint> points = FindScalePoints(setup_.program, setup_.file.directory);
    std::erase_if(points, [&](const ScalePoint& point) { return !Pays(point); });
    std::vector<std::string> names;
    for (const ScalePoint& point : points) names.push_back(point.multiplied.front());
    GramsAhead grams(setup_.calibrator, names, setup_.gram_bytes_max);
    double before = 0, after = 0;
    for (size_t i = 0; i < points.size(); ++i) {
      if (progress_ && !progress_("scaling", i, points.size())) return Error(Code::kCancelled, "the search for scales was interrupted");
      BANTAM_ASSIGN(const auto gram, grams.Take(names[i]));
      BANTAM_TRY(SearchPoint(points[i], *gram, &before, &after));
    }
    report_.looked_at = points.size();
    report_.error = before > 0 ? after / before : 1;
    return std::move(report_);
  }

 private:
  // All readers are packed, one of them in few bits, and calibration knows what they read.
  bool Pays(const ScalePoint& point) const {
    bool few = false;
    for (const std::string& name : point.multiplied) {
      const TensorReport* plan = PlanOf(name);
      const ColumnImportance* importance = setup_.importance.Find(name);
      if (plan == nullptr || importance == nullptr || importance->matrices() != 1 || setup_.calibrator.GramBytes({name}) == 0) return false;
      // An importance file of another model is refused where its numbers are used.
      if (importance->columns != setup_.file.directory.Find(name)->columns()) return false;
      if (Info(plan->to).decode == nullptr || plan->to == plan->from) return false;
      few = few || 8 * Info(plan->to).block_bytes < (kBitsMax + 1) * Info(plan->to).block_elements;
    }
    return few;
  }
  const TensorReport* PlanOf(const std::string& name) const {
    for (const TensorReport& tensor : setup_.plan.tensors) {
      if (tensor.name == name) return &tensor;
    }
    return nullptr;
  }

  Result<Reader> Sample(const std::string& name) {
    const TensorInfo& tensor = *setup_.file.directory.Find(name);
    const TensorReport& plan = *PlanOf(name);
    Reader reader = {{plan.to, plan.group}, {}};
    const size_t count = std::min<size_t>(kSampledRows, tensor.rows());
    const uint64_t row_bytes = RowBytes(tensor.dtype, tensor.columns());
    reader.values.resize(count * tensor.columns());
    reader.weight = static_cast<double>(tensor.rows()) / static_cast<double>(count);
    const auto scaled = report_.scales.find(name);
    for (size_t i = 0; i < count; ++i) {
      const uint64_t row = i * tensor.rows() / count;
      BANTAM_ASSIGN(const auto bytes, setup_.file.source->View(tensor.offset_bytes + row * row_bytes, row_bytes));
      float* values = reader.values.data() + i * tensor.columns();
      Unpack(tensor.dtype, reinterpret_cast<const uint8_t*>(bytes.data()), tensor.columns(), values);
      // What an earlier point divides its rows by counts too.
      if (scaled == report_.scales.end() || scaled->second.row_divisors.empty()) continue;
      for (size_t c = 0; c < tensor.columns(); ++c) values[c] /= scaled->second.row_divisors[row];
    }
    return reader;
  }

  Status SearchPoint(const ScalePoint& point, const UpperPanels& gram, double* before, double* after) {
    std::vector<Reader> readers;
    for (const std::string& name : point.multiplied) {
      BANTAM_ASSIGN(readers.emplace_back(), Sample(name));
    }
    const std::vector<float> means = setup_.importance.Find(point.multiplied.front())->Means(/*matrix=*/0);
    std::vector<double> squares(point.scales), columns(point.scales);
    for (size_t c = 0; c < means.size(); ++c) {
      squares[point.ScaleOf(c)] += static_cast<double>(means[c]);
      columns[point.ScaleOf(c)] += 1;
    }
    std::vector<float> magnitudes(point.scales);
    for (size_t i = 0; i < point.scales; ++i) magnitudes[i] = static_cast<float>(std::sqrt(squares[i] / std::max(columns[i], 1.0)));
    double least = HUGE_VAL;
    std::vector<float> best;
    for (size_t step = 0; step < kAwqSteps; ++step) {
      const std::vector<float> scales = AwqScales(magnitudes, AwqAlpha(step));
      std::vector<float> of_columns(means.size());
      for (size_t c = 0; c < means.size(); ++c) of_columns[c] = scales[point.ScaleOf(c)];
      double error = 0;
      for (const Reader& reader : readers) {
        BANTAM_ASSIGN(const double one, OutputError({reader.values, of_columns, means}, reader.as, gram, setup_.kernels, setup_.pool));
        error += reader.weight * one;
      }
      if (step == 0) *before += error;
      if (error < least) {
        least = error;
        best = step == 0 ? std::vector<float>() : scales;
      }
    }
    *after += std::isfinite(least) ? least : 0;
    if (best.empty()) return Ok();
    AddScales(point, best, &report_.scales);
    ++report_.points;
    return Ok();
  }

  const AwqSetup& setup_;
  const Progress& progress_;
  AwqReport report_;
};

}  // namespace

Result<AwqReport> SearchAwq(const AwqSetup& setup, const Progress& progress) { return Search(setup, progress).Run(); }

}  // namespace bantam
