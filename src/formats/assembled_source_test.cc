#include "formats/assembled_source.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "tensor/half.h"
#include "testing/checkpoint.h"
#include "testing/paths.h"

namespace bantam {
namespace {

// A file of floats 0, 1, 2 and so on.
class AssembledSourceTest : public ::testing::Test {
 protected:
  std::unique_ptr<FileMapping> File(const char* name, size_t n, float first) {
    std::vector<float> values(n);
    std::iota(values.begin(), values.end(), first);
    testing::WriteText(folder_.Path(name), AsText(std::as_bytes(std::span(values))));
    return std::move(files_->Map(folder_.Path(name))).value();
  }

  AssembledSource Make(std::vector<Assembly> tensors) {
    std::vector<std::unique_ptr<FileMapping>> mappings;
    mappings.push_back(File("a", 64, 0));
    mappings.push_back(File("b", 64, 100));
    return AssembledSource(std::move(mappings), std::move(tensors));
  }

  // Read whole, and again in pieces of every size: both have to agree.
  static std::vector<float> Read(AssembledSource& source, size_t tensor, size_t elements) {
    const auto whole = source.View(source.offset_bytes(tensor), elements * sizeof(float));
    EXPECT_TRUE(whole.ok());
    std::vector<float> values(elements);
    std::memcpy(values.data(), whole->data(), whole->size());
    for (size_t size = 1; size < elements * sizeof(float); ++size) {
      std::string pieces;
      for (size_t done = 0; done < elements * sizeof(float); done += size) {
        const size_t n = std::min(size, elements * sizeof(float) - done);
        const auto piece = source.View(source.offset_bytes(tensor) + done, n);
        EXPECT_TRUE(piece.ok());
        pieces += AsText(*piece);
        source.Release(source.offset_bytes(tensor) + done, n);
      }
      EXPECT_EQ(std::memcmp(pieces.data(), values.data(), pieces.size()), 0) << size;
    }
    return values;
  }

  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
};

using V = std::vector<float>;

TEST_F(AssembledSourceTest, RowsOfTwoColumns) {
  Assembly plain;
  plain.columns = 2;
  plain.rows = 3;
  plain.stored_rows = 3;
  plain.pieces = {{0, 0}};
  Assembly halves = plain;  // the second three rows of six
  halves.stored_rows = 6;
  halves.order.first = 3;
  Assembly runs = plain;  // rows 1, 2, 5, 6 of eight
  runs.rows = 4;
  runs.stored_rows = 8;
  runs.order = {1, 2, 4, 0};
  Assembly paired = plain;  // two heads of four rows, halves to pairs
  paired.rows = paired.stored_rows = 8;
  paired.order.head = 4;
  AssembledSource source = Make({plain, halves, runs, paired});
  EXPECT_EQ(Read(source, 0, 6), (V{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(Read(source, 1, 6), (V{6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(Read(source, 2, 8), (V{2, 3, 4, 5, 10, 11, 12, 13}));
  EXPECT_EQ(Read(source, 3, 16), (V{0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15}));
}

TEST_F(AssembledSourceTest, MatricesFromSeveralFiles) {
  Assembly experts;
  experts.columns = 2;
  experts.rows = experts.stored_rows = 2;
  experts.matrices = 3;
  experts.pieces = {{1, 8}, {0, 0}, {1, 0}};
  Assembly gates = experts;  // the first row of two in each of three matrices that follow each other
  gates.pieces = {{0, 0}};
  gates.rows = 1;
  AssembledSource source = Make({experts, gates});
  EXPECT_EQ(Read(source, 0, 12), (V{102, 103, 104, 105, 0, 1, 2, 3, 100, 101, 102, 103}));
  EXPECT_EQ(Read(source, 1, 6), (V{0, 1, 4, 5, 8, 9}));
}

TEST_F(AssembledSourceTest, ColumnsAndAddition) {
  Assembly turned;  // stored as three columns of two
  turned.columns = 3;
  turned.rows = turned.stored_rows = 2;
  turned.by_columns = true;
  turned.pieces = {{0, 0}};
  Assembly added;
  added.rows = added.stored_rows = 4;
  added.change = Change::kAddOne;
  added.pieces = {{0, 0}};
  Assembly table;
  table.rows = 2;
  table.values = {7, 8};
  AssembledSource source = Make({turned, added, table});
  EXPECT_EQ(Read(source, 0, 6), (V{0, 2, 4, 1, 3, 5}));
  EXPECT_EQ(Read(source, 1, 4), (V{1, 2, 3, 4}));
  EXPECT_EQ(Read(source, 2, 2), (V{7, 8}));
}

// Two keys with three heads each, of two rows (or columns), behind one that is no head's.
TEST_F(AssembledSourceTest, HeadsInTurns) {
  Assembly rows;
  rows.rows = rows.stored_rows = 13;
  rows.pieces = {{0, 0}};
  rows.order.turns = {.runs = 2, .each = 3, .head = 2, .first = 1};
  Assembly columns;
  columns.columns = 13;
  columns.rows = columns.stored_rows = 2;
  columns.pieces = {{0, 0}};
  columns.column_turns = rows.order.turns;
  AssembledSource source = Make({rows, columns});
  const V order = {0, 1, 2, 7, 8, 3, 4, 9, 10, 5, 6, 11, 12};
  EXPECT_EQ(Read(source, 0, 13), order);
  V both = order;
  for (const float value : order) both.push_back(value + 13);
  EXPECT_EQ(Read(source, 1, 26), both);
}

TEST_F(AssembledSourceTest, FactorsOfRows) {
  Assembly assembly;
  assembly.columns = 2;
  assembly.rows = assembly.stored_rows = 4;
  assembly.pieces = {{0, 0}};
  assembly.factors = {{1, 2.0f}, {3, -0.5f}};
  const V expected = {0, 2, -1, -1.5f, -2, -2.5f, 6, 7};
  AssembledSource source = Make({assembly});
  EXPECT_EQ(Read(source, 0, 8), expected);
}

// Products of 16-bit floats are rounded once.
TEST_F(AssembledSourceTest, FactorsOfHalves) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    const auto round = dtype == DType::kF16 ? F32ToF16 : F32ToBF16;
    const auto load = dtype == DType::kF16 ? F16ToF32 : BF16ToF32;
    std::vector<uint16_t> stored;
    for (int i = 0; i < 600; ++i) stored.push_back(round(static_cast<float>(i) * 0.37f - 100));
    testing::WriteText(folder_.Path("halves"), AsText(std::as_bytes(std::span(stored))));
    std::vector<std::unique_ptr<FileMapping>> mappings;
    mappings.push_back(std::move(files_->Map(folder_.Path("halves"))).value());
    Assembly assembly;
    assembly.dtype = dtype;
    assembly.columns = 600;
    assembly.pieces = {{0, 0}};
    assembly.factors = {{1, 0.3f}};
    AssembledSource source(std::move(mappings), {assembly});
    const auto read = source.View(0, 1200);
    ASSERT_TRUE(read.ok());
    for (size_t i = 0; i < stored.size(); ++i) {
      EXPECT_EQ(LoadUnaligned<uint16_t>(read->data() + 2 * i), round(load(stored[i]) * 0.3f)) << i;
    }
  }
}

TEST_F(AssembledSourceTest, RefusesRangesOutsideOfATensor) {
  Assembly plain;
  plain.rows = plain.stored_rows = 4;
  plain.pieces = {{0, 0}};
  AssembledSource source = Make({plain, plain});
  EXPECT_TRUE(source.View(0, 16).ok());
  EXPECT_FALSE(source.View(0, 17).ok());
  EXPECT_FALSE(source.View(16, 4).ok());
  EXPECT_FALSE(source.View(source.offset_bytes(1) + 4, 16).ok());
  EXPECT_FALSE(source.View(UINT64_MAX, UINT64_MAX).ok());
}

}  // namespace
}  // namespace bantam
