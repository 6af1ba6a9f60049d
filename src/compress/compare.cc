#include "compress/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/check.h"
#include "compress/logit_shape.h"

namespace bantam {
namespace {

// What one token's logits say.
struct Row {
  double base_surprise = 0;  // -log p of the token that follows
  double surprise = 0;
  double divergence = 0;
  bool same_top = false;
};

Row CompareRow(std::span<const float> base, std::span<const float> candidate, uint32_t next) {
  const LogitShape p = ShapeOf(base);
  const LogitShape q = ShapeOf(candidate);
  Row row = {-p.LogProbability(base[next]), -q.LogProbability(candidate[next]), DivergenceOf(base, p, candidate, q), p.top == q.top};
  if (std::isnan(row.base_surprise + row.surprise)) row.divergence = NAN;
  return row;
}

class Moments {
 public:
  void Add(double value) {
    ++count_;
    const double delta = value - mean_;
    mean_ += delta / static_cast<double>(count_);
    squares_ += delta * (value - mean_);
  }
  Estimate Of() const {
    const double n = static_cast<double>(count_);
    return {mean_, count_ > 1 ? std::sqrt(std::max(squares_, 0.0) / (n * (n - 1))) : 0};
  }
  // exp of the mean.
  Estimate Exponential() const {
    const Estimate mean = Of();
    return {std::exp(mean.value), std::exp(mean.value) * mean.error};
  }

 private:
  size_t count_ = 0;
  double mean_ = 0;
  double squares_ = 0;
};

class Comparer {
 public:
  Comparer(WindowRunner& base, WindowRunner& candidate, ThreadPool& pool) : base_(base), candidate_(candidate), pool_(pool) {}

  // False where it was cancelled: nothing of the window counts then.
  Result<bool> AddWindow(std::span<const uint32_t> window, const Cancelled& cancelled) {
    const size_t half = window.size() / 2;
    std::vector<Row> rows;
    base_.Begin();
    candidate_.Begin();
    for (size_t begin = 0; begin + 1 < window.size();) {
      const size_t n = std::min(base_.step_tokens(), window.size() - 1 - begin);
      WindowRunner::Extras extras;
      extras.outputs = begin + n > half ? std::min(n, begin + n - half) : 0;
      extras.cancelled = cancelled ? &cancelled : nullptr;
      for (WindowRunner* runner : {&base_, &candidate_}) {
        BANTAM_ASSIGN(const bool ran, runner->Read(window.subspan(begin, n), extras));
        if (!ran) return false;
      }
      begin += n;
      const size_t first = rows.size();
      rows.resize(first + extras.outputs);
      CompareRows(window.subspan(begin + 1 - extras.outputs, extras.outputs), std::span(rows).subspan(first));
    }
    for (const Row& row : rows) Add(row);
    ++comparison_.windows;
    return true;
  }

  Comparison Take() {
    comparison_.base_perplexity = base_surprise_.Exponential();
    comparison_.perplexity = surprise_.Exponential();
    comparison_.ratio = difference_.Exponential();
    comparison_.divergence = divergence_.Of();
    comparison_.same_top = same_top_.Of();
    comparison_.scored = divergences_.size();
    return comparison_;
  }
  Comparison Finish() {
    Comparison comparison = Take();
    std::sort(divergences_.begin(), divergences_.end());
    const auto quantile = [&](double part) {
      const double place = part * static_cast<double>(divergences_.size() - 1);
      return static_cast<double>(divergences_[static_cast<size_t>(std::lround(place))]);
    };
    comparison.divergence_median = quantile(0.5);
    comparison.divergence_999 = quantile(0.999);
    comparison.divergence_max = quantile(1);
    return comparison;
  }

 private:
  void CompareRows(std::span<const uint32_t> next, std::span<Row> rows) {
    const size_t vocabulary = base_.vocabulary();
    pool_.Run([&](int thread) {
      const auto [begin, end] = Share(rows.size(), thread, pool_.size());
      for (size_t i = begin; i < end; ++i) {
        rows[i] = CompareRow({base_.logits() + i * vocabulary, vocabulary}, {candidate_.logits() + i * vocabulary, vocabulary}, next[i]);
      }
    });
  }

  void Add(const Row& row) {
    base_surprise_.Add(row.base_surprise);
    surprise_.Add(row.surprise);
    difference_.Add(row.surprise - row.base_surprise);
    divergence_.Add(row.divergence);
    same_top_.Add(row.same_top ? 1 : 0);
    divergences_.push_back(static_cast<float>(row.divergence));
  }

  WindowRunner& base_;
  WindowRunner& candidate_;
  ThreadPool& pool_;
  Comparison comparison_;
  Moments base_surprise_, surprise_, difference_, divergence_, same_top_;
  std::vector<float> divergences_;
};

}  // namespace

Result<Comparison> Compare(WindowRunner& base, WindowRunner& candidate, std::span<const uint32_t> tokens, const CompareOptions& options,
                           ThreadPool& pool, const CompareProgress& progress, const Cancelled& cancelled) {
  if (base.vocabulary() != candidate.vocabulary()) {
    return Error(Code::kInvalidArgument, fmt::format("vocabularies of {} and {} tokens: only logits of the same tokens can be compared",
                                                     base.vocabulary(), candidate.vocabulary()));
  }
  CHECK(base.window() == candidate.window() && base.step_tokens() == candidate.step_tokens());
  // The second half of a window is scored, but for what follows its last token.
  constexpr size_t kWindowLeast = 4;
  if (base.window() < kWindowLeast) {
    return Error(Code::kInvalidArgument, fmt::format("windows of {} tokens: expected at least {}", base.window(), kWindowLeast));
  }
  const size_t fitting = tokens.size() / base.window();
  const size_t windows = options.windows_max == 0 ? fitting : std::min(fitting, options.windows_max);
  if (windows == 0) {
    return Error(Code::kInvalidArgument, fmt::format("the text has {} tokens and a window {}; give a longer text or a smaller --context",
                                                     tokens.size(), base.window()));
  }
  Comparer comparer(base, candidate, pool);
  std::vector<uint32_t> window(base.window());
  for (size_t w = 0; w < windows; ++w) {
    const auto part = tokens.subspan(w * window.size(), window.size());
    window.assign(part.begin(), part.end());
    if (options.bos) window[0] = *options.bos;
    BANTAM_ASSIGN(const bool done, comparer.AddWindow(window, cancelled));
    if (!done && w == 0) return Error(Code::kCancelled, "the comparison was interrupted");
    if (!done) break;
    const Comparison now = comparer.Take();
    if (!std::isfinite(now.base_perplexity.value) || !std::isfinite(now.perplexity.value) || !std::isfinite(now.divergence.value)) {
      return Error(Code::kCorrupt,
                   fmt::format("window {}: logits that are no numbers, or a text that is impossible for one of the models", w + 1));
    }
    if (progress) progress(now, windows);
  }
  return comparer.Finish();
}

Result<double> MeasureDecoding(WindowRunner& runner, std::span<const uint32_t> tokens, const Clock& clock, const Cancelled& cancelled) {
  const size_t half = std::min(tokens.size(), runner.window()) / 2;
  constexpr size_t kTimedMax = 64;
  const size_t timed = std::min(half, kTimedMax);
  CHECK(timed > 0);
  WindowRunner::Extras extras;
  extras.cancelled = cancelled ? &cancelled : nullptr;
  const auto stopped = [] { return Error(Code::kCancelled, "measuring the speed was interrupted"); };
  runner.Begin();
  for (size_t begin = 0; begin < half; begin += runner.step_tokens()) {
    BANTAM_ASSIGN(const bool ran, runner.Read(tokens.subspan(begin, std::min(runner.step_tokens(), half - begin)), extras));
    if (!ran) return stopped();
  }
  extras.outputs = 1;
  std::vector<int64_t> times;
  for (size_t i = 0; i < timed; ++i) {
    const int64_t begin = clock.NowNs();
    BANTAM_ASSIGN(const bool ran, runner.Read(tokens.subspan(half + i, 1), extras));
    if (!ran) return stopped();
    times.push_back(std::max<int64_t>(clock.NowNs() - begin, 1));
  }
  // The median: others use the machine too.
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(timed / 2), times.end());
  return 1e9 / static_cast<double>(times[timed / 2]);
}

}  // namespace bantam
