#include "model/adapter/adapter.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

namespace bantam {
namespace {

// Weights that products read, in the order of their rows, by the name of their tensor.
using Products = std::map<std::string, std::vector<WeightId>>;

std::vector<WeightId> WeightsOf(const Op& op) {
  std::vector<WeightId> weights;
  if (const auto* product = std::get_if<MatMulOp>(&op)) {
    for (const MatMulPart& part : product->parts) weights.push_back(part.weight);
  }
  if (const auto* gated = std::get_if<GatedMatMulOp>(&op)) weights = {gated->gate.weight, gated->up.weight};
  return weights;
}

Products ProductsOf(const Program& program) {
  Products products;
  for (const Op& op : program.ops) {
    for (const WeightId id : WeightsOf(op)) {
      std::vector<WeightId>& of = products[program.weights[id].name];
      // Layers may share weights.
      if (std::find(of.begin(), of.end(), id) == of.end()) of.push_back(id);
    }
  }
  for (auto& [name, of] : products) {
    std::sort(of.begin(), of.end(), [&](WeightId a, WeightId b) { return program.weights[a].first < program.weights[b].first; });
  }
  return products;
}

// Rows of an adapter's weight, one behind the other; nothing where the model has none of that name.
std::vector<WeightId> Find(const Products& products, const std::string& name) {
  // Embeddings that are the output matrix too would be adapted there alone.
  if (name == "token_embd.weight") return {};
  if (const auto found = products.find(name); found != products.end()) return found->second;
  // A model whose output matrix is its embeddings.
  if (name == "output.weight") {
    const auto tied = products.find("token_embd.weight");
    return tied == products.end() ? std::vector<WeightId>() : tied->second;
  }
  constexpr std::string_view kAll = ".attn_qkv.weight";
  constexpr std::string_view kParts[] = {".attn_q.weight", ".attn_k.weight", ".attn_v.weight"};
  std::vector<WeightId> rows;
  for (size_t i = 0; i < 3; ++i) {
    if (name.ends_with(kAll)) {
      const auto part = products.find(name.substr(0, name.size() - kAll.size()) + std::string(kParts[i]));
      if (part == products.end() || part->second.size() != 1) return {};
      rows.push_back(part->second[0]);
    } else if (name.ends_with(kParts[i])) {
      const auto all = products.find(name.substr(0, name.size() - kParts[i].size()) + std::string(kAll));
      if (all != products.end() && all->second.size() == 3) rows.push_back(all->second[i]);
    }
  }
  return rows;
}

// Keys and values of layers that attend to those of another: files have them, and nobody reads them.
bool IsUnread(const Config& config, std::string_view name) {
  for (size_t i = 0; i < config.layers.size(); ++i) {
    if (config.layers[i].kv_of == kNone) continue;
    if (name == fmt::format("blk.{}.attn_k.weight", i) || name == fmt::format("blk.{}.attn_v.weight", i)) return true;
  }
  return false;
}

Status AddPair(const AdapterFor& model, const Products& products, size_t index, AdapterOutline* outline) {
  const AdapterPair& pair = outline->file.pairs[index];
  const std::vector<WeightId> weights = Find(products, pair.weight);
  if (weights.empty()) {
    return Error(Code::kUnsupported, fmt::format("tensor {}: no product of this {} model reads {}: the adapter is of another model, or of "
                                                 "a part that cannot be adapted",
                                                 pair.a.name, model.config.architecture, pair.weight));
  }
  size_t rows = 0;
  for (const WeightId id : weights) {
    const WeightSpec& spec = model.program.weights[id];
    if (spec.columns != pair.columns) {
      return Error(Code::kCorrupt,
                   fmt::format("tensor {}: rows of {} elements, and {} of the model has {}; the adapter is of another model", pair.a.name,
                               pair.columns, spec.name, spec.columns));
    }
    outline->shapes.push_back({.weight = id,
                               .rank = pair.rank,
                               .scale = pair.scale,
                               .a = LowRankDType(pair.a.dtype, model.kernels),
                               .b = LowRankDType(pair.b.dtype, model.kernels)});
    outline->parts.push_back({index, rows});
    rows += spec.rows;
  }
  if (rows != pair.rows) {
    return Error(Code::kCorrupt, fmt::format("tensor {}: {} rows, and {} of the model has {}; the adapter is of another model", pair.b.name,
                                             pair.rows, pair.weight, rows));
  }
  outline->rank_max = std::max(outline->rank_max, pair.rank);
  return Ok();
}

// By weight, so that one adapter is one whatever the order of its tensors. Corrupt where a weight occurs twice.
Status Sort(const Program& program, AdapterOutline* outline) {
  std::vector<size_t> order(outline->shapes.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return outline->shapes[a].weight < outline->shapes[b].weight; });
  AdapterOutline sorted;
  for (const size_t i : order) {
    if (!sorted.shapes.empty() && sorted.shapes.back().weight == outline->shapes[i].weight) {
      return Error(Code::kCorrupt,
                   fmt::format("tensors {} and {} are both for {}", outline->file.pairs[sorted.parts.back().pair].a.name,
                               outline->file.pairs[outline->parts[i].pair].a.name, program.weights[outline->shapes[i].weight].name));
    }
    sorted.shapes.push_back(outline->shapes[i]);
    sorted.parts.push_back(outline->parts[i]);
  }
  outline->shapes = std::move(sorted.shapes);
  outline->parts = std::move(sorted.parts);
  return Ok();
}

// The order in which a product reads the columns of its input, where a quantiser sorted them; else null.
const uint32_t* OrderOf(const Model& model, WeightId weight) {
  const std::vector<Op>& ops = model.program.ops;
  for (size_t i = 0; i < ops.size(); ++i) {
    const std::vector<WeightId> weights = WeightsOf(ops[i]);
    if (std::find(weights.begin(), weights.end(), weight) == weights.end()) continue;
    BufferId in = BuffersOf(ops[i]).reads[0];
    for (size_t j = i; j-- > 0;) {
      const std::vector<BufferId> writes = BuffersOf(ops[j]).writes;
      if (std::find(writes.begin(), writes.end(), in) == writes.end()) continue;
      if (const auto* permute = std::get_if<PermuteOp>(&ops[j])) return model.weights.Order(permute->order);
      const auto* quantize = std::get_if<QuantizeOp>(&ops[j]);
      if (quantize == nullptr) return nullptr;
      in = quantize->in;
    }
    return nullptr;
  }
  return nullptr;
}

// Rows of a matrix as floats.
class Reader {
 public:
  explicit Reader(TensorSource& source) : source_(source) {}
  Result<std::span<const float>> Rows(const AdapterPair::Matrix& matrix, size_t columns, size_t first, size_t count) {
    const uint64_t row_bytes = RowBytes(matrix.dtype, columns);
    BANTAM_ASSIGN(const auto bytes, source_.View(matrix.offset_bytes + first * row_bytes, count * row_bytes));
    values_.resize(count * columns);
    Unpack(matrix.dtype, reinterpret_cast<const uint8_t*>(bytes.data()), values_.size(), values_.data());
    for (size_t i = 0; i < values_.size(); ++i) {
      if (std::isfinite(values_[i])) continue;
      return Error(Code::kCorrupt, fmt::format("tensor {}: element {} of row {} is no finite number; fetch the adapter again", matrix.name,
                                               i % columns, first + i / columns));
    }
    return std::span<const float>(values_);
  }

 private:
  TensorSource& source_;
  std::vector<float> values_;
};

Status Fill(const AdapterOutline& outline, const Model& model, LowRankUpdates* updates) {
  Reader reader(*outline.file.source);
  std::vector<float> ordered;
  for (size_t i = 0; i < outline.shapes.size(); ++i) {
    const AdapterPair& pair = outline.file.pairs[outline.parts[i].pair];
    const uint32_t* order = OrderOf(model, outline.shapes[i].weight);
    for (size_t row = 0; row < pair.rank; row += kPanelRows) {
      BANTAM_ASSIGN(std::span<const float> rows, reader.Rows(pair.a, pair.columns, row, std::min(kPanelRows, pair.rank - row)));
      if (order != nullptr) {
        ordered.resize(rows.size());
        for (size_t k = 0; k < rows.size(); ++k) ordered[k] = rows[k / pair.columns * pair.columns + order[k % pair.columns]];
        rows = ordered;
      }
      updates->SetA(i, row / kPanelRows, rows);
    }
    const size_t count = model.program.weights[outline.shapes[i].weight].rows;
    for (size_t row = 0; row < count; row += kPanelRows) {
      BANTAM_ASSIGN(const std::span<const float> rows,
                    reader.Rows(pair.b, pair.rank, outline.parts[i].first_row + row, std::min(kPanelRows, count - row)));
      updates->SetB(i, row / kPanelRows, rows);
    }
  }
  return Ok();
}

Digest DigestOf(const AdapterOutline& outline, const Program& program, const LowRankUpdates& updates) {
  Sha256 sha;
  for (const LowRankShape& shape : outline.shapes) {
    const WeightSpec& spec = program.weights[shape.weight];
    const std::string what = fmt::format("{}:{}:{}:{}:{:a}\n", spec.name.size(), spec.name, spec.first, shape.rank, shape.scale);
    sha.Update(std::as_bytes(std::span(what)));
  }
  sha.Update(updates.numbers());
  return sha.Finish();
}

}  // namespace

Result<AdapterOutline> OutlineAdapter(FileSystem& files, const std::string& path, const AdapterFor& model, float scale) {
  AdapterOutline outline;
  BANTAM_ASSIGN(outline.file, OpenAdapter(files, path, model.config));
  for (AdapterPair& pair : outline.file.pairs) {
    pair.scale *= scale;
    if (!std::isfinite(pair.scale)) return Error(Code::kInvalidArgument, fmt::format("{}: a scale of {} is too large", path, scale));
  }
  const Products products = ProductsOf(model.program);
  for (size_t i = 0; i < outline.file.pairs.size(); ++i) {
    if (IsUnread(model.config, outline.file.pairs[i].weight)) continue;
    BANTAM_TRY(AddPair(model, products, i, &outline).With(path));
  }
  BANTAM_TRY(Sort(model.program, &outline).With(path));
  outline.bytes = LowRankUpdates::Bytes(model.program, outline.shapes);
  return outline;
}

Result<std::shared_ptr<const Adapter>> LoadAdapter(AdapterOutline outline, const Model& model, MemoryBudget& budget) {
  auto adapter = std::make_shared<Adapter>();
  adapter->model = &model;
  adapter->path = outline.file.path;
  adapter->format = outline.file.format;
  Result<LowRankUpdates> updates = LowRankUpdates::Make(model.program, outline.shapes, budget);
  if (!updates.ok()) return Error(updates.error()).With(adapter->path);
  adapter->updates = std::move(updates).value();
  BANTAM_TRY(Fill(outline, model, &adapter->updates).With(adapter->path));
  adapter->digest = DigestOf(outline, model.program, adapter->updates);
  return std::shared_ptr<const Adapter>(std::move(adapter));
}

}  // namespace bantam
