// From a model file to what it says of whole texts, for tests.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/rng.h"
#include "base/threads.h"
#include "engine/text_encoder.h"
#include "kernels/kernels.h"
#include "model/load.h"
#include "model/open.h"
#include "testing/paths.h"

namespace bantam::testing {

struct TextSetup {
  const KernelSet* kernels = RunnableKernels().front();
  int threads = 2;
  KvType kv_type = KvType::kF32;
  TextOptions use = {};
  RopeOverride rope = {};
  size_t context = 96;  // the models' own
  size_t step_tokens = 96;
  size_t step_texts = 4;
};

// Everything an encoder needs to run on its own.
struct TextRunner {
  TextRunner(const std::string& name, const TextSetup& setup) : TextRunner(Path{DataPath("archs/" + name + ".gguf")}, setup) {}
  struct Path {
    std::string path;
  };
  TextRunner(const Path& path, const TextSetup& setup) : budget(uint64_t{1} << 40), pool(ThreadPool::Make(setup.threads).value()) {
    const auto files = MakeFileSystem();
    ModelFile file = OpenModel(*files, path.path).value();
    ModelOutline outline = OutlineModel(file, *setup.kernels, setup.rope, setup.use).value();
    model = LoadModel(std::move(outline), file, {budget, *pool}, nullptr).value();
    MemoryPlan plan;
    plan.options.context = std::min(setup.context, setup.step_tokens);
    plan.options.kv_type = setup.kv_type;
    plan.options.step_tokens = setup.step_tokens;
    plan.options.step_texts = setup.step_texts;
    plan.options.step_outputs = setup.step_tokens;
    plan.options.threads = setup.threads;
    const uint64_t before = budget.used_bytes();
    encoder = TextEncoder::Make(*model, plan, {budget, *pool}).value();
    const MemoryPlan planned = PlanMemory(model->program, plan.options, {});
    EXPECT_EQ(budget.used_bytes() - before, planned.kv_bytes + planned.state_bytes + planned.activations_bytes) << "planned to the byte";
  }

  std::vector<std::vector<float>> Encode(std::span<const TextTokens> texts) {
    std::vector<std::vector<float>> all;
    const auto sink = [&](size_t text, std::span<float> rows) -> Status {
      EXPECT_EQ(text, all.size());
      all.emplace_back(rows.begin(), rows.end());
      return Ok();
    };
    const Status done = encoder->Encode(texts, sink);
    EXPECT_TRUE(done.ok()) << done.error().message();
    return all;
  }
  std::vector<float> Encode(const std::vector<uint32_t>& tokens) {
    const TextTokens text = {tokens};
    return Encode(std::span(&text, 1)).at(0);
  }

  MemoryBudget budget;
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<Model> model;
  std::unique_ptr<TextEncoder> encoder;
};

inline std::vector<TextTokens> RandomTexts(Rng& rng, std::initializer_list<size_t> sizes) {
  std::vector<TextTokens> texts;
  for (const size_t size : sizes) {
    TextTokens text;
    for (size_t i = 0; i < size; ++i) text.tokens.push_back(static_cast<uint32_t>(rng.Next() % 120));
    texts.push_back(std::move(text));
  }
  return texts;
}

}  // namespace bantam::testing
