#include "program/fuse.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "formats/gguf.h"
#include "kernels/ref/ref.h"
#include "model/arch/registry.h"
#include "model/lowering.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

class FuseTest : public ::testing::Test {
 protected:
  Program Lowered(const testing::TinyModel& model) {
    testing::BuildTinyModel(model).Write(folder_.Path("m.gguf"));
    const auto files = MakeFileSystem();
    ModelFile file = OpenGguf(*files, folder_.Path("m.gguf")).value();
    const Config config = ReadConfig(file).value();
    return Lower(config, file.directory).value();
  }
  static std::map<std::string, int> Count(const Program& program) {
    std::map<std::string, int> count;
    for (const Op& op : program.ops) ++count[OpName(op)];
    return count;
  }
  testing::TemporaryFolder folder_;
};

KernelSet Quantizing() {
  KernelSet set = kernels::kReference;
  for (size_t kind = 3; kind < kernels::kKinds; ++kind) set.quantized[kind] = true;
  return set;
}

TEST_F(FuseTest, PlainFormIsUnfused) {
  const auto count = Count(Lowered({}));
  EXPECT_EQ(count.at("matmul"), 2 * 7 + 1);
  EXPECT_EQ(count.at("norm"), 2 * 2 + 1);
  EXPECT_EQ(count.at("add"), 2 * 2);
  EXPECT_FALSE(count.contains("quantize"));
}

TEST_F(FuseTest, ReferenceSetMergesProductsAndGates) {
  const auto count = Count(Fuse(Lowered({}), kernels::kReference));
  EXPECT_EQ(count.at("matmul"), 2 * 3 + 1) << "query, key and value; output; down; and the head";
  EXPECT_EQ(count.at("gated_matmul"), 2);
  EXPECT_FALSE(count.contains("add"));
  EXPECT_FALSE(count.contains("activate"));
  EXPECT_FALSE(count.contains("quantize"));
}

TEST_F(FuseTest, IntegerSetsQuantizeEachInputOnce) {
  const auto count = Count(Fuse(Lowered({.matrices = DType::kQ8_0}), Quantizing()));
  EXPECT_EQ(count.at("norm_quantize"), 2 * 2 + 1);
  EXPECT_EQ(count.at("quantize"), 2 * 2) << "attention's and the gate's results";
  EXPECT_FALSE(count.contains("norm"));
}

TEST_F(FuseTest, EveryFormOfAnInputIsMadeOnce) {
  KernelSet set = Quantizing();
  set.to_bf16 = [](const float*, size_t, uint16_t*) {};
  const Program all = Fuse(Lowered({.matrices = DType::kBF16}), set);
  EXPECT_EQ(Count(all).at("norm_quantize"), 2 * 2 + 1);
  EXPECT_EQ(Count(all).at("quantize"), 2 * 2);
  for (const BufferSpec& buffer : all.buffers) EXPECT_NE(buffer.form, BufferForm::kQuantized) << buffer.name;

  Program mixed = Lowered({.matrices = DType::kQ8_0});
  for (WeightSpec& weight : mixed.weights) {
    if (weight.name.find("attn_k") != std::string::npos) weight.dtype = DType::kBF16;
  }
  mixed = Fuse(mixed, set);
  const auto count = Count(mixed);
  EXPECT_EQ(count.at("matmul"), 2 * (3 + 1) + 1) << "query with value; key between them; output; down";
  EXPECT_EQ(count.at("norm"), 2) << "attention's norm, which is read in two forms";
  EXPECT_EQ(count.at("quantize"), 2 * (2 + 2)) << "integers for query and value together";
  std::map<std::string, BufferForm> forms;
  for (const BufferSpec& buffer : mixed.buffers) {
    if (buffer.width > 0) forms[buffer.name] = buffer.form;
  }
  EXPECT_EQ(forms.at("normed.q"), BufferForm::kQuantized);
  EXPECT_EQ(forms.at("normed.bf16"), BufferForm::kBf16);
}

TEST_F(FuseTest, TheRouterKeepsItsFloats) {
  const auto count = Count(Fuse(Lowered({.experts = 4, .experts_used = 2, .matrices = DType::kQ8_0}), Quantizing()));
  EXPECT_EQ(count.at("norm"), 2) << "the F32 router reads the norm's floats";
  EXPECT_EQ(count.at("quantize"), 2 * 3) << "for the experts, the gated rows and attention's result";
  EXPECT_EQ(count.at("expert_matmul"), 2 * 3);
}

TEST_F(FuseTest, BuffersThatNobodyUsesTakeNoMemory) {
  const Program program = Fuse(Lowered({.matrices = DType::kQ8_0}), Quantizing());
  for (const BufferSpec& buffer : program.buffers) {
    if (buffer.name == "gate" || buffer.name == "up" || buffer.name == "branch" || buffer.name == "normed") {
      EXPECT_EQ(buffer.width, 0u) << buffer.name;
    }
  }
}

}  // namespace
}  // namespace bantam
