#include "program/memory_plan.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/memory_budget.h"
#include "kernels/attention.h"
#include "kernels/tiles.h"
#include "program/weights.h"
#include "tensor/arena.h"

namespace bantam {

uint64_t StateBytes(size_t state_floats) { return 2 * AlignUp(state_floats * sizeof(float)); }

PerKvPart<size_t> KvBlocks(const Program& program, const PlanOptions& options) {
  PerKvPart<size_t> blocks;
  if (program.whole_texts) {
    // Of every sequence of a step whole blocks.
    const size_t rounded = options.step_tokens / kKvBlockTokens + options.step_texts;
    for (const KvHeads& layer : program.kv_layers) blocks[layer.window == 0 ? KvPart::kFull : KvPart::kWindowed] = rounded;
    return blocks;
  }
  for (const KvHeads& layer : program.kv_layers) {
    if (layer.window == 0) blocks[KvPart::kFull] = KvBlockCount(options.context);
  }
  const size_t widest = WindowMax(program);
  // While a step of n tokens is written, the first of them still sees window - 1 tokens before it.
  if (widest > 0) blocks[KvPart::kWindowed] = std::min(KvBlockCount(options.context), KvBlockCount(widest - 1 + options.step_tokens) + 1);
  return blocks;
}

PerKvPart<size_t> PoolBlocks(const Program& program, const PlanOptions& options) {
  PerKvPart<size_t> blocks = KvBlocks(program, options);
  // Of each sequence a block may be filled in part.
  if (blocks[KvPart::kFull] > 0 && options.kv_tokens > options.context) {
    blocks[KvPart::kFull] = KvBlockCount(options.kv_tokens) + options.sequences - 1;
  }
  blocks[KvPart::kWindowed] *= options.sequences + options.checkpoints;
  return blocks;
}

size_t RowsMax(const Program& program, const BufferSpec& buffer, const PlanOptions& options) {
  switch (buffer.rows) {
    case Rows::kTokens:
      return options.step_tokens;
    case Rows::kTokenSlots:
      return options.step_tokens * program.experts_used;
    case Rows::kOutputs:
      return options.step_outputs;
  }
  return 0;
}

namespace {
constexpr std::string_view kWeightForms[] = {"panels", "rows"};
size_t BlockMultiple(const PlanOptions& options) { return options.narrow_kv ? static_cast<size_t>(::sysconf(_SC_PAGESIZE)) : 1; }

}  // namespace

KvLayout PlannedKv(const Program& program, const PlanOptions& options) {
  return KvLayout(options.kv_type, program.kv_layers, BlockMultiple(options));
}
KvLayout NarrowKv(const Program& program, const PlanOptions& options) {
  return KvLayout(KvType::kInt8, program.kv_layers, BlockMultiple(options));
}

std::string_view WeightFormName(WeightForm form) { return kWeightForms[static_cast<size_t>(form)]; }

std::optional<WeightForm> WeightFormFromName(std::string_view name) {
  for (size_t i = 0; i < std::size(kWeightForms); ++i) {
    if (kWeightForms[i] == name) return static_cast<WeightForm>(i);
  }
  return std::nullopt;
}

uint64_t ThreadScratchBytes(const Program& program) {
  uint64_t floats = 0;
  for (const Op& op : program.ops) {
    if (const auto* norm = std::get_if<NormQuantizeOp>(&op)) {
      floats = std::max<uint64_t>(floats, program.buffers[norm->norm.in].width);
    } else if (const auto* positions = std::get_if<EmbedPositionsOp>(&op)) {
      floats = std::max<uint64_t>(floats, program.buffers[positions->out].width);
    } else if (const auto* append = std::get_if<KvAppendOp>(&op)) {
      floats = std::max<uint64_t>(floats, 2 * program.kv_layers[append->layer].head_dim);  // a rotated key and value
    } else if (const auto* attend = std::get_if<AttendOp>(&op)) {
      const KvHeads& kv = program.kv_layers[attend->layer];
      const size_t queries = kernels::kAttentionTokens * (attend->heads / kv.heads);
      // The states of two segments, and queries where they are rotated.
      floats = std::max<uint64_t>(floats, 2 * AttentionStatesFloats(queries, kv.head_dim) + queries * kv.head_dim);
    } else if (std::holds_alternative<MatMulOp>(op) || std::holds_alternative<GatedMatMulOp>(op)) {
      constexpr size_t kTileBytes = kTokenTile * kPanelRows * sizeof(float) + sizeof(UnpackedChunk);
      floats = std::max<uint64_t>(floats, kernels::kTilePanels * kTileBytes / sizeof(float));
    }
  }
  return AlignUp(floats * sizeof(float));
}

namespace {

// Calls visit(weight, input, times) for every matrix that a token is multiplied with.
template <typename Visit>
void ForEachProduct(const Program& program, Visit visit) {
  for (const Op& op : program.ops) {
    if (const auto* product = std::get_if<MatMulOp>(&op)) {
      for (const MatMulPart& part : product->parts) visit(part.weight, product->in, 1);
    } else if (const auto* gated = std::get_if<GatedMatMulOp>(&op)) {
      visit(gated->gate.weight, gated->in, 1);
      visit(gated->up.weight, gated->in, 1);
    } else if (const auto* expert = std::get_if<ExpertMatMulOp>(&op)) {
      visit(expert->weight, expert->in, program.experts_used);
    }
  }
}

}  // namespace

uint64_t PackedPanelBytes(const Program& program) {
  uint64_t bytes = 0;
  ForEachProduct(program, [&](WeightId weight, BufferId, uint64_t) {
    const WeightSpec& spec = program.weights[weight];
    if (spec.storage == WeightStorage::kRows) bytes = std::max<uint64_t>(bytes, PanelBytes(Info(spec.dtype).panel, spec.columns));
  });
  return AlignUp(bytes);
}

size_t RowsOfOne(const Program& program, const BufferSpec& buffer) { return buffer.rows == Rows::kTokenSlots ? program.experts_used : 1; }

uint64_t OwnRowsBytes(const Program& program, int threads) {
  uint64_t bytes = 0;
  for (BufferId id = 0; threads > 1 && id < program.buffers.size(); ++id) {
    const BufferSpec& buffer = program.buffers[id];
    if (IsRounded(buffer.form)) bytes += AlignUp(RowsOfOne(program, buffer) * program.RowWidthBytes(id));
  }
  return bytes;
}

size_t SegmentsMax(const KvHeads& layer, const PlanOptions& options) {
  const size_t all = (options.context + kernels::kSegmentTokens - 1) / kernels::kSegmentTokens;
  return layer.window == 0 ? all : std::min(all, layer.window / kernels::kSegmentTokens + 2);
}

uint64_t SegmentStatesBytes(const Program& program, const PlanOptions& options) {
  uint64_t floats = 0;
  for (const Op& op : program.ops) {
    const auto* attend = std::get_if<AttendOp>(&op);
    if (attend == nullptr) continue;
    const KvHeads& kv = program.kv_layers[attend->layer];
    size_t heads = 0;
    for (size_t rows = 1; rows <= options.step_tokens && rows * kv.heads < SplitHeadsEnd(options.threads); ++rows) {
      if (SplitsContext(rows * kv.heads, options.threads)) heads = rows * kv.heads;
    }
    const size_t queries = heads * (attend->heads / kv.heads);
    floats = std::max<uint64_t>(floats, SegmentsMax(kv, options) * AttentionStatesFloats(queries, kv.head_dim));
  }
  return AlignUp(floats * sizeof(float));
}

uint64_t SeenBlocksBytes(const Program& program, const PlanOptions& options) {
  const auto sparse = [](const KvHeads& layer) { return layer.sparse.block_tokens != 0; };
  if (std::none_of(program.kv_layers.begin(), program.kv_layers.end(), sparse)) return 0;
  return AlignUp(2 * KvBlockCount(options.context) * sizeof(uint32_t));
}

uint64_t ActivationsBytes(const Program& program, const PlanOptions& options) {
  const uint64_t per_thread = ThreadScratchBytes(program) + kernels::kTilePanels * PackedPanelBytes(program) +
                              OwnRowsBytes(program, options.threads) + SeenBlocksBytes(program, options);
  uint64_t total = static_cast<uint64_t>(options.threads) * per_thread + SegmentStatesBytes(program, options);
  for (BufferId id = 0; id < program.buffers.size(); ++id) {
    total += AlignUp(RowsMax(program, program.buffers[id], options) * program.RowWidthBytes(id));
  }
  return total;
}

MemoryPlan PlanMemory(const Program& program, const PlanOptions& options, const HeldBytes& held) {
  MemoryPlan plan;
  plan.options = options;
  plan.weights_bytes = WeightsBytes(program);
  const KvLayout layout = PlannedKv(program, options);
  const PerKvPart<size_t> blocks = PoolBlocks(program, options);
  for (const KvPart part : kAllKvParts) plan.kv_bytes += blocks[part] * layout.block_bytes(part);
  plan.state_bytes = (options.sequences + options.checkpoints) * StateBytes(program.state_floats);
  plan.activations_bytes = ActivationsBytes(program, options);
  plan.vocabulary_bytes = held.vocabulary;
  plan.header_bytes = held.header;
  plan.requests_bytes = held.requests;
  plan.adapters_bytes = held.adapters;
  plan.draft_bytes = held.draft;
  plan.reserve_bytes = kProcessReserveBytes;
  return plan;
}

bool KeepRows(Program* program) {
  bool any = false;
  for (WeightSpec& spec : program->weights) {
    if (spec.storage != WeightStorage::kPanels || !PanelsAreLarge(spec.dtype)) continue;
    spec.storage = WeightStorage::kRows;
    any = true;
  }
  return any;
}

namespace {

PlanOptions WithSequences(PlanOptions options, size_t sequences) {
  options.step_outputs -= std::min(options.step_outputs - 1, options.sequences - sequences);
  options.sequences = sequences;
  options.checkpoints = 0;
  return options;
}

bool SmallerFits(const Program& program, const FitRequest& request, const PlanOptions& options) {
  return PlanMemory(program, WithSequences(options, /*sequences=*/1), request.held).total_bytes() <= request.limit_bytes;
}

// The first plan that fits, down to a context of `least`; else the last that was tried.
MemoryPlan Shrink(const Program& program, const FitRequest& request, size_t least) {
  PlanOptions options = request.wanted;
  while (true) {
    MemoryPlan plan = PlanMemory(program, options, request.held);
    if (plan.total_bytes() <= request.limit_bytes) return plan;
    const bool can_shrink_kv = !request.fixed_kv && IsFloat(options.kv_type);
    const bool can_shrink_context = !request.fixed_context && options.context > least;
    // Of most models a sequence costs little beside its tokens: fewer are taken where that is enough, or nothing else is left.
    if (options.sequences > 1 && (SmallerFits(program, request, options) || !(can_shrink_kv || can_shrink_context))) {
      options = WithSequences(options, options.sequences / 2);
    } else if (can_shrink_kv) {
      options.kv_type = KvType::kInt8;
    } else if (can_shrink_context) {
      options.context = std::max(least, options.context / 2);
      if (program.whole_texts) {
        options.step_tokens = std::min(options.step_tokens, options.context);
        options.step_outputs = std::min(options.step_outputs, options.step_tokens);
        options.step_texts = std::min(options.step_texts, options.step_tokens);
      }
    } else {
      return plan;
    }
  }
}

Error TooLarge(const MemoryPlan& plan, const FitRequest& request) {
  const bool rows = plan.weight_form == WeightForm::kRows;
  return Error(
      Code::kExhausted,
      fmt::format("the model needs {} (weights{} {}, KV of {} tokens in {} {}{}{}, activations {}, vocabulary {}, metadata {}, program {}) "
                  "and the limit is {}; raise --memory{}{}{} or choose a smaller model",
                  FormatBytes(plan.total_bytes()), rows ? " as in the file" : "", FormatBytes(plan.weights_bytes), plan.options.context,
                  KvTypeName(plan.options.kv_type), FormatBytes(plan.kv_bytes),
                  plan.state_bytes == 0 ? "" : fmt::format(", recurrent states {}", FormatBytes(plan.state_bytes)),
                  plan.draft_bytes == 0 ? "" : fmt::format(", draft model {}", FormatBytes(plan.draft_bytes)),
                  FormatBytes(plan.activations_bytes), FormatBytes(plan.vocabulary_bytes), FormatBytes(plan.header_bytes),
                  FormatBytes(plan.reserve_bytes), FormatBytes(request.limit_bytes),
                  plan.options.context > kContextMin ? ", lower --context" : "",
                  plan.draft_bytes == 0 ? "" : ", leave the draft model away",
                  request.weight_form == WeightForm::kPanels ? ", leave --weights away" : ""));
}

}  // namespace

std::string TooManyPositions(const Program& program, size_t context) {
  return fmt::format("a context of {} tokens, and at most {} are run: {}; use a shorter one (--context)", context, program.context_limit,
                     program.context_limit_reason);
}

Result<MemoryPlan> FitMemory(Program* program, const FitRequest& request) {
  if (program->context_limit != 0 && request.wanted.context > program->context_limit) {
    return Error(Code::kInvalidArgument, TooManyPositions(*program, request.wanted.context));
  }
  const auto fits = [&](const MemoryPlan& plan) { return plan.total_bytes() <= request.limit_bytes; };
  Program kept = *program;
  // Threads have room for the panels that they pack: of a model with few such weights, rows may take more than panels.
  const bool smaller = request.weight_form != WeightForm::kPanels && KeepRows(&kept) &&
                       (request.weight_form == WeightForm::kRows || PlanMemory(kept, request.wanted, request.held).total_bytes() <
                                                                        PlanMemory(*program, request.wanted, request.held).total_bytes());
  if (!smaller || !request.weight_form) {
    MemoryPlan plan = Shrink(*program, request, smaller ? kContextUseful : kContextMin);
    if (fits(plan)) {
      GrowPool(*program, request.limit_bytes - std::min(request.limit_bytes, request.held.spare), &plan);
      return plan;
    }
    if (!smaller) return TooLarge(plan, request);
  }
  MemoryPlan plan = Shrink(kept, request, kContextMin);
  plan.weight_form = WeightForm::kRows;
  if (!fits(plan)) return TooLarge(plan, request);
  *program = std::move(kept);
  GrowPool(*program, request.limit_bytes - std::min(request.limit_bytes, request.held.spare), &plan);
  return plan;
}

void GrowPool(const Program& program, uint64_t limit_bytes, MemoryPlan* plan) {
  const KvLayout layout = PlannedKv(program, plan->options);
  const uint64_t block_bytes = layout.block_bytes(KvPart::kFull);
  const size_t most = plan->options.sequences * plan->options.context;
  if (block_bytes == 0 || plan->total_bytes() >= limit_bytes || most <= plan->options.context) return;
  const size_t blocks = KvBlocks(program, plan->options)[KvPart::kFull] + (limit_bytes - plan->total_bytes()) / block_bytes;
  const size_t spare = plan->options.sequences - 1;
  const size_t tokens = std::min(most, kKvBlockTokens * (blocks - std::min(blocks, spare)));
  if (tokens <= plan->options.context) return;
  plan->kv_bytes -= PoolBlocks(program, plan->options)[KvPart::kFull] * block_bytes;
  plan->options.kv_tokens = tokens;
  plan->kv_bytes += PoolBlocks(program, plan->options)[KvPart::kFull] * block_bytes;
}

uint64_t DecodeReadBytes(const Program& program) {
  uint64_t total = 0;
  ForEachProduct(program, [&](WeightId weight, BufferId, uint64_t times) {
    const WeightSpec& spec = program.weights[weight];
    total += WeightBytes(spec) / spec.matrices * times;
  });
  return total;
}

Multiplies CountMultiplies(const Program& program) {
  Multiplies count;
  ForEachProduct(program, [&](WeightId weight, BufferId in, uint64_t times) {
    const WeightSpec& spec = program.weights[weight];
    (program.buffers[in].rows == Rows::kOutputs ? count.per_output : count.per_token) += spec.rows * spec.columns * times;
  });
  return count;
}

std::string Describe(const MemoryPlan& plan) {
  const auto line = [](std::string_view name, uint64_t bytes, std::string_view note) {
    return fmt::format("  {:<12} {:>14} bytes  {:>9}  {}\n", name, bytes, FormatBytes(bytes), note);
  };
  std::string text;
  const bool rows = plan.weight_form == WeightForm::kRows;
  text += line("weights", plan.weights_bytes, rows ? "some as in the file: smaller, and slower" : "panels, ready for the kernels");
  text += line("kv", plan.kv_bytes,
               fmt::format("{} tokens, {}", std::max(plan.options.context, plan.options.kv_tokens), KvTypeName(plan.options.kv_type)));
  if (plan.state_bytes != 0) text += line("states", plan.state_bytes, "of recurrent layers, two of each");
  text += line(
      "activations", plan.activations_bytes,
      fmt::format("steps of {} tokens, {} thread{}", plan.options.step_tokens, plan.options.threads, plan.options.threads == 1 ? "" : "s"));
  text += line("vocabulary", plan.vocabulary_bytes, "");
  text += line("metadata", plan.header_bytes, "of the file, while it is loaded");
  if (plan.draft_bytes != 0) text += line("draft model", plan.draft_bytes, "its weights, kv and activations");
  if (plan.adapters_bytes != 0) text += line("adapters", plan.adapters_bytes, "and their rows of a step");
  if (plan.requests_bytes != 0) text += line("requests", plan.requests_bytes, "prompts, answers and samplers");
  text += line("program", plan.reserve_bytes, "code, stacks, allocator");
  text += line("total", plan.total_bytes(), "");
  return text;
}

}  // namespace bantam
