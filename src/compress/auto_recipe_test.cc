#include "compress/auto_recipe.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "formats/gguf.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

// All choices, one by one.
double BestLoss(const std::vector<FormatCosts>& tensors, uint64_t limit) {
  double best = HUGE_VAL;
  std::vector<size_t> chosen(tensors.size());
  while (true) {
    uint64_t bytes = 0;
    double loss = 0;
    for (size_t t = 0; t < tensors.size(); ++t) {
      bytes += tensors[t].candidates[chosen[t]].bytes;
      loss += tensors[t].candidates[chosen[t]].loss;
    }
    if (bytes <= limit) best = std::min(best, loss);
    size_t t = 0;
    while (t < tensors.size() && ++chosen[t] == tensors[t].candidates.size()) chosen[t++] = 0;
    if (t == tensors.size()) return best;
  }
}

// The greedy choice fits, and is near the best there is: it leaves at most what one step would have brought.
TEST(ChooseTypes, IsNearTheBestThatFits) {
  Rng rng(8);
  for (int round = 0; round < 30; ++round) {
    std::vector<FormatCosts> tensors(5);
    uint64_t least = 0, most = 0;
    double step_max = 0;
    for (FormatCosts& list : tensors) {
      const uint64_t elements = 100 + rng.Next() % 1000;
      const double scale = rng.Uniform();
      double last = scale;
      list.candidates.push_back({DType::kQ2_K, 2 * elements, last});
      for (const uint64_t bits : {3, 4, 6, 8}) {
        const double loss = last * (0.1 + 0.4 * rng.Uniform());
        step_max = std::max(step_max, last - loss);
        list.candidates.push_back({DType::kQ8_0, bits * elements, last = loss});
      }
      least += list.candidates.front().bytes;
      most += list.candidates.back().bytes;
    }
    for (uint64_t limit = least; limit <= most; limit += (most - least) / 7) {
      const AutoChoice choice = ChooseTypes(tensors, /*other_bytes=*/10, limit + 10).value();
      EXPECT_LE(choice.weights_bytes, limit + 10);
      double loss = 0;
      for (const TensorChoice& tensor : choice.tensors) loss += tensor.loss;
      EXPECT_LE(loss, BestLoss(tensors, limit) + step_max);
    }
    const auto none = ChooseTypes(tensors, 10, least + 9);
    ASSERT_FALSE(none.ok());
    EXPECT_EQ(none.error().code(), Code::kExhausted);
    // With room for all every tensor has its largest.
    EXPECT_EQ(ChooseTypes(tensors, 0, most)->weights_bytes, most);
  }
}

TEST(PredictLosses, FallsWithTheBits) {
  const testing::TemporaryFolder folder;
  testing::BuildTinyModel({}).Write(folder.Path("m.gguf"));
  const auto files = MakeFileSystem();
  ModelFile file = OpenGguf(*files, folder.Path("m.gguf")).value();
  const auto pool = ThreadPool::Make(2).value();
  const auto lists = PredictLosses(file, /*importance=*/nullptr, *pool, nullptr);
  ASSERT_TRUE(lists.ok()) << lists.error().message();
  EXPECT_EQ(lists->size(), 2u * 7 + 2);
  for (const FormatCosts& list : *lists) {
    ASSERT_GE(list.candidates.size(), 5u) << list.name;
    EXPECT_EQ(list.candidates.front().type, DType::kQ2_K);
    EXPECT_GT(list.candidates.front().loss, 0.01);
    EXPECT_EQ(list.candidates.back().type, DType::kF16);
    EXPECT_LT(list.candidates.back().loss, 1e-6);
    for (size_t i = 1; i < list.candidates.size(); ++i) {
      EXPECT_GT(list.candidates[i].bytes, list.candidates[i - 1].bytes);
      EXPECT_LT(list.candidates[i].loss, list.candidates[i - 1].loss);
    }
  }
}

}  // namespace
}  // namespace bantam
