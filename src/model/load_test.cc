#include "model/load.h"

#include <gtest/gtest.h>

#include "formats/gguf.h"
#include "kernels/ref/ref.h"
#include "testing/faulty_files.h"
#include "testing/paths.h"

namespace bantam {
namespace {

class LoadTest : public ::testing::Test {
 protected:
  // Maps, outlines and loads the trained test model; the fuse is in the file system and in the source of tensor bytes.
  Status Load(testing::Fuse& fuse, MemoryBudget& budget) {
    testing::FaultyFiles files(fuse);
    BANTAM_ASSIGN(ModelFile file, OpenGguf(files, testing::DataPath("models/stories260K.gguf")));
    file.source = std::make_unique<testing::FaultySource>(std::move(file.source), fuse);
    BANTAM_ASSIGN(ModelOutline outline, OutlineModel(file, kernels::kReference));
    weights_bytes_ = WeightsBytes(outline.program);
    BANTAM_TRY(LoadModel(std::move(outline), file, {budget, *pool_}, nullptr));
    return Ok();
  }

  std::unique_ptr<ThreadPool> pool_ = ThreadPool::Make(2).value();
  uint64_t weights_bytes_ = 0;
};

TEST_F(LoadTest, EveryFaultIsAnErrorAndLeavesNothing) {
  int n = 1;
  for (;; ++n) {
    testing::Fuse fuse;
    fuse.Set(n);
    MemoryBudget budget(uint64_t{1} << 30);
    const Status loaded = Load(fuse, budget);
    EXPECT_EQ(budget.used_bytes(), 0u) << n;
    if (!fuse.blown()) {
      EXPECT_TRUE(loaded.ok());
      break;
    }
    ASSERT_FALSE(loaded.ok()) << n;
    EXPECT_NE(loaded.error().message().find("injected fault"), std::string::npos) << loaded.error().message();
  }
  EXPECT_GT(n, 48) << "the map and every tensor";
}

TEST_F(LoadTest, ABudgetOneByteShortIsRefused) {
  testing::Fuse fuse;
  MemoryBudget enough(uint64_t{1} << 30);
  ASSERT_TRUE(Load(fuse, enough).ok());
  MemoryBudget budget(weights_bytes_ - 1);
  const Status loaded = Load(fuse, budget);
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.error().code(), Code::kExhausted);
  EXPECT_EQ(budget.used_bytes(), 0u);
}

}  // namespace
}  // namespace bantam
