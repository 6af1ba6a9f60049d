#include "compress/calibrate.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <optional>

#include "compress/watched_products.h"

namespace bantam {
namespace {

// Rows of one product's input, kept until all are there. Shared by all products: they come one after the other.
class Stage {
 public:
  Stage(size_t rows, size_t width) : x_(rows * width), xt_(rows * width) {}

  void Put(const ProductObserver::Product& product, size_t row, std::span<const float> x) {
    std::copy(x.begin(), x.end(), x_.begin() + static_cast<std::ptrdiff_t>(row * x.size()));
    for (size_t c = 0; c < x.size(); ++c) xt_[c * product.rows + row] = x[c];
  }
  GramRows Rows(size_t rows) const { return {x_.data(), xt_.data(), rows}; }
  // [rows] of a column.
  const float* Column(size_t column, size_t rows) const { return xt_.data() + column * rows; }

 private:
  std::vector<float> x_;   // [rows][width]
  std::vector<float> xt_;  // [width][rows]
};

size_t WidthMax(const std::vector<WatchedProduct>& products) {
  size_t width = 0;
  for (const WatchedProduct& watched : products) width = std::max(width, watched.columns);
  return width;
}

// Which products each operation is a part of; those of other operations are none.
class ProductsOfOps {
 public:
  ProductsOfOps(const Program& program, const std::vector<WatchedProduct>& products) : of_(program.ops.size()) {
    for (size_t i = 0; i < products.size(); ++i) {
      for (const size_t op : products[i].ops) of_[op].push_back(i);
    }
  }
  const std::vector<size_t>& operator[](size_t op) const { return of_[op]; }

 private:
  std::vector<std::vector<size_t>> of_;
};

class ImportanceObserver : public ProductObserver {
 public:
  ImportanceObserver(const Program& program, size_t step_tokens)
      : products_(FindProducts(program, /*experts=*/true)),
        by_op_(program, products_),
        stage_(step_tokens * program.experts_used, WidthMax(products_)) {
    for (const WatchedProduct& watched : products_) {
      squares_.emplace_back(watched.matrices * watched.columns);
      counts_.emplace_back(watched.matrices);
    }
  }

  bool Wants(size_t op) const override { return !by_op_[op].empty(); }
  void See(const Product& product, size_t row, std::span<const float> x) override { stage_.Put(product, row, x); }
  void Finish(const Product& product, int thread, int team) override {
    for (const size_t index : by_op_[product.op]) Add(product, index, thread, team);
  }

  Result<Importance> Take() const {
    Importance importance;
    for (size_t i = 0; i < products_.size(); ++i) {
      ColumnImportance entry;
      entry.columns = products_[i].columns;
      entry.sums.assign(squares_[i].begin(), squares_[i].end());
      entry.counts.assign(counts_[i].begin(), counts_[i].end());
      const bool finite = std::all_of(entry.sums.begin(), entry.sums.end(), [](float sum) { return std::isfinite(sum); });
      if (!finite) {
        return Error(Code::kCorrupt, fmt::format("{}: reads activations that are no numbers, or too large; the model is damaged",
                                                 products_[i].names.front()));
      }
      for (const std::string& name : products_[i].names) importance.tensors[name] = entry;
    }
    return importance;
  }

 private:
  void Add(const Product& product, size_t index, int thread, int team) {
    const size_t columns = products_[index].columns;
    const auto [begin, end] = Share(columns, thread, team);
    for (size_t c = begin; c < end; ++c) {
      const float* x = stage_.Column(c, product.rows);
      double* squares = squares_[index].data();
      if (product.experts.empty()) {
        for (size_t r = 0; r < product.rows; ++r) squares[c] += static_cast<double>(x[r]) * static_cast<double>(x[r]);
        continue;
      }
      for (size_t slot = 0; slot < product.experts.size(); ++slot) {
        const double value = static_cast<double>(x[slot / product.slots_per_row]);
        squares[static_cast<size_t>(product.experts[slot]) * columns + c] += value * value;
      }
    }
    if (thread != 0) return;
    if (product.experts.empty()) counts_[index][0] += static_cast<double>(product.rows);
    for (const int32_t expert : product.experts) counts_[index][static_cast<size_t>(expert)] += 1;
  }

  const std::vector<WatchedProduct> products_;
  const ProductsOfOps by_op_;
  Stage stage_;
  std::vector<std::vector<double>> squares_;
  std::vector<std::vector<double>> counts_;
};

class GramObserver : public ProductObserver {
 public:
  GramObserver(const Model& model, std::vector<WatchedProduct> products, size_t step_tokens)
      : kernels_(*model.kernels),
        products_(std::move(products)),
        by_op_(model.program, products_),
        stage_(step_tokens, WidthMax(products_)) {
    for (const WatchedProduct& watched : products_) grams_.push_back(std::make_shared<UpperPanels>(watched.columns));
  }

  bool Wants(size_t op) const override { return !by_op_[op].empty(); }
  void See(const Product& product, size_t row, std::span<const float> x) override { stage_.Put(product, row, x); }
  void Finish(const Product& product, int thread, int team) override {
    for (const size_t index : by_op_[product.op]) AddGram(stage_.Rows(product.rows), kernels_, thread, team, grams_[index].get());
  }

  Calibrator::Grams Take() const {
    Calibrator::Grams grams;
    for (size_t i = 0; i < products_.size(); ++i) {
      for (const std::string& name : products_[i].names) grams[name] = grams_[i];
    }
    return grams;
  }

 private:
  const KernelSet& kernels_;
  const std::vector<WatchedProduct> products_;
  const ProductsOfOps by_op_;
  Stage stage_;
  std::vector<std::shared_ptr<UpperPanels>> grams_;
};

class RangeObserver : public ProductObserver {
 public:
  RangeObserver(const Program& program, size_t step_tokens)
      : products_(FindProducts(program, /*experts=*/false)), by_op_(program, products_), stage_(step_tokens, WidthMax(products_)) {
    for (const WatchedProduct& watched : products_) largest_.emplace_back(watched.columns);
  }

  bool Wants(size_t op) const override { return !by_op_[op].empty(); }
  void See(const Product& product, size_t row, std::span<const float> x) override { stage_.Put(product, row, x); }
  void Finish(const Product& product, int thread, int team) override {
    for (const size_t index : by_op_[product.op]) {
      std::vector<float>& largest = largest_[index];
      const auto [begin, end] = Share(largest.size(), thread, team);
      for (size_t c = begin; c < end; ++c) {
        const float* x = stage_.Column(c, product.rows);
        for (size_t r = 0; r < product.rows; ++r) largest[c] = std::max(largest[c], std::fabs(x[r]));
      }
    }
  }

  Calibrator::Ranges Take() const {
    Calibrator::Ranges ranges;
    for (size_t i = 0; i < products_.size(); ++i) {
      for (const std::string& name : products_[i].names) ranges[name] = largest_[i];
    }
    return ranges;
  }

 private:
  const std::vector<WatchedProduct> products_;
  const ProductsOfOps by_op_;
  Stage stage_;
  std::vector<std::vector<float>> largest_;
};

// The products that have one of these names.
std::vector<WatchedProduct> Named(const Program& program, const std::vector<std::string>& names) {
  std::vector<WatchedProduct> found;
  for (WatchedProduct& watched : FindProducts(program, /*experts=*/false)) {
    std::erase_if(watched.names, [&](const std::string& name) { return std::find(names.begin(), names.end(), name) == names.end(); });
    if (!watched.names.empty()) found.push_back(std::move(watched));
  }
  return found;
}

// Whether an operation behind all others of interest makes logits: nothing else needs them.
bool ReadsOutputs(const Program& program, const std::vector<WatchedProduct>& products) {
  return std::any_of(products.begin(), products.end(), [&](const WatchedProduct& watched) {
    const OpBuffers buffers = BuffersOf(program.ops[watched.ops.back()]);
    return std::any_of(buffers.reads.begin(), buffers.reads.end(), [&](BufferId id) { return program.buffers[id].rows == Rows::kOutputs; });
  });
}

}  // namespace

size_t CalibrationWindows::tokens() const {
  size_t sum = 0;
  for (const auto& window : windows) sum += window.size();
  return sum;
}

Result<CalibrationWindows> CutWindows(std::span<const uint32_t> tokens, const WindowSizes& sizes) {
  const size_t least = std::max(sizes.window, kCalibrationTokensMin);
  if (tokens.size() < least) {
    return Error(
        Code::kInvalidArgument,
        fmt::format("the text has {} tokens, expected at least {}: statistics of less say nothing of other texts; give a longer one",
                    tokens.size(), least));
  }
  const size_t fitting = tokens.size() / sizes.window;
  const size_t count = sizes.tokens_max == 0 ? fitting : std::clamp<size_t>(sizes.tokens_max / sizes.window, 1, fitting);
  CalibrationWindows cut;
  for (size_t w = 0; w < count; ++w) {
    const auto part = tokens.subspan(w * fitting / count * sizes.window, sizes.window);
    cut.windows.emplace_back(part.begin(), part.end());
    if (sizes.bos != UINT32_MAX) cut.windows.back()[0] = sizes.bos;
  }
  return cut;
}

Status Calibrator::Pass(ProductObserver& observer, bool outputs, std::string_view step) {
  bool stopped = false;
  size_t done = 0;
  const size_t total = windows_.tokens();
  const Cancelled cancelled = [&] { return stopped = stopped || (progress_ && !progress_(step, done, total)); };
  for (const std::vector<uint32_t>& window : windows_.windows) {
    runner_.Begin();
    for (size_t begin = 0; begin < window.size(); begin += runner_.step_tokens()) {
      const size_t n = std::min(runner_.step_tokens(), window.size() - begin);
      WindowRunner::Extras extras;
      extras.outputs = outputs ? n : 0;
      extras.observer = &observer;
      extras.cancelled = &cancelled;
      BANTAM_ASSIGN(const bool ran, runner_.Read(std::span(window).subspan(begin, n), extras));
      if (!ran || cancelled()) return Error(Code::kCancelled, "calibration was interrupted");
      done += n;
    }
  }
  return Ok();
}

Result<Importance> Calibrator::MeasureImportance() {
  ImportanceObserver observer(model_.program, runner_.step_tokens());
  BANTAM_TRY(Pass(observer, /*outputs=*/true, "measuring activations"));
  BANTAM_ASSIGN(Importance importance, observer.Take());
  importance.windows = static_cast<uint32_t>(windows_.windows.size());
  importance.window_tokens = static_cast<uint32_t>(windows_.windows.front().size());
  return importance;
}

Result<Calibrator::Ranges> Calibrator::MeasureRanges() {
  RangeObserver observer(model_.program, runner_.step_tokens());
  BANTAM_TRY(Pass(observer, /*outputs=*/true, "measuring ranges"));
  return observer.Take();
}

Result<Calibrator::Grams> Calibrator::MeasureGrams(const std::vector<std::string>& names) {
  std::vector<WatchedProduct> products = Named(model_.program, names);
  const bool outputs = ReadsOutputs(model_.program, products);
  GramObserver observer(model_, std::move(products), runner_.step_tokens());
  BANTAM_TRY(Pass(observer, outputs, "correlating activations"));
  Grams grams = observer.Take();
  std::vector<const UpperPanels*> done;  // those that several share, once
  for (auto& [name, gram] : grams) {
    const auto found = divisors_.find(name);
    if (found == divisors_.end() || std::find(done.begin(), done.end(), gram.get()) != done.end()) continue;
    done.push_back(gram.get());
    const std::vector<float>& by = found->second;
    CHECK(by.size() == gram->n());
    for (size_t j = 0; j < gram->n(); ++j) {
      for (size_t i = 0; i <= j; ++i) gram->At(i, j) /= by[i] * by[j];
    }
  }
  return grams;
}

uint64_t Calibrator::GramBytes(const std::vector<std::string>& names) const {
  uint64_t bytes = 0;
  for (const WatchedProduct& watched : Named(model_.program, names)) bytes += UpperPanels::Bytes(watched.columns);
  return bytes;
}

}  // namespace bantam
