#include "compress/key_scales.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "compress/program_flow.h"
#include "formats/tensor_rows.h"

namespace bantam {
namespace {

constexpr uint64_t kPieceBytes = uint64_t{4} << 20;
// Scales of a row's blocks are f16, which has fewer digits below 6e-5.
constexpr int kExponentMax = 6;

// The product that makes keys or queries, and how they are rotated.
struct Projection {
  size_t op = 0;
  const MatMulPart* part = nullptr;
  const RopeOp* rope = nullptr;
};
struct Layer {
  const AttendOp* attend = nullptr;
  KvHeads kv;
  Projection keys;
  Projection queries;
};

class Evener {
 public:
  Evener(ModelFile& file, const Program& program) : file_(file), program_(program), flow_(program) {}

  Result<EvenedKeys> Run() {
    double errors = 0;
    size_t heads = 0;
    for (size_t i = 0; i < program_.ops.size() && !program_.whole_texts; ++i) {
      const auto* attend = std::get_if<AttendOp>(&program_.ops[i]);
      const std::optional<Layer> layer = attend == nullptr ? std::nullopt : LayerOf(*attend, i);
      if (!layer) continue;
      ++evened_.looked_at;
      BANTAM_ASSIGN(const double error, EvenLayer(*layer));
      errors += error;
      heads += layer->kv.heads;
    }
    if (heads > 0) evened_.error = errors / static_cast<double>(heads);
    return std::move(evened_);
  }

 private:
  const WeightSpec& Spec(WeightId id) const { return program_.weights[id]; }

  // Rows of a tensor that nothing else uses.
  bool Alone(WeightId id) const {
    const WeightSpec& spec = Spec(id);
    const TensorInfo* tensor = file_.directory.Find(spec.name);
    if (tensor == nullptr || tensor->matrices() != 1 || spec.matrices != 1 || flow_.UsesOfRows(spec) != 1) return false;
    const bool vector = spec.storage == WeightStorage::kVector;
    return vector || (spec.storage == WeightStorage::kPanels && tensor->columns() == spec.columns);
  }

  // What made `buffer` as operation `reader`, and nothing else, reads it.
  std::optional<Projection> MadeFor(size_t reader, BufferId buffer) const {
    Projection made;
    for (size_t next = reader;;) {
      const auto writer = flow_.Writer(next, buffer);
      if (!writer || flow_.Readers(*writer, buffer) != std::vector<size_t>{next}) return std::nullopt;
      if (const auto* rope = std::get_if<RopeOp>(&program_.ops[*writer]); rope != nullptr && made.rope == nullptr) {
        made.rope = rope;
        next = *writer;
        continue;
      }
      const auto* product = std::get_if<MatMulOp>(&program_.ops[*writer]);
      if (product == nullptr || product->parts.size() != 1) return std::nullopt;
      const MatMulPart& part = product->parts[0];
      const bool plain = !part.accumulate && part.scale == kNone && Alone(part.weight) && (part.bias == kNone || Alone(part.bias));
      if (!plain) return std::nullopt;
      made.op = *writer;
      made.part = &part;
      return made;
    }
  }

  std::optional<Layer> LayerOf(const AttendOp& attend, size_t op) const {
    std::optional<size_t> append;
    for (size_t i = 0; i < program_.ops.size(); ++i) {
      const auto* other = std::get_if<AttendOp>(&program_.ops[i]);
      const auto* appends = std::get_if<KvAppendOp>(&program_.ops[i]);
      if (other != nullptr && other->layer == attend.layer && i != op) return std::nullopt;
      if (appends == nullptr || appends->layer != attend.layer) continue;
      if (append || appends->keys == appends->values) return std::nullopt;
      append = i;
    }
    if (!append) return std::nullopt;
    const KvHeads& kv = program_.kv_layers[attend.layer];
    const auto keys = MadeFor(*append, std::get<KvAppendOp>(program_.ops[*append]).keys);
    const auto queries = MadeFor(op, attend.in);
    if (!keys || !queries || keys->part == queries->part) return std::nullopt;
    const bool same_rope = keys->rope == nullptr ? queries->rope == nullptr
                                                 : queries->rope != nullptr && keys->rope->rope == queries->rope->rope &&
                                                       keys->rope->head_dim == kv.head_dim && queries->rope->head_dim == kv.head_dim;
    const bool same_heads = Spec(keys->part->weight).rows == kv.heads * kv.head_dim &&
                            Spec(queries->part->weight).rows == attend.heads * kv.head_dim && attend.heads % kv.heads == 0;
    if (!same_rope || !same_heads) return std::nullopt;
    return Layer{&attend, kv, *keys, *queries};
  }

  // The first dimension of the pair that positions turn together; of one that they do not turn itself.
  size_t PairOf(const RopeOp* rope, size_t dimension) const {
    if (rope == nullptr) return dimension;
    const RopeSpec& spec = program_.ropes[rope->rope];
    if (dimension >= spec.rotated_dimensions) return dimension;
    switch (spec.layout) {
      case RopeLayout::kInterleaved:
        return dimension / 2 * 2;
      case RopeLayout::kHalves:
        return dimension % spec.pairs();
    }
    return dimension;
  }

  // Scales of a layer; the sum of predicted errors of its heads.
  Result<double> EvenLayer(const Layer& layer) {
    BANTAM_ASSIGN(const std::vector<double> keys, Squares(layer.keys));
    BANTAM_ASSIGN(const std::vector<double> queries, Squares(layer.queries));
    const size_t n = layer.kv.head_dim;
    const size_t group = layer.attend->heads / layer.kv.heads;
    std::vector<float> divisors(keys.size()), factors(queries.size());
    double errors = 0;
    bool changed = false;
    for (size_t head = 0; head < layer.kv.heads; ++head) {
      std::vector<double> of_keys(n), of_queries(n);
      for (size_t d = 0; d < n; ++d) {
        const size_t pair = PairOf(layer.keys.rope, d);
        of_keys[pair] += keys[head * n + d];
        for (size_t g = 0; g < group; ++g) of_queries[pair] += queries[(head * group + g) * n + d];
      }
      std::vector<int> exponents = EvenExponents(of_keys, of_queries);
      const double error = PredictedError(of_keys, of_queries, exponents);
      // Where keys are even already powers of two are too coarse to gain anything.
      if (!(error < 1)) std::fill(exponents.begin(), exponents.end(), 0);
      errors += std::min(error, 1.0);
      for (size_t d = 0; d < n; ++d) {
        const int exponent = exponents[PairOf(layer.keys.rope, d)];
        changed = changed || exponent != 0;
        divisors[head * n + d] = std::ldexp(1.0f, exponent);
        for (size_t g = 0; g < group; ++g) factors[(head * group + g) * n + d] = std::ldexp(1.0f, -exponent);
      }
    }
    if (!changed) return errors;
    ++evened_.layers;
    for (const auto& [part, by] : {std::pair(layer.keys.part, &divisors), std::pair(layer.queries.part, &factors)}) {
      DivideRows(part->weight, *by);
      if (part->bias != kNone) DivideRows(part->bias, *by);
    }
    return errors;
  }

  // A rotation spreads the largest key over all dimensions, and its rounding meets all of the query.
  static double PredictedError(const std::vector<double>& keys, const std::vector<double>& queries, const std::vector<int>& exponents) {
    double keys_before = 0, queries_before = 0, keys_after = 0, queries_after = 0;
    for (size_t i = 0; i < keys.size(); ++i) {
      keys_before += keys[i];
      queries_before += queries[i];
      keys_after += std::ldexp(keys[i], -2 * exponents[i]);
      queries_after += std::ldexp(queries[i], 2 * exponents[i]);
    }
    const double before = keys_before * queries_before;
    return before > 0 ? keys_after * queries_after / before : 1;
  }

  void DivideRows(WeightId id, const std::vector<float>& by) {
    const WeightSpec& spec = Spec(id);
    const TensorInfo& tensor = *file_.directory.Find(spec.name);
    std::vector<float>& divisors = evened_.scales[spec.name].row_divisors;
    if (divisors.empty()) divisors.assign(spec.storage == WeightStorage::kVector ? tensor.elements() : tensor.rows(), 1.0f);
    for (size_t i = 0; i < by.size(); ++i) divisors[spec.first + i] *= by[i];
  }

  // Mean squares of what a product gives, [rows].
  Result<std::vector<double>> Squares(const Projection& projection) {
    const WeightSpec& spec = Spec(projection.part->weight);
    const TensorInfo& tensor = *file_.directory.Find(spec.name);
    BANTAM_ASSIGN(const std::vector<double> inputs, InputSquares(projection.op, spec.columns));
    std::vector<double> squares(spec.rows);
    std::vector<float> row(spec.columns);
    const uint64_t row_bytes = RowBytes(tensor.dtype, spec.columns);
    const auto add = [&](const TensorRows& rows) -> Status {
      for (size_t r = 0; r < rows.count; ++r) {
        const size_t index = rows.first + r - spec.first;  // of what lies in front of the first, beyond all
        if (index >= spec.rows) continue;
        Unpack(tensor.dtype, rows.bytes + r * row_bytes, spec.columns, row.data());
        for (size_t c = 0; c < row.size(); ++c) squares[index] += static_cast<double>(row[c]) * static_cast<double>(row[c]) * inputs[c];
      }
      return Ok();
    };
    BANTAM_TRY(ForEachRows(tensor, *file_.source, std::max<uint64_t>(1, kPieceBytes / row_bytes), add));
    if (projection.part->bias != kNone) {
      BANTAM_ASSIGN(const std::vector<float> bias, Vector(projection.part->bias));
      for (size_t i = 0; i < squares.size(); ++i) squares[i] += static_cast<double>(bias[i]) * static_cast<double>(bias[i]);
    }
    for (size_t i = 0; i < squares.size(); ++i) {
      if (std::isfinite(squares[i])) continue;
      return Error(Code::kCorrupt, fmt::format("tensor {}: row {} holds what is no number, or its norm or bias does; the file is damaged, "
                                               "fetch it again",
                                               spec.name, spec.first + i));
    }
    return squares;
  }

  // Mean squares of the columns that it reads: a norm's weights make them of ones.
  Result<std::vector<double>> InputSquares(size_t op, size_t columns) {
    std::vector<double> squares(columns, 1.0);
    const auto writer = flow_.Writer(op, std::get<MatMulOp>(program_.ops[op]).in);
    const auto* norm = writer ? std::get_if<NormOp>(&program_.ops[*writer]) : nullptr;
    const bool known = norm != nullptr && norm->weight != kNone && norm->groups == 1 && Spec(norm->weight).columns == columns &&
                       file_.directory.Find(Spec(norm->weight).name) != nullptr;
    if (!known) return squares;
    BANTAM_ASSIGN(const std::vector<float> weights, Vector(norm->weight));
    for (size_t c = 0; c < columns; ++c) squares[c] = static_cast<double>(weights[c]) * static_cast<double>(weights[c]);
    return squares;
  }

  // As many elements of a vector as its part of the program has.
  Result<std::vector<float>> Vector(WeightId id) {
    const WeightSpec& spec = Spec(id);
    BANTAM_ASSIGN(std::vector<float> values, ReadValues(*file_.directory.Find(spec.name), *file_.source));
    values.erase(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(spec.first));
    values.resize(spec.columns);
    return values;
  }

  ModelFile& file_;
  const Program& program_;
  const ProgramFlow flow_;
  EvenedKeys evened_;
};

}  // namespace

// The least of (sum K / s^2) (sum Q s^2) is where s^4 = K / Q, by Cauchy and Schwarz.
std::vector<int> EvenExponents(std::span<const double> keys, std::span<const double> queries) {
  std::vector<int> exponents(keys.size());
  std::vector<int> known;
  const auto is_known = [&](size_t i) { return keys[i] > 0 && queries[i] > 0; };
  for (size_t i = 0; i < keys.size(); ++i) {
    if (!is_known(i)) continue;
    exponents[i] = static_cast<int>(std::lround((std::log2(keys[i]) - std::log2(queries[i])) / 4));
    known.push_back(exponents[i]);
  }
  if (known.empty()) return exponents;
  const auto middle = known.begin() + static_cast<std::ptrdiff_t>(known.size() / 2);
  std::nth_element(known.begin(), middle, known.end());
  for (size_t i = 0; i < keys.size(); ++i) {
    if (is_known(i)) exponents[i] = std::clamp(exponents[i] - *middle, -kExponentMax, kExponentMax);
  }
  return exponents;
}

Result<EvenedKeys> EvenKeys(ModelFile& file, const Program& program) { return Evener(file, program).Run(); }

}  // namespace bantam
