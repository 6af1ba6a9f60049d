// Runs a program on the CPU: every thread walks the list of operations, takes its share of each, and meets the others only
// where data crosses threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/memory_budget.h"
#include "base/result.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "program/exit_points.h"
#include "program/kv_layout.h"
#include "program/low_rank.h"
#include "program/memory_plan.h"
#include "program/program.h"
#include "program/weights.h"
#include "tensor/arena.h"

namespace bantam {

// One token of a step. Rows of one sequence stand in order of position.
struct StepRow {
  uint32_t token;
  uint32_t position;
  KvTables tables;  // the sequence's KV blocks, for at least position + 1 tokens
  // Of recurrent layers, Program::state_floats each: what the sequence's last step left (zeros at position 0, whatever stands there), and
  // where this one leaves the next.
  const float* state = nullptr;
  float* next_state = nullptr;
  // Where Program::whole_texts: tokens of the sequence, which begins with the row at position 0, and the row of its type in the table.
  uint32_t end = 0;
  uint32_t type = 0;
  const LowRankUpdates* adapter = nullptr;  // of the program; Executor::RoomForRank was called for its rank
  bool narrow = false;                      // its KV is of 8 bits, in blocks of Step::narrow_kv_base
};

// Asked now and then, on the calling thread, while a step runs: true ends the step early.
using Cancelled = std::function<bool()>;

// Where the time of steps goes: nanoseconds of thread 0 per operation, and of its waiting for the others. Filled by Run.
struct StepProfile {
  const Clock& clock;
  std::vector<int64_t> op_ns;
  int64_t waiting_ns = 0;
  // Blocks of 16 tokens' keys and values that attention of all threads read, each kv head's counted, as often as it was read: once for at
  // most kernels::kAttentionTokens rows.
  uint64_t kv_blocks = 0;
};

// Sees what products read: for statistics of activations (calibration). Called on all threads of a step; costs a comparison per operation
// where there is none.
class ProductObserver {
 public:
  struct Product {
    size_t op;    // of Program::ops: a MatMulOp, a GatedMatMulOp or an ExpertMatMulOp
    size_t rows;  // of its input, in this step
    // Of experts: which one each slot has, and slots per row of the input.
    std::span<const int32_t> experts = {};
    size_t slots_per_row = 1;
  };

  virtual ~ProductObserver() = default;
  // The same answer on every thread of a step.
  virtual bool Wants(size_t op) const = 0;
  // A row of the input, as the product takes it (rounded where its kernels round). Each is shown once, by one of the threads.
  virtual void See(const Product& product, size_t row, std::span<const float> x) = 0;
  // All rows were shown, and every thread of the team calls this; all meet again behind it.
  virtual void Finish(const Product& product, int thread, int team) = 0;
};

struct Step {
  std::span<const StepRow> rows;          // at most PlanOptions::step_tokens
  std::span<const uint32_t> output_rows;  // rows whose logits are wanted, at most PlanOptions::step_outputs
  PerKvPart<uint8_t*> kv_base;            // block b starts at kv_base[part] + b * KvLayout::block_bytes(part)
  const Cancelled* cancelled = nullptr;
  StepProfile* profile = nullptr;
  PerKvPart<uint8_t*> narrow_kv_base = {};
  // Only these operations, in this order, and not cancelled; empty: all. What they read is there from steps before (Executor::Row).
  std::span<const OpRange> ranges = {};
  ProductObserver* observer = nullptr;  // Executor::RoomForRank was called, for any rank
};

struct ExecutorSetup {
  const Program& program;
  const Weights& weights;
  const KernelSet& kernels;
  PlanOptions options;
};

// Per operation, whether all threads meet before it: it touches what others wrote, or overwrites what others read, since they met last. In
// steps of a single row nobody else touches a thread's own quantised rows.
std::vector<bool> PlaceBarriers(const Program& program, bool single);

// What an executor needs besides for rows with adapters of at most this rank.
uint64_t AdapterScratchBytes(const Program& program, const PlanOptions& options, size_t rank);

class Executor {
 public:
  // All but the options outlive the executor. Exhausted when the budget cannot hold the buffers.
  static Result<std::unique_ptr<Executor>> Make(const ExecutorSetup& setup, const Resources& resources);

  // Allocates nothing. Results depend neither on the number of threads nor on how tokens are cut into steps. False when it
  // was cancelled: logits are stale then, and the KV of the step's positions is to be written again.
  bool Run(const Step& step);

  // From here on rows may have adapters of this rank. Exhausted when the budget cannot hold what they need; those of lower ranks run on
  // then.
  Status RoomForRank(size_t rank, MemoryBudget& budget);

  // A row of a buffer of floats: what the last step left there, or what a step of some operations is to find. [width]
  std::span<float> Row(BufferId id, size_t row) { return {FloatRow(id, row), program_.buffers[id].width}; }

  // [output_rows.size(), vocabulary] of the last step.
  const float* logits() const { return Floats(program_.logits); }

 private:
  Executor(const ExecutorSetup& setup, ThreadPool& pool)
      : program_(setup.program),
        weights_(setup.weights),
        kernels_(setup.kernels),
        pool_(pool),
        options_(setup.options),
        tiles_max_((options_.step_tokens + options_.token_tile - 1) / options_.token_tile),
        pieces_(options_.threads),
        op_(static_cast<size_t>(options_.threads)),
        segments_done_(SplitHeadsEnd(options_.threads)),
        kv_(PlannedKv(setup.program, options_)),
        narrow_kv_(NarrowKv(setup.program, options_)) {}

  // The thread's share of the step's operations, until they end or `stop_before_` says so.
  void RunRange(const OpRange& range, bool meets, int thread);
  float* Floats(BufferId id) const { return reinterpret_cast<float*>(buffers_[id]); }
  // Of an input of products: the shared buffer's, or where the thread has quantised it for itself, its own.
  uint8_t* InputRow(BufferId id, size_t row, int thread) const {
    std::byte* base = OwnRows(id) ? own_[static_cast<size_t>(thread)][id] : buffers_[id];
    return reinterpret_cast<uint8_t*>(base) + row * row_bytes_[id];
  }
  bool OwnRows(BufferId id) const { return single_ && IsRounded(program_.buffers[id].form); }
  float* FloatRow(BufferId id, size_t row) const { return Floats(id) + row * program_.buffers[id].width; }
  int32_t* IntegerRow(BufferId id, size_t row) const { return reinterpret_cast<int32_t*>(buffers_[id]) + row * program_.buffers[id].width; }
  // Rows of a buffer in this step, and this thread's part of them.
  size_t RowCount(BufferId id) const;
  std::pair<size_t, size_t> RowShare(BufferId id, int thread) const { return Share(RowCount(id), thread, pool_.team()); }
  // The rows of a rounded buffer that the thread makes.
  std::pair<size_t, size_t> QuantizedShare(BufferId id, int thread) const {
    return OwnRows(id) ? std::pair<size_t, size_t>(0, RowCount(id)) : RowShare(id, thread);
  }
  // Of weights that are stored as rows, packed into the thread's place `slot` (below kTilePanels).
  kernels::Panel PanelOf(WeightId id, size_t matrix, size_t panel, int thread, size_t slot = 0) const;
  // How many rows of a quantised buffer lie in tiles in this step: whole tiles only, the rest lies row by row behind them.
  size_t TiledRows(BufferId id) const { return tiled_[id] ? RowCount(id) / kernels::kTileColumns * kernels::kTileColumns : 0; }
  // One group of a row.
  void Normalize(const NormOp& op, size_t group, const float* in, float* out) const;
  void EmbedRow(WeightId table, size_t row, float* out) const;
  // Rounds to the form of `out`.
  struct RoundedRow {
    BufferId out;
    size_t row;
    float step;  // QuantizeOp::step
  };
  void StoreQuantized(const RoundedRow& to, const float* x, int thread);
  void QuantizeBlocks(const float* x, size_t n, float step, kernels::ActivationBlock* out) const;
  // One product with a weight's panel and n columns: out is [n][16].
  void Product(WeightId weight, const kernels::Panel& panel, const void* const* columns, size_t n, float* out) const;
  struct PartPanel {
    const MatMulPart* part;
    size_t panel;
    size_t slot;  // of the part in its operation
  };
  // Of the op's panels, counted through all its parts.
  PartPanel PanelAt(const MatMulOp& op, size_t index) const;
  // Rows of an input, at most PlanOptions::token_tile of them.
  struct RowRange {
    BufferId in;
    size_t begin;
    size_t end;
    size_t size() const { return end - begin; }
  };
  // What is likely to be multiplied next comes from memory while columns are multiplied, some at a time, with a panel.
  struct NextPanel {
    const uint8_t* data = nullptr;
    size_t bytes = 0;
    size_t part_bytes = 0;
    void PrefetchPart(size_t part) const {
      for (size_t line = part * part_bytes; line < std::min(bytes, (part + 1) * part_bytes); line += 64) {
        __builtin_prefetch(data + line, /*rw=*/0, /*locality=*/2);
      }
    }
  };
  // Of what is multiplied with `rows` columns behind the first of these panels.
  NextPanel NextOf(std::span<const PartPanel> panels, const kernels::Panel& first, size_t rows) const;
  // Products with at most kTilePanels panels, with scales and biases. [panels][rows][16], in the thread's scratch.
  float* Multiply(std::span<const PartPanel> panels, const RowRange& rows, int thread) const;
  void AddBias(const MatMulPart& part, size_t panel, size_t n, float* tile) const;
  void StoreTile(const MatMulPart& part, size_t panel, size_t first_row, size_t n, const float* tile) const;

  // ---- Adapters (executor_adapters.cc) ----
  // Which are in this step.
  void FindAdapters();
  // Of a row of `in`, null where it has none.
  const LowRankUpdates::Update* UpdateOf(const MatMulPart& part, BufferId in, size_t row) const;
  // How many rows from this one on, at most kColumnsMax and up to `end`, have the same.
  size_t SameUpdate(const MatMulPart& part, BufferId in, size_t row, size_t end) const;
  // What products read of a row, as floats; of rounded rows in the thread's place `column`.
  const float* InputFloats(BufferId in, size_t row, int thread, size_t column) const;
  // Shows the observer what a product is about to read.
  void Observe(size_t op, int thread) const;
  float* LowRankRow(size_t turn, size_t slot, size_t row) const;
  // scale * A x of all rows, by all threads, which have met when it returns; false: no part has an update in this step.
  bool MakeLowRanks(std::span<const MatMulPart* const> parts, BufferId in, int thread);
  void MakeLowRanks(const MatMulPart& part, size_t slot, const RowRange& rows, int thread) const;
  // B times that, to what Multiply gave.
  void AddLowRanks(std::span<const PartPanel> panels, const RowRange& rows, int thread, float* sums) const;

  // Calls work(begin, end) for pieces of at most `most` panels until all `panels` of the thread's operation are taken for these rows.
  template <typename Work>
  void ForEachPiece(const RowRange& rows, size_t panels, size_t most, int thread, const Work& work);
  // What some rows see, as their kernels are told: all KV blocks of the sequence, or those that a block-sparse layer shows them.
  struct Seen {
    size_t first_row;
    size_t rows;
    const uint32_t* blocks;
    const uint32_t* numbers;  // kernels::Attention::numbers
    size_t tokens;            // end of what the first row sees
    size_t window;
    size_t context_end = SIZE_MAX;  // kernels::Attention::context_end
  };
  // Of rows that LookAlike.
  Seen SeenBy(const AttendOp& op, size_t first_row, size_t rows, int thread) const;
  // Whether rows of one sequence can go together: the last of them sees what the first sees, and what follows.
  bool LookAlike(const AttendOp& op, size_t first_row, size_t last_row) const;
  const KvLayout& KvOf(const StepRow& row) const { return row.narrow ? narrow_kv_ : kv_; }
  uint8_t* KvBaseOf(const StepRow& row, KvPart part) const { return (row.narrow ? step_->narrow_kv_base : step_->kv_base)[part]; }
  kernels::AttentionFunction AttentionFor(const StepRow& row) const { return kernels_.attention[KvFormOf(KvOf(row).type())]; }
  // One kv head of these rows.
  kernels::Attention AttentionOf(const AttendOp& op, const Seen& seen, size_t head) const;
  // Where KV is rotated: has the kernels see the queries rotated too, from `room` on in place of the buffer.
  void RotateQueries(const StepRow& row, float* room, kernels::Attention* attention) const;
  // And turns back what they gave.
  void RotateBack(const StepRow& row, const kernels::Attention& attention, float* out) const;
  // Every thread takes its share of all rows' and heads' segments; who finishes a head's last one merges them.
  void AttendInSegments(const AttendOp& op, int thread);
  void Execute(const EmbedOp& op, int thread);
  void Execute(const EmbedPositionsOp& op, int thread);
  void Execute(const NormOp& op, int thread);
  void Execute(const RopeAnglesOp& op, int thread);
  void Execute(const RopeOp& op, int thread);
  void Execute(const KvAppendOp& op, int thread);
  void Execute(const AttendOp& op, int thread);
  void Execute(const MatMulOp& op, int thread);
  void Execute(const ActivateOp& op, int thread);
  void Execute(const AddOp& op, int thread);
  void Execute(const PointwiseOp& op, int thread);
  void Execute(const GateRowsOp& op, int thread);
  void Execute(const RouteOp& op, int thread);
  void Execute(const ExpertMatMulOp& op, int thread);
  void Execute(const CombineOp& op, int thread);
  // Calls work(begin, end) for the step's rows of each sequence.
  template <typename Work>
  void ForEachSequence(const Work& work) const;
  // Rows [begin, end) of one sequence.
  void ScanHead(const ScanOp& op, size_t head, size_t begin, size_t end) const;
  void Execute(const MultiplyOp& op, int thread);
  void Execute(const ConvolveOp& op, int thread);
  void Execute(const ScanOp& op, int thread);
  void DeltaHead(const DeltaOp& op, size_t head, size_t begin, size_t end) const;
  void Execute(const DeltaOp& op, int thread);
  void Execute(const SelectOp& op, int thread);
  void Execute(const PermuteOp& op, int thread);
  void Execute(const PlaceOp& op, int thread);
  void Execute(const WeighOp& op, int thread);
  void Execute(const MatchLengthOp& op, int thread);
  void Execute(const CutBelowOp& op, int thread);
  void Execute(const MixPartsOp& op, int thread);
  void Execute(const AddToPartsOp& op, int thread);
  void Execute(const GatherOutputsOp& op, int thread);
  void Execute(const PoolOp& op, int thread);
  void Execute(const QuantizeOp& op, int thread);
  void Execute(const NormQuantizeOp& op, int thread);
  void Execute(const GatedMatMulOp& op, int thread);

  const Program& program_;
  const Weights& weights_;
  const KernelSet& kernels_;
  ThreadPool& pool_;
  const PlanOptions options_;
  const size_t tiles_max_;  // tiles of tokens in a step
  PieceQueue pieces_;
  uint64_t runs_ = 0;
  struct alignas(64) Place {
    size_t op = 0;
    uint64_t kv_blocks = 0;  // StepProfile
    size_t turn = 0;         // of the places of low ranks
  };
  std::vector<Place> op_;                           // that each thread is at
  std::vector<std::atomic<size_t>> segments_done_;  // of each row's kv heads, while a context is split
  float* segment_states_ = nullptr;
  const KvLayout kv_;  // and the shapes of both
  const KvLayout narrow_kv_;
  Arena arena_;
  std::vector<std::byte*> buffers_;
  std::vector<size_t> row_bytes_;
  std::vector<float*> scratch_;   // per thread
  std::vector<uint8_t*> packed_;  // per thread: kTilePanels panels of packed_bytes_
  std::vector<uint32_t*> seen_;   // per thread: blocks that rows see, and behind them their numbers
  uint64_t packed_bytes_ = 0;
  std::vector<RopeAngles> ropes_;  // for the planned context; whole texts may have their own
  // Per operation; of steps of one row, and of others.
  std::vector<bool> barrier_before_;
  std::vector<bool> barrier_before_single_;
  bool single_ = false;                       // this step has one row, and several threads
  std::vector<std::vector<std::byte*>> own_;  // per thread: its own row of each rounded buffer
  std::vector<bool> tiled_;                   // per buffer
  const Step* step_ = nullptr;
  std::vector<const LowRankUpdates*> adapters_;  // of this step, each once
  size_t low_rank_max_ = 0;
  Arena low_rank_arena_;
  float* low_ranks_ = nullptr;           // [2 turns][kMatMulPartsMax][step_tokens][low_rank_max_, rounded up to panels]
  size_t adapter_width_ = 0;             // of the widest input
  std::vector<float*> adapter_columns_;  // per thread: [kColumnsMax][adapter_width_]
  // The operation before which all threads leave a cancelled step.
  static constexpr size_t kNever = SIZE_MAX;
  std::atomic<size_t> stop_before_ = 0;
};

}  // namespace bantam
