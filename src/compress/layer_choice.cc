#include "compress/layer_choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "compress/logit_shape.h"
#include "program/exit_points.h"

namespace bantam {
namespace {

class LayerChooser {
 public:
  LayerChooser(const Model& model, WindowRunner& runner, const CalibrationWindows& windows, ThreadPool& pool, const Progress& progress)
      : ops_(model.program.ops.size()),
        points_(FindExitPoints(model.program)),
        runner_(runner),
        windows_(windows.windows),
        pool_(pool),
        progress_(progress),
        tokens_(std::min(runner.step_tokens(), windows.windows.front().size())),
        count_(std::min(windows_.size(), std::max<size_t>(1, kLayerChoiceTokens / tokens_))),
        dropped_(points_.layers.size() + 1) {}

  bool possible() const { return !points_.layers.empty() && tokens_ >= 2; }
  size_t layers() const { return dropped_.size(); }

  Result<LayerChoice> Choose(size_t count) {
    LayerChoice choice;
    for (size_t round = 0; round < count; ++round) {
      BANTAM_ASSIGN(const std::vector<double> divergence, Measure(round, count));
      if (round == 0) choice.alone = divergence;
      const auto least = std::min_element(divergence.begin(), divergence.end());
      const size_t layer = static_cast<size_t>(least - divergence.begin());
      if (!std::isfinite(*least)) return Error(Code::kCorrupt, "logits that are no numbers; the model is damaged");
      dropped_[layer] = true;
      choice.dropped.push_back(layer);
      choice.divergence.push_back(*least);
    }
    return choice;
  }

 private:
  // Without the layers that are dropped, and this one. Angles of positions are made wherever they stand.
  std::vector<OpRange> RangesWithout(size_t layer) const {
    std::vector<OpRange> ranges = {{0, points_.first}};
    for (size_t i = 0; i < layers(); ++i) {
      const OpRange ops = {i == 0 ? points_.first : points_.layers[i - 1], i + 1 < layers() ? points_.layers[i] : points_.head};
      if (!dropped_[i] && i != layer) {
        ranges.push_back(ops);
        continue;
      }
      for (const OpRange& angles : points_.angles) {
        if (angles.begin >= ops.begin && angles.begin < ops.end) ranges.push_back(angles);
      }
    }
    ranges.push_back({points_.head, ops_});
    return ranges;
  }

  // Of the model without each layer that is left; infinite for those that are not.
  Result<std::vector<double>> Measure(size_t round, size_t rounds) {
    std::vector<double> sums(layers());
    const size_t scored = tokens_ / 2;
    std::vector<float> base(scored * runner_.vocabulary());
    for (size_t w = 0; w < count_; ++w) {
      if (progress_ && !progress_("leaving layers away", round * count_ + w, rounds * count_)) {
        return Error(Code::kCancelled, "the choice of layers was interrupted");
      }
      // From all over the text.
      const auto tokens = std::span(windows_[w * windows_.size() / count_]).first(tokens_);
      runner_.Begin();
      BANTAM_TRY(runner_.Read(tokens, {.outputs = scored}));
      std::copy_n(runner_.logits(), base.size(), base.begin());
      for (size_t layer = 0; layer < layers(); ++layer) {
        if (dropped_[layer]) continue;
        const std::vector<OpRange> ranges = RangesWithout(layer);
        runner_.Begin();
        WindowRunner::Extras extras;
        extras.outputs = scored;
        extras.ranges = ranges;
        BANTAM_TRY(runner_.Read(tokens, extras));
        sums[layer] += Divergence(base, scored);
      }
    }
    for (size_t layer = 0; layer < layers(); ++layer) {
      sums[layer] = dropped_[layer] ? std::numeric_limits<double>::infinity() : sums[layer] / static_cast<double>(count_ * scored);
    }
    return sums;
  }

  // Summed over the tokens that are scored.
  double Divergence(std::span<const float> base, size_t scored) const {
    const size_t vocabulary = runner_.vocabulary();
    std::vector<double> of_rows(scored);
    pool_.Run([&](int thread) {
      const auto [begin, end] = Share(scored, thread, pool_.size());
      for (size_t i = begin; i < end; ++i) {
        const auto whole = base.subspan(i * vocabulary, vocabulary);
        const std::span<const float> without(runner_.logits() + i * vocabulary, vocabulary);
        of_rows[i] = DivergenceOf(whole, ShapeOf(whole), without, ShapeOf(without));
      }
    });
    return std::accumulate(of_rows.begin(), of_rows.end(), 0.0);
  }

  const size_t ops_;
  const ExitPoints points_;
  WindowRunner& runner_;
  const std::vector<std::vector<uint32_t>>& windows_;
  ThreadPool& pool_;
  const Progress& progress_;
  const size_t tokens_;  // of a window
  const size_t count_;   // windows
  std::vector<bool> dropped_;
};

}  // namespace

Result<LayerChoice> ChooseLayers(const Model& model, WindowRunner& runner, const CalibrationWindows& windows, size_t count,
                                 ThreadPool& pool, const Progress& progress) {
  LayerChooser chooser(model, runner, windows, pool, progress);
  // Layers that share keys and values end in one place.
  if (!chooser.possible() || chooser.layers() != model.config.layers.size()) {
    return Error(Code::kUnsupported, fmt::format("{}: its layers cannot be left away one by one", model.config.architecture));
  }
  if (count >= chooser.layers()) {
    return Error(Code::kInvalidArgument, fmt::format("{} layers of {}: at least one has to stay", count, chooser.layers()));
  }
  return chooser.Choose(count);
}

}  // namespace bantam
