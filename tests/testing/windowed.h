// A model that reads windows of text, for tests of what measures models.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "compress/window_runner.h"
#include "formats/gguf.h"
#include "model/load.h"

namespace bantam::testing {

inline constexpr size_t kWindow = 32;

struct Windowed {
  MemoryBudget budget{uint64_t{1} << 30};
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<Model> model;
  std::unique_ptr<WindowRunner> runner;

  Windowed(const std::string& path, int threads, std::string_view kernels = "ref", size_t window = kWindow)
      : Windowed(OpenGguf(*MakeFileSystem(), path).value(), threads, kernels, window) {}
  Windowed(ModelFile file, int threads, std::string_view kernels = "ref", size_t window = kWindow)
      : pool(ThreadPool::Make(threads).value()) {
    model = LoadModel(OutlineModel(file, *ChooseKernels(kernels).value()).value(), file, {budget, *pool}, nullptr).value();
    PlanOptions options;
    options.context = window;
    options.kv_type = KvType::kF32;
    options.step_tokens = options.step_outputs = 12;  // windows are no multiple of it
    options.threads = threads;
    runner = WindowRunner::Make(*model, options, {budget, *pool}).value();
  }
};

}  // namespace bantam::testing
