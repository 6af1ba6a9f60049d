#include "compress/compare.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/rng.h"
#include "compress/calibrate.h"
#include "testing/model_runner.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"
#include "testing/windowed.h"

namespace bantam {
namespace {

using testing::kWindow;
using testing::Windowed;

std::vector<uint32_t> RandomTokens(size_t count, uint32_t vocabulary) {
  Rng rng(4);
  std::vector<uint32_t> tokens(count);
  for (uint32_t& token : tokens) token = static_cast<uint32_t>(rng.Next() % vocabulary);
  return tokens;
}

class TwoModels : public ::testing::Test {
 protected:
  TwoModels() {
    testing::TinyModel tiny;
    tiny.context = kWindow;
    testing::BuildTinyModel(tiny).Write(base_);
    tiny.seed = 2;
    testing::BuildTinyModel(tiny).Write(other_);
  }
  testing::TemporaryFolder folder_;
  const std::string base_ = folder_.Path("base.gguf");
  const std::string other_ = folder_.Path("other.gguf");
};

TEST_F(TwoModels, AModelLosesNothingAgainstItself) {
  Windowed a(base_, 1);
  Windowed b(base_, 2);
  const auto compared = Compare(*a.runner, *b.runner, RandomTokens(100, 300), {}, *a.pool, nullptr);
  ASSERT_TRUE(compared.ok()) << compared.error().message();
  EXPECT_EQ(compared->windows, 3u);
  EXPECT_EQ(compared->scored, 3 * (kWindow / 2 - 1));
  EXPECT_EQ(compared->ratio.value, 1);
  EXPECT_EQ(compared->ratio.error, 0);
  EXPECT_EQ(compared->same_top.value, 1);
  EXPECT_LT(compared->divergence_max, 1e-12);
}

// The same figures from whole logits, in doubles.
TEST_F(TwoModels, FiguresAreThoseOfTheirDefinitions) {
  const std::vector<uint32_t> tokens = RandomTokens(2 * kWindow, 300);
  std::vector<double> divergences, base_surprise, surprise;
  double same = 0;
  for (size_t w = 0; w < 2; ++w) {
    std::vector<std::vector<float>> logits;
    for (const std::string& path : {base_, other_}) {
      auto runner = testing::ModelRunner::Make(path, {.kernels = ChooseKernels("ref").value()}, kWindow).value();
      std::vector<uint32_t> window(tokens.begin() + static_cast<std::ptrdiff_t>(w * kWindow),
                                   tokens.begin() + static_cast<std::ptrdiff_t>((w + 1) * kWindow));
      window[0] = 1;
      logits.push_back(runner->Logits(window));
    }
    for (size_t t = kWindow / 2; t + 1 < kWindow; ++t) {
      const auto probabilities = [&](const std::vector<float>& all) {
        std::vector<double> p(all.begin() + static_cast<std::ptrdiff_t>(t * 300), all.begin() + static_cast<std::ptrdiff_t>((t + 1) * 300));
        for (double& value : p) value = std::exp(value);
        const double total = std::accumulate(p.begin(), p.end(), 0.0);
        for (double& value : p) value /= total;
        return p;
      };
      const std::vector<double> p = probabilities(logits[0]);
      const std::vector<double> q = probabilities(logits[1]);
      const uint32_t next = tokens[w * kWindow + t + 1];
      base_surprise.push_back(-std::log(p[next]));
      surprise.push_back(-std::log(q[next]));
      double divergence = 0;
      for (size_t i = 0; i < 300; ++i) divergence += p[i] * std::log(p[i] / q[i]);
      divergences.push_back(divergence);
      same += std::max_element(p.begin(), p.end()) - p.begin() == std::max_element(q.begin(), q.end()) - q.begin() ? 1 : 0;
    }
  }
  const auto mean = [](const std::vector<double>& values) {
    return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  };
  Windowed a(base_, 2);
  Windowed b(other_, 2);
  const Comparison compared = Compare(*a.runner, *b.runner, tokens, {.bos = 1}, *a.pool, nullptr).value();
  const double n = static_cast<double>(divergences.size());
  EXPECT_NEAR(compared.base_perplexity.value, std::exp(mean(base_surprise)), 1e-3);
  EXPECT_NEAR(compared.perplexity.value, std::exp(mean(surprise)), 1e-3);
  EXPECT_NEAR(compared.ratio.value, std::exp(mean(surprise) - mean(base_surprise)), 1e-5);
  EXPECT_NEAR(compared.divergence.value, mean(divergences), 1e-5);
  EXPECT_NEAR(compared.same_top.value, same / n, 1e-9);
  double variance = 0, of_differences = 0;
  for (size_t i = 0; i < divergences.size(); ++i) {
    variance += std::pow(divergences[i] - mean(divergences), 2) / (n - 1);
    of_differences += std::pow(surprise[i] - base_surprise[i] - (mean(surprise) - mean(base_surprise)), 2) / (n - 1);
  }
  EXPECT_NEAR(compared.divergence.error, std::sqrt(variance / n), 1e-5);
  EXPECT_NEAR(compared.ratio.error / compared.ratio.value, std::sqrt(of_differences / n), 1e-5);
  std::sort(divergences.begin(), divergences.end());
  EXPECT_NEAR(compared.divergence_max, divergences.back(), 1e-4);
  EXPECT_NEAR(compared.divergence_median, divergences[divergences.size() / 2], 0.05);
}

TEST_F(TwoModels, ErrorsSayWhatToDo) {
  Windowed a(base_, 1);
  Windowed b(other_, 1);
  const auto tooShort = Compare(*a.runner, *b.runner, RandomTokens(kWindow - 1, 300), {}, *a.pool, nullptr);
  ASSERT_FALSE(tooShort.ok());
  EXPECT_NE(tooShort.error().message().find("longer text"), std::string::npos);
  const auto cancelled = Compare(*a.runner, *b.runner, RandomTokens(100, 300), {}, *a.pool, nullptr, [] { return true; });
  ASSERT_FALSE(cancelled.ok());
  EXPECT_EQ(cancelled.error().code(), Code::kCancelled);
  // Of what was read before, the figures are given.
  size_t polls = 0;
  const auto some = Compare(
      *a.runner, *b.runner, RandomTokens(100, 300), {}, *a.pool, [&](const Comparison& now, size_t) { polls = now.windows == 2 ? 1 : 0; },
      [&] { return polls > 0; });
  ASSERT_TRUE(some.ok());
  EXPECT_EQ(some->windows, 2u);
}

// ---- Calibration ----

CalibrationWindows Windows(size_t count) {
  return CutWindows(RandomTokens(count * kWindow + 3 + kCalibrationTokensMin, 300), {kWindow, count * kWindow}).value();
}

// What the first layer's queries read can be computed by hand: the norm of embeddings.
TEST_F(TwoModels, ImportanceIsTheMeanSquareOfColumns) {
  Windowed a(base_, 2);
  const CalibrationWindows windows = Windows(3);
  ASSERT_EQ(windows.windows.size(), 3u);
  const Importance importance = Calibrator(*a.model, *a.runner, windows, *a.pool, nullptr).MeasureImportance().value();
  const auto files = MakeFileSystem();
  ModelFile file = OpenGguf(*files, base_).value();
  const auto floats = [&](std::string_view name) {
    const TensorInfo* tensor = file.directory.Find(name);
    const auto bytes = file.source->View(tensor->offset_bytes, tensor->size_bytes).value();
    std::vector<float> values(tensor->elements());
    Unpack(tensor->dtype, reinterpret_cast<const uint8_t*>(bytes.data()), values.size(), values.data());
    return values;
  };
  const std::vector<float> table = floats("token_embd.weight");
  const std::vector<float> norm = floats("blk.0.attn_norm.weight");
  const size_t width = norm.size();
  const double epsilon = file.metadata.Number("llama.attention.layer_norm_rms_epsilon").value().value();
  std::vector<double> expected(width);
  for (const auto& window : windows.windows) {
    for (const uint32_t token : window) {
      double squares = 0;
      for (size_t i = 0; i < width; ++i) squares += std::pow(static_cast<double>(table[token * width + i]), 2);
      for (size_t i = 0; i < width; ++i) {
        const double x = static_cast<double>(table[token * width + i]) * static_cast<double>(norm[i]);
        expected[i] += x * x / (squares / static_cast<double>(width) + epsilon) / static_cast<double>(3 * kWindow);
      }
    }
  }
  const ColumnImportance& queries = importance.tensors.at("blk.0.attn_q.weight");
  EXPECT_EQ(queries.counts, std::vector<float>{3 * kWindow});
  const std::vector<float> means = queries.Means(0);
  for (size_t i = 0; i < width; ++i) EXPECT_NEAR(static_cast<double>(means[i]), expected[i], 1e-4 * expected[i]) << i;
  EXPECT_EQ(importance.tensors.at("blk.0.attn_v.weight").sums, queries.sums);
  EXPECT_TRUE(importance.tensors.contains("output.weight"));
  // The diagonal of X^T X has the same sums, whatever the number of threads and the kernels.
  const Calibrator::Grams grams =
      Calibrator(*a.model, *a.runner, windows, *a.pool, nullptr).MeasureGrams({"blk.0.attn_q.weight", "blk.1.ffn_down.weight"}).value();
  ASSERT_EQ(grams.size(), 2u);
  Windowed one(base_, 1);
  const Calibrator::Grams alone = Calibrator(*one.model, *one.runner, windows, *one.pool, nullptr)
                                      .MeasureGrams({"blk.0.attn_q.weight", "blk.1.ffn_down.weight"})
                                      .value();
  for (const auto& [name, gram] : grams) {
    const std::vector<float>& sums = importance.tensors.at(name).sums;
    for (size_t i = 0; i < gram->n(); ++i) {
      ASSERT_NEAR(gram->At(i, i), sums[i], 1e-3f * sums[i] + 1e-6f) << name << " " << i;
      for (size_t j = i; j < gram->n(); ++j) ASSERT_EQ(gram->At(i, j), alone.at(name)->At(i, j)) << name << " " << i << ", " << j;
    }
  }
}

// Matrices that two layers share are multiplied with what both read: what is measured of them is that of two layers with copies of them.
TEST_F(TwoModels, SharedWeightsHaveTheStatisticsOfAllTheirUses) {
  testing::TinyModel tiny = {.layers = 1, .layer_weights = {0, 0}, .width = 64, .heads = 4, .feed_forward = 96};
  testing::BuildTinyModel(tiny).Write(base_);
  tiny.layer_weights = {0, 1};
  testing::BuildTinyModel(tiny).CopyLayer(0, 1).Write(other_);
  const CalibrationWindows windows = Windows(3);
  for (const char* kernels : {"ref", "auto"}) {
    Windowed shared(base_, 2, kernels);
    Windowed copied(other_, 2, kernels);
    Calibrator of_shared(*shared.model, *shared.runner, windows, *shared.pool, nullptr);
    Calibrator of_copied(*copied.model, *copied.runner, windows, *copied.pool, nullptr);
    const Importance importance = of_shared.MeasureImportance().value();
    const Importance apart = of_copied.MeasureImportance().value();
    const Calibrator::Ranges ranges = of_shared.MeasureRanges().value();
    const Calibrator::Ranges ranges_apart = of_copied.MeasureRanges().value();
    for (const std::string part : {"attn_q.weight", "attn_output.weight", "ffn_gate.weight", "ffn_down.weight"}) {
      const std::string first = "blk.0." + part;
      const std::string second = "blk.1." + part;
      const ColumnImportance& all = importance.tensors.at(first);
      EXPECT_EQ(all.counts, std::vector<float>{2 * 3 * kWindow}) << part;
      const auto gram = of_shared.MeasureGrams({first}).value().at(first);
      const Calibrator::Grams grams_apart = of_copied.MeasureGrams({first, second}).value();
      for (size_t i = 0; i < all.columns; ++i) {
        const float sum = apart.tensors.at(first).sums[i] + apart.tensors.at(second).sums[i];
        EXPECT_NEAR(all.sums[i], sum, 1e-4f * sum) << part << i;
        EXPECT_NEAR(gram->At(i, i), sum, 1e-3f * sum) << part << i;
        EXPECT_EQ(ranges.at(first)[i], std::max(ranges_apart.at(first)[i], ranges_apart.at(second)[i])) << part << i;
        const float beside = grams_apart.at(first)->At(0, i) + grams_apart.at(second)->At(0, i);
        EXPECT_NEAR(gram->At(0, i), beside, 1e-3f * std::sqrt(all.sums[0] * all.sums[i])) << part << i;
      }
    }
  }
}

// Kernels that round activations show what they round them to.
TEST_F(TwoModels, RoundedInputsAreSeen) {
  testing::TinyModel tiny;
  tiny.context = kWindow;
  tiny.matrices = DType::kQ8_0;
  testing::BuildTinyModel(tiny).Write(base_);
  Windowed exact(base_, 2);
  Windowed rounded(base_, 2, "auto");
  const CalibrationWindows windows = Windows(2);
  const Importance a = Calibrator(*exact.model, *exact.runner, windows, *exact.pool, nullptr).MeasureImportance().value();
  const Importance b = Calibrator(*rounded.model, *rounded.runner, windows, *rounded.pool, nullptr).MeasureImportance().value();
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, entry] : a.tensors) {
    double difference = 0, square = 0;
    for (size_t i = 0; i < entry.sums.size(); ++i) {
      difference += std::pow(static_cast<double>(entry.sums[i] - b.tensors.at(name).sums[i]), 2);
      square += std::pow(static_cast<double>(entry.sums[i]), 2);
    }
    EXPECT_LT(std::sqrt(difference / square), 0.03) << name;
  }
}

TEST_F(TwoModels, ExpertsAreCountedByThemselves) {
  testing::TinyModel tiny;
  tiny.context = kWindow;
  tiny.experts = 4;
  tiny.experts_used = 2;
  testing::BuildTinyModel(tiny).Write(base_);
  Windowed a(base_, 2);
  const CalibrationWindows windows = Windows(2);
  Calibrator calibration(*a.model, *a.runner, windows, *a.pool, nullptr);
  const Importance importance = calibration.MeasureImportance().value();
  size_t of_experts = 0;
  for (const auto& [name, entry] : importance.tensors) {
    if (name.find("_exps") == std::string::npos) continue;
    ++of_experts;
    ASSERT_EQ(entry.counts.size(), 4u) << name;
    EXPECT_EQ(std::accumulate(entry.counts.begin(), entry.counts.end(), 0.0f), 2.0f * 2 * kWindow) << name;
    EXPECT_EQ(calibration.GramBytes({name}), 0u);
  }
  EXPECT_EQ(of_experts, 6u);
}

TEST(CutWindows, SpreadsThemOverTheText) {
  std::vector<uint32_t> tokens(1000);
  std::iota(tokens.begin(), tokens.end(), 0u);
  const CalibrationWindows cut = CutWindows(tokens, {100, 300, /*bos=*/7}).value();
  ASSERT_EQ(cut.windows.size(), 3u);
  EXPECT_EQ(cut.windows[1][0], 7u);
  EXPECT_EQ(cut.windows[1][1], 301u);
  EXPECT_EQ(cut.windows[2][99], 699u);
  EXPECT_EQ(CutWindows(tokens, {100}).value().windows.size(), 10u);
  const auto shorter = CutWindows(std::span(tokens).first(kCalibrationTokensMin - 1), {100});
  ASSERT_FALSE(shorter.ok());
  EXPECT_EQ(shorter.error().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace bantam
