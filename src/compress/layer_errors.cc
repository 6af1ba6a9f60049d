#include "compress/layer_errors.h"

#include <algorithm>
#include <map>

#include "compress/watched_products.h"
#include "model/low_rank_names.h"

namespace bantam {
namespace {

// What both have, by the place in this list.
struct Compared {
  std::string name;
  size_t columns;
};

// The name of the matrix, whatever stands for it.
std::string MatrixName(const std::string& name) {
  const std::string_view prefix = LowRankPart(name);
  return prefix.empty() ? name : std::string(prefix) + ".weight";
}

std::map<std::string, WatchedProduct> ByName(const Program& program) {
  std::map<std::string, WatchedProduct> products;
  for (const WatchedProduct& product : FindProducts(program, /*experts=*/false)) {
    for (const std::string& name : product.names) {
      // The second factor reads what the first one gives, which the other model has not.
      if (!name.ends_with(std::string(kLowRankB) + ".weight")) products.emplace(MatrixName(name), product);
    }
  }
  return products;
}

// Keeps what the base's products read in a step, or compares it with what is kept.
class StepObserver : public ProductObserver {
 public:
  StepObserver(size_t ops, const std::vector<Compared>& compared, size_t step_tokens, StepObserver* base)
      : places_(ops), compared_(compared), base_(base) {
    for (const Compared& one : compared) {
      rows_.emplace_back(base == nullptr ? step_tokens * one.columns : 0);
      errors_.emplace_back(step_tokens);
      squares_.emplace_back(step_tokens);
    }
  }
  // Several matrices may read the same.
  void Watch(size_t op, size_t place) { places_[op].push_back(place); }

  bool Wants(size_t op) const override { return !places_[op].empty(); }
  void See(const Product& product, size_t row, std::span<const float> x) override {
    for (const size_t place : places_[product.op]) {
      const size_t columns = compared_[place].columns;
      if (base_ == nullptr) {
        std::copy(x.begin(), x.end(), rows_[place].begin() + static_cast<std::ptrdiff_t>(row * columns));
        continue;
      }
      const float* kept = base_->rows_[place].data() + row * columns;
      double error = 0, square = 0;
      for (size_t i = 0; i < columns; ++i) {
        const double difference = static_cast<double>(x[i]) - static_cast<double>(kept[i]);
        error += difference * difference;
        square += static_cast<double>(kept[i]) * static_cast<double>(kept[i]);
      }
      errors_[place][row] = error;
      squares_[place][row] = square;
    }
  }
  void Finish(const Product&, int, int) override {}

  // What a step's rows add.
  void AddTo(std::vector<double>* errors, std::vector<double>* squares, size_t rows) const {
    for (size_t place = 0; place < compared_.size(); ++place) {
      for (size_t row = 0; row < rows; ++row) {
        (*errors)[place] += errors_[place][row];
        (*squares)[place] += squares_[place][row];
      }
    }
  }

 private:
  std::vector<std::vector<size_t>> places_;  // of each operation
  const std::vector<Compared>& compared_;
  StepObserver* const base_;
  std::vector<std::vector<float>> rows_;     // [place][tokens][columns]
  std::vector<std::vector<double>> errors_;  // [place][tokens]
  std::vector<std::vector<double>> squares_;
};

}  // namespace

Result<std::vector<std::pair<std::string, double>>> MeasureLayerErrors(const ObservedModel& base, const ObservedModel& candidate,
                                                                       std::span<const uint32_t> tokens, const Cancelled& cancelled) {
  std::vector<std::pair<std::string, double>> result;
  if (base.model.config.layers.size() != candidate.model.config.layers.size()) return result;
  const auto others = ByName(candidate.model.program);
  std::vector<Compared> compared;
  std::vector<std::pair<size_t, size_t>> ops;  // of both
  for (const auto& product : FindProducts(base.model.program, /*experts=*/false)) {
    const std::string name = MatrixName(product.names.front());
    const auto other = others.find(name);
    const bool second = product.names.front().ends_with(std::string(kLowRankB) + ".weight");
    if (second || other == others.end() || other->second.columns != product.columns) continue;
    // Where what is left of a matrix reads the same as the matrix, once is enough.
    if (!ops.empty() && ops.back().first == product.ops.front()) continue;
    compared.push_back({name, product.columns});
    ops.emplace_back(product.ops.front(), other->second.ops.front());
  }
  const size_t step = std::min(base.runner.step_tokens(), candidate.runner.step_tokens());
  StepObserver first(base.model.program.ops.size(), compared, step, nullptr);
  StepObserver second(candidate.model.program.ops.size(), compared, step, &first);
  for (size_t place = 0; place < ops.size(); ++place) {
    first.Watch(ops[place].first, place);
    second.Watch(ops[place].second, place);
  }
  const size_t window = std::min(base.runner.window(), candidate.runner.window());
  std::vector<double> errors(compared.size()), squares(compared.size());
  for (size_t begin = 0; begin + window <= tokens.size(); begin += window) {
    base.runner.Begin();
    candidate.runner.Begin();
    for (size_t at = 0; at < window; at += step) {
      const size_t n = std::min(step, window - at);
      for (auto& [model, observer] : {std::pair(&base, &first), std::pair(&candidate, &second)}) {
        WindowRunner::Extras extras;
        // The output matrix reads a row for each token, too.
        extras.outputs = n;
        extras.observer = observer;
        extras.cancelled = cancelled ? &cancelled : nullptr;
        BANTAM_ASSIGN(const bool ran, model->runner.Read(tokens.subspan(begin + at, n), extras));
        if (!ran) return Error(Code::kCancelled, "the comparison was interrupted");
      }
      second.AddTo(&errors, &squares, n);
    }
  }
  for (size_t place = 0; place < compared.size(); ++place) {
    if (squares[place] > 0) result.emplace_back(compared[place].name, errors[place] / squares[place]);
  }
  return result;
}

}  // namespace bantam
