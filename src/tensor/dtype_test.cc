#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include <cctype>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "base/rng.h"
#include "tensor/half.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

std::string ReadBytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// tests/data/blocks/q4_K.bin
std::string BlocksPath(DType dtype, const char* extension) {
  std::string name;
  for (const char c : Info(dtype).name) name += c == 'K' ? c : static_cast<char>(std::tolower(c));
  return testing::DataPath("blocks/" + name + extension);
}

// All but F32, and those that are our own.
std::vector<DType> FileFormats() {
  std::vector<DType> formats = testing::AllDTypes();
  std::erase(formats, DType::kF32);
  std::erase_if(formats, [](DType dtype) { return Info(dtype).gguf_id >= kOwnFormats; });
  return formats;
}

std::string NameOfParam(const ::testing::TestParamInfo<DType>& row) { return std::string(Info(row.param).name); }

const uint8_t* Raw(const std::string& bytes) { return reinterpret_cast<const uint8_t*>(bytes.data()); }

class GoldenBlocks : public ::testing::TestWithParam<DType> {};

// tests/data/blocks: rows packed and unpacked by another implementation.
TEST_P(GoldenBlocks, UnpackToTheLastBit) {
  const std::string packed = ReadBytes(BlocksPath(GetParam(), ".bin"));
  const std::string expected = ReadBytes(BlocksPath(GetParam(), ".f32"));
  const size_t elements = expected.size() / 4;
  ASSERT_EQ(elements, 4u * 512u);
  ASSERT_EQ(packed.size(), RowBytes(GetParam(), elements));
  std::vector<float> got(elements);
  Unpack(GetParam(), Raw(packed), elements, got.data());
  EXPECT_EQ(std::memcmp(got.data(), expected.data(), expected.size()), 0);
}

INSTANTIATE_TEST_SUITE_P(All, GoldenBlocks, ::testing::ValuesIn(FileFormats()), NameOfParam);

// The relative error that another implementation left on the same rows with weights of 1: tests/data/blocks/index.tsv.
double GoldenError(DType dtype) {
  std::ifstream index(testing::DataPath("blocks/index.tsv"));
  std::string line;
  while (std::getline(index, line)) {
    std::istringstream fields(line);
    uint32_t id = 0;
    std::string name, elements, bytes, rows, columns;
    double error = 0;
    if (fields >> id >> name >> elements >> bytes >> rows >> columns >> error && id == Info(dtype).gguf_id) return error;
  }
  ADD_FAILURE() << "no row for " << Info(dtype).name;
  return 0;
}

double RelativeError(const std::vector<float>& got, const std::vector<float>& expected) {
  double difference = 0;
  double square = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    difference += std::pow(static_cast<double>(got[i]) - static_cast<double>(expected[i]), 2);
    square += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(difference / square);
}

std::vector<float> GoldenInput() {
  const std::string bytes = ReadBytes(testing::DataPath("blocks/input.f32"));
  std::vector<float> values(bytes.size() / 4);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

std::vector<DType> WritableFormats() {
  std::vector<DType> formats = FileFormats();
  std::erase_if(formats, [](DType dtype) { return Info(dtype).decode != nullptr && Info(dtype).pack == nullptr; });
  return formats;
}

class Packing : public ::testing::TestWithParam<DType> {};

TEST_P(Packing, LosesNoMoreThanTheReference) {
  const std::vector<float> input = GoldenInput();
  const std::vector<float> ones(input.size(), 1.0f);
  std::vector<uint8_t> packed(RowBytes(GetParam(), input.size()));
  ASSERT_TRUE(PackRow(GetParam(), input, ones, packed.data()).ok());
  std::vector<float> unpacked(input.size());
  Unpack(GetParam(), packed.data(), input.size(), unpacked.data());
  EXPECT_LE(RelativeError(unpacked, input), GoldenError(GetParam()) + 5e-6) << "the file has five decimals";
}

// Where the importance is, the error goes down; elements without any do not matter.
TEST_P(Packing, FollowsTheImportance) {
  if (Info(GetParam()).decode == nullptr || GetParam() == DType::kQ8_0) GTEST_SKIP() << "nothing to choose";
  const std::vector<float> input = GoldenInput();
  std::vector<float> importance(input.size());
  Rng rng(3);
  for (float& weight : importance) weight = rng.Uniform() < 0.2 ? 1.0f : 0.0f;
  const auto weighted_error = [&](std::span<const float> weights) {
    std::vector<uint8_t> packed(RowBytes(GetParam(), input.size()));
    EXPECT_TRUE(PackRow(GetParam(), input, weights, packed.data()).ok());
    std::vector<float> unpacked(input.size());
    Unpack(GetParam(), packed.data(), input.size(), unpacked.data());
    double error = 0;
    for (size_t i = 0; i < input.size(); ++i) {
      error += static_cast<double>(importance[i]) * std::pow(static_cast<double>(unpacked[i] - input[i]), 2);
    }
    return error;
  };
  EXPECT_LT(weighted_error(importance), 0.9 * weighted_error({}));
}

// Rows that are hard to scale: whatever they hold, every value comes back within the format's resolution of the largest one.
TEST_P(Packing, OfHardRows) {
  const size_t n = 2 * std::max<size_t>(Info(GetParam()).block_elements, 32);
  std::vector<std::vector<float>> rows(9, std::vector<float>(n, 0.0f));  // the first: zeros
  std::fill(rows[1].begin(), rows[1].end(), -0.75f);
  rows[2][5] = 60000;  // an outlier
  for (size_t i = 0; i < n; ++i) {
    rows[3][i] = 1e-3f * static_cast<float>(i % 32);
    rows[4][i] = -2.0f - static_cast<float>(i % 7) * 0.1f;      // far from zero
    rows[5][i] = i % 2 == 0 ? 1e-38f : -1e-38f;                 // below what an f16 holds
    rows[6][i] = i == 0 ? 1e-40f : 0;                           // without an inverse
    rows[7][i] = (i * 37 % 64 < 32 ? 1.0f : -1.0f) * 65504.0f;  // the largest f16
    rows[8][i] = static_cast<float>(i * 2654435761u % 131008) - 65504.0f;
  }
  // Of the largest value: half a step of the format, and what a shared scale or a missing code for one end costs.
  double resolution = 0.15;
  if (Info(GetParam()).decode == nullptr || GetParam() == DType::kQ8_0) resolution = 0.008;
  if (GetParam() == DType::kTQ1_0 || GetParam() == DType::kTQ2_0 || GetParam() == DType::kQ2_K) resolution = 0.75;
  if (GetParam() == DType::kMXFP4 || GetParam() == DType::kQ3_K) resolution = 0.3;
  Rng rng(6);
  for (size_t r = 0; r < rows.size(); ++r) {
    for (const float weight : {0.0f, 1.0f, 1e30f, -1.0f}) {
      std::vector<float> importance(n, weight);
      // -1: here and there one value that counts.
      for (float& w : importance) w = weight < 0 ? (rng.Uniform() < 0.1 ? 1.0f : 0.0f) : w;
      std::vector<uint8_t> packed(RowBytes(GetParam(), n), 0xab);
      ASSERT_TRUE(PackRow(GetParam(), rows[r], importance, packed.data()).ok());
      std::vector<float> unpacked(n);
      Unpack(GetParam(), packed.data(), n, unpacked.data());
      double largest = 1e-6;
      for (const float value : rows[r]) largest = std::max(largest, std::fabs(static_cast<double>(value)));
      for (size_t i = 0; i < n; ++i) {
        ASSERT_TRUE(std::isfinite(unpacked[i])) << "row " << r;
        if (weight < 0) continue;  // what does not count may be anything finite
        ASSERT_NEAR(static_cast<double>(unpacked[i]), static_cast<double>(rows[r][i]), resolution * largest)
            << "row " << r << " element " << i;
      }
    }
  }
}

TEST(PackRow, MxFp4HoldsWhatF16DoesNot) {
  for (const float value : {1e22f, 1e-35f, 1e38f}) {
    const std::vector<float> values(32, value);
    for (const auto& importance : {std::vector<float>(), std::vector<float>(32, 1.0f)}) {
      std::vector<uint8_t> packed(17, 0xab);
      ASSERT_TRUE(PackRow(DType::kMXFP4, values, importance, packed.data()).ok());
      std::vector<float> unpacked(32);
      Unpack(DType::kMXFP4, packed.data(), 32, unpacked.data());
      EXPECT_NEAR(static_cast<double>(unpacked[0]) / static_cast<double>(value), 1, 0.2) << value;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Packing, ::testing::ValuesIn(WritableFormats()), NameOfParam);

TEST(PackRow, FloatsAndQ8AreByteEqual) {
  const std::vector<float> input = GoldenInput();
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kQ8_0}) {
    std::string packed(RowBytes(dtype, input.size()), 0);
    ASSERT_TRUE(PackRow(dtype, input, {}, reinterpret_cast<uint8_t*>(packed.data())).ok());
    EXPECT_TRUE(packed == ReadBytes(BlocksPath(dtype, ".bin"))) << Info(dtype).name;
  }
}

// Hashes (FNV-1a, 64 bits, from the start value that the reference's author used) of what ggml's quantizers make of 16 rows of 4,096 values
// from a generator that needs no library.
TEST(PackRow, PlainRulesAreByteEqual) {
  struct Row {
    DType dtype;
    uint64_t hash;
  };
  constexpr Row kRows[] = {{DType::kQ8_0, 0x3921323281bf63ea},  {DType::kQ5_1, 0x2f7f41ad406ac8af}, {DType::kQ5_0, 0x13829188325af9b7},
                           {DType::kQ4_1, 0xa06030fbe2faaee4},  {DType::kQ4_0, 0x8c06a3cc7fdfc890}, {DType::kTQ1_0, 0x9cbd7c66ac239ce8},
                           {DType::kTQ2_0, 0x6f99247b7f9e98af}, {DType::kMXFP4, 0x89fd7eae18b671f2}};
  uint64_t state = 42;
  const auto next = [&] {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state >> 32);
  };
  std::vector<float> values(16 * 4096);
  for (float& value : values) {
    const uint32_t a = next();
    const uint32_t b = next();
    const auto sum = static_cast<int64_t>((a & 0xffff) + (a >> 16) + (b & 0xffff) + (b >> 16)) - 131070;
    value = static_cast<float>(sum) / 65536.0f;
  }
  for (const Row& row : kRows) {
    std::vector<uint8_t> packed(RowBytes(row.dtype, values.size()));
    ASSERT_TRUE(PackRow(row.dtype, values, {}, packed.data()).ok());
    uint64_t hash = 1469598103934665603u;
    for (const uint8_t byte : packed) hash = (hash ^ byte) * 0x100000001b3;
    EXPECT_EQ(hash, row.hash) << Info(row.dtype).name;
  }
}

TEST(PackRow, RefusesWhatItCannotHold) {
  std::vector<float> values(256, 1.0f);
  std::vector<uint8_t> packed(1024);
  values[7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(PackRow(DType::kQ4_K, values, {}, packed.data()).error().code(), Code::kCorrupt);
  values[7] = 70000;
  const Status large = PackRow(DType::kF16, values, {}, packed.data());
  EXPECT_NE(large.error().message().find("element 7 is 70000"), std::string::npos) << large.error().message();
  EXPECT_TRUE(PackRow(DType::kBF16, values, {}, packed.data()).ok());
  values[7] = 1;
  EXPECT_EQ(PackRow(DType::kIQ2_XXS, values, {}, packed.data()).error().code(), Code::kUnsupported);
  EXPECT_EQ(PackRow(DType::kQ4_0, values, std::vector<float>(256, -1.0f), packed.data()).error().code(), Code::kInvalidArgument);
}

// The quantiles of QLoRA's code, within half of the table's unit of the largest magnitude.
TEST(DTypeTable, NF4IsNearItsQuantiles) {
  constexpr double kQuantiles[16] = {-1,      -0.69619, -0.52507, -0.39492, -0.28444, -0.18477, -0.09105, 0,
                                     0.07958, 0.16093,  0.24611,  0.33792,  0.44071,  0.56262,  0.72296,  1};
  uint8_t block[18];
  const uint16_t d = F32ToF16(0.25f / 112);
  std::memcpy(block, &d, 2);
  for (size_t i = 0; i < 16; ++i) block[2 + i] = static_cast<uint8_t>(i | (15 - i) << 4);
  float values[32];
  Unpack(DType::kNF4, block, 32, values);
  for (size_t i = 0; i < 16; ++i) {
    EXPECT_NEAR(static_cast<double>(values[i]), 0.25 * kQuantiles[i], 0.25 * 0.51 / 112) << i;
    EXPECT_EQ(values[31 - i], values[i]) << i;
  }
}

TEST(DTypeTable, IdsAndBlocks) {
  for (const DType dtype : testing::AllDTypes()) {
    const DTypeInfo& info = Info(dtype);
    EXPECT_EQ(DTypeFromGguf(info.gguf_id), dtype) << info.name;
    if (info.decode != nullptr) {
      EXPECT_EQ(info.block_elements % Info(info.panel).group_columns, 0u) << info.name;
      EXPECT_EQ(info.table != nullptr, Info(info.panel).has_table) << info.name;
    }
  }
  EXPECT_FALSE(DTypeFromGguf(4)) << "Q4_2 was removed from the format";
  EXPECT_FALSE(DTypeFromGguf(0xffffffffu));
}

class EveryDType : public ::testing::TestWithParam<DType> {};

// A panel holds exactly the weights of its rows, whatever their bits; padding rows are zero.
TEST_P(EveryDType, PanelsLoseNothing) {
  const DType dtype = GetParam();
  const DTypeInfo& info = Info(dtype);
  constexpr size_t kRows = 13;  // three padding rows
  const size_t columns = info.block_elements * 3;
  Rng rng(5);
  const std::string blocks = testing::RandomBlocks(dtype, kRows * columns, columns, rng);
  const uint8_t* rows[kPanelRows] = {};
  for (size_t r = 0; r < kRows; ++r) rows[r] = Raw(blocks) + r * RowBytes(dtype, columns);
  std::vector<uint8_t> panel(PanelBytes(info.panel, columns), 0xaa);
  PackPanel(dtype, rows, columns, panel.data());

  std::vector<float> expected(columns);
  std::vector<float> got(columns);
  for (size_t r = 0; r < kPanelRows; ++r) {
    if (r < kRows) {
      Unpack(dtype, rows[r], columns, expected.data());
    } else {
      std::fill(expected.begin(), expected.end(), 0.0f);
    }
    UnpackPanelRow(info.panel, TableOf(dtype), panel.data(), r, columns, got.data());
    for (size_t k = 0; k < columns; ++k) {
      // Equal bits but for the sign of a padding zero.
      if (r < kRows) {
        ASSERT_EQ(std::memcmp(&got[k], &expected[k], 4), 0) << info.name << " row " << r << " column " << k;
      } else {
        ASSERT_EQ(got[k], 0.0f) << info.name << " row " << r << " column " << k;
      }
    }
  }
}

// Panels can stand for the blocks that they were made of.
TEST_P(EveryDType, PanelsGiveBackTheirBlocks) {
  const DType dtype = GetParam();
  const DTypeInfo& info = Info(dtype);
  EXPECT_EQ(PanelsAreLarge(dtype), info.decode != nullptr && info.encode == nullptr) << info.name;
  if (PanelsAreLarge(dtype)) return;
  const size_t columns = 3 * std::max(info.block_elements, Info(info.panel).group_columns);
  const size_t row_bytes = RowBytes(dtype, columns);
  Rng rng(11);
  const std::string blocks = testing::RandomBlocks(dtype, kPanelRows * columns, columns, rng);
  const uint8_t* rows[kPanelRows];
  for (size_t r = 0; r < kPanelRows; ++r) rows[r] = Raw(blocks) + r * row_bytes;
  std::vector<uint8_t> panel(PanelBytes(info.panel, columns));
  PackPanel(dtype, rows, columns, panel.data());
  std::vector<uint8_t> got(row_bytes, 0xaa);
  for (size_t r = 0; r < kPanelRows; ++r) {
    UnpackPanelBlocks(dtype, panel.data(), r, columns, got.data());
    ASSERT_EQ(std::memcmp(got.data(), rows[r], row_bytes), 0) << info.name << " row " << r;
  }
  // A damaged panel gives some blocks.
  for (uint8_t& byte : panel) byte = static_cast<uint8_t>(rng.Next());
  for (size_t r = 0; r < kPanelRows; ++r) UnpackPanelBlocks(dtype, panel.data(), r, columns, got.data());
}

// Every scale that the small formats know.
TEST(Blocks, EveryByteOfAScaleComesBack) {
  for (const DType dtype : {DType::kMXFP4, DType::kNVFP4}) {
    const DTypeInfo& info = Info(dtype);
    const size_t columns = info.block_elements;
    for (unsigned scale = 0; scale < 256; ++scale) {
      if (dtype == DType::kNVFP4 && scale >= 0x7f) continue;  // a NaN, and signs that the format does not use
      std::vector<uint8_t> block(info.block_bytes, 0x5a);
      block[0] = static_cast<uint8_t>(scale);
      const uint8_t* rows[kPanelRows] = {block.data()};
      std::vector<uint8_t> panel(PanelBytes(info.panel, columns));
      PackPanel(dtype, rows, columns, panel.data());
      std::vector<uint8_t> got(block.size());
      UnpackPanelBlocks(dtype, panel.data(), /*row=*/0, columns, got.data());
      EXPECT_EQ(got, block) << info.name << " scale " << scale;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, EveryDType, ::testing::ValuesIn(testing::AllDTypes()), NameOfParam);

}  // namespace
}  // namespace bantam
