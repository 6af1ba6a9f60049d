#include "program/weights.h"

#include <gtest/gtest.h>

#include <cstring>

#include "formats/gguf.h"
#include "kernels/ref/ref.h"
#include "model/load.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

class WeightsTest : public ::testing::Test {
 protected:
  WeightsTest() {
    testing::BuildTinyModel({.experts = 3, .experts_used = 2, .matrices = DType::kQ4_0}).Write(folder_.Path("m.gguf"));
    file_ = OpenGguf(*files_, folder_.Path("m.gguf")).value();
    program_ = OutlineModel(file_, kernels::kReference).value().program;
  }
  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  ModelFile file_;
  Program program_;
};

TEST_F(WeightsTest, TakesThePlannedBytesAndHoldsTheFilesWeights) {
  MemoryBudget budget(uint64_t{1} << 30);
  const auto threads_owner = ThreadPool::Make(2).value();
  ThreadPool& pool = *threads_owner;
  uint64_t last = 0;
  const auto weights = Weights::Load(program_, file_, {budget, pool}, [&](std::string_view, uint64_t done, uint64_t total) {
    EXPECT_GT(done, last);
    EXPECT_LE(done, total);
    last = done;
    return true;
  });
  ASSERT_TRUE(weights.ok());
  EXPECT_EQ(budget.used_bytes(), WeightsBytes(program_));
  EXPECT_EQ(last, WeightsBytes(program_));
  for (WeightId id = 0; id < program_.weights.size(); ++id) {
    const WeightSpec& spec = program_.weights[id];
    const TensorInfo* tensor = file_.directory.Find(spec.name);
    const auto bytes = *file_.source->View(tensor->offset_bytes, tensor->size_bytes);
    std::vector<float> expected(spec.columns);
    std::vector<float> got(spec.columns);
    for (size_t row = 0; row < spec.rows * spec.matrices; ++row) {
      Unpack(spec.dtype, reinterpret_cast<const uint8_t*>(bytes.data()) + row * RowBytes(spec.dtype, spec.columns), spec.columns,
             expected.data());
      if (spec.storage == WeightStorage::kVector) {
        std::memcpy(got.data(), weights->Vector(id), 4 * spec.columns);
      } else if (spec.storage == WeightStorage::kRows) {
        Unpack(spec.dtype, weights->Row(id, row), spec.columns, got.data());
      } else {
        const size_t in_matrix = row % spec.rows;
        UnpackPanelRow(Info(spec.dtype).panel, TableOf(spec.dtype), weights->Panel(id, row / spec.rows, in_matrix / kPanelRows),
                       in_matrix % kPanelRows, spec.columns, got.data());
      }
      ASSERT_EQ(std::memcmp(got.data(), expected.data(), 4 * spec.columns), 0) << spec.name << " row " << row;
    }
  }
}

TEST_F(WeightsTest, StopsWhenAskedAndWhenTheBudgetIsShort) {
  const auto threads_owner = ThreadPool::Make(1).value();
  ThreadPool& pool = *threads_owner;
  MemoryBudget budget(uint64_t{1} << 30);
  int calls = 0;
  const auto stopped = Weights::Load(program_, file_, {budget, pool}, [&](std::string_view, uint64_t, uint64_t) { return ++calls < 3; });
  EXPECT_EQ(stopped.error().code(), Code::kCancelled);
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(budget.used_bytes(), 0u) << "a stopped load gives everything back";
  MemoryBudget small(WeightsBytes(program_) - 1);
  EXPECT_EQ(Weights::Load(program_, file_, {small, pool}, nullptr).error().code(), Code::kExhausted);
}

}  // namespace
}  // namespace bantam
