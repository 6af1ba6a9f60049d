#include "model/load.h"

#include <algorithm>
#include <utility>

#include "model/arch/registry.h"
#include "model/lowering.h"
#include "program/fuse.h"

namespace bantam {

Result<ModelOutline> OutlineModel(ModelFile& file, const KernelSet& kernels, const RopeOverride& rope) {
  ModelOutline outline;
  BANTAM_ASSIGN(outline.config, ReadConfig(file));
  if (rope.scaling != RopeScaling::kNone) {
    Config& config = outline.config;
    config.rope.scaling = rope.scaling;
    config.rope.factor = rope.factor;
    config.rope.original_context = config.context_max;
    config.context_max = std::min<size_t>(kContextLengthMax, static_cast<size_t>(static_cast<double>(config.context_max) * rope.factor));
  }
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
