#include "cli/hosting.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <map>
#include <optional>
#include <utility>

#include "cli/batch_texts.h"
#include "cli/model_folder.h"
#include "cli/terminal.h"
#include "cli/texts.h"
#include "engine/constraints.h"
#include "engine/engine_targets.h"
#include "engine/engine_thread.h"
#include "engine/text_encoder.h"
#include "model/model_digest.h"
#include "model/vocabulary.h"
#include "serve/text_service.h"
#include "text/chat_template.h"

namespace bantam {
namespace {

TextBatchOptions TextsOptionsOf(const ModelEntry& entry) {
  TextBatchOptions options;
  options.common.model = entry.path;
  options.common.run = entry.run;
  return options;
}

ModelFacts FactsOf(const OpenedEncoder& opened) {
  ModelFacts facts = {.architecture = opened.model.config.architecture, .file_bytes = opened.file.size_bytes};
  const std::string& path = opened.path;
  facts.format = path.ends_with(".gguf") ? "gguf" : path.ends_with(".bantam") ? "bantam" : "safetensors";
  std::map<std::string_view, uint64_t> bytes;
  for (const TensorInfo& tensor : opened.file.directory.tensors()) {
    facts.parameters += tensor.elements();
    bytes[Info(tensor.dtype).name] += tensor.size_bytes;
  }
  const auto most = std::max_element(bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most != bytes.end()) facts.weights = most->first;
  return facts;
}

void AddPlan(const MemoryPlan& plan, ModelFacts* facts) {
  facts->planned_bytes = plan.total_bytes();
  facts->weights_bytes = plan.weights_bytes;
  facts->kv_bytes = plan.kv_bytes;
  facts->kv = KvTypeName(plan.options.kv_type);
  facts->sequences = plan.options.sequences;
}

// Where texts are gone on with.
class HostedAnswers final : public HostedModel {
 public:
  static Result<std::unique_ptr<HostedModel>> Make(FileSystem& files, const ModelEntry& entry, OpenedEncoder opened, const Clock& clock,
                                                   const ServedModel* least);
  ~HostedAnswers() override { End(); }
  void End() override { thread_.reset(); }
  std::shared_ptr<const ServedModel> served() const override { return served_; }

 private:
  Status ReadTemplates(FileSystem& files, const std::string& path);
  Status Load(FileSystem& files, const ModelEntry& entry, const Clock& clock, const ServedModel* least);
  Result<EngineOptions> ReadEngineOptions(FileSystem& files, const ModelEntry& entry);

  std::optional<OpenedEncoder> opened_;
  std::optional<ChatTemplate> chat_template_;
  std::optional<ChatTemplate> tool_template_;
  std::string template_source_;
  Loaded loaded_;
  std::unique_ptr<Constraints> constraints_;
  std::unique_ptr<EngineThread> thread_;
  std::shared_ptr<ServedModel> served_ = std::make_shared<ServedModel>();
};

// Those of the model, or that of the path.
Status HostedAnswers::ReadTemplates(FileSystem& files, const std::string& path) {
  const ModelFile& file = opened_->file;
  if (!path.empty()) {
    constexpr size_t kBytesMax = 1 << 20;
    BANTAM_ASSIGN(template_source_, files.ReadText(path, kBytesMax));
    BANTAM_ASSIGN(chat_template_, MakeChatTemplate(file, template_source_).With(path));
    return Ok();
  }
  if (Result<ChatTemplate> read = ReadChatTemplate(file, /*tools=*/false); read.ok()) chat_template_ = std::move(read).value();
  if (Result<ChatTemplate> read = ReadChatTemplate(file, /*tools=*/true); read.ok()) tool_template_ = std::move(read).value();
  if (Result<std::string> source = ReadTemplateSource(file); source.ok()) template_source_ = std::move(source).value();
  return Ok();
}

// What does not depend on the weights.
Result<EngineOptions> HostedAnswers::ReadEngineOptions(FileSystem& files, const ModelEntry& entry) {
  EngineOptions options;
  options.admission.requests_max = entry.requests_max;
  options.admission.first_token_max_ns = entry.first_token_ms_max * 1'000'000;
  options.narrow_kv = entry.narrow_kv;
  options.exit_layer = entry.exit_layer;
  options.prefix_file = entry.prefix_file;
  options.watch = [&files] { return ReadMemoryPressure(files, /*root=*/""); };
  options.notice = [told = entry.notice, changes = served_->changes](std::string_view change) {
    ++*changes;
    if (told) told(change);
  };
  if (!entry.calibration.empty()) {
    BANTAM_ASSIGN(Calibration calibration, Calibration::Open(files, entry.calibration));
    options.calibration = std::make_shared<const Calibration>(std::move(calibration));
  }
  if (!entry.prefix_file.empty()) {
    BANTAM_ASSIGN(options.model_digest, DigestModel(opened_->file, MakeProgressLine()));
  }
  return options;
}

// What a plan that had to do with less memory would take from those who ask.
Status CheckLeast(const Prepared& prepared, const ServedModel& least) {
  const PlanOptions& plan = prepared.plan.options;
  const size_t context = std::min(least.context, prepared.outline.program.context_max);
  // What is still to be measured may come to another type than that of the version that runs.
  const bool same_kv = prepared.kv_check.has_value() || KvTypeName(plan.kv_type) == least.facts.kv;
  if (plan.context >= context && plan.sequences >= least.facts.sequences && same_kv) return Ok();
  return Error(Code::kExhausted,
               fmt::format("beside the version that runs there is memory for {} answers at once in a context of {} ({}) "
                           "and not for {} in {} ({})",
                           plan.sequences, plan.context, KvTypeName(plan.kv_type), least.facts.sequences, context, least.facts.kv));
}

Status HostedAnswers::Load(FileSystem& files, const ModelEntry& entry, const Clock& clock, const ServedModel* least) {
  const Tokenizer& tokenizer = opened_->model.tokenizer;
  BANTAM_ASSIGN(EngineOptions options, ReadEngineOptions(files, entry));
  const StepShape shape = {.sequences = entry.sequences, .exits = entry.exit_layer > 0, .narrow_kv = entry.narrow_kv};
  PrepareRequest request = {&tokenizer, /*text_bytes=*/0, entry.run, shape};
  request.kv_check = true;
  for (const auto& [name, path] : entry.adapters) request.adapters.push_back({.name = name, .path = path});
  if (!entry.draft.empty()) {
    BANTAM_ASSIGN(request.draft, FindModel(files, entry.draft));
  }
  BANTAM_ASSIGN(Prepared prepared, Prepare(files, std::move(opened_->file), request));
  BANTAM_TRY(CheckVocabulary(tokenizer, prepared, opened_->path));
  if (least != nullptr && least->Answers()) BANTAM_TRY(CheckLeast(prepared, *least));
  BANTAM_ASSIGN(loaded_, LoadWithoutSession(files, std::move(prepared)));
  EndProgressLine();
  BANTAM_TRY(UseAdaptiveTargets(files, entry.targets, loaded_.plan.options.sequences, &options));
  const Engine::Setup setup = {*loaded_.model, tokenizer, loaded_.plan, clock, options, loaded_.draft.get(), loaded_.draft_plan};
  BANTAM_ASSIGN(thread_, EngineThread::Start(setup, {*loaded_.budget, *loaded_.pool}));
  for (const auto& [name, adapter] : loaded_.adapters) BANTAM_TRY(thread_->AddAdapter(name, adapter));
  constraints_ = std::make_unique<Constraints>(tokenizer, *loaded_.budget);
  return Ok();
}

Result<std::unique_ptr<HostedModel>> HostedAnswers::Make(FileSystem& files, const ModelEntry& entry, OpenedEncoder opened,
                                                         const Clock& clock, const ServedModel* least) {
  auto hosted = std::make_unique<HostedAnswers>();
  ServedModel& served = *hosted->served_;
  served.facts = FactsOf(opened);
  hosted->opened_.emplace(std::move(opened));
  BANTAM_TRY(hosted->ReadTemplates(files, entry.chat_template));
  BANTAM_TRY(hosted->Load(files, entry, clock, least));
  AddPlan(hosted->loaded_.plan, &served.facts);
  const Tokenizer& tokenizer = hosted->opened_->model.tokenizer;
  served.name = entry.name;
  served.aliases = entry.aliases;
  served.loaded_s = std::time(nullptr);
  served.tokenizer = &tokenizer;
  served.context = hosted->loaded_.plan.options.context;
  served.engine = hosted->thread_.get();
  served.constraints = hosted->constraints_.get();
  served.chat_template = hosted->chat_template_ ? &*hosted->chat_template_ : nullptr;
  served.tool_template = hosted->tool_template_ ? &*hosted->tool_template_ : served.chat_template;
  served.template_shows_tools = hosted->template_source_.find("tools") != std::string::npos;
  served.dialect = OutputDialect::Detect(hosted->template_source_, tokenizer);
  served.markers = served.dialect.MarkerTokens(tokenizer);
  served.defaults.tokens_max = entry.answer_tokens == 0 ? served.context : entry.answer_tokens;
  return std::unique_ptr<HostedModel>(std::move(hosted));
}

// Where whole texts become vectors, or scores.
class HostedTexts final : public HostedModel {
 public:
  static Result<std::unique_ptr<HostedModel>> Make(FileSystem& files, const ModelEntry& entry, OpenedEncoder opened);
  ~HostedTexts() override { End(); }
  void End() override { service_.reset(); }
  std::shared_ptr<const ServedModel> served() const override { return served_; }

 private:
  std::optional<OpenedEncoder> opened_;
  std::optional<TextsPlan> plan_;
  ReadyEncoder ready_;
  std::unique_ptr<TextService> service_;
  std::shared_ptr<ServedModel> served_ = std::make_shared<ServedModel>();
};

Result<std::unique_ptr<HostedModel>> HostedTexts::Make(FileSystem& files, const ModelEntry& entry, OpenedEncoder opened) {
  auto hosted = std::make_unique<HostedTexts>();
  ServedModel& served = *hosted->served_;
  served.facts = FactsOf(opened);
  hosted->opened_.emplace(std::move(opened));
  OpenedEncoder& model = *hosted->opened_;
  const TextBatchOptions options = TextsOptionsOf(entry);
  BANTAM_ASSIGN(TextsPlan plan, PlanTexts(options, model, /*scores=*/model.model.classes > 0));
  hosted->plan_.emplace(std::move(plan));
  BANTAM_ASSIGN(hosted->ready_, MakeEncoder(files, model, options.common, hosted->plan_->shape, hosted->plan_->use));
  hosted->plan_->context.width = hosted->ready_.encoder->width();
  BANTAM_ASSIGN(hosted->service_, TextService::Make(*hosted->ready_.encoder, hosted->plan_->context));
  AddPlan(hosted->ready_.loaded.plan, &served.facts);
  served.name = entry.name;
  served.aliases = entry.aliases;
  served.loaded_s = std::time(nullptr);
  served.tokenizer = &model.model.tokenizer;
  served.context = hosted->plan_->context.limit.tokens_max;
  served.texts = hosted->service_.get();
  return std::unique_ptr<HostedModel>(std::move(hosted));
}

bool ReadsWholeTexts(const TextModel& model) {
  const bool pooled = model.rules.pooling_given && model.config.pooling != Pooling::kEveryToken;
  return model.classes > 0 || model.config.whole_texts || pooled;
}

}  // namespace

Result<std::unique_ptr<HostedModel>> HostModel(FileSystem& files, const ModelEntry& entry, const Clock& clock, const ServedModel* least) {
  BANTAM_ASSIGN(OpenedEncoder opened, OpenEncoder(files, TextsOptionsOf(entry).common).With(fmt::format("model {}", entry.name)));
  if (!ReadsWholeTexts(opened.model)) {
    return HostedAnswers::Make(files, entry, std::move(opened), clock, least).With(fmt::format("model {}", entry.name));
  }
  if (!entry.adapters.empty()) {
    return Error(Code::kInvalidArgument, fmt::format("model {}: adapters go with models that write; leave them away", entry.name));
  }
  return HostedTexts::Make(files, entry, std::move(opened)).With(fmt::format("model {}", entry.name));
}

Status CheckModelEntry(FileSystem& files, const ModelEntry& entry) {
  const Result<OpenedEncoder> opened = OpenEncoder(files, TextsOptionsOf(entry).common);
  return opened.ok() ? Ok() : Error(opened.error()).With(fmt::format("model {}", entry.name));
}

}  // namespace bantam
