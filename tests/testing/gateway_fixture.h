// A gateway on a free port, in front of a small model that has learned to write.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory_budget.h"
#include "base/threads.h"
#include "engine/constraints.h"
#include "engine/engine_thread.h"
#include "engine/text_model.h"
#include "engine/text_request.h"
#include "formats/gguf.h"
#include "model/load.h"
#include "model/vocabulary.h"
#include "net/http_server.h"
#include "serve/gateway.h"
#include "serve/model_catalog.h"
#include "serve/text_service.h"
#include "testing/http_client.h"
#include "testing/paths.h"
#include "testing/text_runner.h"
#include "text/chat_template.h"

namespace bantam::testing {

inline constexpr char kTemplate[] =
    "{% if tools %}tools: {{ tools | tojson }}\n{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}\n"
    "{% endfor %}assistant:";
inline constexpr char kHello[] = R"("messages":[{"role":"user","content":"Once upon a time"}])";

// A version of a model: an engine of its own on weights that others have too.
class TestVersion final : public HostedModel {
 public:
  TestVersion(std::unique_ptr<EngineThread> engine, ServedModel served) : engine_(std::move(engine)) {
    served.engine = engine_.get();
    served_ = std::make_shared<const ServedModel>(std::move(served));
  }
  std::shared_ptr<const ServedModel> served() const override { return served_; }
  void End() override { engine_.reset(); }

 private:
  std::unique_ptr<EngineThread> engine_;
  std::shared_ptr<const ServedModel> served_;
};

// One that reads whole texts, of tests/data/archs: vectors, or with `scores` classes.
class TestTexts final : public HostedModel {
 public:
  TestTexts(const std::string& arch, bool scores, ServedModel served)
      : runner_(arch, Setup(scores)), text_(TextModelOf(arch)), context_({.model = text_, .limit = {.tokens_max = 96}}) {
    context_.work = scores ? TextWork::kScores : TextWork::kVectors;
    context_.width = runner_.encoder->width();
    service_ = TextService::Make(*runner_.encoder, context_).value();
    served.tokenizer = &text_.tokenizer;
    served.context = 96;
    served.texts = service_.get();
    served_ = std::make_shared<const ServedModel>(std::move(served));
  }
  std::shared_ptr<const ServedModel> served() const override { return served_; }
  void End() override { service_.reset(); }

 private:
  static TextSetup Setup(bool scores) {
    TextSetup setup;
    setup.use.classify = scores;
    return setup;
  }
  static TextModel TextModelOf(const std::string& arch) {
    const auto files = MakeFileSystem();
    ModelFile file = OpenModel(*files, DataPath("archs/" + arch + ".gguf")).value();
    return ReadTextModel(file).value();
  }
  TextRunner runner_;
  TextModel text_;
  TextRequestContext context_;
  std::unique_ptr<TextService> service_;
  std::shared_ptr<const ServedModel> served_;
};

class GatewayTest : public ::testing::Test {
 protected:
  void Start(GatewayOptions options = {}, AdmissionLimits admission = {}, std::string name = "stories") {
    StartCatalog({{.name = std::move(name), .path = "v1", .aliases = {"default"}}}, std::move(options), admission);
  }
  void StartCatalog(std::vector<CatalogEntry> entries, GatewayOptions options = {}, AdmissionLimits admission = {}) {
    options.version = "1.2.3";
    options.access_log = [this](const std::string& line) {
      const std::lock_guard lock(mutex_);
      log_.push_back(line);
    };
    ModelFile file = OpenGguf(*files_, DataPath("models/stories260K.gguf")).value();
    tokenizer_ = std::make_unique<Tokenizer>(ReadVocabulary(file).value());
    model_ = LoadModel(OutlineModel(file, *RunnableKernels().front()).value(), file, {budget_, *pool_}, nullptr).value();
    PlanOptions plan_options = {/*context=*/512, KvType::kF16, /*step_tokens=*/64, /*step_outputs=*/8, pool_->size()};
    PlanSequences(4, &plan_options);
    plan_ = PlanMemory(model_->program, plan_options, {});
    constraints_ = std::make_unique<Constraints>(*tokenizer_, budget_);
    template_.emplace(ChatTemplate::Make(kTemplate, {}).value());
    catalog_options_.load = [this, admission](const CatalogEntry& entry, const std::string& path, const ServedModel*) {
      return Load(entry, path, admission);
    };
    catalog_ = ModelCatalog::Make(catalog_options_, std::move(entries), clock_).value();
    ASSERT_TRUE(catalog_->LoadAll().ok());
    gateway_ = Gateway::Make(std::move(options), *catalog_, budget_, clock_).value();
    server_ = HttpServer::Start({}, *gateway_, clock_).value();
  }
  // Paths are "vectors/ARCH", "classes/ARCH", or any of the model that writes. Of those that begin so, some cannot be loaded: "bad" ones
  // never, and of "large" ones and others one at a time.
  Result<std::unique_ptr<HostedModel>> Load(const CatalogEntry& entry, const std::string& path, const AdmissionLimits& admission) {
    while (!gate_open_) std::this_thread::yield();
    if (path.starts_with("throws")) throw std::bad_alloc();
    if (path.starts_with("bad")) return Error(Code::kCorrupt, path + ": not a model");
    const bool alone = path.starts_with("large") && !catalog_->loaded().empty();
    if (alone) return Error(Code::kExhausted, path + ": does not fit beside the others");
    ServedModel served = {.name = entry.name, .aliases = entry.aliases};
    if (path.starts_with("vectors/") || path.starts_with("classes/")) {
      return std::unique_ptr<HostedModel>(std::make_unique<TestTexts>(path.substr(8), path.starts_with("classes/"), std::move(served)));
    }
    EngineOptions engine_options;
    engine_options.admission = admission;
    engine_options.check = true;
    BANTAM_ASSIGN(auto engine, EngineThread::Start({*model_, *tokenizer_, plan_, clock_, engine_options}, {budget_, *pool_}));
    engine_ = engine.get();
    ++loads_;
    served.facts.digest = path;
    served.tokenizer = tokenizer_.get();
    served.context = 512;
    served.constraints = constraints_.get();
    served.chat_template = &*template_;
    served.tool_template = &*template_;
    served.template_shows_tools = true;
    served.dialect = OutputDialect::Detect(kTemplate, *tokenizer_);
    served.defaults.tokens_max = 64;
    return std::unique_ptr<HostedModel>(std::make_unique<TestVersion>(std::move(engine), std::move(served)));
  }
  HttpAnswer Change(std::string_view action, const std::string& members) {
    return Post("/admin/models/" + std::string(action), "{" + members + "}");
  }
  Json ModelNow(size_t index = 0) { return Get("/admin/models").json()["models"][index]; }
  ~GatewayTest() override {
    // A test that failed may have left it shut.
    gate_open_ = true;
    if (server_ != nullptr) server_->Stop();
    if (gateway_ != nullptr) gateway_->StopReading();
    if (catalog_ != nullptr) catalog_->Stop();
    gateway_.reset();
  }
  HttpAnswer Post(std::string_view target, std::string_view body, std::string_view fields = "") {
    return Ask(server_->port(), "POST", target, body, fields);
  }
  HttpAnswer Chat(const std::string& members, std::string_view fields = "") {
    return Post("/v1/chat/completions", "{" + members + "}", fields);
  }
  HttpAnswer Get(std::string_view target, std::string_view fields = "") { return Ask(server_->port(), "GET", target, "", fields); }
  // Until the engine has nothing: it is told of clients that go.
  void AwaitNothing() {
    while (engine_->load().requests > 0) std::this_thread::yield();
  }

  MonotonicClock clock_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  MemoryBudget budget_{uint64_t{1} << 30};
  std::unique_ptr<ThreadPool> pool_ = ThreadPool::Make(1).value();
  std::unique_ptr<HttpServer> server_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Model> model_;
  std::optional<ChatTemplate> template_;
  std::unique_ptr<Constraints> constraints_;
  MemoryPlan plan_;
  CatalogOptions catalog_options_;
  std::unique_ptr<ModelCatalog> catalog_;
  std::atomic<bool> gate_open_ = true;  // loads wait for it
  std::atomic<int> loads_ = 0;
  EngineThread* engine_ = nullptr;  // the last that was loaded
  std::unique_ptr<Gateway> gateway_;
  std::mutex mutex_;
  std::vector<std::string> log_;
};

}  // namespace bantam::testing
