// From a model file to something that runs: config, program, plan, weights.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "base/memory_budget.h"
#include "base/progress.h"
#include "base/result.h"
#include "base/threads.h"
#include "formats/model_file.h"
#include "kernels/kernels.h"
#include "model/config.h"
#include "program/memory_plan.h"
#include "program/program.h"
#include "program/weights.h"

namespace bantam {

// What is known before any weight is read.
struct ModelOutline {
  Config config;
  Program program;  // fused for the kernel set
  const KernelSet* kernels;
};

// In place of what the file says of its rotary embedding.
struct RopeOverride {
  RopeScaling scaling = RopeScaling::kNone;  // linear, ntk, dynamic or yarn: those that need nothing but a factor
  double factor = 1;                         // above 1; the context that the model knows grows by it
};

// InvalidArgument for a model that turns nothing.
Status StretchContext(const RopeOverride& rope, Config* config);

// What is to be made of a whole text, in place of what the file says.
struct TextOptions {
  bool whole = false;  // by a model that goes on with texts, too
  std::optional<Pooling> pooling = {};
  bool classify = false;  // scores of the classifier instead of a vector
  // Not empty: instead of the classifier the logits of these tokens, of what would follow the text.
  std::vector<uint32_t> answers = {};
};

// Reads the config and lowers it. Errors: Corrupt, Unsupported; they name the file.
Result<ModelOutline> OutlineModel(ModelFile& file, const KernelSet& kernels, const RopeOverride& rope = {}, const TextOptions& text = {});

// Immutable once loaded; shared by everything that runs it.
struct Model {
  Config config;
  Program program;
  const KernelSet* kernels;
  Weights weights;
};

Result<std::unique_ptr<Model>> LoadModel(ModelOutline outline, ModelFile& file, const Resources& resources, const Progress& progress);

}  // namespace bantam
