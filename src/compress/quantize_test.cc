#include "compress/quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

#include "base/rng.h"
#include "compress/calibrate.h"
#include "formats/gguf.h"
#include "kernels/ref/ref.h"
#include "model/load.h"
#include "tensor/group_pack.h"
#include "testing/faulty_files.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::vector<float> Floats(ModelFile& file, std::string_view name) {
  const TensorInfo* tensor = file.directory.Find(name);
  const auto bytes = file.source->View(tensor->offset_bytes, tensor->size_bytes).value();
  std::vector<float> values(tensor->elements());
  Unpack(tensor->dtype, reinterpret_cast<const uint8_t*>(bytes.data()), values.size(), values.data());
  return values;
}

class QuantizeTest : public ::testing::Test {
 protected:
  QuantizeTest() { testing::BuildTinyModel(tiny_).Write(in_); }

  Result<QuantizeReport> Run(const std::string& out, const QuantizeOptions& options, int threads = 2, const Progress& progress = nullptr) {
    ModelFile file = OpenGguf(*files_, in_).value();
    const auto pool = ThreadPool::Make(threads).value();
    return QuantizeModel(*files_, *disk_, file, out, options, *pool, progress);
  }

  testing::TemporaryFolder folder_;
  testing::TinyModel tiny_;
  const std::string in_ = folder_.Path("in.gguf");
  const std::string out_ = folder_.Path("out.gguf");
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  std::unique_ptr<Disk> disk_ = MakeDisk();
};

// Every format: matrices as PackRow packs them, vectors and metadata as they were, and a model that loads.
TEST_F(QuantizeTest, PacksMatricesAndKeepsTheRest) {
  for (const std::string_view type : Recipe::Names()) {
    Recipe recipe = *Recipe::Make(type);
    recipe.MakePure();
    std::filesystem::remove(out_);
    QuantizeOptions options = {recipe};
    options.own_formats = true;
    const auto report = Run(out_, options);
    ASSERT_TRUE(report.ok()) << type << ": " << report.error().message();
    ModelFile in = OpenGguf(*files_, in_).value();
    ModelFile out = OpenGguf(*files_, out_).value();
    EXPECT_EQ(out.metadata.U32("general.file_type").value(), recipe.type().file_type) << type;
    EXPECT_EQ(out.metadata.U32("general.quantization_version").value(), 2u);
    EXPECT_EQ(out.metadata.Texts("tokenizer.ggml.tokens", 1000).value(), in.metadata.Texts("tokenizer.ggml.tokens", 1000).value());
    EXPECT_EQ(Floats(out, "output_norm.weight"), Floats(in, "output_norm.weight"));
    ASSERT_EQ(out.directory.tensors().size(), in.directory.tensors().size());
    const DType dtype = recipe.type().type;
    const std::vector<float> values = Floats(in, "blk.1.ffn_down.weight");
    std::vector<uint8_t> blocks(RowBytes(dtype, values.size()));
    const size_t group = recipe.GroupOf(dtype, tiny_.feed_forward);
    for (size_t row = 0; row < tiny_.width; ++row) {
      const std::span<const float> one = std::span(values).subspan(row * tiny_.feed_forward, tiny_.feed_forward);
      uint8_t* to = blocks.data() + row * RowBytes(dtype, tiny_.feed_forward);
      ASSERT_TRUE((group == 0 ? PackRow(dtype, one, {}, to) : PackGroups(dtype, group, one, {}, to)).ok());
    }
    const TensorInfo* made = out.directory.Find("blk.1.ffn_down.weight");
    ASSERT_EQ(made->dtype, dtype);
    const auto bytes = out.source->View(made->offset_bytes, made->size_bytes).value();
    EXPECT_EQ(std::memcmp(bytes.data(), blocks.data(), blocks.size()), 0) << type;
    double error = 0, square = 0;
    const std::vector<float> back = Floats(out, "blk.1.ffn_down.weight");
    for (size_t i = 0; i < back.size(); ++i) {
      error += std::pow(static_cast<double>(back[i]) - static_cast<double>(values[i]), 2);
      square += std::pow(static_cast<double>(values[i]), 2);
    }
    for (const TensorReport& tensor : report->tensors) {
      if (tensor.name == "blk.1.ffn_down.weight") {
        EXPECT_NEAR(*tensor.error, error / square, 1e-6 * error / square + 1e-12);
      }
    }
    EXPECT_TRUE(OutlineModel(out, kernels::kReference).ok()) << type;
  }
}

TEST_F(QuantizeTest, ThreadsChangeNothing) {
  const Recipe recipe = *Recipe::Make("Q4_K_M");
  ASSERT_TRUE(Run(folder_.Path("1"), {recipe}, 1).ok());
  ASSERT_TRUE(Run(folder_.Path("3"), {recipe}, 3).ok());
  EXPECT_TRUE(ReadAll(folder_.Path("1")) == ReadAll(folder_.Path("3")));
}

// Stopped after every piece in turn, and gone on with: the same bytes as without a stop, and no more work than was left.
TEST_F(QuantizeTest, GoesOnWhereItWas) {
  const Recipe recipe = *Recipe::Make("Q5_K");
  QuantizeOptions options = {recipe};
  options.sync_bytes = 1;
  ASSERT_TRUE(Run(folder_.Path("whole"), options).ok());
  bool stopped = true;
  uint64_t resumed = 0;
  for (size_t stop = 1; stopped; stop += 3) {
    std::filesystem::remove(out_);
    size_t calls = 0;
    const auto first = Run(out_, options, 2, [&](std::string_view, uint64_t, uint64_t) { return ++calls < stop; });
    stopped = !first.ok();
    if (stopped) {
      EXPECT_EQ(first.error().code(), Code::kCancelled);
      EXPECT_FALSE(std::filesystem::exists(out_));
      const auto second = Run(out_, options);
      ASSERT_TRUE(second.ok()) << second.error().message();
      EXPECT_GE(second->resumed_bytes, resumed);
      resumed = second->resumed_bytes;
    }
    ASSERT_TRUE(ReadAll(out_) == ReadAll(folder_.Path("whole"))) << stop;
    EXPECT_FALSE(std::filesystem::exists(out_ + ".part"));
    EXPECT_FALSE(std::filesystem::exists(out_ + ".part.json"));
  }
  EXPECT_GT(resumed, 0u);
}

// A part of another plan is begun again.
TEST_F(QuantizeTest, ADifferentPlanStartsAgain) {
  const Recipe first = *Recipe::Make("Q4_0");
  QuantizeOptions options = {first};
  options.sync_bytes = 1;
  size_t calls = 0;
  ASSERT_FALSE(Run(out_, options, 2, [&](std::string_view, uint64_t, uint64_t) { return ++calls < 8; }).ok());
  const Recipe second = *Recipe::Make("Q8_0");
  const auto report = Run(out_, {second});
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->resumed_bytes, 0u);
  ASSERT_TRUE(Run(folder_.Path("alone"), {second}).ok());
  EXPECT_TRUE(ReadAll(out_) == ReadAll(folder_.Path("alone")));
}

TEST_F(QuantizeTest, EveryFailedReadOrWriteLeavesNothing) {
  const Recipe recipe = *Recipe::Make("Q4_0");
  QuantizeOptions options = {recipe};
  options.sync_bytes = 1;
  const auto pool = ThreadPool::Make(1).value();
  testing::Fuse fuse;
  bool blown = true;
  for (int n = 1; blown; n += 5) {
    ModelFile file = OpenGguf(*files_, in_).value();
    file.source = std::make_unique<testing::FaultySource>(std::move(file.source), fuse);
    testing::FaultyFiles faulty(fuse);
    fuse.Set(n);
    const auto report = QuantizeModel(faulty, *disk_, file, out_, options, *pool, nullptr);
    blown = fuse.TakeBlown();
    EXPECT_EQ(std::filesystem::exists(out_), report.ok());
    // A note that cannot be read is no failure: the part starts again.
    if (!blown) {
      EXPECT_TRUE(report.ok());
    }
    if (report.ok()) std::filesystem::remove(out_);
  }
}

TEST_F(QuantizeTest, DamagedWeightsAreNamed) {
  for (const char* name : {"blk.1.ffn_up.weight", "blk.0.attn_norm.weight"}) {
    testing::GgufBuilder builder = testing::BuildTinyModel(tiny_);
    for (auto& tensor : builder.tensors()) {
      const float infinite = std::numeric_limits<float>::infinity();
      if (tensor.name == name) std::memcpy(tensor.bytes.data() + 4 * 5, &infinite, 4);
    }
    builder.Write(in_);
    const auto report = Run(out_, {*Recipe::Make("Q4_K")});
    ASSERT_FALSE(report.ok());
    EXPECT_EQ(report.error().code(), Code::kCorrupt);
    EXPECT_NE(report.error().message().find(name), std::string::npos) << report.error().message();
    EXPECT_NE(report.error().message().find("element 5 is inf"), std::string::npos) << report.error().message();
    EXPECT_FALSE(std::filesystem::exists(out_ + ".part"));
  }
}

TEST_F(QuantizeTest, ASourceThatChangesIsRefused) {
  WatchedFiles watched(*files_);
  ModelFile file = OpenGguf(watched, in_).value();
  const auto pool = ThreadPool::Make(1).value();
  const Recipe recipe = *Recipe::Make("Q8_0");
  QuantizeOptions options = {recipe};
  options.watched = &watched;
  std::ofstream(in_, std::ios::binary | std::ios::app) << "x";
  const auto report = QuantizeModel(*files_, *disk_, file, out_, options, *pool, nullptr);
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code(), Code::kUnavailable);
  EXPECT_FALSE(std::filesystem::exists(out_));
}

TEST_F(QuantizeTest, NarrowRowsAreNamed) {
  tiny_.width = 96;
  tiny_.feed_forward = 224;
  testing::BuildTinyModel(tiny_).Write(in_);
  const auto report = Run(out_, {*Recipe::Make("Q4_K")});
  ASSERT_TRUE(report.ok()) << report.error().message();
  for (const TensorReport& tensor : report->tensors) {
    if (tensor.name == "blk.0.attn_q.weight") {
      EXPECT_EQ(tensor.wanted, DType::kQ4_K);
      EXPECT_EQ(tensor.to, DType::kQ5_0);
    }
  }
}

TEST_F(QuantizeTest, ImportanceOfAnotherModelIsRefused) {
  Importance importance;
  importance.tensors["blk.0.attn_q.weight"] = {3, {1, 2, 3}, {1}};
  const Recipe recipe = *Recipe::Make("Q4_0");
  QuantizeOptions options = {recipe};
  options.importance = &importance;
  const auto report = Run(out_, options);
  ASSERT_FALSE(report.ok());
  EXPECT_NE(report.error().message().find("blk.0.attn_q.weight"), std::string::npos) << report.error().message();
  importance.tensors.clear();
  importance.tensors["encoder.layers.0.weight"] = {3, {1, 2, 3}, {1}};
  EXPECT_EQ(Run(out_, options).error().code(), Code::kInvalidArgument) << "it names nothing of this model";
}

// Calibrated on random tokens: what products give is nearer to the model's with importance, and nearer still with errors fed back.
TEST_F(QuantizeTest, FeedbackBringsProductsNearer) {
  constexpr size_t kWindow = 64;
  MemoryBudget budget{uint64_t{1} << 30};
  const auto pool = ThreadPool::Make(2).value();
  ModelFile file = OpenGguf(*files_, in_).value();
  const auto model = LoadModel(OutlineModel(file, *ChooseKernels("auto").value()).value(), file, {budget, *pool}, nullptr).value();
  PlanOptions plan;
  plan.context = plan.step_tokens = plan.step_outputs = kWindow;
  plan.threads = 2;
  const auto runner = WindowRunner::Make(*model, plan, {budget, *pool}).value();
  Rng rng(3);
  std::vector<uint32_t> tokens(16 * kWindow);
  for (uint32_t& token : tokens) token = static_cast<uint32_t>(rng.Next() % tiny_.vocabulary);
  const CalibrationWindows windows = CutWindows(tokens, {kWindow}).value();
  Calibrator calibration(*model, *runner, windows, *pool, nullptr);
  const Importance importance = calibration.MeasureImportance().value();
  const Recipe recipe = *Recipe::Make("Q4_0");
  QuantizeOptions options = {recipe};
  options.kernels = model->kernels;
  const std::string name = "blk.1.ffn_down.weight";
  const Calibrator::Grams grams = calibration.MeasureGrams({name}).value();
  const UpperPanels& gram = *grams.at(name);
  const auto distance = [&](const std::string& out) {
    ModelFile made = OpenGguf(*files_, out).value();
    ModelFile source = OpenGguf(*files_, in_).value();
    const std::vector<float> a = Floats(source, name);
    const std::vector<float> b = Floats(made, name);
    const size_t n = gram.n();
    double sum = 0;
    for (size_t r = 0; r < a.size() / n; ++r) {
      for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < n; ++j) {
          sum += static_cast<double>(a[r * n + i] - b[r * n + i]) * static_cast<double>(a[r * n + j] - b[r * n + j]) *
                 static_cast<double>(gram.At(std::min(i, j), std::max(i, j)));
        }
      }
    }
    return sum;
  };
  ASSERT_TRUE(Run(folder_.Path("plain"), options).ok());
  options.importance = &importance;
  ASSERT_TRUE(Run(folder_.Path("weighted"), options).ok());
  options.feedback = &calibration;
  options.gram_bytes_max = UpperPanels::Bytes(512) + 1;  // so little that several passes are needed
  const auto report = Run(folder_.Path("fed"), options);
  ASSERT_TRUE(report.ok()) << report.error().message();
  EXPECT_LT(distance(folder_.Path("weighted")), distance(folder_.Path("plain")));
  EXPECT_LT(distance(folder_.Path("fed")), 0.8 * distance(folder_.Path("weighted")));
  for (const TensorReport& tensor : report->tensors) {
    EXPECT_EQ(tensor.feedback, tensor.to != tensor.from && tensor.name != "token_embd.weight") << tensor.name;
  }
  options.gram_bytes_max = uint64_t{1} << 30;
  ASSERT_TRUE(Run(folder_.Path("at once"), options, 3).ok());
  EXPECT_TRUE(ReadAll(folder_.Path("fed")) == ReadAll(folder_.Path("at once"))) << "passes and threads change nothing";
}

TEST(Quantize, RoomForAllThatIsThereAtOnce) {
  EXPECT_EQ(RoomOf({.bytes = 100}), 100u);
  EXPECT_EQ(RoomOf({.bytes = 100, .kept_bytes = 30}), 70u);
  EXPECT_EQ(RoomOf({.bytes = 100, .kept_bytes = 300}), 0u);
  EXPECT_EQ(RoomOf({.bytes = 100, .package = true, .kept_bytes = 30}), 170u);
  EXPECT_EQ(RoomOf({.bytes = 100, .compared = true}), 200u);
  EXPECT_EQ(RoomOf({.bytes = 100, .package = true, .compared = true}), 200u) << "one of both is gone before the package is made";
  EXPECT_EQ(RoomOf({.bytes = 100, .compared = true, .kept_bytes = 30}), 200u) << "what is kept is of neither";
}

}  // namespace
}  // namespace bantam
