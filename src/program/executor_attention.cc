// The executor's attention.
#include <algorithm>

#include "base/check.h"
#include "kernels/attention.h"
#include "program/executor.h"
#include "program/hadamard.h"

namespace bantam {
namespace {

// The first position that a query sees of a window.
size_t WindowBegin(size_t window, size_t position) { return window == 0 || position < window ? 0 : position + 1 - window; }

}  // namespace

bool Executor::LookAlike(const AttendOp& op, size_t first_row, size_t last_row) const {
  const BlockSparse& sparse = kv_.sparse(op.layer);
  const size_t first = step_->rows[first_row].position;
  const size_t last = step_->rows[last_row].position;
  if (!op.temperature.SameFor(first, last)) return false;
  if (sparse.block_tokens == 0 || first == last) return true;
  // A window that ends among blocks which are left out moves in other steps than one token each.
  const size_t block = last / sparse.block_tokens;
  const bool all_seen = WindowBegin(kv_.window(op.layer), last) == 0 ||
                        (sparse.global_stride == 0 && WindowBegin(kv_.window(op.layer), last) + sparse.local_blocks * sparse.block_tokens <=
                                                          (block + 1) * sparse.block_tokens);
  return first / sparse.block_tokens == block && all_seen;
}

Executor::Seen Executor::SeenBy(const AttendOp& op, size_t first_row, size_t rows, int thread) const {
  const StepRow& row = step_->rows[first_row];
  const uint32_t* table = row.tables[kv_.part(op.layer)];
  const BlockSparse& sparse = kv_.sparse(op.layer);
  const size_t window = kv_.window(op.layer);
  CHECK(!op.later || row.end > row.position);
  if (sparse.block_tokens == 0) {
    const size_t end = !op.later ? row.position + 1 : window == 0 ? row.end : row.position + 1 + window / 2;
    return {first_row, rows, table, nullptr, end, window, op.later ? row.end : SIZE_MAX};
  }
  uint32_t* blocks = seen_[static_cast<size_t>(thread)];
  uint32_t* room = blocks + KvBlockCount(options_.context);
  const std::span<const uint32_t> numbers = SeenBlocks(sparse, row.position + rows - 1, room);
  for (size_t i = 0; i < numbers.size(); ++i) blocks[i] = table[numbers[i]];
  Seen seen = {first_row, rows, blocks, numbers.data(), SeenTokens(sparse, row.position), 0};
  // Counted through the blocks that are there. Rows behind the first lie in its window or have none.
  const size_t begin = WindowBegin(window, row.position);
  const auto* block = std::lower_bound(numbers.data(), numbers.data() + numbers.size(), begin / kKvBlockTokens);
  const size_t passed =
      static_cast<size_t>(block - numbers.data()) * kKvBlockTokens + (*block == begin / kKvBlockTokens ? begin % kKvBlockTokens : 0);
  if (passed > 0) seen.window = seen.tokens - passed;
  return seen;
}

kernels::Attention Executor::AttentionOf(const AttendOp& op, const Seen& seen, size_t head) const {
  const StepRow& row = step_->rows[seen.first_row];
  const KvLayout& kv = KvOf(row);
  const KvPart part = kv.part(op.layer);
  const size_t head_dim = kv.head_dim(op.layer);
  const size_t group = op.heads / kv.heads(op.layer);
  return {.query = FloatRow(op.in, seen.first_row) + head * group * head_dim,
          .kv_base = KvBaseOf(row, part),
          .blocks = seen.blocks,
          .numbers = seen.numbers,
          .block_bytes = kv.block_bytes(part),
          .head_offset = kv.HeadOffset(op.layer, head),
          .head_dim = head_dim,
          .group = group,
          .tokens = seen.rows,
          .row_stride = row_bytes_[op.in] / sizeof(float),
          .window = seen.window,
          .n_context = seen.tokens,
          .context_end = seen.context_end,
          .scale = op.scale * op.temperature.At(row.position),
          .softcap = op.softcap,
          .slopes = op.slopes.empty() ? nullptr : op.slopes.data() + head * group,
          .sinks = op.sinks == kNone ? nullptr : weights_.Vector(op.sinks) + head * group};
}

void Executor::RotateQueries(const StepRow& row, float* room, kernels::Attention* attention) const {
  if (!IsRotated(KvOf(row).type())) return;
  const size_t width = attention->group * attention->head_dim;
  for (size_t t = 0; t < attention->tokens; ++t) {
    float* queries = room + t * width;
    std::copy_n(attention->query + t * attention->row_stride, width, queries);
    for (size_t head = 0; head < attention->group; ++head) HadamardRotate(queries + head * attention->head_dim, attention->head_dim);
  }
  attention->out_stride = attention->row_stride;
  attention->query = room;
  attention->row_stride = width;
}

void Executor::RotateBack(const StepRow& row, const kernels::Attention& attention, float* out) const {
  if (!IsRotated(KvOf(row).type())) return;
  for (size_t i = 0; i < attention.tokens * attention.group; ++i) {
    const size_t at = i / attention.group * attention.out_stride + i % attention.group * attention.head_dim;
    HadamardRotate(out + at, attention.head_dim);
  }
}

void Executor::Execute(const AttendOp& op, int thread) {
  const size_t kv_heads = kv_.heads(op.layer);
  const KvPart part = kv_.part(op.layer);
  const std::span<const StepRow> rows = step_->rows;
  const size_t threads = static_cast<size_t>(pool_.team());
  if (SplitsContext(rows.size() * kv_heads, options_.threads)) return AttendInSegments(op, thread);
  // At least two pieces for each thread, where there are so many.
  const size_t most = std::clamp<size_t>(rows.size() * kv_heads / (2 * threads), 1, kernels::kAttentionTokens);
  Place& place = op_[static_cast<size_t>(thread)];
  size_t piece = 0;
  for (size_t t = 0, end = 0; t < rows.size(); t = end) {
    // Neighbours of one sequence go together.
    const auto follows = [&](size_t next) {
      return rows[next].tables[part] == rows[t].tables[part] && rows[next].position == rows[t].position + (next - t) &&
             LookAlike(op, t, next);
    };
    for (end = t + 1; end < rows.size() && end - t < most && follows(end);) ++end;
    const Seen seen = SeenBy(op, t, end - t, thread);
    for (size_t head = 0; head < kv_heads; ++head) {
      // Later positions see more tokens: dealing pieces out in turn balances them.
      if (piece++ % threads != static_cast<size_t>(thread)) continue;
      kernels::Attention attention = AttentionOf(op, seen, head);
      const size_t queries = attention.tokens * attention.group;
      float* states = scratch_[static_cast<size_t>(thread)];
      RotateQueries(rows[t], states + 2 * AttentionStatesFloats(queries, attention.head_dim), &attention);
      float* out = FloatRow(op.out, t) + head * attention.group * attention.head_dim;
      AttendAll(AttentionFor(rows[t]), attention, states, out);
      RotateBack(rows[t], attention, out);
      const AttentionSegments segments = SegmentsOf(attention);
      for (size_t segment = segments.begin; segment < segments.end; ++segment) place.kv_blocks += BlocksRead(attention, segment);
    }
  }
}

void Executor::AttendInSegments(const AttendOp& op, int thread) {
  const size_t kv_heads = kv_.heads(op.layer);
  const size_t segments_max = SegmentsMax(program_.kv_layers[op.layer], options_);
  size_t total = 0;
  for (size_t t = 0; t < step_->rows.size(); ++t) {
    const AttentionSegments segments = SegmentsOf(AttentionOf(op, SeenBy(op, t, /*rows=*/1, thread), /*head=*/0));
    total += kv_heads * (segments.end - segments.begin);
  }
  const auto [share_begin, share_end] = Share(total, thread, pool_.team());
  size_t first = 0;  // of the head's segments, counted through all rows and heads
  Seen seen = {};
  for (size_t i = 0; i < step_->rows.size() * kv_heads; ++i) {
    const size_t head = i % kv_heads;
    if (head == 0) seen = SeenBy(op, i / kv_heads, /*rows=*/1, thread);
    kernels::Attention attention = AttentionOf(op, seen, head);
    const AttentionSegments segments = SegmentsOf(attention);
    const size_t count = segments.end - segments.begin;
    CHECK(count <= segments_max);
    const size_t floats = AttentionStatesFloats(attention.group, attention.head_dim);
    const auto states = [&](size_t segment) { return segment_states_ + (i * segments_max + segment) * floats; };
    const size_t begin = std::clamp(share_begin, first, first + count) - first;
    const size_t end = std::clamp(share_end, first, first + count) - first;
    first += count;
    if (begin == end) continue;
    const StepRow& row = step_->rows[i / kv_heads];
    RotateQueries(row, scratch_[static_cast<size_t>(thread)], &attention);
    for (size_t segment = begin; segment < end; ++segment) {
      AttentionFor(row)(attention, segments.begin + segment, states(segment));
      op_[static_cast<size_t>(thread)].kv_blocks += BlocksRead(attention, segments.begin + segment);
    }
    if (segments_done_[i].fetch_add(end - begin, std::memory_order_acq_rel) + end - begin < count) continue;
    segments_done_[i].store(0, std::memory_order_relaxed);  // the others look again behind a barrier
    for (size_t segment = 1; segment < count; ++segment) MergeAttention(states(segment), attention.group, attention.head_dim, states(0));
    float* out = FloatRow(op.out, i / kv_heads) + head * attention.group * attention.head_dim;
    FinishAttention(attention, states(0), out);
    RotateBack(row, attention, out);
  }
}

}  // namespace bantam
