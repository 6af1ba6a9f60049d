#include "model/pack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "formats/gguf.h"
#include "kernels/kernels.h"
#include "model/open.h"
#include "model/vocabulary.h"
#include "testing/checkpoint.h"
#include "testing/faulty_files.h"
#include "testing/model_runner.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

using ::testing::HasSubstr;

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// Of any vocabulary of the tests.
std::vector<uint32_t> Tokens() {
  std::vector<uint32_t> tokens;
  for (uint32_t i = 0; i < 11; ++i) tokens.push_back(3 + i * 5 % 23);
  return tokens;
}

// The writer fills the last tensor up to the alignment; the tests' builder does not. (Not EXPECT_EQ: it would print all of both.)
bool SameFile(const std::string& got, const std::string& expected) {
  return got.starts_with(expected) && got.find_first_not_of('\0', expected.size()) == std::string::npos &&
         got.size() < expected.size() + 32;
}

class PackTest : public ::testing::Test {
 protected:
  Result<PackReport> Pack(const std::string& source, const std::string& out, const PackOptions& options = {.tool_version = "test"}) {
    BANTAM_ASSIGN(ModelFile file, OpenModel(*files_, source));
    return PackModel(*files_, file, out, options, *pool_, nullptr);
  }
  std::vector<float> Logits(const std::string& path) {
    testing::RunSetup setup;
    setup.kernels = ChooseKernels("auto").value();
    setup.threads = 1;
    auto runner = testing::ModelRunner::Make(path, setup, /*tokens_max=*/64);
    EXPECT_TRUE(runner.ok()) << runner.error().message();
    return runner.ok() ? (*runner)->Logits(Tokens()) : std::vector<float>();
  }
  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  std::unique_ptr<ThreadPool> pool_ = ThreadPool::Make(2).value();
};

// Every format: the package computes the same bits as the file, and gives the file back to the last byte.
TEST_F(PackTest, AModelComesBackAndComputesTheSame) {
  for (const DType dtype : testing::AllDTypes()) {
    const std::string source = folder_.Path("m.gguf");
    const std::string package = folder_.Path("m.bantam");
    testing::BuildTinyModel({.layers = 1, .feed_forward = 256, .matrices = dtype}).Write(source);
    const auto report = Pack(source, package);
    ASSERT_TRUE(report.ok()) << Info(dtype).name << ": " << report.error().message();
    EXPECT_TRUE(report->spelled_otherwise.empty()) << Info(dtype).name;
    EXPECT_EQ(report->tensors_in_panels, PanelsAreLarge(dtype) ? 0u : 8u) << Info(dtype).name;
    EXPECT_EQ(Logits(package), Logits(source)) << Info(dtype).name;
    ASSERT_TRUE(UnpackModel(*files_, package, folder_.Path("back.gguf"), nullptr).ok()) << Info(dtype).name;
    EXPECT_TRUE(SameFile(ReadAll(folder_.Path("back.gguf")), ReadAll(source))) << Info(dtype).name;
  }
}

// Panels that are much larger than blocks, on request: used where they lie, where the plan has room for them; the blocks are there too.
TEST_F(PackTest, LargePanelsBesideBlocks) {
  for (const DType dtype : testing::AllDTypes()) {
    if (!PanelsAreLarge(dtype)) continue;
    testing::BuildTinyModel({.layers = 1, .feed_forward = 256, .matrices = dtype}).Write(folder_.Path("m.gguf"));
    const auto report = Pack(folder_.Path("m.gguf"), folder_.Path("m.bantam"), {.tool_version = "test", .fast_start = true});
    ASSERT_TRUE(report.ok()) << Info(dtype).name << ": " << report.error().message();
    EXPECT_EQ(report->tensors_in_panels, 8u) << Info(dtype).name;
    EXPECT_EQ(Logits(folder_.Path("m.bantam")), Logits(folder_.Path("m.gguf"))) << Info(dtype).name;
    ASSERT_TRUE(UnpackModel(*files_, folder_.Path("m.bantam"), folder_.Path("back.gguf"), nullptr).ok()) << Info(dtype).name;
    EXPECT_TRUE(SameFile(ReadAll(folder_.Path("back.gguf")), ReadAll(folder_.Path("m.gguf")))) << Info(dtype).name;
    for (const bool rows : {false, true}) {
      ModelFile file = OpenModel(*files_, folder_.Path("m.bantam")).value();
      ModelOutline outline = OutlineModel(file, *ChooseKernels("auto").value()).value();
      EXPECT_TRUE(!rows || KeepRows(&outline.program));
      MemoryBudget budget(uint64_t{1} << 30);
      const auto weights = Weights::Load(outline.program, file, {budget, *pool_}, nullptr);
      ASSERT_TRUE(weights.ok()) << weights.error().message();
      EXPECT_EQ(budget.used_bytes(), WeightsBytes(outline.program));
      EXPECT_GT(weights->mapped_bytes(), budget.used_bytes() / 2)
          << Info(dtype).name << (rows ? ": blocks" : ": panels") << " where they lie";
    }
  }
}

// A vocabulary of another program's: the model takes numbers of tokens, from a package too.
TEST_F(PackTest, ModelsOfFamiliesWithoutATokenizer) {
  for (const char* name : {"bitnet", "gemma3n", "gemma4", "llama-dense", "qwen35"}) {
    const std::string source = testing::DataPath(std::string("archs/") + name + ".gguf");
    const auto report = Pack(source, folder_.Path("m.bantam"));
    ASSERT_TRUE(report.ok()) << report.error().message();
    EXPECT_THAT(report->without_tokenizer, HasSubstr("is not supported; this build knows llama")) << name;
    EXPECT_EQ(Logits(folder_.Path("m.bantam")), Logits(source)) << name;
    ASSERT_TRUE(UnpackModel(*files_, folder_.Path("m.bantam"), folder_.Path("back.gguf"), nullptr).ok()) << name;
    EXPECT_TRUE(SameFile(ReadAll(folder_.Path("back.gguf")), ReadAll(source))) << name;
  }
}

// Experts, joined matrices, tied embeddings, biases, recurrent layers.
TEST_F(PackTest, ShapesOfModels) {
  const testing::TinyModel models[] = {{.experts = 3, .experts_used = 2, .matrices = DType::kQ8_0},
                                       {.tied = true, .biases = true, .matrices = DType::kQ4_K},
                                       {.joined = true, .matrices = DType::kF16},
                                       {.hybrid = true}};
  for (const testing::TinyModel& model : models) {
    testing::BuildTinyModel(model).Write(folder_.Path("m.gguf"));
    ASSERT_TRUE(Pack(folder_.Path("m.gguf"), folder_.Path("m.bantam")).ok());
    EXPECT_EQ(Logits(folder_.Path("m.bantam")), Logits(folder_.Path("m.gguf")));
    ASSERT_TRUE(UnpackModel(*files_, folder_.Path("m.bantam"), folder_.Path("back.gguf"), nullptr).ok());
    EXPECT_TRUE(SameFile(ReadAll(folder_.Path("back.gguf")), ReadAll(folder_.Path("m.gguf"))));
  }
}

// Weights lie in the file and nowhere else; what they take is planned all the same. Query, key and value are three weights of one tensor.
TEST_F(PackTest, PanelsAreUsedWhereTheyLie) {
  testing::BuildTinyModel({.experts = 3, .experts_used = 2, .joined = true, .matrices = DType::kQ4_0}).Write(folder_.Path("m.gguf"));
  ASSERT_TRUE(Pack(folder_.Path("m.gguf"), folder_.Path("m.bantam")).ok());
  ModelFile file = OpenModel(*files_, folder_.Path("m.bantam")).value();
  const ModelOutline outline = OutlineModel(file, *ChooseKernels("auto").value()).value();
  MemoryBudget budget(uint64_t{1} << 30);
  uint64_t last = 0;
  const auto weights = Weights::Load(outline.program, file, {budget, *pool_}, [&](std::string_view, uint64_t done, uint64_t total) {
    EXPECT_LE(last, done);
    EXPECT_LE(done, total);
    last = done;
    return true;
  });
  ASSERT_TRUE(weights.ok()) << weights.error().message();
  EXPECT_EQ(last, WeightsBytes(outline.program));
  EXPECT_EQ(budget.used_bytes(), WeightsBytes(outline.program));
  EXPECT_GT(weights->mapped_bytes(), budget.used_bytes() * 9 / 10) << "only vectors are copied";
  file = OpenModel(*files_, folder_.Path("m.bantam")).value();
  const auto stopped = Weights::Load(outline.program, file, {budget, *pool_}, [](std::string_view, uint64_t, uint64_t) { return false; });
  EXPECT_EQ(stopped.error().code(), Code::kCancelled);
  MemoryBudget small(WeightsBytes(outline.program) - 1);
  EXPECT_EQ(Weights::Load(outline.program, file, {small, *pool_}, nullptr).error().code(), Code::kExhausted);
}

TEST_F(PackTest, DamagedWeightsAreNotRun) {
  testing::BuildTinyModel({.matrices = DType::kQ4_0}).Write(folder_.Path("m.gguf"));
  const PackReport report = Pack(folder_.Path("m.gguf"), folder_.Path("m.bantam")).value();
  std::string bytes = ReadAll(folder_.Path("m.bantam"));
  for (const PackageSection& section : report.manifest.sections) {
    if (section.kind == static_cast<uint32_t>(SectionKind::kWeights)) bytes[section.offset_bytes + section.size_bytes / 2] ^= 4;
  }
  std::ofstream(folder_.Path("d.bantam"), std::ios::binary) << bytes;
  testing::RunSetup setup;
  setup.kernels = ChooseKernels("auto").value();
  const auto runner = testing::ModelRunner::Make(folder_.Path("d.bantam"), setup, 64);
  ASSERT_FALSE(runner.ok());
  EXPECT_EQ(runner.error().code(), Code::kCorrupt);
  EXPECT_THAT(runner.error().message(), HasSubstr("d.bantam: section weights, bytes 0 to"));
  // Who vouches for the file is believed.
  ModelFile trusted = OpenModel(*files_, folder_.Path("d.bantam")).value();
  trusted.source->Trust();
  EXPECT_TRUE(testing::ModelRunner::Make(std::move(trusted), setup, 64).ok());
}

TEST_F(PackTest, VocabularyAndTemplatesGoAlong) {
  auto builder = testing::BuildTinyModel({.layers = 1});
  builder.Text("tokenizer.chat_template", "{{ bos_token }}{{ messages[0].content }}")
      .Text("tokenizer.chat_template.tool_use", "{{ eos_token }}");
  builder.Text("general.license", "apache-2.0");
  builder.Write(folder_.Path("m.gguf"));
  ModelFile source = OpenModel(*files_, folder_.Path("m.gguf")).value();
  EXPECT_EQ(FindLicence(*files_, source).value(), "apache-2.0");
  PackOptions options = {.tool_version = "test", .source_vocabulary = false};
  options.sources = DigestSources(*files_, source, nullptr).value();
  ASSERT_TRUE(Pack(folder_.Path("m.gguf"), folder_.Path("m.bantam"), options).ok());
  ModelFile package = OpenModel(*files_, folder_.Path("m.bantam")).value();
  EXPECT_EQ(package.metadata.Find("tokenizer.ggml.tokens"), nullptr);
  const std::string text = "<s> hello w\xc3\xb6rld";
  EXPECT_EQ(ReadVocabulary(package)->Encode(text, true).value(), ReadVocabulary(source)->Encode(text, true).value());
  const ChatMessage message[] = {{"user", "hi"}};
  for (const bool tools : {false, true}) {
    const auto expected = ReadChatTemplate(source, tools)->Render(message, {}).value();
    const auto got = ReadChatTemplate(package, tools)->Render(message, {}).value();
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i].text, expected[i].text);
  }
  const Status refused = UnpackModel(*files_, folder_.Path("m.bantam"), folder_.Path("back.gguf"), nullptr);
  EXPECT_THAT(refused.error().message(), HasSubstr("without the source's vocabulary"));
  const PackageTexts texts = ReadPackageTexts(*files_, folder_.Path("m.bantam")).value();
  const Json provenance = ParseJson(texts.provenance).value();
  const std::string whole = ReadAll(folder_.Path("m.gguf"));
  EXPECT_EQ(provenance["source"]["files"][0]["sha256"], HexOf(Sha256Of(std::as_bytes(std::span(whole)))));
  EXPECT_EQ(ParseJson(texts.hints).value()["formats"]["F32"]["tensors"], source.directory.tensors().size());
}

// A folder becomes a package that computes the same.
TEST_F(PackTest, HuggingFaceFolders) {
  const Json description = testing::ReadDescription(testing::DataPath("huggingface/qwen3_moe.json"));
  testing::WriteCheckpoint(folder_.Path("model"), description["config"], testing::ValuesOf(description));
  testing::WriteText(folder_.Path("model/LICENSE"), "free");
  ASSERT_TRUE(Pack(folder_.Path("model"), folder_.Path("m.bantam")).ok());
  EXPECT_EQ(Logits(folder_.Path("m.bantam")), Logits(folder_.Path("model")));
  EXPECT_EQ(FindLicence(*files_, OpenModel(*files_, folder_.Path("model")).value()).value(), "free");
  const auto sources = DigestSources(*files_, OpenModel(*files_, folder_.Path("model")).value(), nullptr).value();
  std::vector<std::string> names;
  for (const SourceFile& source : sources) names.push_back(source.name);
  EXPECT_THAT(names, ::testing::ElementsAre("LICENSE", "config.json", "model.safetensors"));
}

// A folder of parts goes by its own path, and its files are the parts and what lies beside them.
TEST_F(PackTest, FoldersOfParts) {
  std::filesystem::create_directories(folder_.Path("m"));
  for (const uint32_t part : {0u, 1u}) {
    testing::GgufBuilder builder;
    builder.U32("split.no", part).U32("split.count", 2).U32("split.tensors.count", 2);
    builder.Add({"t" + std::to_string(part), {8}, 0, std::string(32, 'x'), -1});
    builder.Write(folder_.Path("m/m-0000" + std::to_string(part + 1) + "-of-00002.gguf"));
  }
  testing::WriteText(folder_.Path("m/LICENSE"), "free");
  for (const char* name : {"m", "m/"}) {
    const auto file = OpenModel(*files_, folder_.Path(name));
    ASSERT_TRUE(file.ok()) << file.error().message();
    EXPECT_EQ(file->path, folder_.Path("m"));
    EXPECT_EQ(FindLicence(*files_, *file).value(), "free");
    std::vector<std::string> names;
    const auto sources = DigestSources(*files_, *file, nullptr).value();
    for (const SourceFile& source : sources) names.push_back(source.name);
    EXPECT_THAT(names, ::testing::ElementsAre("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "LICENSE"));
  }
}

// Digests are of the bytes that were packed, or there is no package: whoever writes to the source, and when.
TEST_F(PackTest, ASourceThatChanges) {
  const std::string source = folder_.Path("m.gguf");
  const std::string package = folder_.Path("m.bantam");
  const std::string bytes = testing::BuildTinyModel({.layers = 1, .feed_forward = 256, .matrices = DType::kQ4_0}).Build();
  enum class When { kNever, kBeforeDigests, kBeforePacking, kWhilePacking };
  for (const When when : {When::kNever, When::kBeforeDigests, When::kBeforePacking, When::kWhilePacking}) {
    for (const bool replaced : {false, true}) {
      std::ofstream(source, std::ios::binary) << bytes;
      std::filesystem::last_write_time(source, std::filesystem::file_time_type(std::chrono::hours(1)));
      WatchedFiles watched(*files_);
      ModelFile file = OpenModel(watched, source).value();
      // The same but for the last weights, in place or in another file of that name.
      const auto change = [&] {
        const std::string written = replaced ? folder_.Path("new") : source;
        std::ofstream(written, std::ios::binary | std::ios::in | std::ios::out | (replaced ? std::ios::trunc : std::ios::openmode()))
            << bytes.substr(0, bytes.size() - 4) + "abcd";
        std::filesystem::last_write_time(written, std::filesystem::file_time_type(std::chrono::hours(2)));
        if (replaced) std::filesystem::rename(written, source);
      };
      if (when == When::kBeforeDigests) change();
      const auto sources = DigestSources(watched, file, nullptr);
      EXPECT_EQ(sources.ok(), when != When::kBeforeDigests);
      if (!sources.ok()) {
        EXPECT_THAT(sources.error().message(), HasSubstr("m.gguf: it changed while it was read"));
        continue;
      }
      EXPECT_EQ(sources->at(0).digest, Sha256Of(std::as_bytes(std::span(bytes))));
      if (when == When::kBeforePacking) change();
      bool changed = false;
      const auto progress = [&](std::string_view, uint64_t done, uint64_t total) {
        if (when == When::kWhilePacking && done > total / 2 && !std::exchange(changed, true)) change();
        return true;
      };
      const PackOptions options = {.tool_version = "test", .sources = *sources, .watched = &watched};
      const auto report = PackModel(*files_, file, package, options, *pool_, progress);
      EXPECT_EQ(report.ok(), when == When::kNever);
      EXPECT_EQ(std::filesystem::exists(package), when == When::kNever);
      std::filesystem::remove(package);
      if (report.ok()) continue;
      EXPECT_EQ(report.error().code(), Code::kUnavailable);
    }
  }
}

TEST_F(PackTest, TheSameSourceMakesTheSameBytes) {
  testing::BuildTinyModel({.layers = 1}).Write(folder_.Path("m.gguf"));
  ASSERT_TRUE(Pack(folder_.Path("m.gguf"), folder_.Path("a.bantam")).ok());
  pool_ = ThreadPool::Make(3).value();
  ASSERT_TRUE(Pack(folder_.Path("m.gguf"), folder_.Path("b.bantam")).ok());
  EXPECT_TRUE(ReadAll(folder_.Path("a.bantam")) == ReadAll(folder_.Path("b.bantam")));
}

// One value, two spellings: a scale that means the same as another, which a panel cannot tell apart.
TEST_F(PackTest, WhatPanelsWouldChangeStaysAsItIs) {
  const std::string source = folder_.Path("m.gguf");
  testing::BuildTinyModel({.layers = 1, .feed_forward = 256, .matrices = DType::kNVFP4}).Write(source);
  ModelFile file = OpenGguf(*files_, source).value();
  const TensorInfo* tensor = file.directory.Find("blk.0.attn_q.weight");
  std::string bytes = ReadAll(source);
  bytes[tensor->offset_bytes] = static_cast<char>(0x80);  // a negative zero where the format has no sign
  std::ofstream(source, std::ios::binary) << bytes;
  const PackReport report = Pack(source, folder_.Path("m.bantam")).value();
  EXPECT_THAT(report.spelled_otherwise, ::testing::ElementsAre("blk.0.attn_q.weight"));
  ASSERT_TRUE(UnpackModel(*files_, folder_.Path("m.bantam"), folder_.Path("back.gguf"), nullptr).ok());
  EXPECT_TRUE(SameFile(ReadAll(folder_.Path("back.gguf")), bytes));
}

TEST_F(PackTest, WhatCannotRunIsNotPacked) {
  testing::GgufBuilder vocabulary;
  vocabulary.Text("general.architecture", "llama");
  testing::AddTinyVocabulary(vocabulary, 300);
  vocabulary.Write(folder_.Path("v.gguf"));
  EXPECT_THAT(Pack(folder_.Path("v.gguf"), folder_.Path("v.bantam")).error().message(), HasSubstr("no weights"));
  testing::Fuse fuse;
  testing::BuildTinyModel({.layers = 1}).Write(folder_.Path("m.gguf"));
  testing::FaultyFiles faulty(fuse);
  int n = 1;
  for (bool blown = true; blown; n += 7) {  // some of several hundred writes
    fuse = testing::Fuse();
    ModelFile file = OpenModel(*files_, folder_.Path("m.gguf")).value();
    fuse.Set(n);
    const auto report = PackModel(faulty, file, folder_.Path("f.bantam"), {.tool_version = "test"}, *pool_, nullptr);
    blown = fuse.blown();
    EXPECT_EQ(report.ok(), !blown) << n;
    EXPECT_EQ(std::filesystem::exists(folder_.Path("f.bantam")), !blown) << n;
  }
}

}  // namespace
}  // namespace bantam
