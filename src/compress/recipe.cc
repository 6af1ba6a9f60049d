#include "compress/recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <optional>

#include "base/ascii.h"
#include "base/closest.h"
#include "model/low_rank_names.h"
#include "tensor/group_pack.h"

namespace bantam {
namespace {

constexpr size_t kLinesMax = 100'000;

// What the tensor does, as far as mixes tell tensors apart.
enum class Part : uint8_t { kOther, kValue, kAttentionOutput, kDown };

enum class When : uint8_t {
  kAlways,
  kMoreBits,               // the first and last eighth of the layers, and every third one between
  kFirstTwo,               // layers
  kFirstFour,              //
  kFirstSixteenth,         // of the layers
  kFirstEighth,            //
  kFirstEighthMeasured,    // and importance is known
  kFirstEighthUnmeasured,  // and it is not
  kManyQueries,            // at least four heads share keys and values
};

// The mixes that files of these names have had since llama.cpp introduced them (which makes exceptions for Falcon and for eight experts);
// the first rule that fits decides, and where none does, the tensor has the mix's own type.
struct Rule {
  std::string_view mix;
  Part part;
  When when;
  DType type;
};
constexpr Rule kRules[] = {
    {"Q2_K", Part::kValue, When::kManyQueries, DType::kQ4_K},
    {"Q2_K", Part::kValue, When::kAlways, DType::kQ3_K},
    {"Q2_K", Part::kDown, When::kAlways, DType::kQ3_K},
    {"Q2_K", Part::kAttentionOutput, When::kAlways, DType::kQ3_K},
    {"Q3_K_M", Part::kValue, When::kFirstTwo, DType::kQ5_K},
    {"Q3_K_M", Part::kValue, When::kAlways, DType::kQ4_K},
    {"Q3_K_M", Part::kDown, When::kFirstSixteenth, DType::kQ5_K},
    {"Q3_K_M", Part::kDown, When::kAlways, DType::kQ4_K},
    {"Q3_K_M", Part::kAttentionOutput, When::kAlways, DType::kQ4_K},
    {"Q3_K_L", Part::kValue, When::kAlways, DType::kQ5_K},
    {"Q3_K_L", Part::kDown, When::kAlways, DType::kQ5_K},
    {"Q3_K_L", Part::kAttentionOutput, When::kAlways, DType::kQ5_K},
    {"Q4_K_S", Part::kValue, When::kFirstFour, DType::kQ5_K},
    {"Q4_K_S", Part::kDown, When::kFirstEighth, DType::kQ5_K},
    {"Q4_K_M", Part::kValue, When::kMoreBits, DType::kQ6_K},
    {"Q4_K_M", Part::kDown, When::kMoreBits, DType::kQ6_K},
    {"Q5_K_M", Part::kValue, When::kMoreBits, DType::kQ6_K},
    {"Q5_K_M", Part::kDown, When::kMoreBits, DType::kQ6_K},
    {"Q4_0", Part::kDown, When::kFirstEighthMeasured, DType::kQ4_1},
    {"Q5_0", Part::kDown, When::kFirstEighthMeasured, DType::kQ5_1},
    {"IQ4_NL", Part::kValue, When::kManyQueries, DType::kQ5_K},
    {"IQ4_NL", Part::kDown, When::kFirstEighthUnmeasured, DType::kQ5_K},
    {"IQ4_XS", Part::kValue, When::kManyQueries, DType::kQ5_K},
    {"IQ4_XS", Part::kDown, When::kFirstEighthUnmeasured, DType::kQ5_K},
};

// Of files of formats that other programs do not know: "guessed".
constexpr uint32_t kOwnType = 1024;

constexpr RecipeType kTypes[] = {
    {"TQ1_0", DType::kTQ1_0, 36},
    {"TQ2_0", DType::kTQ2_0, 37},
    {"Q2_K", DType::kQ2_K, 10},
    {"Q3_K", DType::kQ3_K, 12},
    {"Q3_K_S", DType::kQ3_K, 11},
    {"Q3_K_M", DType::kQ3_K, 12},
    {"Q3_K_L", DType::kQ3_K, 13},
    {"MXFP4", DType::kMXFP4, 38},
    {"IQ4_XS", DType::kIQ4_XS, 30},
    {"IQ4_NL", DType::kIQ4_NL, 25},
    {"Q4_0", DType::kQ4_0, 2},
    {"Q4_K", DType::kQ4_K, 15},
    {"Q4_K_S", DType::kQ4_K, 14},
    {"Q4_K_M", DType::kQ4_K, 15},
    {"Q4_1", DType::kQ4_1, 3},
    {"Q5_0", DType::kQ5_0, 8},
    {"Q5_K", DType::kQ5_K, 17},
    {"Q5_K_S", DType::kQ5_K, 16},
    {"Q5_K_M", DType::kQ5_K, 17},
    {"Q5_1", DType::kQ5_1, 9},
    {"Q6_K", DType::kQ6_K, 18},
    {"Q8_0", DType::kQ8_0, 7},
    {"BF16", DType::kBF16, 32},
    {"F16", DType::kF16, 1},
    {"INT3-G128", DType::kInt3, kOwnType, 128},
    {"INT3-G64", DType::kInt3, kOwnType, 64},
    {"INT3-G32", DType::kInt3, kOwnType, 32},
    {"INT3-G128-ASYM", DType::kInt3M, kOwnType, 128},
    {"INT3-G64-ASYM", DType::kInt3M, kOwnType, 64},
    {"INT3-G32-ASYM", DType::kInt3M, kOwnType, 32},
    {"NF4", DType::kNF4, kOwnType, 64},
    {"INT4-G128", DType::kQ4_0, 2, 128},
    {"INT4-G64", DType::kQ4_0, 2, 64},
    {"INT4-G32", DType::kQ4_0, 2, 32},
    {"INT4-G128-ASYM", DType::kQ4_1, 3, 128},
    {"INT4-G64-ASYM", DType::kQ4_1, 3, 64},
    {"INT4-G32-ASYM", DType::kQ4_1, 3, 32},
    {"INT8", DType::kQ8_0, 7, kWholeRow},
};

std::string Upper(std::string_view text) {
  std::string upper(text);
  for (char& c : upper) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  return upper;
}

Error UnknownType(std::string_view name, const std::vector<std::string_view>& names) {
  const auto closest = Closest(Upper(name), names, /*count=*/1);
  return Error(Code::kInvalidArgument, fmt::format("{}: no weight format of this name; expected one of {}{}", name, fmt::join(names, ", "),
                                                   closest.empty() ? "" : fmt::format(" (did you mean {}?)", closest.front())));
}

// The layer in "blk.N.", if there is one.
std::optional<size_t> LayerOf(std::string_view name) {
  if (!name.starts_with("blk.")) return std::nullopt;
  size_t layer = 0;
  const auto [end, error] = std::from_chars(name.data() + 4, name.data() + name.size(), layer);
  if (error != std::errc()) return std::nullopt;
  return layer;
}

Part PartOf(std::string_view tensor) {
  // Factors are what their product is.
  const std::string_view factored = LowRankPart(tensor);
  const std::string whole = fmt::format("{}.weight", factored);
  const std::string_view name = factored.empty() ? tensor : whole;
  // What holds values among others counts as values.
  for (const std::string_view end : {".attn_v.weight", ".attn_qkv.weight", ".attn_kv_b.weight"}) {
    if (name.ends_with(end)) return Part::kValue;
  }
  if (name.ends_with(".attn_output.weight")) return Part::kAttentionOutput;
  if (name.find(".ffn_down") != std::string_view::npos) return Part::kDown;
  return Part::kOther;
}

bool Holds(When when, size_t layer, const MixFacts& facts) {
  const size_t n = facts.layers;
  switch (when) {
    case When::kAlways:
      return true;
    case When::kMoreBits:
      return layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
    case When::kFirstTwo:
      return layer < 2;
    case When::kFirstFour:
      return layer < 4;
    case When::kFirstSixteenth:
      return layer < n / 16;
    case When::kFirstEighth:
      return layer < n / 8;
    case When::kFirstEighthMeasured:
      return layer < n / 8 && facts.measured;
    case When::kFirstEighthUnmeasured:
      return layer < n / 8 && !facts.measured;
    case When::kManyQueries:
      return facts.queries_per_kv >= 4;
  }
  return false;
}

// * is any text, ? any character.
bool Fits(std::string_view pattern, std::string_view name) {
  size_t p = 0, n = 0, star = std::string_view::npos, from = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      from = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++from;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

}  // namespace

bool IsCompressible(const TensorInfo& tensor) {
  // What stays, by a part of its name: as other tools have it.
  static constexpr std::string_view kKept[] = {"_norm.weight",  "ffn_gate_inp", "altup",     "laurel", "per_layer_model_proj",
                                               "position_embd", "token_types",  "conv1d",    ".conv.", "time_mix_",
                                               "attn_rel_b",    "rope_fact",    "rope_freqs"};
  if (!tensor.name.ends_with("weight") || tensor.n_dimensions < 2 || tensor.rows() < 2) return false;
  return std::none_of(std::begin(kKept), std::end(kKept),
                      [&](std::string_view part) { return tensor.name.find(part) != std::string_view::npos; });
}

Result<MixFacts> MixFacts::Of(const ModelFile& file, bool measured) {
  MixFacts facts;
  facts.measured = measured;
  facts.tied = file.directory.Find("output.weight") == nullptr;
  for (const TensorInfo& tensor : file.directory.tensors()) {
    if (const auto layer = LayerOf(tensor.name)) facts.layers = std::max(facts.layers, *layer + 1);
  }
  BANTAM_ASSIGN(const auto architecture, file.metadata.Text("general.architecture"));
  const std::string prefix(architecture.value_or(""));
  const auto first = [&](const std::string& key) -> Result<double> {
    const MetadataValue* value = file.metadata.Find(key);
    if (value == nullptr) return 0.0;
    if (!std::holds_alternative<MetadataArray>(*value)) {
      BANTAM_ASSIGN(const auto number, file.metadata.Number(key));
      return number.value_or(0);
    }
    BANTAM_ASSIGN(const auto numbers, file.metadata.Numbers(key, /*count_max=*/65536));
    return numbers && !numbers->empty() ? *std::max_element(numbers->begin(), numbers->end()) : 0.0;
  };
  BANTAM_ASSIGN(const double heads, first(prefix + ".attention.head_count"));
  BANTAM_ASSIGN(const double kv_heads, first(prefix + ".attention.head_count_kv"));
  if (heads >= 1 && kv_heads >= 1 && heads < 65536) facts.queries_per_kv = static_cast<size_t>(heads / kv_heads);
  return facts;
}

DType FittingType(DType wanted, uint64_t columns) {
  static const std::map<DType, DType> kSmaller = {
      {DType::kQ6_K, DType::kQ8_0},   {DType::kQ5_K, DType::kQ5_1},     {DType::kQ4_K, DType::kQ5_0},  {DType::kQ3_K, DType::kIQ4_NL},
      {DType::kQ2_K, DType::kIQ4_NL}, {DType::kIQ4_XS, DType::kIQ4_NL}, {DType::kTQ1_0, DType::kQ4_0}, {DType::kTQ2_0, DType::kQ4_0}};
  if (columns % Info(wanted).block_elements == 0) return wanted;
  const auto smaller = kSmaller.find(wanted);
  if (smaller != kSmaller.end() && columns % Info(smaller->second).block_elements == 0) return smaller->second;
  return DType::kF16;
}

Result<Recipe> Recipe::Make(std::string_view type) {
  std::string wanted = Upper(type);
  // As everywhere else: without a size the middle one is meant.
  for (const std::string_view alias : {"Q3_K", "Q4_K", "Q5_K"}) {
    if (wanted == alias) wanted += "_M";
  }
  for (const RecipeType& known : kTypes) {
    if (known.name == wanted) return Recipe(known);
  }
  return UnknownType(type, Names());
}

std::vector<std::string_view> Recipe::Names() {
  std::vector<std::string_view> names;
  for (const RecipeType& type : kTypes) names.push_back(type.name);
  return names;
}

std::optional<uint32_t> FileTypeOf(DType dtype) {
  if (dtype == DType::kF32) return 0;
  for (const RecipeType& type : kTypes) {
    if (type.type == dtype) return type.file_type;
  }
  return std::nullopt;
}

Result<DType> WritableType(std::string_view name) {
  std::vector<std::string_view> names;
  const std::string wanted = Upper(name);
  for (size_t i = 0; i < kDTypes; ++i) {
    const DTypeInfo& info = Info(static_cast<DType>(i));
    if (info.decode != nullptr && info.pack == nullptr) continue;
    if (info.name == wanted) return info.dtype;
    names.push_back(info.name);
  }
  return UnknownType(name, names);
}

Status Recipe::Override(std::string_view text) {
  size_t number = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    ++number;
    line = line.substr(0, line.find('#'));
    std::vector<std::string_view> words;
    for (size_t at = line.find_first_not_of(" \t\r"); at < line.size(); at = line.find_first_not_of(" \t\r", at)) {
      const size_t stop = std::min(line.find_first_of(" \t\r", at), line.size());
      words.push_back(line.substr(at, stop - at));
      at = stop;
    }
    if (words.empty()) continue;
    if (words.size() != 2 || number > kLinesMax) {
      return Error(Code::kCorrupt, fmt::format("line {}: expected a tensor's name (* and ? stand for others) and a weight format, such as "
                                               "*.ffn_down.weight Q6_K",
                                               number));
    }
    BANTAM_ASSIGN(const DType type, WritableType(words[1]).With(fmt::format("line {}", number)));
    patterns_.emplace_back(words[0], type);
  }
  return Ok();
}

DType Recipe::Of(const TensorInfo& tensor, const MixFacts& facts) const {
  for (const auto& [name, type] : set_) {
    if (name == tensor.name) return type;
  }
  for (const auto& [pattern, type] : patterns_) {
    if (Fits(pattern, tensor.name)) return type;
  }
  const bool floats = Info(type_->type).decode == nullptr;
  // Tables of tokens and the output matrix bear few bits worst.
  const bool table = tensor.name == "token_embd.weight" || tensor.name == "per_layer_token_embd.weight";
  const bool ends = tensor.name == "output.weight" || table;
  if (type_->group != 0 && !pure_) return ends ? DType::kQ8_0 : type_->type;
  if (pure_ || floats || type_->type == DType::kQ8_0) return type_->type;
  if (tensor.name == "output.weight" || (facts.tied && tensor.name == "token_embd.weight")) {
    return tensor.columns() % Info(DType::kQ6_K).block_elements == 0 ? DType::kQ6_K : DType::kQ8_0;
  }
  const bool ternary = type_->type == DType::kTQ1_0 || type_->type == DType::kTQ2_0;
  if (table && ternary) return DType::kQ4_K;
  const Part part = PartOf(tensor.name);
  const size_t layer = LayerOf(tensor.name).value_or(0);
  for (const Rule& rule : kRules) {
    if (rule.mix == type_->name && rule.part == part && part != Part::kOther && Holds(rule.when, layer, facts)) return rule.type;
  }
  return type_->type;
}

size_t Recipe::GroupOf(DType to, uint64_t columns) const {
  if (type_->group == 0 || !SharesScales(to)) return 0;
  if (to == DType::kQ8_0) return columns;
  if (to != type_->type) return 0;
  for (size_t group = type_->group; group > Info(to).block_elements; group /= 2) {
    if (columns % group == 0) return group;
  }
  return Info(to).block_elements;
}

std::string Recipe::Describe() const {
  std::string text = fmt::format("{}{}", type_->name, pure_ ? " pure" : "");
  for (const auto& [pattern, type] : set_) text += fmt::format("\n={} {}", pattern, Info(type).name);
  for (const auto& [pattern, type] : patterns_) text += fmt::format("\n{} {}", pattern, Info(type).name);
  return text;
}

}  // namespace bantam
