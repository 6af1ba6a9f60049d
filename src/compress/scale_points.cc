#include "compress/scale_points.h"

#include <optional>

#include "compress/program_flow.h"

namespace bantam {
namespace {

class Finder {
 public:
  Finder(const Program& program, const TensorDirectory& tensors) : program_(program), tensors_(tensors), flow_(program) {}

  std::vector<ScalePoint> Run() {
    for (size_t i = 0; i < program_.ops.size(); ++i) {
      std::optional<ScalePoint> point;
      if (const auto* norm = std::get_if<NormOp>(&program_.ops[i])) point = OfNorm(*norm, i);
      if (const auto* activate = std::get_if<ActivateOp>(&program_.ops[i])) point = OfFactor(*activate, i);
      if (const auto* attend = std::get_if<AttendOp>(&program_.ops[i])) point = OfValues(*attend, i);
      if (point) points_.push_back(std::move(*point));
    }
    return std::move(points_);
  }

 private:
  // All of a tensor, and used once. [rows, columns], or [columns] of a vector.
  bool Whole(WeightId id) const {
    const WeightSpec& spec = program_.weights[id];
    const TensorInfo* tensor = tensors_.Find(spec.name);
    return tensor != nullptr && flow_.Uses(spec.name) == 1 && spec.first == 0 && spec.matrices == 1 &&
           tensor->elements() == spec.rows * spec.columns;
  }
  // A plain product of a whole matrix.
  const MatMulPart* Product(size_t op) const {
    const auto* product = std::get_if<MatMulOp>(&program_.ops[op]);
    if (product == nullptr || product->parts.size() != 1) return nullptr;
    const MatMulPart& part = product->parts[0];
    const bool whole = Whole(part.weight) && program_.weights[part.weight].storage == WeightStorage::kPanels;
    return whole && (part.bias == kNone || Whole(part.bias)) ? &part : nullptr;
  }

  // The product whose output nothing but this operation reads.
  const MatMulPart* OnlyFrom(size_t reader, BufferId buffer) const {
    const auto writer = flow_.Writer(reader, buffer);
    if (!writer || flow_.Readers(*writer, buffer) != std::vector<size_t>{reader}) return nullptr;
    const MatMulPart* part = Product(*writer);
    return part == nullptr || part->accumulate ? nullptr : part;
  }
  // The product that alone reads what an operation leaves in `buffer`.
  const MatMulPart* OnlyTo(size_t writer, BufferId buffer) const {
    const std::vector<size_t> readers = flow_.Readers(writer, buffer);
    if (readers.size() != 1) return nullptr;
    const auto* product = std::get_if<MatMulOp>(&program_.ops[readers[0]]);
    return product == nullptr || product->in != buffer ? nullptr : Product(readers[0]);
  }

  const std::string& NameOf(WeightId id) const { return program_.weights[id].name; }
  size_t RowsOf(const MatMulPart& part) const { return program_.weights[part.weight].rows; }
  size_t ColumnsOf(const MatMulPart& part) const { return program_.weights[part.weight].columns; }
  void Divide(const MatMulPart& part, ScalePoint* point) const {
    point->scales = RowsOf(part);
    point->divided.push_back(NameOf(part.weight));
    if (part.bias != kNone) point->divided.push_back(NameOf(part.bias));
  }

  std::optional<ScalePoint> OfNorm(const NormOp& norm, size_t op) const {
    if (norm.weight == kNone || norm.groups != 1 || !Whole(norm.weight) || (norm.bias != kNone && !Whole(norm.bias))) return std::nullopt;
    ScalePoint point;
    point.scales = program_.weights[norm.weight].columns;
    if (point.scales != program_.buffers[norm.out].width) return std::nullopt;
    point.divided.push_back(NameOf(norm.weight));
    if (norm.bias != kNone) point.divided.push_back(NameOf(norm.bias));
    for (const size_t reader : flow_.Readers(op, norm.out)) {
      const MatMulPart* part = Product(reader);
      // Not what a product adds to; nor in front of the output matrix, where vectors of a text are taken from by those who run the same
      // file for them.
      if (part == nullptr || part->out == norm.out || part->out == program_.logits || ColumnsOf(*part) != point.scales) return std::nullopt;
      point.multiplied.push_back(NameOf(part->weight));
    }
    if (point.multiplied.empty()) return std::nullopt;
    return point;
  }

  std::optional<ScalePoint> OfFactor(const ActivateOp& activate, size_t op) const {
    // A clamp is no product.
    if (activate.factor == kNone || activate.divisors != kNone || activate.activation == Activation::kClampedSilu) return std::nullopt;
    const MatMulPart* up = OnlyFrom(op, activate.factor);
    const MatMulPart* down = OnlyTo(op, activate.out);
    if (up == nullptr || down == nullptr || RowsOf(*up) != ColumnsOf(*down)) return std::nullopt;
    ScalePoint point;
    Divide(*up, &point);
    point.multiplied.push_back(NameOf(down->weight));
    return point;
  }

  std::optional<ScalePoint> OfValues(const AttendOp& attend, size_t op) const {
    const KvAppendOp* append = nullptr;
    size_t append_op = 0;
    for (size_t i = 0; i < program_.ops.size(); ++i) {
      const auto* other = std::get_if<AttendOp>(&program_.ops[i]);
      if (other != nullptr && other->layer == attend.layer && i != op) return std::nullopt;
      const auto* appends = std::get_if<KvAppendOp>(&program_.ops[i]);
      if (appends == nullptr || appends->layer != attend.layer) continue;
      append = appends;
      append_op = i;
    }
    if (append == nullptr || append->keys == append->values) return std::nullopt;
    const MatMulPart* values = OnlyFrom(append_op, append->values);
    const MatMulPart* output = OnlyTo(op, attend.out);
    const KvHeads& kv = program_.kv_layers[attend.layer];
    if (values == nullptr || output == nullptr || RowsOf(*values) != kv.heads * kv.head_dim ||
        ColumnsOf(*output) != attend.heads * kv.head_dim) {
      return std::nullopt;
    }
    ScalePoint point;
    Divide(*values, &point);
    point.multiplied.push_back(NameOf(output->weight));
    const size_t group = attend.heads / kv.heads;
    for (size_t column = 0; column < ColumnsOf(*output); ++column) {
      const size_t head = column / kv.head_dim;
      point.scale_of.push_back(static_cast<uint32_t>(head / group * kv.head_dim + column % kv.head_dim));
    }
    return point;
  }

  const Program& program_;
  const TensorDirectory& tensors_;
  const ProgramFlow flow_;
  std::vector<ScalePoint> points_;
};

}  // namespace

std::vector<ScalePoint> FindScalePoints(const Program& program, const TensorDirectory& tensors) { return Finder(program, tensors).Run(); }

}  // namespace bantam
