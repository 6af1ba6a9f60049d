#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include <cctype>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/rng.h"
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

// All but F32.
std::vector<DType> FileFormats() {
  std::vector<DType> formats = testing::AllDTypes();
  std::erase(formats, DType::kF32);
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

INSTANTIATE_TEST_SUITE_P(All, EveryDType, ::testing::ValuesIn(testing::AllDTypes()), NameOfParam);

}  // namespace
}  // namespace bantam
