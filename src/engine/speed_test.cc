#include "engine/speed.h"

#include <gtest/gtest.h>

#include "formats/gguf.h"
#include "testing/paths.h"

namespace bantam {
namespace {

// Every look is one microsecond later than the last.
class SteppingClock final : public Clock {
 public:
  int64_t NowNs() const override { return now_ns_ += 1000; }

 private:
  mutable int64_t now_ns_ = 0;
};

class SpeedTestTest : public ::testing::Test {
 protected:
  SpeedTestTest() {
    const auto files = MakeFileSystem();
    ModelFile file = OpenGguf(*files, testing::DataPath("models/stories260K.gguf")).value();
    ModelOutline outline = OutlineModel(file, *RunnableKernels().front()).value();
    const PlanOptions options = {256, KvType::kF16, 16, 1, 1};
    const MemoryPlan plan = PlanMemory(outline.program, options, {});
    model_ = LoadModel(std::move(outline), file, {budget_, *pool_}, nullptr).value();
    session_ = Session::Make(*model_, plan, {budget_, *pool_}).value();
  }
  MemoryBudget budget_{uint64_t{1} << 30};
  std::unique_ptr<ThreadPool> pool_ = ThreadPool::Make(1).value();
  std::unique_ptr<Model> model_;
  std::unique_ptr<Session> session_;
};

TEST_F(SpeedTestTest, RunsWhatItSays) {
  const SteppingClock clock;
  EXPECT_DOUBLE_EQ(*TimeRun(*session_, {.prompt = true, .tokens = 40, .depth = 20}, clock), 1e-6);
  EXPECT_EQ(session_->tokens().size(), 60u);
  EXPECT_DOUBLE_EQ(*TimeRun(*session_, {.prompt = false, .tokens = 5, .depth = 0}, clock), 1e-6);
  EXPECT_EQ(session_->tokens().size(), 5u) << "each run starts from an empty context";
  EXPECT_EQ(TimeRun(*session_, {.prompt = true, .tokens = 300, .depth = 0}, clock).error().code(), Code::kExhausted);
  EXPECT_EQ((SpeedTest{.prompt = false, .tokens = 5, .depth = 7}.Name()), "decode 5 at depth 7");
}

TEST_F(SpeedTestTest, WorkByHand) {
  const Program& program = model_->program;
  const Multiplies each = CountMultiplies(program);
  const double kv = static_cast<double>(session_->KvReadBytes(1));
  const SpeedWork prompt = WorkOf(*session_, program, {.prompt = true, .tokens = 40, .depth = 0}, {.step_tokens = 16});
  EXPECT_DOUBLE_EQ(prompt.multiplies, static_cast<double>(40 * each.per_token + 3 * each.per_output));
  EXPECT_DOUBLE_EQ(prompt.bytes, static_cast<double>(3 * DecodeReadBytes(program)) + kv * 40 * 41 / 2);
  // Steps as long as the tile read the weights once each.
  const SpeedWork steps = WorkOf(*session_, program, {.prompt = true, .tokens = 4 * kTokenTile, .depth = 0}, {.step_tokens = kTokenTile});
  const auto tokens = static_cast<double>(4 * kTokenTile);
  EXPECT_DOUBLE_EQ(steps.bytes, static_cast<double>(4 * DecodeReadBytes(program)) + kv * tokens * (tokens + 1) / 2);
  const SpeedWork decode = WorkOf(*session_, program, {.prompt = false, .tokens = 2, .depth = 10}, {.step_tokens = 16});
  EXPECT_DOUBLE_EQ(decode.bytes, static_cast<double>(2 * DecodeReadBytes(program)) + kv * (11 + 12));
}

TEST_F(SpeedTestTest, ProfileAddsUp) {
  const SteppingClock clock;
  StepProfile profile = {clock, {}};
  ASSERT_TRUE(TimeRun(*session_, {.prompt = false, .tokens = 3, .depth = 20}, clock, /*cancelled=*/nullptr, &profile).ok());
  const auto times = SumProfile(model_->program, profile);
  double share = 0;
  size_t operations = 0;
  for (const OperationTime& time : times) {
    share += time.share;
    operations += time.operations;
    if (time.operations == 0) continue;  // waiting
    // A microsecond for each run of each operation on this clock.
    EXPECT_NEAR(time.seconds, 3e-6 * static_cast<double>(time.operations), 1e-12) << time.name;
  }
  EXPECT_NEAR(share, 1, 1e-9);
  EXPECT_EQ(operations, model_->program.ops.size());
}

TEST(Median, OfOddAndEvenCounts) {
  EXPECT_EQ(Median({3, 1, 2}), 2);
  EXPECT_EQ(Median({4, 1, 2, 3}), 2.5);
  EXPECT_EQ(Median({}), 0);
}

}  // namespace
}  // namespace bantam
