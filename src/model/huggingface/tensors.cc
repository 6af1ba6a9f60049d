#include "model/huggingface/tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <map>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>

#include "model/config.h"

namespace bantam {
namespace {

// What stands in front of the decoder's own names.
constexpr std::string_view kPrefixes[] = {"model.language_model.",
                                          "language_model.model.",
                                          "language_model.",
                                          "model.",
                                          "transformer.",
                                          "gpt_neox.",
                                          "ernie.",
                                          "backbone.",
                                          "bert.",
                                          "roberta.",
                                          "distilbert."};
// Parts of models that see and hear, and blocks that predict further tokens: the text model runs without them.
constexpr std::string_view kOtherParts[] = {"vision_tower.",
                                            "vision_model.",
                                            "multi_modal_projector.",
                                            "model.vision_tower.",
                                            "visual.",
                                            "model.visual.",
                                            "audio_tower.",
                                            "model.audio_tower.",
                                            "model.embed_audio.",
                                            "model.embed_vision.",
                                            "model.multi_modal_projector.",
                                            "mtp.",
                                            "model.mtp_block.",
                                            "model.mtp_emb_norm.",
                                            "model.mtp_hidden_norm.",
                                            "model.mtp_linear_proj."};

// A published name taken apart: "model.layers.3.mlp.experts.7.up_proj.weight" is rule "#.mlp.experts.#.up_proj" with suffix ".weight".
struct Name {
  std::string rule;
  std::string suffix;  // ".weight", ".bias" or nothing
  std::optional<uint32_t> layer;
  uint32_t inner = 0;  // number of an expert or a head
};

std::optional<uint32_t> ReadNumber(std::string_view text) {
  uint32_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

Name TakeApart(std::string_view text) {
  for (const std::string_view prefix : kPrefixes) {
    if (!text.starts_with(prefix)) continue;
    text.remove_prefix(prefix.size());
    break;
  }
  Name name;
  // Old files of BERT name what norms have by its letters.
  constexpr std::pair<std::string_view, std::string_view> kSuffixes[] = {
      {".weight", ".weight"}, {".bias", ".bias"}, {".gamma", ".weight"}, {".beta", ".bias"}};
  for (const auto& [suffix, meant] : kSuffixes) {
    // Tables of GPT-2 and its kin, whose whole name ends so.
    if (!text.ends_with(suffix) || text.ends_with(".attn.bias") || text.ends_with(".attention.bias")) continue;
    name.suffix = meant;
    text.remove_suffix(suffix.size());
    break;
  }
  for (const std::string_view list : {"layers.", "h.", "blocks.", "encoder.layer.", "encoder.layers.", "transformer.layer.", "layer."}) {
    if (!text.starts_with(list)) continue;
    const size_t dot = text.find('.', list.size());
    name.layer = ReadNumber(text.substr(list.size(), dot - list.size()));
    if (!name.layer || dot == std::string_view::npos) break;
    text.remove_prefix(dot + 1);
    name.rule = "#.";
    break;
  }
  while (!text.empty()) {
    const size_t dot = std::min(text.find('.'), text.size());
    const std::string_view part = text.substr(0, dot);
    const auto number = ReadNumber(part);
    if (number) name.inner = *number;
    name.rule += number ? "#" : std::string(part);
    if (dot < text.size()) name.rule += '.';
    text.remove_prefix(std::min(dot + 1, text.size()));
  }
  return name;
}

std::string ShapeText(const SafetensorsTensor& tensor) { return fmt::format("[{}]", fmt::join(tensor.shape, ", ")); }

Error WrongShape(const SafetensorsTensor& tensor, std::string_view expected) {
  return Error(Code::kCorrupt, fmt::format("tensor {}: shape {}, expected {}", tensor.name, ShapeText(tensor), expected));
}

Result<DType> ElementType(const SafetensorsTensor& tensor) {
  switch (tensor.type) {
    case SafetensorsType::kF32:
      return DType::kF32;
    case SafetensorsType::kF16:
      return DType::kF16;
    case SafetensorsType::kBF16:
      return DType::kBF16;
    default:
      return Error(Code::kUnsupported,
                   fmt::format("tensor {}: elements of type {}, expected F32, F16 or BF16", tensor.name, SafetensorsTypeName(tensor.type)));
  }
}

class Mapper {
 public:
  explicit Mapper(const HfLayout& layout) : layout_(layout) {}

  Status Add(const HfTensor& from) {
    const std::string& published = from.tensor.name;
    const Name name = TakeApart(published);
    const NameRule* rule = FindNameRule(*layout_.family, name.rule);
    if (rule == nullptr) {
      return Error(Code::kUnsupported,
                   fmt::format("tensor {}: models of type {} have none of that name in this build", published, layout_.family->model_type));
    }
    if (rule->arrangement == Arrangement::kIgnored) return Ok();
    if (layout_.tied && rule->gguf == "output") return Ok();
    BANTAM_ASSIGN(Assembly assembly, Whole(from));
    BANTAM_TRY(TurnHeads(from.tensor, *rule, &assembly));
    if (layout_.tied && rule->gguf == "token_embd" && OutputHasOwnFactor()) {
      Assembly output = assembly;
      BANTAM_TRY(TakeFactors(from.tensor, "lm_head", &output));
      Emit("output.weight", from.tensor, std::move(output));
    }
    BANTAM_TRY(TakeFactors(from.tensor, rule->published, &assembly));
    if (!from.quantized.empty()) {
      BANTAM_TRY(CheckQuantized(published, *rule, &assembly));
    }
    NameRule placed = *rule;
    constexpr std::string_view kShared = "_shexp";
    if (layout_.shared_is_dense && placed.gguf.ends_with(kShared)) placed.gguf.remove_suffix(kShared.size());
    const std::string prefix = name.layer ? fmt::format("blk.{}.", *name.layer) : std::string();
    return Arrange(from.tensor, name, placed, {prefix, std::move(assembly)});
  }

  Result<std::vector<LowRankTensors>> LowRank(const HfTensor& a, const HfTensor& b) {
    const Name name = TakeApart(b.tensor.name);
    const NameRule* rule = FindNameRule(*layout_.family, name.rule);
    if (rule == nullptr) {
      return Error(Code::kUnsupported,
                   fmt::format("module {}: models of type {} have none of that name in this build", name.rule, layout_.family->model_type));
    }
    NameRule placed = *rule;
    // PEFT has the matrices of these as those of any other.
    if (placed.arrangement == Arrangement::kByColumns) placed.arrangement = Arrangement::kAsStored;
    BANTAM_TRY(CheckLowRank(a.tensor, b.tensor, placed));
    BANTAM_ASSIGN(Assembly of_a, Whole(a));
    BANTAM_ASSIGN(Assembly of_b, Whole(b));
    const bool columns = placed.values == ValueHeads::kColumns;
    BANTAM_TRY(TurnHeads(columns ? a.tensor : b.tensor, placed, columns ? &of_a : &of_b));
    constexpr std::string_view kShared = "_shexp";
    if (layout_.shared_is_dense && placed.gguf.ends_with(kShared)) placed.gguf.remove_suffix(kShared.size());
    const std::string prefix = name.layer ? fmt::format("blk.{}.", *name.layer) : std::string();
    BANTAM_TRY(Arrange(b.tensor, name, placed, {prefix, std::move(of_b)}));
    std::vector<LowRankTensors> made;
    for (AssembledTensor& tensor : made_) made.push_back({std::move(tensor.name), of_a, std::move(tensor.assembly)});
    return made;
  }

  Result<std::vector<AssembledTensor>> Finish() {
    for (const AssembledTensor& tensor : made_) {
      const auto& [pieces, quantized] = std::tie(tensor.assembly.pieces, tensor.assembly.quantized);
      const auto piece = std::find_if(pieces.begin(), pieces.end(), [](const Assembly::Piece& one) { return one.file == kNoFile; });
      const auto matrix =
          std::find_if(quantized.begin(), quantized.end(), [](const QuantizedMatrix& one) { return one.codes.base == nullptr; });
      if (piece == pieces.end() && matrix == quantized.end()) continue;
      return Error(Code::kCorrupt, fmt::format("tensor {}: number {} of {} is missing; fetch the files again", tensor.name,
                                               quantized.empty() ? piece - pieces.begin() : matrix - quantized.begin(),
                                               std::max(pieces.size(), quantized.size())));
    }
    AddFactors();
    AddOrders();
    return std::move(made_);
  }

 private:
  static constexpr uint32_t kNoFile = UINT32_MAX;

  struct Source {
    std::string prefix;
    Assembly assembly;
  };

  Status CheckLowRank(const SafetensorsTensor& a, const SafetensorsTensor& b, const NameRule& rule) const {
    constexpr Arrangement kOfRows[] = {Arrangement::kAsStored,  Arrangement::kQuery,    Arrangement::kKey,
                                       Arrangement::kQkvGroups, Arrangement::kQkvParts, Arrangement::kGateUp};
    const bool of_rows = std::find(std::begin(kOfRows), std::end(kOfRows), rule.arrangement) != std::end(kOfRows);
    if (!of_rows || rule.published.find('#', 2) != std::string_view::npos) {
      return Error(Code::kUnsupported,
                   fmt::format("module {}: adapters of experts, convolutions and norms are not supported", rule.published));
    }
    if (a.shape.size() != 2 || b.shape.size() != 2) return WrongShape(a.shape.size() == 2 ? b : a, "2 dimensions");
    if (a.shape[0] != b.shape[1]) return WrongShape(b, fmt::format("{} columns, as lora_A has rows", a.shape[0]));
    const bool of_heads = rule.arrangement == Arrangement::kQkvGroups || rule.arrangement == Arrangement::kQkvParts;
    if (of_heads && layout_.heads.kv_heads == 0) {
      return Error(Code::kUnsupported, fmt::format("module {}: this layer has no heads of attention", rule.published));
    }
    return Ok();
  }

  // What products are multiplied with, by the name of their weights (Program's lowering reads it).
  void AddFactors() {
    std::vector<AssembledTensor> factors;
    for (const AssembledTensor& tensor : made_) {
      AssembledTensor made = {PrefixOf(tensor) + ".factor", {tensor.assembly.matrices}, {}};
      for (const QuantizedMatrix& matrix : tensor.assembly.quantized) made.assembly.values.push_back(matrix.factor);
      made.assembly.rows = tensor.assembly.matrices;
      const bool any = std::any_of(made.assembly.values.begin(), made.assembly.values.end(), [](float factor) { return factor != 1; });
      if (any) factors.push_back(std::move(made));
    }
    std::move(factors.begin(), factors.end(), std::back_inserter(made_));
  }

  // Orders of columns, by the name of the weights; those of products of one input, where they agree, once by that of all.
  void AddOrders() {
    std::map<std::string, AssembledTensor> orders;
    for (const AssembledTensor& tensor : made_) {
      const std::vector<QuantizedMatrix>& matrices = tensor.assembly.quantized;
      if (std::all_of(matrices.begin(), matrices.end(), [](const QuantizedMatrix& matrix) { return matrix.in_order(); })) continue;
      AssembledTensor made = {PrefixOf(tensor) + ".order", {tensor.assembly.columns, matrices.size()}, {}};
      for (const QuantizedMatrix& matrix : matrices) {
        for (uint64_t c = 0; c < tensor.assembly.columns; ++c) {
          made.assembly.values.push_back(static_cast<float>(matrix.InputOf(c)));
        }
      }
      made.assembly.columns = tensor.assembly.columns;
      made.assembly.rows = matrices.size();
      orders.emplace(made.name, std::move(made));
    }
    for (auto& [name, order] : orders) {
      bool same = true;
      const SharedOrder shared = SharedOrderOf(name);
      for (const std::string& other : shared.of) {
        const auto at = orders.find(other);
        same = same && at != orders.end() && at->second.assembly.values == order.assembly.values;
      }
      if (same && !shared.of.empty() && name != shared.of[0]) continue;
      AssembledTensor made = order;
      if (same && !shared.of.empty()) made.name = shared.name;
      made_.push_back(std::move(made));
    }
  }
  struct SharedOrder {
    std::string name;
    std::vector<std::string> of;
  };
  static SharedOrder SharedOrderOf(const std::string& name) {
    struct Sharing {
      std::string_view all;
      std::vector<std::string_view> parts;
    };
    const Sharing sharings[] = {{"attn_qkv", {"attn_q", "attn_k", "attn_v"}}, {"ffn_gate_up", {"ffn_gate", "ffn_up"}}};
    const size_t at = name.rfind('.', name.size() - 7) + 1;
    for (const Sharing& sharing : sharings) {
      for (const std::string_view part : sharing.parts) {
        if (name.compare(at, part.size(), part) != 0) continue;
        const std::string rest = name.substr(at + part.size());
        if (rest[0] != '.' && rest[0] != '_') continue;
        SharedOrder shared = {name.substr(0, at) + std::string(sharing.all) + rest, {}};
        for (const std::string_view each : sharing.parts) shared.of.push_back(name.substr(0, at) + std::string(each) + rest);
        return shared;
      }
    }
    return {};
  }
  static std::string PrefixOf(const AssembledTensor& tensor) {
    return tensor.name.ends_with(".weight") ? tensor.name.substr(0, tensor.name.size() - 7) : tensor.name;
  }

  // Rows that are looked up have no product to carry a factor.
  static Status CheckQuantized(const std::string& published, const NameRule& rule, Assembly* assembly) {
    const auto refused = [&](std::string_view what) {
      return Error(Code::kUnsupported, fmt::format("tensor {}: {} that is quantised is not supported", published, what));
    };
    switch (rule.arrangement) {
      case Arrangement::kNorm:
      case Arrangement::kHeadNorms:
      case Arrangement::kMinusExp:
      case Arrangement::kTaps:
      case Arrangement::kGateUpBiases:
        return refused("a vector");
      case Arrangement::kByColumns:
        return refused("a matrix by columns");
      default:
        break;
    }
    if (rule.gguf != "token_embd" && rule.gguf != "position_embd") return Ok();
    for (QuantizedMatrix& matrix : assembly->quantized) {
      if (!matrix.order.empty()) return refused("a table in another order of columns");
      if (matrix.factor != 1) assembly->dtype = DType::kF32;
      matrix.scale_multiplier *= matrix.factor;
      matrix.factor = 1;
    }
    return Ok();
  }

  // Heads of values as GGUF files of linear attention have them.
  Status TurnHeads(const SafetensorsTensor& tensor, const NameRule& rule, Assembly* assembly) const {
    const HfValueHeads& heads = layout_.value_heads;
    const ValueHeads values = rule.values;
    if (values == ValueHeads::kNotHeads || heads.keys == 0) return Ok();
    HeadTurns turns = {.runs = heads.keys, .each = heads.each, .head = values == ValueHeads::kEach ? 1 : heads.head_dim};
    if (values == ValueHeads::kRowsBehindKeys) turns.first = uint64_t{2} * heads.keys * heads.head_dim;
    const bool columns = values == ValueHeads::kColumns;
    // Taps become rows later (Taps).
    const bool taps = rule.arrangement == Arrangement::kTaps && tensor.shape.size() == 3;
    const uint64_t found = columns ? assembly->columns : taps ? tensor.shape[0] : assembly->rows;
    const uint64_t expected = turns.first + turns.runs * turns.each * turns.head;
    if (found != expected) {
      return WrongShape(tensor, fmt::format("{} {} ({} keys with {} heads of values each)", expected, columns ? "columns" : "rows",
                                            heads.keys, heads.each));
    }
    if (heads.each == 1) return Ok();
    if (!columns) {
      assembly->order.turns = turns;
    } else if (assembly->quantized.empty()) {
      assembly->column_turns = turns;
    } else {
      for (QuantizedMatrix& matrix : assembly->quantized) TurnInputs(turns, assembly->columns, &matrix);
    }
    return Ok();
  }
  // Columns of a quantised matrix stay in their groups: instead, what it is multiplied with is put in their order.
  static void TurnInputs(const HeadTurns& turns, uint64_t columns, QuantizedMatrix* matrix) {
    std::vector<uint32_t> place(columns);
    for (uint32_t c = 0; c < columns; ++c) place[turns.Stored(c)] = c;
    std::vector<uint32_t> inputs(columns);
    for (uint32_t c = 0; c < columns; ++c) inputs[c] = place[matrix->InputOf(c)];
    matrix->inputs = std::move(inputs);
  }

  // Whether embeddings that are the output matrix too are multiplied by one factor here and another there.
  bool OutputHasOwnFactor() const {
    float embeddings = 1;
    float output = 1;
    for (const TensorFactors& of : layout_.factors) {
      if (of.published == "embed_tokens") embeddings = of.factors[0].factor;
      if (of.published == "lm_head") output = of.factors[0].factor;
    }
    return embeddings != output;
  }

  Status TakeFactors(const SafetensorsTensor& tensor, std::string_view published, Assembly* assembly) const {
    for (const TensorFactors& of : layout_.factors) {
      if (of.published != published) continue;
      if (assembly->quantized.empty()) {
        assembly->factors = of.factors;
      } else if (of.factors.size() == 1) {
        for (QuantizedMatrix& matrix : assembly->quantized) matrix.factor *= of.factors[0].factor;
      } else {
        return Error(Code::kUnsupported, fmt::format("tensor {}: quantised rows with factors of their own are not supported", tensor.name));
      }
    }
    return Ok();
  }

  // The tensor as it is stored, as matrices of rows.
  static Result<Assembly> Whole(const HfTensor& from) {
    Assembly assembly;
    if (from.quantized.empty()) {
      BANTAM_ASSIGN(assembly.dtype, ElementType(from.tensor));
    } else {
      assembly.dtype = from.dtype;
      assembly.quantized = from.quantized;
    }
    const std::vector<uint64_t>& shape = from.tensor.shape;
    if (shape.empty() || shape.size() > 3 || from.tensor.size_bytes == 0) return WrongShape(from.tensor, "1 to 3 dimensions, and elements");
    // A vector's elements are rows of one column, so that they can be put in order like a matrix's rows.
    assembly.columns = shape.size() == 1 ? 1 : shape.back();
    assembly.rows = shape.size() == 1 ? shape[0] : shape[shape.size() - 2];
    assembly.matrices = shape.size() == 3 ? shape[0] : 1;
    assembly.stored_rows = assembly.rows;
    if (from.quantized.empty()) assembly.pieces.push_back({from.file, from.tensor.offset_bytes});
    return assembly;
  }

  void Emit(std::string name, const SafetensorsTensor& tensor, Assembly assembly) {
    AssembledTensor made;
    made.name = std::move(name);
    if (tensor.shape.size() == 1) {
      made.dimensions = {assembly.rows};
    } else {
      made.dimensions = {assembly.columns, assembly.rows};
      if (tensor.shape.size() == 3 || assembly.pieces.size() > 1) made.dimensions.push_back(assembly.matrices);
    }
    made.assembly = std::move(assembly);
    made_.push_back(std::move(made));
  }

  Status Arrange(const SafetensorsTensor& tensor, const Name& name, const NameRule& rule, Source source) {
    Assembly& assembly = source.assembly;
    const std::string target = fmt::format("{}{}{}", source.prefix, rule.gguf, name.suffix);
    switch (rule.arrangement) {
      case Arrangement::kQuery:
      case Arrangement::kKey:
        BANTAM_TRY(Pair(tensor, rule.arrangement == Arrangement::kQuery ? layout_.heads.heads : layout_.heads.kv_heads, &assembly));
        break;
      case Arrangement::kNorm:
        if (layout_.family->norms_add_one && name.suffix == ".weight") assembly.change = Change::kAddOne;
        break;
      case Arrangement::kPositions:
        if (assembly.rows <= layout_.positions_skipped) {
          return WrongShape(tensor, fmt::format("more than {} rows", layout_.positions_skipped));
        }
        assembly.order.first = layout_.positions_skipped;
        assembly.rows -= layout_.positions_skipped;
        break;
      case Arrangement::kMinusExp:
        assembly.change = Change::kMinusExp;
        break;
      case Arrangement::kMinusExpColumn:
        assembly.change = Change::kMinusExp;
        return Rows(tensor, target, {1, std::move(assembly)});
      case Arrangement::kColumn:
        return Rows(tensor, target, {1, std::move(assembly)});
      case Arrangement::kStateGroups:
        return Rows(tensor, target, {std::max<uint64_t>(1, assembly.rows / std::max(1u, layout_.state_groups)), std::move(assembly)});
      case Arrangement::kTaps:
        return Taps(tensor, target, std::move(source));
      case Arrangement::kQkvGroups:
        return QkvGroups(tensor, name, source);
      case Arrangement::kQkvParts:
        return QkvParts(tensor, name, source);
      case Arrangement::kByColumns:
        // Biases are vectors like any other.
        if (tensor.shape.size() == 2) TurnColumns(&assembly);
        break;
      case Arrangement::kExpertsByColumns:
        if (tensor.shape.size() != 3) return WrongShape(tensor, "3 dimensions");
        TurnColumns(&assembly);
        break;
      case Arrangement::kGateUp:
        return GateUp(tensor, name, rule, source, {assembly.rows / 2, /*apart=*/false});
      case Arrangement::kGateUpPairs:
        if (tensor.shape.size() != 3) return WrongShape(tensor, "3 dimensions");
        TurnColumns(&assembly);
        return GateUp(tensor, name, rule, source, {1, /*apart=*/true});
      case Arrangement::kGateUpBiases:
        return GateUpBiases(tensor, rule, source);
      case Arrangement::kWithoutSuffix:
        Emit(source.prefix + std::string(rule.gguf), tensor, std::move(assembly));
        return Ok();
      case Arrangement::kHeadNorms:
      case Arrangement::kAsStored:
      case Arrangement::kIgnored:
        break;
    }
    // Numbers within: one of several that become one tensor.
    const bool one_of_many = rule.published.find('#', 2) != std::string_view::npos;
    if (one_of_many) return Stack(tensor, name.inner, target, std::move(source));
    Emit(target, tensor, std::move(assembly));
    return Ok();
  }

  // A vector as rows of `width` elements.
  struct Folded {
    uint64_t width;
    Assembly assembly;
  };
  Status Rows(const SafetensorsTensor& tensor, const std::string& target, Folded folded) {
    const uint64_t elements = folded.assembly.rows;
    if (tensor.shape.size() != 1 || elements % folded.width != 0) return WrongShape(tensor, fmt::format("rows of {}", folded.width));
    made_.push_back({target, {folded.width, elements / folded.width}, std::move(folded.assembly)});
    return Ok();
  }

  // [columns, 1, taps], or a bias.
  Status Taps(const SafetensorsTensor& tensor, const std::string& target, Source source) {
    if (tensor.shape.size() == 1) {
      Emit(target, tensor, std::move(source.assembly));
      return Ok();
    }
    if (tensor.shape.size() != 3 || tensor.shape[1] != 1) return WrongShape(tensor, "[columns, 1, taps]");
    Assembly& assembly = source.assembly;
    assembly.rows = assembly.stored_rows = tensor.shape[0];
    assembly.matrices = 1;
    made_.push_back({target, {assembly.columns, assembly.rows}, std::move(assembly)});
    return Ok();
  }

  // Quantised ones (gpt-oss) are stored by rows all the same.
  static void TurnColumns(Assembly* assembly) {
    if (!assembly->quantized.empty()) return;
    std::swap(assembly->rows, assembly->columns);
    assembly->stored_rows = assembly->rows;
    assembly->by_columns = true;
  }

  // Rows of heads are stored in halves; GGUF files of some families have them in pairs.
  Status Pair(const SafetensorsTensor& tensor, uint64_t heads, Assembly* assembly) const {
    const uint64_t head = layout_.heads.head_dim;
    if (assembly->rows != heads * head) return WrongShape(tensor, fmt::format("{} rows ({} heads of {})", heads * head, heads, head));
    if (!layout_.family->pairs) return Ok();
    if (head % 2 != 0) return WrongShape(tensor, "heads of an even number of rows");
    assembly->order.head = head;
    return Ok();
  }

  // Query, key and value from one tensor, each in runs of `take` rows that stand `stride` apart.
  struct Part {
    const char* name;
    uint64_t heads;
    RowOrder order;
    bool turns;
  };
  void EmitParts(const SafetensorsTensor& tensor, const Name& name, const Source& source, std::initializer_list<Part> parts) {
    for (const Part& part : parts) {
      Assembly assembly = source.assembly;
      assembly.rows = part.heads * layout_.heads.head_dim;
      assembly.order = part.order;
      if (part.turns && layout_.family->pairs) assembly.order.head = layout_.heads.head_dim;
      Emit(source.prefix + part.name + name.suffix, tensor, std::move(assembly));
    }
  }

  Status QkvGroups(const SafetensorsTensor& tensor, const Name& name, const Source& source) {
    const auto [heads, kv_heads, head_dim] = layout_.heads;
    const uint64_t dim = head_dim;
    const uint64_t queries = heads / kv_heads;
    const uint64_t group = (queries + 2) * dim;
    if (source.assembly.rows != kv_heads * group) {
      return WrongShape(tensor,
                        fmt::format("{} rows ({} kv heads, each with {} queries, of {})", kv_heads * group, kv_heads, queries, dim));
    }
    EmitParts(tensor, name, source,
              {{"attn_q", heads, {0, queries * dim, group}, true},
               {"attn_k", kv_heads, {queries * dim, dim, group}, true},
               {"attn_v", kv_heads, {(queries + 1) * dim, dim, group}, false}});
    return Ok();
  }

  Status QkvParts(const SafetensorsTensor& tensor, const Name& name, const Source& source) {
    const auto [heads, kv_heads, head_dim] = layout_.heads;
    const uint64_t dim = head_dim;
    const uint64_t rows = (heads + uint64_t{2} * kv_heads) * dim;
    if (source.assembly.rows != rows) return WrongShape(tensor, fmt::format("{} rows", rows));
    EmitParts(tensor, name, source,
              {{"attn_q", heads, {.first = 0}, true},
               {"attn_k", kv_heads, {.first = heads * dim}, true},
               {"attn_v", kv_heads, {.first = (heads + kv_heads) * dim}, false}});
    return Ok();
  }

  // Gate and up from one tensor: runs of `take` rows, half of them each's.
  struct Halves {
    uint64_t take;
    bool apart;  // runs follow each other in turn
  };
  Status GateUp(const SafetensorsTensor& tensor, const Name& name, const NameRule& rule, const Source& source, Halves halves) {
    const std::string_view suffix = name.suffix.empty() ? ".weight" : std::string_view(name.suffix);
    const uint64_t rows = source.assembly.rows;
    if (rows % 2 != 0) return WrongShape(tensor, "an even number of rows");
    for (const bool up : {false, true}) {
      Assembly assembly = source.assembly;
      assembly.rows = rows / 2;
      assembly.order.first = up ? halves.take : 0;
      if (halves.apart) assembly.order.take = halves.take;
      if (halves.apart) assembly.order.stride = 2 * halves.take;
      Emit(fmt::format("{}{}{}{}", source.prefix, up ? "ffn_up" : "ffn_gate", rule.gguf, suffix), tensor, std::move(assembly));
    }
    return Ok();
  }

  // [experts, 2 * width], of which every second is the gate's: as vectors of one column, like the rows they belong to.
  Status GateUpBiases(const SafetensorsTensor& tensor, const NameRule& rule, const Source& source) {
    const uint64_t width = source.assembly.columns / 2;
    const uint64_t experts = source.assembly.rows;
    if (tensor.shape.size() != 2 || source.assembly.columns % 2 != 0) return WrongShape(tensor, "2 dimensions, the last an even number");
    for (const bool up : {false, true}) {
      AssembledTensor made;
      made.name = fmt::format("{}{}{}.bias", source.prefix, up ? "ffn_up" : "ffn_gate", rule.gguf);
      made.dimensions = {width, experts};
      made.assembly = source.assembly;
      made.assembly.columns = 1;
      made.assembly.rows = width * experts;
      made.assembly.stored_rows = 2 * width * experts;
      made.assembly.order = {up ? uint64_t{1} : 0, 1, 2};
      made_.push_back(std::move(made));
    }
    return Ok();
  }

  // One expert's matrix, or one head's norm, into the tensor of all.
  Status Stack(const SafetensorsTensor& tensor, uint32_t number, const std::string& target, Source source) {
    if (number >= kExpertsMax)
      return Error(Code::kCorrupt, fmt::format("tensor {}: number {}, expected less than {}", tensor.name, number, kExpertsMax));
    const auto [at, is_new] = stacks_.try_emplace(target, made_.size());
    if (is_new) {
      made_.push_back({target, {}, source.assembly});
      made_.back().assembly.pieces.clear();
      made_.back().assembly.quantized.clear();
      made_.back().assembly.matrices = 0;
    }
    AssembledTensor& stack = made_[at->second];
    const Assembly& one = source.assembly;
    const bool quantized = !one.quantized.empty();
    const bool packed_alike = quantized ? stack.assembly.pieces.empty() : stack.assembly.quantized.empty();
    const bool typed_alike = quantized || one.dtype == stack.assembly.dtype;
    if (one.rows != stack.assembly.rows || one.columns != stack.assembly.columns || !packed_alike || !typed_alike) {
      return WrongShape(tensor, fmt::format("that of the others that make {}", target));
    }
    const auto put = [&](auto& list, const auto& entry, const auto& nothing, auto is_there) {
      if (number >= list.size()) list.resize(number + 1, nothing);
      if (is_there(list[number])) return false;
      list[number] = entry;
      return true;
    };
    const bool is_new_one = quantized ? put(stack.assembly.quantized, one.quantized[0], QuantizedMatrix(),
                                            [](const QuantizedMatrix& matrix) { return matrix.codes.base != nullptr; })
                                      : put(stack.assembly.pieces, one.pieces[0], Assembly::Piece{kNoFile, 0},
                                            [](const Assembly::Piece& piece) { return piece.file != kNoFile; });
    if (!is_new_one) return Error(Code::kCorrupt, fmt::format("tensor {} occurs twice", tensor.name));
    // The format that holds the codes of all.
    if (Info(one.dtype).block_bytes * Info(stack.assembly.dtype).block_elements >
        Info(stack.assembly.dtype).block_bytes * Info(one.dtype).block_elements) {
      stack.assembly.dtype = one.dtype;
    }
    const size_t count = std::max(stack.assembly.pieces.size(), stack.assembly.quantized.size());
    stack.assembly.matrices = count;
    // Vectors become the rows of a matrix.
    if (tensor.shape.size() == 1) {
      stack.dimensions = {one.rows, count};
    } else {
      stack.dimensions = {one.columns, one.rows, count};
    }
    return Ok();
  }

  const HfLayout& layout_;
  std::vector<AssembledTensor> made_;
  std::map<std::string, size_t> stacks_;  // by target, places in made_
};

}  // namespace

void DropUnread(uint32_t layers, uint32_t predictors, std::vector<HfTensor>* tensors) {
  std::erase_if(*tensors, [&](const HfTensor& tensor) {
    const std::string_view published = tensor.tensor.name;
    const bool other =
        std::any_of(std::begin(kOtherParts), std::end(kOtherParts), [&](std::string_view part) { return published.starts_with(part); });
    const std::optional<uint32_t> layer = other ? std::nullopt : TakeApart(published).layer;
    return other || (layer && *layer >= layers && *layer - layers < predictors);
  });
}

Result<std::vector<LowRankTensors>> MapLowRank(const HfTensor& a, const HfTensor& b, const HfLayout& layout) {
  return Mapper(layout).LowRank(a, b);
}

std::optional<uint32_t> LayerOf(std::string_view published) { return TakeApart(published).layer; }

Result<std::vector<AssembledTensor>> MapTensors(const std::vector<HfTensor>& tensors, const HfLayout& layout) {
  Mapper mapper(layout);
  for (const HfTensor& tensor : tensors) {
    BANTAM_TRY(mapper.Add(tensor));
  }
  return mapper.Finish();
}

}  // namespace bantam
