#include "model/load.h"

#include <utility>

#include "model/arch/registry.h"
#include "model/lowering.h"
#include "program/fuse.h"

namespace bantam {

Result<ModelOutline> OutlineModel(ModelFile& file, const KernelSet& kernels) {
  ModelOutline outline;
  BANTAM_ASSIGN(outline.config, ReadConfig(file));
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
