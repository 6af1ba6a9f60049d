#include "program/replan.h"

#include <gtest/gtest.h>

#include <memory>

#include "formats/gguf.h"
#include "kernels/ref/ref.h"
#include "model/load.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

class ReplanTest : public ::testing::Test {
 protected:
  void Build(DType matrices) {
    testing::BuildTinyModel({.matrices = matrices}).Write(folder_.Path("m.gguf"));
    file_ = OpenGguf(*files_, folder_.Path("m.gguf")).value();
    program_ = OutlineModel(file_, kernels::kReference).value().program;
    fit_.wanted.context = 2048;
    fit_.wanted.step_tokens = 16;
    fit_.wanted.kv_type = KvType::kInt8Int4;
    fit_.fixed_kv = true;
    fit_.limit_bytes = uint64_t{1} << 30;
  }
  uint64_t Need(const MemoryPlan& plan, KvType type) const {
    PlanOptions options = plan.options;
    options.kv_type = type;
    return PlanMemory(program_, options, {}).total_bytes();
  }

  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  ModelFile file_;
  Program program_;
  FitRequest fit_;
};

// To the byte: where the better type fits it is taken for the same context, and a byte less is too little, whatever else could be smaller.
TEST_F(ReplanTest, TakesTheTypeForTheSameContextOrNotAtAll) {
  Build(DType::kQ8_0);
  const MemoryPlan plan = FitMemory(&program_, fit_).value();
  for (const KvType type : {KvType::kInt8Int4Rotated, KvType::kInt8Rotated, KvType::kF16}) {
    fit_.limit_bytes = Need(plan, type);
    const auto better = ReplanKv(fit_, plan, program_, type);
    ASSERT_TRUE(better.has_value()) << KvTypeName(type);
    EXPECT_EQ(better->options.kv_type, type);
    EXPECT_EQ(better->options.context, plan.options.context);
    EXPECT_EQ(better->total_bytes(), fit_.limit_bytes) << KvTypeName(type);
    --fit_.limit_bytes;
    EXPECT_FALSE(ReplanKv(fit_, plan, program_, type).has_value()) << KvTypeName(type);
  }
}

// An engine's sequences stay as many; what they share of tokens is what fits, and narrow blocks beside floats are given up.
TEST_F(ReplanTest, SequencesStayAsMany) {
  Build(DType::kQ8_0);
  fit_.wanted.sequences = 4;
  fit_.wanted.narrow_kv = true;
  const MemoryPlan plan = FitMemory(&program_, fit_).value();
  ASSERT_EQ(plan.options.sequences, 4u);
  EXPECT_EQ(plan.options.kv_tokens, 4u * 2048);
  fit_.limit_bytes = plan.total_bytes();
  const auto better = ReplanKv(fit_, plan, program_, KvType::kF16);
  ASSERT_TRUE(better.has_value());
  EXPECT_EQ(better->options.sequences, 4u);
  EXPECT_EQ(better->options.context, 2048u);
  EXPECT_FALSE(better->options.narrow_kv);
  EXPECT_LT(better->options.kv_tokens, plan.options.kv_tokens);
  EXPECT_LE(better->total_bytes(), fit_.limit_bytes);
}

// Weights are loaded when the type is measured: they stay as they lie.
TEST_F(ReplanTest, WeightsStayAsTheyLie) {
  Build(DType::kIQ2_XXS);
  Program rows = program_;
  fit_.weight_form = WeightForm::kRows;
  const MemoryPlan plan = FitMemory(&rows, fit_).value();
  ASSERT_EQ(plan.weight_form, WeightForm::kRows);
  fit_.weight_form = std::nullopt;
  const auto better = ReplanKv(fit_, plan, rows, KvType::kF16);
  ASSERT_TRUE(better.has_value());
  EXPECT_EQ(better->weight_form, WeightForm::kRows);
  EXPECT_EQ(better->weights_bytes, plan.weights_bytes);
}

}  // namespace
}  // namespace bantam
