#include "formats/package.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>

#include "base/bytes.h"
#include "base/rng.h"
#include "formats/package_layout.h"
#include "formats/package_writer.h"
#include "security/merkle.h"
#include "testing/faulty_files.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

using ::testing::HasSubstr;

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

TensorInfo Tensor(std::string_view name, DType dtype, std::vector<uint64_t> dimensions) {
  TensorInfo info = {};
  info.name = name;
  info.dtype = dtype;
  info.n_dimensions = static_cast<uint32_t>(dimensions.size());
  for (size_t d = 0; d < kTensorDimensionsMax; ++d) info.dimensions[d] = d < dimensions.size() ? dimensions[d] : 1;
  CHECK(SizeTensor(&info).ok());
  return info;
}

// One behind the other, as the format wants them.
std::vector<PackedTensor> Place(std::vector<PackedTensor> tensors) {
  uint64_t end = 0;
  for (PackedTensor& tensor : tensors) {
    tensor.offset_bytes = RoundUp(end, kPackageTensorAlignment);
    end = tensor.end();
  }
  return tensors;
}

std::string Pairs(std::string_view key, uint64_t value, uint32_t place = 0) {
  const PlacedPair pair = {place, {key, value, ValueType::kU32}};
  return EncodePairs(std::span(&pair, 1));
}

// A package of sections that tests choose, whose manifest is made as the writer makes it.
struct Section {
  uint32_t kind;
  bool critical;
  std::string bytes;
};
std::string Seal(const std::vector<Section>& sections, const std::function<void(std::string*)>& change_table = {}) {
  PackageManifest manifest;
  std::string leaves;
  for (const Section& section : sections) {
    ChunkHasher hasher(kPackageChunkBytes);
    hasher.Update(AsBytes(section.bytes));
    const std::vector<Digest> own = hasher.Finish();
    manifest.sections.push_back({section.kind, section.critical, 0, section.bytes.size(), MerkleRoot(own)});
    leaves += AsText(std::as_bytes(std::span(own)));
  }
  std::string file = EncodeManifest(&manifest);
  if (change_table) {
    change_table(&file);
    const Digest digest = Sha256Of(AsBytes(file.substr(0, kPackageDigestAt) + file.substr(kPackageHeaderBytes)));
    std::memcpy(file.data() + kPackageDigestAt, digest.data(), kDigestBytes);
  }
  file += leaves;
  for (size_t i = 0; i < sections.size(); ++i) {
    file.resize(manifest.sections[i].offset_bytes);
    file += sections[i].bytes;
  }
  return file;
}

class PackageTest : public ::testing::Test {
 protected:
  PackageTest() {
    // A matrix of 3 x 21 rows in panels, and a vector.
    Rng rng(3);
    blocks_ = testing::RandomBlocks(DType::kQ4_0, 3 * 21 * 64, 64, rng);
    vector_ = testing::RandomBlocks(DType::kF32, 5, 5, rng);
    const auto tensors = Place({{Tensor("matrix", DType::kQ4_0, {64, 21, 3}), StoredForm::kPanels, 0},
                                {Tensor("vector", DType::kF32, {5}), StoredForm::kBlocks, 0}});
    std::string panels(tensors[0].panels_bytes(), '\0');
    const size_t row_bytes = RowBytes(DType::kQ4_0, 64);
    const size_t panel_bytes = PanelBytes(PanelKind::kQ4, 64);
    for (size_t panel = 0; panel < 6; ++panel) {
      const uint8_t* rows[kPanelRows] = {};
      for (size_t r = 0; r < kPanelRows && panel % 2 * kPanelRows + r < 21; ++r) {
        rows[r] = reinterpret_cast<const uint8_t*>(blocks_.data()) + (panel / 2 * 21 + panel % 2 * kPanelRows + r) * row_bytes;
      }
      PackPanel(DType::kQ4_0, rows, 64, reinterpret_cast<uint8_t*>(panels.data()) + panel * panel_bytes);
    }
    panels.resize(tensors[1].offset_bytes);
    sections_ = {
        {1, true, Pairs("general.count", 7, 1)}, {4, true, EncodeTensors(tensors)}, {5, true, panels + vector_}, {9, false, "MIT"}};
  }

  std::string Write(const std::string& bytes) {
    std::ofstream(folder_.Path("p.bantam"), std::ios::binary) << bytes;
    return folder_.Path("p.bantam");
  }
  std::string Message(const std::string& bytes) {
    const auto file = OpenPackage(*files_, Write(bytes));
    return file.ok() ? "opened" : file.error().message();
  }

  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  std::unique_ptr<ThreadPool> pool_ = ThreadPool::Make(2).value();
  std::string blocks_;
  std::string vector_;
  std::vector<Section> sections_;
};

TEST_F(PackageTest, HoldsWhatWasWritten) {
  Result<ModelFile> file = OpenPackage(*files_, Write(Seal(sections_)));
  ASSERT_TRUE(file.ok()) << file.error().message();
  EXPECT_EQ(file->metadata.U32("general.count").value(), 7u);
  const TensorInfo* matrix = file->directory.Find("matrix");
  const TensorInfo* vector = file->directory.Find("vector");
  ASSERT_TRUE(matrix != nullptr && vector != nullptr);
  EXPECT_EQ(matrix->size_bytes, blocks_.size());
  EXPECT_EQ(AsText(*file->source->View(vector->offset_bytes, vector->size_bytes)), vector_);
  // Any range of the blocks comes back out of the panels.
  Rng rng(4);
  for (int i = 0; i < 200; ++i) {
    const size_t begin = rng.Next() % blocks_.size();
    const size_t size = 1 + rng.Next() % (blocks_.size() - begin);
    ASSERT_EQ(AsText(*file->source->View(matrix->offset_bytes + begin, size)), std::string_view(blocks_).substr(begin, size));
    file->source->Release(matrix->offset_bytes + begin, size);
  }
  EXPECT_EQ(file->source->View(matrix->offset_bytes, matrix->size_bytes + 1).error().code(), Code::kInvalidArgument);
  // Panels lie where kernels may read them.
  const auto place = file->source->PlaceOf(*matrix, TensorSource::Form::kPanels);
  ASSERT_TRUE(place.has_value());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(place->data()) % 64, 0u);
  EXPECT_EQ(AsText(*place), std::string_view(sections_[2].bytes).substr(0, place->size()));
  EXPECT_FALSE(file->source->PlaceOf(*matrix, TensorSource::Form::kBlocks).has_value());
  EXPECT_EQ(AsText(file->source->PlaceOf(*vector, TensorSource::Form::kBlocks).value()), vector_);
  EXPECT_EQ(ReadPackageTexts(*files_, folder_.Path("p.bantam"))->licence, "MIT");
}

TEST_F(PackageTest, TheWriterMakesTheSameBytes) {
  std::vector<SectionPlan> plan;
  for (const Section& section : sections_) plan.push_back({static_cast<SectionKind>(section.kind), section.critical, section.bytes.size()});
  for (const size_t piece : {1u, 1000u, 1u << 20}) {
    auto writer = PackageWriter::Make(*files_, folder_.Path("w.bantam"), plan).value();
    std::string all;
    for (const Section& section : sections_) all += section.bytes;
    for (size_t at = 0; at < all.size(); at += piece) ASSERT_TRUE(writer->Append(AsBytes(std::string_view(all).substr(at, piece))).ok());
    ASSERT_TRUE(writer->Commit().ok());
    EXPECT_EQ(ReadAll(folder_.Path("w.bantam")), Seal(sections_)) << piece;
  }
  auto unfinished = PackageWriter::Make(*files_, folder_.Path("u.bantam"), plan).value();
  EXPECT_THAT(unfinished->Commit().error().message(), HasSubstr("section config: 0 of"));
  unfinished.reset();
  EXPECT_FALSE(std::filesystem::exists(folder_.Path("u.bantam")));
}

// The manifest, leaves, sections and zeros: whatever byte changes, somebody says so.
TEST_F(PackageTest, AChangeOfAnyByteIsFound) {
  const std::string whole = Seal(sections_);
  EXPECT_TRUE(VerifyPackage(*files_, Write(whole), *pool_, nullptr).ok());
  for (size_t at = 0; at < whole.size(); at += at < 448 ? 3 : 307) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << at % 8));
    ASSERT_FALSE(VerifyPackage(*files_, Write(damaged), *pool_, nullptr).ok()) << "byte " << at;
  }
  for (size_t size = 1; size < whole.size(); size += 509)
    ASSERT_FALSE(VerifyPackage(*files_, Write(whole.substr(0, size)), *pool_, nullptr).ok());
  EXPECT_THAT(Message(whole + "x"), HasSubstr("bytes, expected"));
}

TEST_F(PackageTest, DamageIsNamedWhereItIsRead) {
  std::string damaged = Seal(sections_);
  damaged[damaged.rfind(vector_) + 3] ^= 1;
  Result<ModelFile> file = OpenPackage(*files_, Write(damaged));
  ASSERT_TRUE(file.ok()) << "weights are looked at when they are read";
  const TensorInfo* vector = file->directory.Find("vector");
  EXPECT_THAT(file->source->View(vector->offset_bytes, vector->size_bytes).error().message(), HasSubstr("section weights, bytes 0 to"));
  const auto place = file->source->PlaceOf(*file->directory.Find("matrix"), TensorSource::Form::kPanels);
  EXPECT_EQ(file->source->Check(*place).error().code(), Code::kCorrupt);
  std::string config = Seal(sections_);
  config[config.find("general.count")] ^= 1;
  EXPECT_THAT(Message(config), HasSubstr("section config, bytes 0 to"));
}

TEST_F(PackageTest, UnknownSectionsAreSkippedUnlessTheyMatter) {
  auto more = sections_;
  more.push_back({40, false, "alternative"});
  more.push_back({16, false, std::string(64, '\0')});
  EXPECT_EQ(Message(Seal({more.begin(), more.end() - 1})), "opened");
  more[4].critical = true;
  EXPECT_THAT(Message(Seal({more.begin(), more.end() - 1})), HasSubstr("section 40 has to be understood"));
  // Policies and keys come with a build that honours them.
  more[4] = {18, true, "policy"};
  EXPECT_THAT(Message(Seal({more.begin(), more.end() - 1})), HasSubstr("section policy has to be understood"));
  const auto flag_weights = [](std::string* table) { (*table)[kPackageHeaderBytes + 2 * kPackageEntryBytes + 4] |= 2; };
  EXPECT_THAT(Message(Seal(sections_, flag_weights)), HasSubstr("section weights is encrypted"));
  const auto flag_unknown = [](std::string* table) { (*table)[kPackageHeaderBytes + 4] |= 4; };
  EXPECT_THAT(Message(Seal(sections_, flag_unknown)), HasSubstr("flags 0x5"));
  const auto version = [](std::string* table) { (*table)[8] = 2; };
  EXPECT_THAT(Message(Seal(sections_, version)), HasSubstr("a package of version 2.0, expected 1.0"));
  EXPECT_THAT(Message(Seal({sections_[0], sections_[1], sections_[2], sections_[0]})), HasSubstr("section config occurs twice"));
  EXPECT_THAT(Message(Seal({sections_[0], sections_[1]})), HasSubstr("section weights is missing"));
  EXPECT_THAT(Message("GGUF and more than eight bytes, but no package at all, and that for more than a header's 64"),
              HasSubstr("not a Bantam package"));
}

// A signatures section can be filled in afterwards: nothing but the digest speaks of it.
TEST_F(PackageTest, SignaturesHaveNoLeaves) {
  PackageManifest manifest;
  manifest.sections = {{16, false, 0, 64, {}}, {1, true, 0, 10, {}}};
  (void)EncodeManifest(&manifest);
  EXPECT_EQ(LeavesOf(manifest, 0).count, 0u);
  EXPECT_EQ(LeavesOf(manifest, 1).count, 1u);
  EXPECT_EQ(LeavesOf(manifest, 1).offset_bytes, kPackageHeaderBytes + 2 * kPackageEntryBytes);
}

// Sealed with care, but wrong within.
TEST_F(PackageTest, ListsThatLieAreRefused) {
  const auto with = [&](size_t index, std::string bytes) {
    auto changed = sections_;
    changed[index].bytes = std::move(bytes);
    return Message(Seal(changed));
  };
  EXPECT_THAT(with(0, "\xff\xff\xff\xff"), HasSubstr("metadata pairs"));
  EXPECT_THAT(with(0, sections_[0].bytes + "x"), HasSubstr("behind the last pair"));
  const PlacedPair twice[] = {{5, {"a", uint64_t{1}, ValueType::kU32}}, {5, {"b", uint64_t{1}, ValueType::kU32}}};
  EXPECT_THAT(with(0, EncodePairs(twice)), HasSubstr("two metadata pairs in place 5"));
  auto tensors = Place({{Tensor("matrix", DType::kQ4_0, {64, 21, 3}), StoredForm::kPanels, 0},
                        {Tensor("vector", DType::kF32, {5}), StoredForm::kBlocks, 0}});
  tensors[1].offset_bytes += 64;
  EXPECT_THAT(with(1, EncodeTensors(tensors)), HasSubstr("tensor vector: 20 bytes at"));
  tensors[1].offset_bytes = 0;
  EXPECT_THAT(with(1, EncodeTensors(tensors)), HasSubstr("expected at"));
  EXPECT_THAT(with(1, EncodeTensors(Place({{Tensor("matrix", DType::kQ4_0, {64, 21, 3}), StoredForm::kPanels, 0}}))),
              HasSubstr("weights of"));
  EXPECT_THAT(with(1, EncodeTensors(Place({{Tensor("m", DType::kQ4_0, {64, 21, 3}), StoredForm::kPanels, 0},
                                           {Tensor("m", DType::kF32, {5}), StoredForm::kBlocks, 0}}))),
              HasSubstr("tensor m occurs twice"));
  EXPECT_THAT(
      with(1, EncodeTensors(Place({{Tensor("huge", DType::kF32, {uint64_t{1} << 24, uint64_t{1} << 24}), StoredForm::kPanels, 0}}))),
      HasSubstr("tensor huge"));
  EXPECT_THAT(with(1, EncodeTensors(Place({{Tensor("small", DType::kIQ2_XXS, {256}), StoredForm::kPanels, 0}}))),
              HasSubstr("IQ2_XXS in form 1, expected 0 or 2"));
  EXPECT_THAT(with(1, EncodeTensors(Place({{Tensor("small", DType::kQ4_0, {64}), StoredForm::kBlocksAndPanels, 0}}))),
              HasSubstr("Q4_0 in form 2, expected 0 or 1"));
  EXPECT_THAT(with(1, "\xff\xff\xff\xff"), HasSubstr("tensors"));
}

// Blocks beside panels: whoever reads the panels alone has checked all that is needed, and the blocks are checked whenever they are read.
TEST_F(PackageTest, BlocksBesidePanels) {
  const auto tensors = Place({{Tensor("twice", DType::kIQ2_XXS, {256, 48'000}), StoredForm::kBlocksAndPanels, 0}});
  const PackedTensor& twice = tensors[0];
  ASSERT_GT(twice.info.size_bytes, 2 * kPackageChunkBytes);
  std::string weights(twice.end(), 'b');
  weights.replace(twice.panels_offset(), twice.panels_bytes(), std::string(twice.panels_bytes(), 'p'));
  std::string bytes = Seal({sections_[0], {4, true, EncodeTensors(tensors)}, {5, true, weights}});
  Result<ModelFile> file = OpenPackage(*files_, Write(bytes));
  ASSERT_TRUE(file.ok()) << file.error().message();
  const TensorInfo& info = *file->directory.Find("twice");
  const auto panels = file->source->PlaceOf(info, TensorSource::Form::kPanels).value();
  EXPECT_EQ(AsText(panels), std::string(twice.panels_bytes(), 'p'));
  EXPECT_EQ(AsText(*file->source->View(info.offset_bytes, info.size_bytes)), std::string(info.size_bytes, 'b'));
  file = OpenPackage(*files_, folder_.Path("p.bantam"));
  EXPECT_FALSE(file->source->AllChecked());
  ASSERT_TRUE(file->source->Check(file->source->PlaceOf(*file->directory.Find("twice"), TensorSource::Form::kPanels).value()).ok());
  EXPECT_TRUE(file->source->AllChecked());
  // The second chunk is of blocks alone.
  bytes[bytes.rfind(weights) + kPackageChunkBytes + 5] ^= 1;
  file = OpenPackage(*files_, Write(bytes));
  file->source->Trust();
  const uint64_t begin = file->directory.Find("twice")->offset_bytes;
  EXPECT_TRUE(file->source->View(begin, 8).ok());
  EXPECT_EQ(file->source->View(begin + kPackageChunkBytes, 8).error().code(), Code::kCorrupt);
}

TEST_F(PackageTest, EveryFailedWriteLeavesNothing) {
  std::vector<SectionPlan> plan;
  std::string all;
  for (const Section& section : sections_) {
    plan.push_back({static_cast<SectionKind>(section.kind), section.critical, section.bytes.size()});
    all += section.bytes;
  }
  testing::Fuse fuse;
  testing::FaultyFiles faulty(fuse);
  int n = 1;
  for (bool blown = true; blown; ++n) {
    fuse = testing::Fuse();
    fuse.Set(n);
    {
      auto writer = PackageWriter::Make(faulty, folder_.Path("f.bantam"), plan);
      if (writer.ok() && (*writer)->Append(AsBytes(all)).ok()) (void)(*writer)->Commit().ok();
    }
    blown = fuse.blown();
    EXPECT_EQ(std::filesystem::exists(folder_.Path("f.bantam")), !blown) << "operation " << n;
  }
  EXPECT_GT(n, 8);
}

// Beyond 2 and 4 GiB of a section and of the file. The file is sparse: zeros take no disk, and no chunk is read that nobody asked for.
TEST_F(PackageTest, BordersOf32Bits) {
  constexpr uint64_t kGiB = uint64_t{1} << 30;
  const auto tensors = Place({{Tensor("below", DType::kF32, {256, (2 * kGiB - 1024) / 1024}), StoredForm::kBlocks, 0},
                              {Tensor("across.2", DType::kF32, {512}), StoredForm::kBlocks, 0},
                              {Tensor("between", DType::kF32, {256, (2 * kGiB - 2048) / 1024}), StoredForm::kBlocks, 0},
                              {Tensor("across.4", DType::kF32, {512}), StoredForm::kBlocks, 0},
                              {Tensor("behind", DType::kF32, {256, 4096}), StoredForm::kBlocks, 0}});
  const uint64_t weights_bytes = tensors.back().offset_bytes + tensors.back().info.size_bytes;
  const std::string zeros(kPackageChunkBytes, '\0');
  std::vector<Digest> leaves(PackageChunks(weights_bytes), MerkleLeaf(AsBytes(zeros)));
  leaves.back() = MerkleLeaf(AsBytes(std::string_view(zeros).substr(0, weights_bytes % kPackageChunkBytes)));
  ASSERT_NE(weights_bytes % kPackageChunkBytes, 0u);
  std::vector<std::pair<uint64_t, std::string>> writes;  // of the section
  for (const size_t index : {1u, 3u}) {
    const std::string values(tensors[index].info.size_bytes, static_cast<char>('0' + index));
    const uint64_t first = tensors[index].offset_bytes / kPackageChunkBytes;
    std::string chunks(2 * kPackageChunkBytes, '\0');
    chunks.replace(tensors[index].offset_bytes - first * kPackageChunkBytes, values.size(), values);
    for (size_t c = 0; c < 2; ++c)
      leaves[first + c] = MerkleLeaf(AsBytes(std::string_view(chunks).substr(c * kPackageChunkBytes, kPackageChunkBytes)));
    writes.emplace_back(tensors[index].offset_bytes, values);
  }
  PackageManifest manifest;
  const std::string config = Pairs("general.count", 7);
  const std::string list = EncodeTensors(tensors);
  const Digest config_leaf[] = {MerkleLeaf(AsBytes(config))};
  const Digest list_leaf[] = {MerkleLeaf(AsBytes(list))};
  manifest.sections = {{1, true, 0, config.size(), config_leaf[0]},
                       {4, true, 0, list.size(), list_leaf[0]},
                       {5, true, 0, weights_bytes, MerkleRoot(leaves)}};
  std::string head = EncodeManifest(&manifest);
  for (const auto& own : {std::span<const Digest>(config_leaf), std::span<const Digest>(list_leaf), std::span<const Digest>(leaves)}) {
    head += AsText(std::as_bytes(own));
  }
  const std::string path = folder_.Path("large.bantam");
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT, 0600);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(::ftruncate(fd, static_cast<off_t>(manifest.file_bytes)), 0);
  const auto put = [&](uint64_t offset, std::string_view bytes) {
    ASSERT_EQ(::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset)), static_cast<ssize_t>(bytes.size()));
  };
  put(0, head);
  put(manifest.sections[0].offset_bytes, config);
  put(manifest.sections[1].offset_bytes, list);
  const uint64_t weights = manifest.sections[2].offset_bytes;
  for (const auto& [offset, bytes] : writes) put(weights + offset, bytes);

  Result<ModelFile> file = OpenPackage(*files_, path);
  ASSERT_TRUE(file.ok()) << file.error().message();
  for (const size_t index : {1u, 3u}) {
    const TensorInfo* tensor = file->directory.Find(tensors[index].info.name);
    EXPECT_EQ(AsText(*file->source->View(tensor->offset_bytes, tensor->size_bytes)), std::string(2048, static_cast<char>('0' + index)));
  }
  const TensorInfo* behind = file->directory.Find("behind");
  EXPECT_TRUE(file->source->View(behind->offset_bytes + behind->size_bytes - 1024, 1024).ok());
  // A byte behind 4 GiB changes: its own chunk says so, and no other does.
  put(weights + tensors[4].offset_bytes + 2 * kPackageChunkBytes, "x");
  file = OpenPackage(*files_, path);
  ASSERT_TRUE(file.ok());
  EXPECT_TRUE(file->source->View(file->directory.Find("across.4")->offset_bytes, 2048).ok());
  const uint64_t changed = file->directory.Find("behind")->offset_bytes + 2 * kPackageChunkBytes;
  EXPECT_THAT(file->source->View(changed, 1).error().message(), HasSubstr("section weights, bytes 4297064448 to 4298113023"));
  ::close(fd);
}

}  // namespace
}  // namespace bantam
