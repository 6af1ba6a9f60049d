// What lowering makes of layers that keep a state: state spaces, delta rules, short convolutions.
#pragma once

#include <initializer_list>
#include <string>

#include "model/program_builder.h"

namespace bantam {

class RecurrentBuilder : protected ProgramBuilder {
 protected:
  using ProgramBuilder::ProgramBuilder;

  // Takes a part of the sequence's state.
  size_t TakeState(size_t floats) {
    const size_t at = program_.state_floats;
    program_.state_floats += floats;
    return at;
  }

  Status Convolution(const std::string& prefix, size_t taps, BufferId in, BufferId out, bool silu) {
    const size_t columns = Width(in);
    ConvolveOp op = {.in = in, .out = out, .weight = kNone, .taps = taps, .silu = silu};
    BANTAM_ASSIGN(op.weight, Vectors(prefix + ".weight", taps, columns));
    BANTAM_ASSIGN(op.bias, OptionalVector(prefix + ".bias", columns));
    op.state = TakeState((taps - 1) * columns);
    program_.ops.push_back(op);
    return Ok();
  }

  // Products of `in` with rows of one tensor that follow each other, into buffers.
  Status Split(const std::string& prefix, BufferId in, std::initializer_list<BufferId> outs, Scaling scaling) {
    size_t all = 0;
    for (const BufferId out : outs) all += Width(out);
    size_t begin = 0;
    for (const BufferId out : outs) {
      BANTAM_TRY(MatMulRows({prefix, in, out, scaling}, {begin, begin + Width(out)}, all));
      begin += Width(out);
    }
    return Ok();
  }

  Status StateSpaceLayer(const std::string& prefix, BufferId in) {
    const StateSpace& space = config_.state_space;
    const BufferId gate = Buffer("ssm_gate", space.width);
    const BufferId scanned = Buffer("ssm_scanned", space.width);
    const BufferId gated = Buffer("ssm_gated", space.width);
    const BufferId branch = Buffer("branch", config_.width);
    ScanOp scan = {.out = scanned,
                   .heads = space.heads,
                   .head_dim = space.width / space.heads,
                   .groups = space.groups,
                   .state_size = space.state_size};
    BANTAM_TRY(space.step_rank == 0 ? PrepareScan(prefix, in, gate, &scan) : PrepareScanOfColumns(prefix, in, gate, &scan));
    BANTAM_ASSIGN(scan.dt_bias, Vector(prefix + "ssm_dt.bias", space.heads));
    BANTAM_ASSIGN(scan.decay, Vectors(prefix + "ssm_a", space.step_rank == 0 ? 1 : space.state_size, space.heads));
    BANTAM_ASSIGN(scan.skip, Skip(prefix + "ssm_d"));
    scan.state = TakeState(space.width * space.state_size);
    program_.ops.push_back(scan);
    program_.ops.push_back(ActivateOp{gate, scanned, gated, Activation::kSilu});
    if (Has(prefix + "ssm_norm.weight")) {
      BANTAM_TRY(Norm(prefix + "ssm_norm", gated, gated, space.groups));
    }
    BANTAM_TRY(MatMul({prefix + "ssm_out", gated, branch}));
    return AddBranch(prefix + "post_attention_norm", branch);
  }

  // The second kind: one product makes the gate, what goes through the convolution, and the steps.
  Status PrepareScan(const std::string& prefix, BufferId in, BufferId gate, ScanOp* scan) {
    const StateSpace& space = config_.state_space;
    const size_t shared = space.groups * space.state_size;
    const BufferId mixed = Buffer("ssm_mixed", space.width + 2 * shared);
    const BufferId convolved = Buffer("ssm_convolved", space.width + 2 * shared);
    scan->dt = Buffer("ssm_steps", space.heads);
    BANTAM_TRY(Split(prefix + "ssm_in", in, {gate, mixed, scan->dt}, Scaling::kProduct));
    BANTAM_TRY(Convolution(prefix + "ssm_conv1d", space.taps, mixed, convolved, /*silu=*/true));
    scan->x = {convolved, 0};
    scan->b = {convolved, space.width};
    scan->c = {convolved, space.width + shared};
    return Ok();
  }

  // The first kind: steps and what the state takes are made of what the convolution gave.
  Status PrepareScanOfColumns(const std::string& prefix, BufferId in, BufferId gate, ScanOp* scan) {
    const StateSpace& space = config_.state_space;
    const BufferId mixed = Buffer("ssm_mixed", space.width);
    const BufferId convolved = Buffer("ssm_convolved", space.width);
    const BufferId low = Buffer("ssm_step_ranks", space.step_rank);
    const BufferId b = Buffer("ssm_b", space.state_size);
    const BufferId c = Buffer("ssm_c", space.state_size);
    scan->dt = Buffer("ssm_steps", space.heads);
    BANTAM_TRY(Split(prefix + "ssm_in", in, {mixed, gate}, Scaling::kProduct));
    BANTAM_TRY(Convolution(prefix + "ssm_conv1d", space.taps, mixed, convolved, /*silu=*/true));
    BANTAM_TRY(Split(prefix + "ssm_x", convolved, {low, b, c}, Scaling::kNothing));
    for (const BufferId buffer : {low, b, c}) {
      if (space.norms) program_.ops.push_back(NormOp{.in = buffer, .out = buffer, .epsilon = space.norm_epsilon});
    }
    BANTAM_TRY(MatMul({prefix + "ssm_dt", low, scan->dt, Scaling::kNothing, /*biased=*/false}));
    scan->x = {convolved, 0};
    scan->b = {b, 0};
    scan->c = {c, 0};
    return Ok();
  }

  // A number per head, which files of the second kind have as [1, heads].
  Result<WeightId> Skip(const std::string& name) {
    return config_.state_space.step_rank == 0 ? Vectors(name, 1, config_.state_space.heads) : Vector(name, config_.state_space.heads);
  }

  // Linear attention by a gated delta rule (Qwen 3.5).
  Status DeltaRule(const std::string& prefix, BufferId in) {
    const StateSpace& space = config_.state_space;
    const size_t head_dim = space.state_size;
    const size_t keys = space.groups * head_dim;
    const BufferId mixed = Buffer("delta_mixed", 2 * keys + space.width);
    const BufferId convolved = Buffer("delta_convolved", 2 * keys + space.width);
    const BufferId gate = Buffer("delta_gate", space.width);
    const BufferId branch = Buffer("branch", config_.width);
    DeltaOp delta = {.q = {convolved, 0},
                     .k = {convolved, keys},
                     .v = {convolved, 2 * keys},
                     .alpha = Buffer("delta_alpha", space.heads),
                     .beta = Buffer("delta_beta", space.heads),
                     .out = Buffer("delta_out", space.width),
                     .heads = space.heads,
                     .key_heads = space.groups,
                     .head_dim = head_dim,
                     .epsilon = config_.norm_epsilon};
    BANTAM_TRY(MatMul({prefix + "attn_qkv", in, mixed}));
    BANTAM_TRY(MatMul({prefix + "attn_gate", in, gate}));
    BANTAM_TRY(MatMul({prefix + "ssm_alpha", in, delta.alpha}));
    BANTAM_TRY(MatMul({prefix + "ssm_beta", in, delta.beta}));
    BANTAM_TRY(Convolution(prefix + "ssm_conv1d", space.taps, mixed, convolved, /*silu=*/true));
    BANTAM_ASSIGN(delta.dt_bias, Vector(prefix + "ssm_dt.bias", space.heads));
    BANTAM_ASSIGN(delta.decay, Vector(prefix + "ssm_a", space.heads));
    delta.state = TakeState(space.width * head_dim);
    program_.ops.push_back(delta);
    BANTAM_TRY(Norm(prefix + "ssm_norm", delta.out, delta.out, space.heads));
    program_.ops.push_back(ActivateOp{gate, delta.out, delta.out, Activation::kSilu});
    BANTAM_TRY(MatMul({prefix + "ssm_out", delta.out, branch}));
    return AddBranch(prefix + "post_attention_norm", branch);
  }

  // Two gates around a short convolution (LFM2).
  Status ShortConvolution(const std::string& prefix, BufferId in) {
    const BufferId before = Buffer("conv_before", config_.width);
    const BufferId behind = Buffer("conv_behind", config_.width);
    const BufferId value = Buffer("conv_value", config_.width);
    const BufferId convolved = Buffer("convolved", config_.width);
    const BufferId branch = Buffer("branch", config_.width);
    BANTAM_TRY(Split(prefix + "shortconv.in_proj", in, {before, behind, value}, Scaling::kNothing));
    program_.ops.push_back(MultiplyOp{before, value, value});
    BANTAM_TRY(Convolution(prefix + "shortconv.conv", config_.short_taps, value, convolved, /*silu=*/false));
    program_.ops.push_back(MultiplyOp{behind, convolved, convolved});
    BANTAM_TRY(MatMul({prefix + "shortconv.out_proj", convolved, branch, Scaling::kNothing}));
    return AddBranch(prefix + "post_attention_norm", branch);
  }
};

}  // namespace bantam
