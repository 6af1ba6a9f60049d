#include "cli/comparison.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/bytes.h"
#include "cli/terminal.h"
#include "compress/layer_errors.h"
#include "compress/smooth.h"
#include "model/open.h"
#include "model/vocabulary.h"

namespace bantam {
namespace {

Json EstimateJson(const Estimate& estimate) { return {{"value", estimate.value}, {"error", estimate.error}}; }

Json ModelJson(const WindowModel& model, double tokens_per_s) {
  return {{"path", model.path},
          {"size_bytes", model.size_bytes},
          {"weights_bytes", model.weights_bytes},
          {"bits_per_weight", model.bits_per_weight()},
          {"tokens_per_s", tokens_per_s},
          {"ms_per_token", tokens_per_s > 0 ? Json(1000 / tokens_per_s) : Json(nullptr)},
          {"memory_bytes", model.loaded.plan.total_bytes()}};
}

// What the model was trained on: of windows that are longer, figures say nothing.
Result<size_t> KnownContext(const ModelFile& file) {
  BANTAM_ASSIGN(const auto architecture, file.metadata.Text("general.architecture"));
  BANTAM_ASSIGN(const auto length, file.metadata.U32(fmt::format("{}.context_length", architecture.value_or(""))));
  return std::max<size_t>(length.value_or(kWindowTokens), kWindowMin);
}

}  // namespace

Result<size_t> WindowOf(FileSystem& files, const std::string& path, size_t most) {
  BANTAM_ASSIGN(const ModelFile file, OpenModel(files, path));
  BANTAM_ASSIGN(const size_t known, KnownContext(file).With(path));
  return std::min(most, known);
}

Result<WindowText> ReadWindowText(FileSystem& files, const Tokenizer& tokenizer, const std::string& path) {
  BANTAM_ASSIGN(const std::string bytes, files.ReadText(path, kInputBytesMax));
  WindowText text;
  BANTAM_ASSIGN(text.tokens, tokenizer.Encode(bytes, /*special=*/false).With(path));
  if (!tokenizer.spec().prefix.empty()) {
    text.bos = tokenizer.spec().prefix.front();
    text.tokens.insert(text.tokens.begin(), *text.bos);
  }
  return text;
}

namespace {

struct WhatToLoad {
  std::unique_ptr<Tokenizer>* tokenizer = nullptr;
  const StaticSteps* steps = nullptr;
};
Result<WindowModel> LoadFor(const WhatToLoad& what, FileSystem& files, const std::string& path, RunOptions options) {
  std::unique_ptr<Tokenizer>* const tokenizer = what.tokenizer;
  WindowModel model;
  model.path = path;
  BANTAM_ASSIGN(ModelFile file, OpenModel(files, path));
  model.size_bytes = file.size_bytes;
  for (const TensorInfo& tensor : file.directory.tensors()) {
    model.weights_bytes += tensor.size_bytes;
    model.elements += tensor.elements();
  }
  if (tokenizer != nullptr) {
    BANTAM_ASSIGN(Tokenizer read, ReadVocabulary(file));
    *tokenizer = std::make_unique<Tokenizer>(std::move(read));
  }
  if (options.context == 0) {
    BANTAM_ASSIGN(const size_t known, KnownContext(file));
    options.context = std::min(kWindowTokens, known);
  }
  if (options.kv.empty()) options.kv = "f16";  // a figure must not depend on how much memory is free
  const StepShape shape = {std::min<size_t>(StepShape().step_tokens, options.context), /*all_outputs=*/true};
  BANTAM_ASSIGN(Prepared prepared,
                Prepare(files, std::move(file), {tokenizer == nullptr ? nullptr : tokenizer->get(), /*text_bytes=*/0, options, shape}));
  if (tokenizer != nullptr) BANTAM_TRY(CheckVocabulary(**tokenizer, prepared, path));
  if (what.steps != nullptr) {
    SetStaticSteps(*what.steps, &prepared.outline.program);
    model.rounded_products = CountRounded(prepared.outline.program);
  }
  BANTAM_ASSIGN(model.loaded, LoadWithoutSession(files, std::move(prepared)));
  Loaded& loaded = model.loaded;
  BANTAM_ASSIGN(model.runner, WindowRunner::Make(*loaded.model, loaded.plan.options, {*loaded.budget, *loaded.pool}));
  return model;
}

}  // namespace

Result<WindowModel> LoadWindowModel(FileSystem& files, const std::string& path, RunOptions options, std::unique_ptr<Tokenizer>* tokenizer) {
  return LoadFor({.tokenizer = tokenizer}, files, path, std::move(options));
}

Result<WindowModel> LoadRoundedModel(FileSystem& files, const std::string& path, const RunOptions& options, const StaticSteps& steps) {
  return LoadFor({.steps = &steps}, files, path, options);
}

Result<MeasuredPair> MeasurePair(WindowModel& base, WindowModel& candidate, const WindowText& text, size_t windows) {
  const Progress line = MakeProgressLine();
  const auto progress = [&](const Comparison& now, size_t total) {
    line(fmt::format("comparing: KL divergence {:.5f}", now.divergence.value), now.windows, total);
  };
  MeasuredPair pair;
  BANTAM_ASSIGN(pair.comparison,
                Compare(*base.runner, *candidate.runner, text.tokens, {windows, text.bos}, *base.loaded.pool, progress, Interrupted));
  if (!Interrupted()) {
    const MonotonicClock clock;
    BANTAM_ASSIGN(pair.base_tokens_per_s, MeasureDecoding(*base.runner, text.tokens, clock));
    BANTAM_ASSIGN(pair.tokens_per_s, MeasureDecoding(*candidate.runner, text.tokens, clock));
  }
  EndProgressLine();
  return pair;
}

Result<LayerErrors> LayerErrorsOf(WindowModel& base, WindowModel& candidate, const WindowText& text) {
  // A picture needs no more digits than so many tokens give.
  constexpr size_t kTokens = 2048;
  const size_t window = base.runner->window();
  const size_t count = std::min(text.tokens.size() / window, std::max<size_t>(1, kTokens / window));
  return MeasureLayerErrors({*base.loaded.model, *base.runner}, {*candidate.loaded.model, *candidate.runner},
                            std::span(text.tokens).first(count * window), Interrupted);
}

Json LayerErrorsJson(const LayerErrors& errors) {
  Json list = Json::array();
  for (const auto& [name, error] : errors) list.push_back({{"read_by", name}, {"error", error}});
  return list;
}

BarChart ChartOfLayerErrors(const LayerErrors& errors) {
  return ChartOfTensors("Activations: squared error of what matrices read, by layer", errors);
}

Status WritePicture(FileSystem& files, const std::string& path, const std::vector<BarChart>& charts) {
  if (charts.empty()) {
    return Error(Code::kInvalidArgument, fmt::format("{}: nothing was measured that can be drawn: the models have different layers", path));
  }
  BANTAM_ASSIGN(const std::string bytes, EncodePng(DrawCharts(charts)));
  BANTAM_ASSIGN(const auto writer, files.Create(path));
  BANTAM_TRY(writer->Append(AsBytes(bytes)));
  return writer->Commit();
}

std::string PairText(const WindowModel& base, const WindowModel& candidate, const MeasuredPair& pair) {
  const Comparison& c = pair.comparison;
  const auto row = [](std::string_view what, const std::string& was, const std::string& is, const std::string& note) {
    return fmt::format("  {:<16}{:>14}{:>14}  {}\n", what, was, is, note);
  };
  const auto times = [](double was, double is) { return was > 0 ? fmt::format("x {:.2f}", is / was) : std::string(); };
  std::string text = row("", "base", "candidate", "");
  text += row("size", FormatBytes(base.size_bytes), FormatBytes(candidate.size_bytes),
              times(static_cast<double>(base.size_bytes), static_cast<double>(candidate.size_bytes)));
  text += row("bits per weight", fmt::format("{:.2f}", base.bits_per_weight()), fmt::format("{:.2f}", candidate.bits_per_weight()), "");
  text += row("memory", FormatBytes(base.loaded.plan.total_bytes()), FormatBytes(candidate.loaded.plan.total_bytes()),
              fmt::format("with a context of {}", base.runner->window()));
  text += row("tokens/s", fmt::format("{:.1f}", pair.base_tokens_per_s), fmt::format("{:.1f}", pair.tokens_per_s),
              times(pair.base_tokens_per_s, pair.tokens_per_s));
  text += row("perplexity", fmt::format("{:.4f}", c.base_perplexity.value), fmt::format("{:.4f}", c.perplexity.value),
              fmt::format("ratio {:.4f} +- {:.4f}", c.ratio.value, c.ratio.error));
  text += fmt::format("  KL divergence: mean {:.5f} +- {:.5f}, median {:.5f}, 99.9 % {:.4f}, largest {:.4f}\n", c.divergence.value,
                      c.divergence.error, c.divergence_median, c.divergence_999, c.divergence_max);
  text += fmt::format("  same likeliest token: {:.2f} % +- {:.2f} ({} windows of {} tokens, {} scored)\n", 100 * c.same_top.value,
                      100 * c.same_top.error, c.windows, base.runner->window(), c.scored);
  return text;
}

Json PairJson(const WindowModel& base, const WindowModel& candidate, const MeasuredPair& pair) {
  const Comparison& c = pair.comparison;
  return {{"base", ModelJson(base, pair.base_tokens_per_s)},
          {"candidate", ModelJson(candidate, pair.tokens_per_s)},
          {"windows", c.windows},
          {"window_tokens", base.runner->window()},
          {"scored_tokens", c.scored},
          {"base_perplexity", EstimateJson(c.base_perplexity)},
          {"perplexity", EstimateJson(c.perplexity)},
          {"perplexity_ratio", EstimateJson(c.ratio)},
          {"kl_divergence", EstimateJson(c.divergence)},
          {"kl_divergence_median", c.divergence_median},
          {"kl_divergence_999", c.divergence_999},
          {"kl_divergence_max", c.divergence_max},
          {"same_top", EstimateJson(c.same_top)},
          {"kernels", base.loaded.model->kernels->name},
          {"interrupted", Interrupted()}};
}

}  // namespace bantam
