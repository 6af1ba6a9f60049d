#include "cli/batch_texts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

#include "base/clock.h"
#include "cli/terminal.h"
#include "engine/text_batch.h"

namespace bantam {
namespace {

// What the program is to make of texts, and what requests may ask of it.
Status PlanScores(const TextBatchOptions& options, OpenedEncoder& opened, TextOptions* use, TextRequestContext* context) {
  const TextModel& model = opened.model;
  BANTAM_ASSIGN(const auto activation, ReadActivationName(options.common));
  if (model.classes != 0) BANTAM_TRY(CheckLabels(model.rules, model.classes).With(opened.path));
  context->ranking = PlanRanking(model, options.judge);
  if (model.classes == 0 && !context->ranking.ok()) return Error(context->ranking.error()).With(opened.path);
  context->activation = activation.value_or(ActivationOf(model.rules, model.classes));
  if (context->ranking.ok()) {
    use->answers = context->ranking->answers;
    if (activation) context->ranking->ranking.activation = *activation;
  }
  NoteClassifierPooling(opened, use->pooling);
  return Ok();
}

}  // namespace

Result<TextsPlan> PlanTexts(const TextBatchOptions& options, OpenedEncoder& opened, bool scores) {
  TextsPlan plan = {.context = {.model = opened.model, .limit = opened.limit}};
  plan.use.classify = scores;
  BANTAM_ASSIGN(plan.use.pooling, ReadPoolingName(options.common));
  const Config& config = opened.model.config;
  const Pooling pooling = plan.use.pooling.value_or(scores ? config.classifier_pooling : config.pooling);
  if (pooling == Pooling::kEveryToken) {
    return Error(Code::kInvalidArgument,
                 "an answer has one vector or one set of classes for a text: say how its tokens become one (--pooling)");
  }
  TextRequestContext& context = plan.context;
  context.work = scores ? TextWork::kScores : TextWork::kVectors;
  context.unit_length = config.unit_length;
  context.pooling = pooling;
  // Texts are read as they come: memory is planned for texts that most are shorter than.
  if (options.common.run.context == 0 && context.limit.tokens_max > kContextDefault) {
    context.limit.tokens_max = kContextDefault;
    context.limit.can_grow = true;
  }
  if (scores) BANTAM_TRY(PlanScores(options, opened, &plan.use, &context));
  plan.shape = {.longest = context.limit.tokens_max, .total = SIZE_MAX, .texts = SIZE_MAX, .bytes = kTextBatchBytes};
  return plan;
}

void AddTextBatchOptions(CLI::App& verb, TextBatchOptions* options) {
  verb.add_flag("--truncate", options->common.truncate, "of vectors and scores: leave the end of a text away that is too long");
  verb.add_option("--pooling", options->common.pooling,
                  "of vectors and scores: how tokens become one vector, mean, cls (the first) or last (default: as the model says)");
  AddActivationOption(verb, &options->common);
  verb.add_option("--template", options->judge, "of rankings by decoders: how they are asked, as for bantam rerank");
}

Status BatchOfTexts(FileSystem& files, const TextBatchOptions& options, OpenedEncoder& opened, bool scores, const BatchPlaces& places) {
  BANTAM_ASSIGN(TextsPlan plan, PlanTexts(options, opened, scores));
  TextRequestContext& context = plan.context;
  BANTAM_ASSIGN(const ReadyEncoder ready, MakeEncoder(files, opened, options.common, plan.shape, plan.use));
  context.width = ready.encoder->width();
  if (places.force) BANTAM_TRY(places.output.Truncate(0));  // not before everything else is sure
  const MonotonicClock clock;
  const int64_t begin = clock.NowNs();
  const auto progress = [line = MakeProgressLine()](std::string_view step, uint64_t done, uint64_t total) {
    return !Interrupted() && (!line || line(step, done, total));
  };
  const Result<BatchSummary> summary =
      RunTextBatch({.input = places.input, .output = places.output, .context = context, .encoder = *ready.encoder, .progress = progress});
  EndProgressLine();
  if (!summary.ok()) return Error(summary.error()).With(places.path);
  const double seconds = static_cast<double>(std::max<int64_t>(clock.NowNs() - begin, 1)) * 1e-9;
  const std::string resumed = summary->resumed == 0 ? "" : fmt::format(" ({} were there already)", summary->resumed);
  Note(fmt::format("{} line{} answered{}, {} with an error; {:.1f} lines/s; peak memory {} of {} planned\n", summary->lines,
                   summary->lines == 1 ? "" : "s", resumed, summary->errors, static_cast<double>(summary->lines) / seconds,
                   FormatBytes(PeakResidentBytes()), FormatBytes(ready.loaded.plan.total_bytes())));
  return Ok();
}

}  // namespace bantam
