// The part of the C library that reads whole texts: vectors, classes, rankings.
#include <bantam/bantam.h>
#include <fmt/format.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/memory_budget.h"
#include "base/threads.h"
#include "engine/text_model.h"
#include "library/boundary.h"
#include "model/load.h"
#include "model/open.h"
#include "program/memory_plan.h"

using namespace bantam;  // NOLINT: the C types stand beside the library's own

struct bantam_encoder {
  std::unique_ptr<FileSystem> files = MakeFileSystem();
  std::unique_ptr<TextModel> text;
  Result<RankPlan> ranking = RankPlan();  // or why nothing is ranked
  ClassActivation activation = ClassActivation::kNothing;
  bool scores = false;
  TextLimit limit;
  std::vector<std::string> labels;
  std::unique_ptr<MemoryBudget> budget;
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<Model> model;
  std::unique_ptr<TextEncoder> encoder;
  std::mutex turn;                      // held by the call that computes
  std::atomic<uint64_t> calls_end = 0;  // how often everything was cancelled
};

namespace {

// Short texts share steps of so many tokens.
constexpr size_t kStepTokens = 512;
constexpr size_t kStepTexts = 64;
constexpr size_t kTextsAtOnceMax = size_t{1} << 20;

// What scores are of, and what texts become for them.
Status PlanScores(bantam_encoder* encoder, TextOptions* use) {
  const TextModel& text = *encoder->text;
  use->classify = true;
  encoder->ranking = PlanRanking(text, /*wanted=*/std::nullopt);
  if (text.classes == 0 && !encoder->ranking.ok()) return encoder->ranking.error();
  if (text.classes > 0) BANTAM_TRY(CheckLabels(text.rules, text.classes));
  if (encoder->ranking.ok()) use->answers = encoder->ranking->answers;
  encoder->activation = text.classes > 0 ? ActivationOf(text.rules, text.classes) : ClassActivation::kSoftmax;
  return Ok();
}

Result<PlanOptions> ReadPlanOptions(const bantam_encoder_options& options, const bantam_encoder& encoder, const SystemLimits& limits) {
  if (options.threads > static_cast<uint32_t>(ThreadPool::kThreadsMax) || options.context > kContextLengthMax) {
    return Error(Code::kInvalidArgument, fmt::format("threads {}, context {}: expected at most {} and {}", options.threads, options.context,
                                                     ThreadPool::kThreadsMax, kContextLengthMax));
  }
  PlanOptions plan;
  plan.threads = options.threads == 0 ? std::min(limits.cores, ThreadPool::kThreadsMax) : static_cast<int>(options.threads);
  plan.kv_type = KvType::kF32;
  plan.context = encoder.limit.tokens_max;
  plan.step_tokens = std::max(plan.context, kStepTokens);
  plan.step_texts = kStepTexts;
  plan.step_outputs = kStepTexts;
  plan.prefetch = DefaultPrefetch();
  plan.uneven_cores = limits.uneven_cores;
  return plan;
}

TextLimit LimitOf(const bantam_encoder_options& options, const TextModel& text) {
  const size_t most = text.config.position_table ? text.config.context_max : kContextLengthMax;
  size_t tokens = text.rules.tokens_max != 0 ? text.rules.tokens_max : text.config.context_max;
  tokens = options.context != 0 ? options.context : std::min(tokens, kContextDefault);
  tokens = std::min(tokens, most);
  return {tokens, options.truncate != 0, tokens < most};
}

Status Open(const bantam_encoder_options& options, bantam_encoder* encoder) {
  if (options.model == nullptr) return Error(Code::kInvalidArgument, "model is NULL: give the path of one");
  BANTAM_ASSIGN(ModelFile file, OpenModel(*encoder->files, options.model));
  BANTAM_ASSIGN(TextModel read, ReadTextModel(file));
  encoder->text = std::make_unique<TextModel>(std::move(read));
  const TextModel& text = *encoder->text;
  encoder->scores = options.scores != 0;
  encoder->limit = LimitOf(options, text);
  TextOptions use;
  use.whole = true;
  if (encoder->scores) BANTAM_TRY(PlanScores(encoder, &use).With(options.model));
  BANTAM_ASSIGN(const KernelSet* kernels, ChooseKernels("auto"));
  BANTAM_ASSIGN(ModelOutline outline, OutlineModel(file, *kernels, {}, use));
  if (outline.program.pooling == Pooling::kEveryToken) {
    return Error(Code::kUnsupported, fmt::format("{}: the model gives a vector of each token and none of a text", options.model));
  }
  if (text.tokenizer.size() > outline.program.vocabulary) {
    return Error(Code::kCorrupt, fmt::format("{}: {} tokens in the vocabulary and {} in the model; convert the model again", options.model,
                                             text.tokenizer.size(), outline.program.vocabulary));
  }
  const SystemLimits limits = ReadSystemLimits(*encoder->files, /*root=*/"", AffinityProcessors());
  FitRequest fit;
  BANTAM_ASSIGN(fit.wanted, ReadPlanOptions(options, *encoder, limits));
  fit.limit_bytes = LimitBytes(options.memory_bytes, limits);
  fit.held = {.vocabulary = text.tokenizer.bytes(), .header = file.held_bytes()};
  fit.fixed_context = true;
  BANTAM_ASSIGN(const MemoryPlan plan, FitMemory(&outline.program, fit).With(options.model));
  encoder->budget = std::make_unique<MemoryBudget>(fit.limit_bytes);
  BANTAM_ASSIGN(encoder->pool, ThreadPool::Make(plan.options.threads));
  const Resources resources = {*encoder->budget, *encoder->pool};
  BANTAM_ASSIGN(encoder->model, LoadModel(std::move(outline), file, resources, ProgressOf(options)));
  BANTAM_ASSIGN(encoder->encoder, TextEncoder::Make(*encoder->model, plan, resources));
  for (size_t i = 0; encoder->scores && i < encoder->encoder->width(); ++i) {
    encoder->labels.push_back(text.classes > 0 ? LabelOf(text.rules, i) : i == 0 ? "yes" : "no");
  }
  return Ok();
}

Result<std::string_view> ViewOf(const bantam_text& text) {
  if (text.text == nullptr && text.text_bytes > 0) return Error(Code::kInvalidArgument, "a text is NULL, and has bytes");
  return std::string_view(text.text, text.text_bytes);
}

// Tokens of texts that are read before they are computed, but for a last one that is longer.
constexpr size_t kTokensTogether = 4096;

// Computes what is said of each text, some at a time, and some of other calls between them. `take` is given them in order.
template <typename Tokenize, typename Take>
Status Compute(bantam_encoder& encoder, size_t count, const Tokenize& tokenize, const Take& take) {
  if (count > kTextsAtOnceMax) return Error(Code::kExhausted, fmt::format("{} texts at once: expected at most {}", count, kTextsAtOnceMax));
  const uint64_t begun = encoder.calls_end.load();
  const auto cancelled = [&] { return encoder.calls_end.load() != begun; };
  std::vector<TextTokens> texts;
  for (size_t first = 0; first < count; first += texts.size()) {
    texts.clear();
    for (size_t tokens = 0; first + texts.size() < count && tokens < kTokensTogether;) {
      if (cancelled()) return Error(Code::kCancelled, "reading texts was interrupted");
      const size_t i = first + texts.size();
      BANTAM_ASSIGN(TextTokens text, tokenize(i).With(fmt::format("text {}", i)));
      tokens += text.tokens.size();
      texts.push_back(std::move(text));
    }
    const std::lock_guard lock(encoder.turn);
    const auto sink = [&](size_t i, std::span<float> values) -> Status {
      BANTAM_TRY(CheckNumbers(values).With(fmt::format("text {}", first + i)));
      take(first + i, values);
      return Ok();
    };
    BANTAM_TRY(encoder.encoder->Encode(texts, sink, cancelled));
  }
  return Ok();
}

Status CheckScores(const bantam_encoder& encoder, bool wanted) {
  if (encoder.scores == wanted) return Ok();
  return Error(Code::kUnsupported,
               wanted ? "the encoder makes vectors; open one with scores" : "the encoder makes scores; open one without");
}

}  // namespace

extern "C" {

bantam_code bantam_encoder_open(const bantam_encoder_options* options, bantam_encoder** encoder, bantam_error* error) {
  if (encoder == nullptr) return Tell(Error(Code::kInvalidArgument, "encoder is NULL: give a place for the handle"), error);
  *encoder = nullptr;
  return Guarded(error, [&]() -> Status {
    auto opened = std::make_unique<bantam_encoder>();
    BANTAM_TRY(Open(Known(options), opened.get()));
    *encoder = opened.release();
    return Ok();
  });
}

void bantam_encoder_close(bantam_encoder* encoder) { delete encoder; }

size_t bantam_encoder_width(const bantam_encoder* encoder) { return encoder == nullptr ? 0 : encoder->encoder->width(); }

const char* bantam_encoder_label(const bantam_encoder* encoder, size_t number) {
  return encoder == nullptr || number >= encoder->labels.size() ? nullptr : encoder->labels[number].c_str();
}

void bantam_encoder_cancel(bantam_encoder* encoder) {
  if (encoder != nullptr) ++encoder->calls_end;
}

bantam_code bantam_embed(bantam_encoder* encoder, const bantam_text* texts, size_t count, const char* prompt, float* vectors,
                         bantam_error* error) {
  if (encoder == nullptr || (count > 0 && (texts == nullptr || vectors == nullptr))) {
    return Tell(Error(Code::kInvalidArgument, "a pointer is NULL: encoder, texts and vectors are needed"), error);
  }
  return Guarded(error, [&]() -> Status {
    BANTAM_TRY(CheckScores(*encoder, /*wanted=*/false));
    const TextModel& text = *encoder->text;
    const auto name = prompt == nullptr ? std::nullopt : std::optional<std::string>(prompt);
    BANTAM_ASSIGN(const std::string prefix, ChoosePrefix(text.rules, name, /*prefix=*/std::nullopt));
    BANTAM_TRY(CheckPrefix(text.rules, prefix, encoder->model->program.pooling));
    const auto tokenize = [&](size_t i) -> Result<TextTokens> {
      BANTAM_ASSIGN(const std::string_view view, ViewOf(texts[i]));
      return TokenizeText(text.tokenizer, WholeText(text.rules, prefix, view), encoder->limit);
    };
    return Compute(*encoder, count, tokenize, [&](size_t i, std::span<float> values) {
      if (text.config.unit_length) ScaleToUnitLength(values);
      std::copy(values.begin(), values.end(), vectors + i * values.size());
    });
  });
}

bantam_code bantam_classify(bantam_encoder* encoder, const bantam_text* texts, const bantam_text* seconds, size_t count,
                            float* probabilities, bantam_error* error) {
  if (encoder == nullptr || (count > 0 && (texts == nullptr || probabilities == nullptr))) {
    return Tell(Error(Code::kInvalidArgument, "a pointer is NULL: encoder, texts and probabilities are needed"), error);
  }
  return Guarded(error, [&]() -> Status {
    BANTAM_TRY(CheckScores(*encoder, /*wanted=*/true));
    const TextModel& text = *encoder->text;
    if (text.classes == 0) return Error(Code::kUnsupported, "the model has no classifier, so it knows no classes");
    const auto tokenize = [&](size_t i) -> Result<TextTokens> {
      BANTAM_ASSIGN(const std::string_view view, ViewOf(texts[i]));
      if (seconds == nullptr) return TokenizeText(text.tokenizer, WholeText(text.rules, "", view), encoder->limit);
      BANTAM_ASSIGN(const std::string_view second, ViewOf(seconds[i]));
      BANTAM_ASSIGN(const std::vector<uint32_t> first, TokenizePart(text.tokenizer, WholeText(text.rules, "", view), encoder->limit));
      return TokenizePair(text.tokenizer, first, WholeText(text.rules, "", second), encoder->limit);
    };
    return Compute(*encoder, count, tokenize, [&](size_t i, std::span<float> values) {
      Activate(encoder->activation, values);
      std::copy(values.begin(), values.end(), probabilities + i * values.size());
    });
  });
}

bantam_code bantam_rerank(bantam_encoder* encoder, const bantam_text* query, const bantam_text* documents, size_t count, float* scores,
                          bantam_error* error) {
  if (encoder == nullptr || query == nullptr || (count > 0 && (documents == nullptr || scores == nullptr))) {
    return Tell(Error(Code::kInvalidArgument, "a pointer is NULL: encoder, query, documents and scores are needed"), error);
  }
  return Guarded(error, [&]() -> Status {
    BANTAM_TRY(CheckScores(*encoder, /*wanted=*/true));
    if (!encoder->ranking.ok()) return encoder->ranking.error();
    const RankPlan& plan = *encoder->ranking;
    BANTAM_ASSIGN(const std::string_view asked, ViewOf(*query));
    const auto tokenize = [&](size_t i) -> Result<TextTokens> {
      BANTAM_ASSIGN(const std::string_view view, ViewOf(documents[i]));
      return plan.Tokenize(encoder->text->tokenizer, asked, view, encoder->limit);
    };
    return Compute(*encoder, count, tokenize, [&](size_t i, std::span<float> values) { scores[i] = plan.ranking.Of(values); });
  });
}

}  // extern "C"
