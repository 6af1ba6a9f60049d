// Which weight format each tensor of a model gets: one for all, a mix by what the tensor does, or what a file says (docs/compression.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "formats/model_file.h"

namespace bantam {

// Whether compression may change the tensor: matrices that products read, and the table of tokens. Vectors, norms, routers, convolutions
// and tables of positions are small, and what they lose costs much.
bool IsCompressible(const TensorInfo& tensor);

// What mixes ask of a model.
struct MixFacts {
  size_t layers = 0;
  size_t queries_per_kv = 1;  // heads that share keys and values
  bool tied = false;          // the table of tokens is the output matrix
  bool measured = false;      // importance is known

  static Result<MixFacts> Of(const ModelFile& file, bool measured);
};

// The format itself, or the nearest one whose blocks divide rows of so many columns: F16 where none does.
DType FittingType(DType wanted, uint64_t columns);

struct RecipeType {
  std::string_view name;  // "Q4_K_M"
  DType type;             // of most tensors
  uint32_t file_type;     // GGUF's general.file_type
  // Columns of the type's blocks that share a scale; 0: those of a block, as the format has it.
  size_t group = 0;
};
// A scale for each row of a matrix: int8 per channel.
inline constexpr size_t kWholeRow = SIZE_MAX;

class Recipe {
 public:
  // InvalidArgument for another name, with the closest.
  static Result<Recipe> Make(std::string_view type);
  // Names of Make, in the order of their size.
  static std::vector<std::string_view> Names();

  // Lines of PATTERN TYPE, where a pattern is a tensor's name in which * stands for anything and ? for one character; the first that fits
  // decides before the mix does. # begins a comment. Corrupt names the line.
  Status Override(std::string_view text);
  // Before all patterns.
  void Set(std::string name, DType type) { set_.emplace_back(std::move(name), type); }
  // All tensors get the same, the output matrix too.
  void MakePure() { pure_ = true; }

  const RecipeType& type() const { return *type_; }
  // Of a compressible tensor, before its columns are looked at.
  DType Of(const TensorInfo& tensor, const MixFacts& facts) const;
  // Columns that share a scale in a tensor which became `to`, rows of which have so many: the recipe's, or a smaller group that divides
  // them; 0: those of a block.
  size_t GroupOf(DType to, uint64_t columns) const;
  // What decides, in words that are the same for the same decisions.
  std::string Describe() const;

 private:
  explicit Recipe(const RecipeType& type) : type_(&type) {}

  const RecipeType* type_;
  bool pure_ = false;
  std::vector<std::pair<std::string, DType>> patterns_;
  std::vector<std::pair<std::string, DType>> set_;
};

// GGUF's general.file_type of files whose weights are mostly in this format; nothing for formats that have none here.
std::optional<uint32_t> FileTypeOf(DType dtype);

// A weight format that can be written, by name, in any case. InvalidArgument names the closest.
Result<DType> WritableType(std::string_view name);

}  // namespace bantam
