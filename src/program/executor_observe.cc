// What observers of products are shown.
#include "base/check.h"
#include "program/executor.h"

namespace bantam {

void Executor::Observe(size_t op, int thread) const {
  const Op& operation = program_.ops[op];
  BufferId in = kNone;
  ProductObserver::Product product = {op, 0};
  if (const auto* plain = std::get_if<MatMulOp>(&operation)) in = plain->in;
  if (const auto* gated = std::get_if<GatedMatMulOp>(&operation)) in = gated->in;
  if (const auto* experts = std::get_if<ExpertMatMulOp>(&operation)) {
    in = experts->in;
    product.experts = {IntegerRow(experts->ids, 0), RowCount(experts->out)};
    if (program_.buffers[in].rows == Rows::kTokens) product.slots_per_row = program_.experts_used;
  }
  CHECK(in != kNone && !adapter_columns_.empty());
  product.rows = RowCount(in);
  const auto [begin, end] = RowShare(in, thread);
  const size_t width = program_.buffers[in].width;
  for (size_t row = begin; row < end; ++row) {
    step_->observer->See(product, row, {InputFloats(in, row, thread, /*column=*/0), width});
  }
  pool_.Barrier(thread);
  step_->observer->Finish(product, thread, pool_.team());
  pool_.Barrier(thread);
}

}  // namespace bantam
