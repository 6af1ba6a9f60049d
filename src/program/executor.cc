#include "program/executor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "kernels/tiles.h"
#include "program/hadamard.h"
#include "program/routing.h"
#include "tensor/half.h"

namespace bantam {
namespace {

using kernels::ActivationBlock;
using kernels::ActivationTile;
using kernels::kColumnsMax;
using kernels::kTileColumns;
using kernels::kTilePanels;

bool Contains(const std::vector<BufferId>& list, BufferId id) { return std::find(list.begin(), list.end(), id) != list.end(); }

// What an operation touches, with each layer's KV as one more buffer behind the real ones.
OpBuffers TouchedBy(const Program& program, const Op& op) {
  OpBuffers touched = BuffersOf(op);
  const BufferId kv = static_cast<BufferId>(program.buffers.size());
  if (const auto* append = std::get_if<KvAppendOp>(&op)) touched.writes.push_back(kv + append->layer);
  if (const auto* attend = std::get_if<AttendOp>(&op)) touched.reads.push_back(kv + attend->layer);
  return touched;
}

// Quantised buffers whose readers all take tiles of 16 columns. Experts take columns one by one.
std::vector<bool> TiledBuffers(const Program& program, const KernelSet& kernels) {
  std::vector<bool> tiled;
  for (const BufferSpec& buffer : program.buffers) tiled.push_back(buffer.form == BufferForm::kQuantized);
  const auto has_tiles = [&](const MatMulPart& part) {
    return kernels.tiles[static_cast<size_t>(Info(program.weights[part.weight].dtype).panel)].chunk_blocks > 0;
  };
  for (const Op& op : program.ops) {
    if (const auto* product = std::get_if<MatMulOp>(&op)) {
      if (!std::all_of(product->parts.begin(), product->parts.end(), has_tiles)) tiled[product->in] = false;
    } else if (const auto* gated = std::get_if<GatedMatMulOp>(&op)) {
      if (!has_tiles(gated->gate) || !has_tiles(gated->up)) tiled[gated->in] = false;
    } else if (!std::holds_alternative<QuantizeOp>(op) && !std::holds_alternative<NormQuantizeOp>(op)) {
      for (const BufferId id : BuffersOf(op).reads) tiled[id] = false;
    }
  }
  return tiled;
}

// Into how many parts a row of the buffer is cut when the operation is shared out among threads; 0: in another way. Each thread gets the
// same parts of one number of them.
size_t PartsOfRow(const Program& program, const Op& op, BufferId buffer) {
  if (const auto* rope = std::get_if<RopeOp>(&op)) return buffer == rope->in ? rope->heads : 0;
  if (const auto* norm = std::get_if<NormOp>(&op)) return norm->groups;
  if (const auto* append = std::get_if<KvAppendOp>(&op)) {
    return buffer == append->keys || buffer == append->values ? program.kv_layers[append->layer].heads : 0;
  }
  return 0;
}

// Whether all that the operations did with the buffer was done by the thread that does the next operation's part of it.
bool BySameThread(const Program& program, std::span<const Op> since_barrier, const Op& next, BufferId buffer) {
  const size_t parts = PartsOfRow(program, next, buffer);
  return parts != 0 && std::all_of(since_barrier.begin(), since_barrier.end(), [&](const Op& op) {
           const OpBuffers touched = TouchedBy(program, op);
           const bool touches = Contains(touched.reads, buffer) || Contains(touched.writes, buffer);
           return !touches || PartsOfRow(program, op, buffer) == parts;
         });
}

// One column of a tile: all its rows but in the last panel of a matrix. With the number known, these are a few instructions.
void CopyRow(const float* tile, size_t count, float* out) {
  if (count == kPanelRows) {
    std::memcpy(out, tile, kPanelRows * sizeof(float));
  } else {
    std::memcpy(out, tile, count * sizeof(float));
  }
}
void AddRow(const float* tile, size_t count, float* out) {
  if (count == kPanelRows) {
    for (size_t r = 0; r < kPanelRows; ++r) out[r] += tile[r];
  } else {
    for (size_t r = 0; r < count; ++r) out[r] += tile[r];
  }
}

void RotatePair(float* a, float* b, float cosine, float sine) {
  const float x = *a;
  const float y = *b;
  *a = x * cosine - y * sine;
  *b = x * sine + y * cosine;
}

// Rotary embedding of one head (Su et al., "RoFormer", 2021); dimensions past the rotated ones pass unchanged.
void Rotate(RopeLayout layout, const float* angles /* [pairs][cos, sin] */, size_t pairs, float* head) {
  switch (layout) {
    case RopeLayout::kInterleaved:
      for (size_t i = 0; i < pairs; ++i) RotatePair(head + 2 * i, head + 2 * i + 1, angles[2 * i], angles[2 * i + 1]);
      return;
    case RopeLayout::kHalves:
      for (size_t i = 0; i < pairs; ++i) RotatePair(head + i, head + i + pairs, angles[2 * i], angles[2 * i + 1]);
      return;
  }
}

struct Affine {
  const float* weight;  // or null
  const float* bias;
};
// What RMSNorm kernels leave: means taken away, biases, no weights. Sums are double.
void LayerNorm(const NormOp& op, std::span<const float> x, const Affine& affine, float* out) {
  const double n = static_cast<double>(x.size());
  double mean = 0;
  if (op.kind == NormKind::kLayer) {
    for (const float value : x) mean += static_cast<double>(value);
    mean /= n;
  }
  double squares = 0;
  for (const float value : x) squares += (static_cast<double>(value) - mean) * (static_cast<double>(value) - mean);
  const float scale = static_cast<float>(1 / std::sqrt(squares / n + static_cast<double>(op.epsilon)));
  const float shift = static_cast<float>(mean);
  for (size_t i = 0; i < x.size(); ++i) {
    const float normed = (x[i] - shift) * scale * (affine.weight == nullptr ? 1.0f : affine.weight[i]);
    out[i] = normed + (affine.bias == nullptr ? 0.0f : affine.bias[i]);
  }
}

}  // namespace

std::vector<bool> PlaceBarriers(const Program& program, bool single) {
  std::vector<bool> before;
  OpBuffers open;
  size_t last = 0;  // operation behind a barrier
  for (size_t i = 0; i < program.ops.size(); ++i) {
    OpBuffers touched = TouchedBy(program, program.ops[i]);
    const auto own = [&](BufferId id) { return single && id < program.buffers.size() && IsRounded(program.buffers[id].form); };
    std::erase_if(touched.reads, own);
    std::erase_if(touched.writes, own);
    const std::span<const Op> since_barrier = std::span(program.ops).subspan(last, i - last);
    const auto crosses = [&](BufferId id) { return !BySameThread(program, since_barrier, program.ops[i], id); };
    const auto meets = [&](const std::vector<BufferId>& ids, const std::vector<BufferId>& others) {
      return std::any_of(ids.begin(), ids.end(), [&](BufferId id) { return Contains(others, id) && crosses(id); });
    };
    const bool barrier = meets(touched.reads, open.writes) || meets(touched.writes, open.writes) || meets(touched.writes, open.reads);
    if (barrier) {
      open = {};
      last = i;
    }
    before.push_back(barrier);
    open.reads.insert(open.reads.end(), touched.reads.begin(), touched.reads.end());
    open.writes.insert(open.writes.end(), touched.writes.begin(), touched.writes.end());
  }
  return before;
}

Result<std::unique_ptr<Executor>> Executor::Make(const ExecutorSetup& setup, const Resources& resources) {
  const Program& program = setup.program;
  if (program.context_limit != 0 && setup.options.context > program.context_limit) {
    return Error(Code::kInvalidArgument, TooManyPositions(program, setup.options.context));
  }
  CHECK(setup.options.threads == resources.pool.size());
  CHECK(setup.options.token_tile % kTileColumns == 0 && setup.options.token_tile > 0 && setup.options.token_tile <= kTokenTile);
  std::unique_ptr<Executor> executor(new Executor(setup, resources.pool));
  BANTAM_ASSIGN(executor->arena_, Arena::Make(resources.budget, ActivationsBytes(program, setup.options), "activations"));
  for (BufferId id = 0; id < program.buffers.size(); ++id) {
    const size_t row_bytes = program.RowWidthBytes(id);
    executor->row_bytes_.push_back(row_bytes);
    executor->buffers_.push_back(executor->arena_.Take(RowsMax(program, program.buffers[id], setup.options) * row_bytes).data());
  }
  executor->adapters_.reserve(setup.options.step_tokens);
  executor->packed_bytes_ = PackedPanelBytes(program);
  const uint64_t scratch_floats = ThreadScratchBytes(program) / sizeof(float);
  for (int thread = 0; thread < setup.options.threads; ++thread) {
    executor->scratch_.push_back(executor->arena_.TakeArray<float>(scratch_floats));
    executor->packed_.push_back(executor->arena_.TakeArray<uint8_t>(kTilePanels * executor->packed_bytes_));
    executor->seen_.push_back(executor->arena_.TakeArray<uint32_t>(SeenBlocksBytes(program, setup.options) / sizeof(uint32_t)));
  }
  executor->segment_states_ = executor->arena_.TakeArray<float>(SegmentStatesBytes(program, setup.options) / sizeof(float));
  for (int thread = 0; thread < setup.options.threads && setup.options.threads > 1; ++thread) {
    std::vector<std::byte*>& own = executor->own_.emplace_back(program.buffers.size());
    for (BufferId id = 0; id < program.buffers.size(); ++id) {
      const BufferSpec& buffer = program.buffers[id];
      if (!IsRounded(buffer.form)) continue;
      own[id] = executor->arena_.Take(RowsOfOne(program, buffer) * program.RowWidthBytes(id)).data();
    }
  }
  executor->barrier_before_ = PlaceBarriers(program, /*single=*/false);
  executor->barrier_before_single_ = PlaceBarriers(program, /*single=*/true);
  executor->tiled_ = TiledBuffers(program, setup.kernels);
  for (const RopeSpec& rope : program.ropes) executor->ropes_.push_back(ResolveRope(rope, setup.options.context));
  return executor;
}

void Executor::RunRange(const OpRange& range, bool meets, int thread) {
  const std::vector<bool>& barrier_before = single_ ? barrier_before_single_ : barrier_before_;
  StepProfile* profile = thread == 0 ? step_->profile : nullptr;
  for (size_t i = range.begin; i < range.end; ++i) {
    int64_t begin = profile == nullptr ? 0 : profile->clock.NowNs();
    // What was run in front of a range is not what barriers were placed for.
    if (barrier_before[i] || (meets && i == range.begin)) {
      // The calling thread decides before the barrier, and the others read it behind: all leave at the same operation. A
      // slow reader may already see a later decision, which is why the operation's number is told and not a flag.
      if (thread == 0 && step_->cancelled != nullptr && stop_before_ == kNever && (*step_->cancelled)()) stop_before_ = i;
      pool_.Barrier(thread);
      if (stop_before_ <= i) return;
      if (profile != nullptr) {
        const int64_t ready = profile->clock.NowNs();
        profile->waiting_ns += ready - begin;
        begin = ready;
      }
    }
    op_[static_cast<size_t>(thread)].op = i;
    if (step_->observer != nullptr && step_->observer->Wants(i)) Observe(i, thread);
    std::visit([&](const auto& op) { Execute(op, thread); }, program_.ops[i]);
    if (profile != nullptr) profile->op_ns[i] += profile->clock.NowNs() - begin;
  }
}

bool Executor::Run(const Step& step) {
  CHECK(step.ranges.empty() || step.cancelled == nullptr);
  step_ = &step;
  single_ = step.rows.size() == 1 && step.output_rows.size() <= 1 && pool_.size() > 1;
  stop_before_ = kNever;
  ++runs_;
  FindAdapters();
  for (Place& place : op_) place.kv_blocks = place.turn = 0;
  if (step.profile != nullptr) step.profile->op_ns.resize(program_.ops.size());
  pool_.RunWorthwhile([&](int thread) {
    if (step_->ranges.empty()) return RunRange({0, program_.ops.size()}, /*meets=*/false, thread);
    for (size_t i = 0; i < step_->ranges.size(); ++i) RunRange(step_->ranges[i], /*meets=*/i > 0, thread);
  });
  for (const Place& place : op_) {
    if (step.profile != nullptr) step.profile->kv_blocks += place.kv_blocks;
  }
  step_ = nullptr;
  return stop_before_ == kNever;
}

size_t Executor::RowCount(BufferId id) const {
  switch (program_.buffers[id].rows) {
    case Rows::kTokens:
      return step_->rows.size();
    case Rows::kTokenSlots:
      return step_->rows.size() * program_.experts_used;
    case Rows::kOutputs:
      return step_->output_rows.size();
  }
  return 0;
}

void Executor::EmbedRow(WeightId table, size_t row, float* out) const {
  const WeightSpec& spec = program_.weights[table];
  if (spec.storage == WeightStorage::kRows) {
    Unpack(spec.dtype, weights_.Row(table, row), spec.columns, out);
  } else {
    const uint8_t* panel = weights_.Panel(table, /*matrix=*/0, row / kPanelRows);
    UnpackPanelRow(Info(spec.dtype).panel, TableOf(spec.dtype), panel, row % kPanelRows, spec.columns, out);
  }
}

void Executor::Execute(const EmbedOp& op, int thread) {
  const auto [begin, end] = RowShare(op.out, thread);
  const size_t width = program_.buffers[op.out].width;
  for (size_t t = begin; t < end; ++t) {
    float* out = FloatRow(op.out, t);
    if (step_->rows[t].token >= program_.weights[op.table].rows) {
      std::fill_n(out, width, 0.0f);
      continue;
    }
    EmbedRow(op.table, step_->rows[t].token, out);
    for (size_t i = 0; op.scale != 1 && i < width; ++i) out[i] *= op.scale;
  }
}

void Executor::Execute(const EmbedPositionsOp& op, int thread) {
  const auto [begin, end] = RowShare(op.out, thread);
  const size_t width = program_.buffers[op.out].width;
  float* position = scratch_[static_cast<size_t>(thread)];
  for (size_t t = begin; t < end; ++t) {
    const size_t row = op.types ? step_->rows[t].type : step_->rows[t].position;
    CHECK(row < program_.weights[op.table].rows);
    EmbedRow(op.table, row, position);
    for (size_t i = 0; i < width; ++i) FloatRow(op.out, t)[i] += position[i];
  }
}

void Executor::Normalize(const NormOp& op, size_t group, const float* in, float* out) const {
  const size_t width = program_.buffers[op.in].width / op.groups;
  const auto vector = [&](WeightId id) -> const float* {
    if (id == kNone) return nullptr;
    return weights_.Vector(id) + (program_.weights[id].columns == width ? 0 : group * width);
  };
  const Affine affine = {vector(op.weight), vector(op.bias)};
  const bool plain = op.kind == NormKind::kRms && affine.weight != nullptr && affine.bias == nullptr;
  if (plain) return kernels_.rms_norm(in, affine.weight, width, op.epsilon, out);
  LayerNorm(op, {in, width}, affine, out);
}

void Executor::Execute(const NormOp& op, int thread) {
  const size_t width = program_.buffers[op.in].width / op.groups;
  const auto [begin, end] = Share(RowCount(op.in) * op.groups, thread, pool_.team());
  for (size_t i = begin; i < end; ++i) Normalize(op, i % op.groups, Floats(op.in) + i * width, Floats(op.out) + i * width);
}

void Executor::Execute(const NormQuantizeOp& op, int thread) {
  float* normed = scratch_[static_cast<size_t>(thread)];
  const auto [begin, end] = QuantizedShare(op.norm.out, thread);
  for (size_t t = begin; t < end; ++t) {
    Normalize(op.norm, /*group=*/0, FloatRow(op.norm.in, t), normed);
    StoreQuantized({op.norm.out, t, op.step}, normed, thread);
  }
}

void Executor::QuantizeBlocks(const float* x, size_t n, float step, ActivationBlock* out) const {
  if (step == 0) return kernels_.quantize(x, n, out);
  const float inverse = 1 / step;
  for (size_t b = 0; b < n / 32; ++b, x += 32, ++out) {
    out->scale = step;
    int sums[2] = {0, 0};
    for (size_t i = 0; i < 32; ++i) {
      out->q[i] = RoundToInt8(x[i] * inverse);
      sums[i / 16] += out->q[i];
    }
    out->sum16[0] = static_cast<int16_t>(sums[0]);
    out->sum16[1] = static_cast<int16_t>(sums[1]);
  }
}

void Executor::StoreQuantized(const RoundedRow& to, const float* x, int thread) {
  const auto& [out, row, step] = to;
  const BufferSpec& buffer = program_.buffers[out];
  if (buffer.form == BufferForm::kBf16) {
    kernels_.to_bf16(x, buffer.width, reinterpret_cast<uint16_t*>(InputRow(out, row, thread)));
    return;
  }
  const size_t blocks = buffer.width / 32;
  if (row >= TiledRows(out)) {
    QuantizeBlocks(x, 32 * blocks, step, reinterpret_cast<ActivationBlock*>(InputRow(out, row, thread)));
    return;
  }
  const size_t column = row % kTileColumns;
  auto* tiles = reinterpret_cast<ActivationTile*>(InputRow(out, row - column, thread));
  for (size_t b = 0; b < blocks; ++b) {
    ActivationBlock block;
    QuantizeBlocks(x + 32 * b, 32, step, &block);
    StoreColumn(block, column, &tiles[b]);
  }
}

void Executor::Execute(const QuantizeOp& op, int thread) {
  if (TiledRows(op.out) > 0 || OwnRows(op.out) || program_.buffers[op.out].form == BufferForm::kBf16) {
    const auto [begin, end] = QuantizedShare(op.out, thread);
    for (size_t t = begin; t < end; ++t) StoreQuantized({op.out, t, op.step}, FloatRow(op.in, t), thread);
    return;
  }
  // Rows follow one another without gaps, so blocks can be shared out whatever the row they belong to.
  const size_t blocks = RowCount(op.in) * (program_.buffers[op.in].width / 32);
  const auto [begin, end] = Share(blocks, thread, pool_.team());
  QuantizeBlocks(Floats(op.in) + 32 * begin, 32 * (end - begin), op.step, reinterpret_cast<ActivationBlock*>(buffers_[op.out]) + begin);
}

void Executor::Execute(const RopeAnglesOp& op, int thread) {
  const RopeSpec& spec = program_.ropes[op.rope];
  // A whole text has the angles of its own length, whatever longer ones are read with it.
  const bool of_text = program_.whole_texts && DependsOnContext(spec);
  RopeAngles own;
  uint32_t length = 0;  // that `own` is for
  const auto [begin, end] = RowShare(op.out, thread);
  for (size_t t = begin; t < end; ++t) {
    const StepRow& row = step_->rows[t];
    if (of_text && row.end != length) {
      length = row.end;
      own = ResolveRope(spec, length);
    }
    const auto& [frequency, magnitude] = of_text ? own : ropes_[op.rope];
    float* out = FloatRow(op.out, t);
    for (size_t i = 0; i < frequency.size(); ++i) {
      const double angle = static_cast<double>(row.position) * frequency[i];
      out[2 * i] = static_cast<float>(std::cos(angle) * magnitude);
      out[2 * i + 1] = static_cast<float>(std::sin(angle) * magnitude);
    }
  }
}

void Executor::Execute(const RopeOp& op, int thread) {
  const RopeSpec& rope = program_.ropes[op.rope];
  const auto [begin, end] = Share(RowCount(op.in) * op.heads, thread, pool_.team());
  for (size_t i = begin; i < end; ++i) {
    const size_t t = i / op.heads;
    Rotate(rope.layout, FloatRow(op.angles, t), rope.pairs(), FloatRow(op.in, t) + i % op.heads * op.head_dim);
  }
}

void Executor::Execute(const KvAppendOp& op, int thread) {
  const size_t heads = kv_.heads(op.layer);
  const size_t head_dim = kv_.head_dim(op.layer);
  const KvPart part = kv_.part(op.layer);
  const auto [begin, end] = Share(step_->rows.size() * heads, thread, pool_.team());
  for (size_t i = begin; i < end; ++i) {
    const size_t t = i / heads;
    const size_t head = i % heads;
    const StepRow& row = step_->rows[t];
    const KvLayout& kv = KvOf(row);
    uint8_t* block = KvBaseOf(row, part) + row.tables[part][row.position / kKvBlockTokens] * kv.block_bytes(part);
    const float* key = FloatRow(op.keys, t) + head * head_dim;
    const float* value = FloatRow(op.values, t) + head * head_dim;
    if (IsRotated(kv.type())) {
      float* rotated = scratch_[static_cast<size_t>(thread)];
      std::copy_n(key, head_dim, rotated);
      std::copy_n(value, head_dim, rotated + head_dim);
      HadamardRotate(rotated, head_dim);
      HadamardRotate(rotated + head_dim, head_dim);
      key = rotated;
      value = rotated + head_dim;
    }
    kv.Store(block, op.layer, head, row.position % kKvBlockTokens, key, value);
  }
}

kernels::Panel Executor::PanelOf(WeightId id, size_t matrix, size_t panel, int thread, size_t slot) const {
  const WeightSpec& spec = program_.weights[id];
  const PanelTable& table = TableOf(spec.dtype);
  if (spec.storage == WeightStorage::kPanels) {
    return {weights_.Panel(id, matrix, panel), spec.columns, table.value.data(), table.multiplier, options_.prefetch};
  }
  const uint8_t* rows[kPanelRows] = {};
  const size_t first = panel * kPanelRows;
  for (size_t r = 0; r < kPanelRows && first + r < spec.rows; ++r) rows[r] = weights_.Row(id, matrix * spec.rows + first + r);
  // The next panel's rows come from memory meanwhile.
  const uint64_t next = RowBytes(spec.dtype, spec.columns) * kPanelRows;
  for (uint64_t line = 0; line < next; line += 64) __builtin_prefetch(rows[0] + next + line);
  uint8_t* packed = packed_[static_cast<size_t>(thread)] + slot * packed_bytes_;
  PackPanel(spec.dtype, rows, spec.columns, packed);
  return {packed, spec.columns, table.value.data(), table.multiplier};
}

void Executor::Product(WeightId weight, const kernels::Panel& panel, const void* const* columns, size_t n, float* out) const {
  const size_t kind = static_cast<size_t>(Info(program_.weights[weight].dtype).panel);
  kernels_.product[kind](panel, columns, n, out);
}

Executor::NextPanel Executor::NextOf(std::span<const PartPanel> panels, const kernels::Panel& first, size_t rows) const {
  // A few columns do not take long enough to hide a panel, and packed ones are made in the cache.
  const PartPanel& next = panels[panels.size() > 1 ? 1 : 0];
  const WeightSpec& spec = program_.weights[next.part->weight];
  if (rows < 2 * kColumnsMax || spec.storage != WeightStorage::kPanels) return {};
  const size_t bytes = PanelBytes(Info(spec.dtype).panel, spec.columns);
  const size_t parts = (rows + kColumnsMax - 1) / kColumnsMax;
  // Behind the last panel lies what the next call is likely to begin with.
  const uint8_t* data = panels.size() > 1 ? weights_.Panel(next.part->weight, /*matrix=*/0, next.panel) : first.data + bytes;
  return {data, bytes, (bytes / parts + 63) / 64 * 64};
}

float* Executor::Multiply(std::span<const PartPanel> panels, const RowRange& rows, int thread) const {
  float* sums = scratch_[static_cast<size_t>(thread)];
  auto* chunks = reinterpret_cast<UnpackedChunk*>(sums + kTilePanels * kTokenTile * kPanelRows);
  const size_t stride = rows.size() * kPanelRows;
  const auto kind = [&](size_t p) { return static_cast<size_t>(Info(program_.weights[panels[p].part->weight].dtype).panel); };
  const size_t tiled = rows.begin < TiledRows(rows.in) ? std::min(rows.end, TiledRows(rows.in)) - rows.begin : 0;
  const auto* first = reinterpret_cast<const ActivationTile*>(InputRow(rows.in, rows.begin, thread));
  const std::span<const ActivationTile> tiles(first, tiled / kTileColumns * (program_.buffers[rows.in].width / 32));
  kernels::Panel all[kTilePanels];
  for (size_t p = 0, end = 0; tiled > 0 && p < panels.size(); p = end) {
    const kernels::TileKernels& kernels = kernels_.tiles[kind(p)];
    for (end = p; end < panels.size() && kind(end) == kind(p); ++end) {
      all[end] = PanelOf(panels[end].part->weight, /*matrix=*/0, panels[end].panel, thread, /*slot=*/end);
    }
    const size_t panel_bytes = PanelBytes(Info(program_.weights[panels[p].part->weight].dtype).panel, all[p].columns);
    // Packed panels are in the cache, and the next ones do not exist yet.
    const bool packed = program_.weights[panels[p].part->weight].storage == WeightStorage::kRows;
    MultiplyTiles(kernels, {{all + p, end - p}, panel_bytes, packed ? 0 : (end - p) * panel_bytes}, tiles, chunks, sums + p * stride,
                  stride);
  }
  for (size_t p = 0; p < panels.size(); ++p) {
    size_t n = 0;
    // Packed, and multiplied while it is in the cache nearest.
    if (tiled == 0) all[p] = PanelOf(panels[p].part->weight, /*matrix=*/0, panels[p].panel, thread);
    const NextPanel next = NextOf(panels.subspan(p), all[p], rows.size() - tiled);
    for (size_t row = rows.begin + tiled; row < rows.end; row += n) {
      const void* columns[kColumnsMax];
      n = std::min(kColumnsMax, rows.end - row);
      next.PrefetchPart((row - rows.begin - tiled) / kColumnsMax);
      for (size_t c = 0; c < n; ++c) columns[c] = InputRow(rows.in, row + c, thread);
      Product(panels[p].part->weight, all[p], columns, n, sums + p * stride + (row - rows.begin) * kPanelRows);
    }
    AddBias(*panels[p].part, panels[p].panel, rows.size(), sums + p * stride);
  }
  return sums;
}

void Executor::AddBias(const MatMulPart& part, size_t panel, size_t n, float* tile) const {
  const auto scale = [&] {
    for (size_t i = 0; i < n * kPanelRows; ++i) tile[i] *= *weights_.Vector(part.scale);
  };
  if (part.scale != kNone && !part.scale_covers_bias) scale();
  if (part.bias != kNone) {
    const float* bias = weights_.Vector(part.bias) + panel * kPanelRows;
    const size_t count = std::min(kPanelRows, program_.weights[part.weight].rows - panel * kPanelRows);
    for (size_t c = 0; c < n; ++c) {
      for (size_t r = 0; r < count; ++r) tile[c * kPanelRows + r] += bias[r];
    }
  }
  if (part.scale != kNone && part.scale_covers_bias) scale();
}

void Executor::StoreTile(const MatMulPart& part, size_t panel, size_t first_row, size_t n, const float* tile) const {
  const size_t first = panel * kPanelRows;
  const size_t count = std::min(kPanelRows, program_.weights[part.weight].rows - first);
  for (size_t c = 0; c < n; ++c, tile += kPanelRows) {
    float* out = FloatRow(part.out, first_row + c) + first;
    if (part.accumulate) {
      AddRow(tile, count, out);
    } else {
      CopyRow(tile, count, out);
    }
  }
}

Executor::PartPanel Executor::PanelAt(const MatMulOp& op, size_t index) const {
  for (const MatMulPart& part : op.parts) {
    const size_t panels = PanelCount(program_.weights[part.weight].rows);
    if (index < panels) return {&part, index, static_cast<size_t>(&part - op.parts.data())};
    index -= panels;
  }
  CHECK(false);
}

template <typename Work>
void Executor::ForEachPiece(const RowRange& rows, size_t panels, size_t most, int thread, const Work& work) {
  if (!options_.uneven_cores) {
    // Where no core is slower, each has its own share: single tokens wait for weights, which come fastest in one stream. Dealt out, small
    // models decode up to 4 % slower, and prompts gain nothing.
    const auto [begin, end] = Share(panels, thread, pool_.team());
    for (size_t p = begin; p < end; p += most) work(p, std::min(end, p + most));
    return;
  }
  CHECK(rows.begin / options_.token_tile < tiles_max_);
  // Four pieces a thread even of a small matrix, so that no thread waits long for another.
  const size_t size = std::clamp<size_t>(panels / (4 * static_cast<size_t>(pool_.team())), 1, most);
  const size_t count = (panels + size - 1) / size;
  const uint64_t round =
      (runs_ * program_.ops.size() + op_[static_cast<size_t>(thread)].op) * tiles_max_ + rows.begin / options_.token_tile;
  while (const auto piece = pieces_.Take(round, count, thread)) work(*piece * size, std::min(panels, (*piece + 1) * size));
}

void Executor::Execute(const MatMulOp& op, int thread) {
  size_t panels = 0;
  for (const MatMulPart& part : op.parts) panels += PanelCount(program_.weights[part.weight].rows);
  const size_t rows = RowCount(op.in);
  const MatMulPart* parts[kMatMulPartsMax] = {};
  for (size_t i = 0; i < op.parts.size(); ++i) parts[i] = &op.parts[i];
  const bool adapted = !adapters_.empty() && MakeLowRanks({parts, op.parts.size()}, op.in, thread);
  for (size_t row = 0; row < rows; row += options_.token_tile) {
    const RowRange range = {op.in, row, std::min(rows, row + options_.token_tile)};
    ForEachPiece(range, panels, kTilePanels, thread, [&](size_t begin, size_t end) {
      PartPanel wanted[kTilePanels];
      for (size_t p = begin; p < end; ++p) wanted[p - begin] = PanelAt(op, p);
      float* products = Multiply({wanted, end - begin}, range, thread);
      if (adapted) AddLowRanks({wanted, end - begin}, range, thread, products);
      for (size_t i = 0; i < end - begin; ++i) {
        StoreTile(*wanted[i].part, wanted[i].panel, row, range.size(), products + i * range.size() * kPanelRows);
      }
    });
  }
}

void Executor::Execute(const GatedMatMulOp& op, int thread) {
  const size_t width = program_.weights[op.gate.weight].rows;
  const size_t rows = RowCount(op.in);
  constexpr size_t kPairs = kTilePanels / 2;
  const MatMulPart* parts[] = {&op.gate, &op.up};
  const bool adapted = !adapters_.empty() && MakeLowRanks(parts, op.in, thread);
  for (size_t row = 0; row < rows; row += options_.token_tile) {
    const RowRange range = {op.in, row, std::min(rows, row + options_.token_tile)};
    ForEachPiece(range, PanelCount(width), kPairs, thread, [&](size_t begin, size_t end) {
      const size_t n = end - begin;
      PartPanel wanted[2 * kPairs];
      for (size_t i = 0; i < n; ++i) {
        wanted[i] = {&op.gate, begin + i, /*slot=*/0};
        wanted[n + i] = {&op.up, begin + i, /*slot=*/1};
      }
      float* gate = Multiply({wanted, 2 * n}, range, thread);
      if (adapted) AddLowRanks({wanted, 2 * n}, range, thread, gate);
      const size_t floats = range.size() * kPanelRows;
      kernels_.activate[static_cast<size_t>(op.activation)](gate, gate + n * floats, n * floats, gate);
      for (size_t i = 0; i < n; ++i) {
        const size_t first = (begin + i) * kPanelRows;
        const size_t count = std::min(kPanelRows, width - first);
        for (size_t c = 0; c < range.size(); ++c) CopyRow(gate + i * floats + c * kPanelRows, count, FloatRow(op.out, row + c) + first);
      }
    });
  }
}

void Executor::Execute(const ExpertMatMulOp& op, int thread) {
  const WeightSpec& spec = program_.weights[op.weight];
  const size_t panels = PanelCount(spec.rows);
  const size_t slots = RowCount(op.out);
  const size_t slots_per_input = program_.buffers[op.in].rows == Rows::kTokens ? program_.experts_used : 1;
  const int32_t* ids = IntegerRow(op.ids, 0);
  const auto [begin, end] = Share(panels * spec.matrices, thread, pool_.team());
  alignas(64) float tile[kColumnsMax * kPanelRows];
  const void* columns[kColumnsMax];
  size_t chosen[kColumnsMax];
  for (size_t i = begin; i < end; ++i) {
    const size_t expert = i / panels;
    const size_t panel = i % panels;
    const size_t count = std::min(kPanelRows, spec.rows - panel * kPanelRows);
    size_t n = 0;
    kernels::Panel weights = {};
    for (size_t slot = 0; slot < slots; ++slot) {
      if (static_cast<size_t>(ids[slot]) == expert) {
        chosen[n] = slot;
        columns[n++] = InputRow(op.in, slot / slots_per_input, thread);
      }
      if (n == 0 || (n < kColumnsMax && slot + 1 < slots)) continue;
      if (weights.data == nullptr) weights = PanelOf(op.weight, expert, panel, thread);
      Product(op.weight, weights, columns, n, tile);
      const float scale = op.scale == kNone ? 1.0f : weights_.Vector(op.scale)[expert];
      for (size_t c = 0; c < n; ++c) {
        float* out = FloatRow(op.out, chosen[c]) + panel * kPanelRows;
        for (size_t r = 0; r < count; ++r) out[r] = tile[c * kPanelRows + r] * scale;
        if (op.bias == kNone) continue;
        const float* bias = weights_.Vector(op.bias) + expert * spec.rows + panel * kPanelRows;
        for (size_t r = 0; r < count; ++r) out[r] += bias[r];
      }
      n = 0;
    }
  }
}

void Executor::Execute(const RouteOp& op, int thread) {
  const size_t experts = program_.buffers[op.logits].width;
  const size_t used = program_.experts_used;
  const auto [begin, end] = RowShare(op.logits, thread);
  for (size_t t = begin; t < end; ++t) {
    const float* logits = FloatRow(op.logits, t);
    int32_t* ids = IntegerRow(op.ids, t);
    float* weights = FloatRow(op.weights, t);
    const Probabilities probabilities(op, {logits, experts});
    const float* selection_bias = op.selection_bias == kNone ? nullptr : weights_.Vector(op.selection_bias);
    // Each choice is the next in the order (logit falling, id rising); NaN comes last. Without a bias, logits fall as probabilities do.
    const auto key = [&](int32_t e) {
      const float value = selection_bias == nullptr ? logits[e] : probabilities.Of(logits[e]) + selection_bias[e];
      return std::isnan(value) ? -std::numeric_limits<float>::infinity() : value;
    };
    const auto precedes = [&](int32_t a, int32_t b) { return key(a) != key(b) ? key(a) > key(b) : a < b; };
    for (size_t slot = 0; slot < used; ++slot) {
      int32_t best = -1;
      for (int32_t e = 0; e < static_cast<int32_t>(experts); ++e) {
        const bool left = slot == 0 || precedes(ids[slot - 1], e);
        if (left && (best < 0 || precedes(e, best))) best = e;
      }
      ids[slot] = best;
    }
    float total = 0;
    for (size_t slot = 0; slot < used; ++slot) {
      weights[slot] = op.gating == Gating::kSparseMixer ? SparseMixerWeight({logits, experts}, {ids, slot + 1}, op.jitter)
                                                        : probabilities.Of(logits[ids[slot]]);
      total += weights[slot];
    }
    const bool normalize = op.normalize || op.gating == Gating::kSoftmaxOfChosen;
    // Probabilities that are all but nothing are not blown up: the smallest normal f16, as the reference has it.
    constexpr float kTotalMin = 6.103515625e-5f;
    const float factor = op.scale / (normalize ? std::max(total, kTotalMin) : 1.0f);
    for (size_t slot = 0; slot < used; ++slot) weights[slot] *= factor;
  }
}

void Executor::Execute(const CombineOp& op, int thread) {
  const size_t width = program_.buffers[op.out].width;
  const size_t used = program_.experts_used;
  const auto [begin, end] = RowShare(op.out, thread);
  for (size_t t = begin; t < end; ++t) {
    const float* weights = FloatRow(op.weights, t);
    float* out = FloatRow(op.out, t);
    std::fill_n(out, width, 0.0f);
    for (size_t slot = 0; slot < used; ++slot) {
      const float* in = FloatRow(op.in, t * used + slot);
      for (size_t i = 0; i < width; ++i) out[i] += weights[slot] * in[i];
    }
  }
}

void Executor::Execute(const ActivateOp& op, int thread) {
  const auto [begin, end] = Share(RowCount(op.out) * program_.buffers[op.out].width, thread, pool_.team());
  const float* factor = op.factor == kNone ? nullptr : Floats(op.factor) + begin;
  float* out = Floats(op.out);
  kernels_.activate[static_cast<size_t>(op.activation)](Floats(op.in) + begin, factor, end - begin, out + begin);
  if (op.divisors == kNone) return;
  const float* divisors = weights_.Vector(op.divisors);
  const size_t width = program_.buffers[op.out].width;
  for (size_t i = begin; i < end; ++i) out[i] /= divisors[i % width];
}

void Executor::Execute(const AddOp& op, int thread) {
  const auto [begin, end] = Share(RowCount(op.out) * program_.buffers[op.out].width, thread, pool_.team());
  const float* in = Floats(op.in);
  float* out = Floats(op.out);
  if (op.scale == 1) {
    for (size_t i = begin; i < end; ++i) out[i] += in[i];
  } else {
    for (size_t i = begin; i < end; ++i) out[i] += op.scale * in[i];
  }
}

void Executor::Execute(const PointwiseOp& op, int thread) {
  const auto [begin, end] = Share(RowCount(op.buffer) * program_.buffers[op.buffer].width, thread, pool_.team());
  float* x = Floats(op.buffer);
  switch (op.function) {
    case Pointwise::kScale:
      for (size_t i = begin; i < end; ++i) x[i] *= op.value;
      return;
    case Pointwise::kClamp:
      for (size_t i = begin; i < end; ++i) x[i] = std::clamp(x[i], -op.value, op.value);
      return;
    case Pointwise::kSoftCap:
      for (size_t i = begin; i < end; ++i) x[i] = op.value * std::tanh(x[i] / op.value);
      return;
  }
}

void Executor::Execute(const GateRowsOp& op, int thread) {
  const size_t width = program_.buffers[op.rows].width;
  const auto [begin, end] = RowShare(op.rows, thread);
  for (size_t t = begin; t < end; ++t) {
    const float factor = 1.0f / (1.0f + std::exp(-FloatRow(op.gate, t)[0]));
    for (size_t i = 0; i < width; ++i) FloatRow(op.rows, t)[i] *= factor;
  }
}

void Executor::Execute(const GatherOutputsOp& op, int thread) {
  const auto [begin, end] = RowShare(op.out, thread);
  for (size_t i = begin; i < end; ++i) {
    std::memcpy(FloatRow(op.out, i), FloatRow(op.in, step_->output_rows[i]), row_bytes_[op.out]);
  }
}

void Executor::Execute(const PoolOp& op, int thread) {
  const size_t width = program_.buffers[op.out].width;
  const auto [begin, end] = Share(RowCount(op.out) * width, thread, pool_.team());
  for (size_t i = begin; i < end; i = (i / width + 1) * width) {
    const size_t first = step_->output_rows[i / width];
    const size_t rows = step_->rows[first].end;
    const size_t count = std::min(end, (i / width + 1) * width) - i;
    const float* in = FloatRow(op.in, first) + i % width;
    float* out = Floats(op.out) + i;
    std::fill_n(out, count, 0.0f);
    for (size_t t = 0; t < rows; ++t, in += width) {
      for (size_t c = 0; c < count; ++c) out[c] += in[c];
    }
    for (size_t c = 0; c < count; ++c) out[c] /= static_cast<float>(rows);
  }
}

}  // namespace bantam
