#include "model/load.h"

#include <algorithm>
#include <utility>

#include "model/arch/registry.h"
#include "model/lowering.h"
#include "program/fuse.h"

namespace bantam {

Status StretchContext(const RopeOverride& rope, Config* config) {
  if (rope.scaling == RopeScaling::kNone) return Ok();
  if (config->ropes.empty()) {
    return Error(Code::kInvalidArgument, "a model without rotary embedding cannot be stretched; leave --rope-scaling away");
  }
  RopeSpec& own = config->ropes[0];
  RopeSpec spec;  // nothing of the file's own scaling stays
  spec.layout = own.layout;
  spec.rotated_dimensions = own.rotated_dimensions;
  spec.base = own.base;
  spec.scaling = rope.scaling;
  spec.factor = rope.factor;
  spec.original_context = own.scaling == RopeScaling::kNone ? config->context_max : own.original_context;
  const double stretched = static_cast<double>(spec.original_context) * rope.factor;
  config->context_max = static_cast<size_t>(std::clamp(stretched, 1.0, static_cast<double>(kContextLengthMax)));
  own = std::move(spec);
  return Ok();
}

Result<ModelOutline> OutlineModel(ModelFile& file, const KernelSet& kernels, const RopeOverride& rope, const TextOptions& text) {
  ModelOutline outline;
  BANTAM_ASSIGN(outline.config, ReadConfig(file));
  BANTAM_TRY(StretchContext(rope, &outline.config).With(file.path));
  if (text.whole) outline.config.whole_texts = true;
  outline.config.classify = text.classify;
  outline.config.answers = text.answers;
  if (text.classify) outline.config.pooling = outline.config.classifier_pooling;
  if (text.pooling) outline.config.pooling = *text.pooling;
  BANTAM_ASSIGN(Program plain, Lower(outline.config, file.directory).With(file.path));
  outline.program = Fuse(std::move(plain), kernels);
  outline.kernels = &kernels;
  return outline;
}

Result<std::unique_ptr<Model>> LoadModel(ModelOutline outline, ModelFile& file, const Resources& resources, const Progress& progress) {
  BANTAM_ASSIGN(Weights weights, Weights::Load(outline.program, file, resources, progress));
  return std::make_unique<Model>(Model{std::move(outline.config), std::move(outline.program), outline.kernels, std::move(weights)});
}

}  // namespace bantam
