#include "engine/engine_thread.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "engine/session.h"
#include "formats/gguf.h"
#include "model/vocabulary.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

class EngineThreadTest : public ::testing::Test {
 protected:
  static constexpr size_t kContext = 128;

  EngineThreadTest() {
    testing::BuildTinyModel({.width = 64, .feed_forward = 64}).Write(folder_.Path("m.gguf"));
    ModelFile file = OpenGguf(*files_, folder_.Path("m.gguf")).value();
    tokenizer_ = std::make_unique<Tokenizer>(ReadVocabulary(file).value());
    model_ = LoadModel(OutlineModel(file, *RunnableKernels().front()).value(), file, {budget_, pool_}, nullptr).value();
    options_ = {kContext, KvType::kF16, /*step_tokens=*/16, /*step_outputs=*/8, pool_.size()};
    options_.sequences = 4;
    options_.kv_tokens = 400;
    plan_ = PlanMemory(model_->program, options_, {});
  }
  std::unique_ptr<EngineThread> Start(EngineOptions options = {}) {
    options.check = true;
    return EngineThread::Start({*model_, *tokenizer_, plan_, clock_, options}, {budget_, pool_}).value();
  }
  static Request Prompt(uint32_t seed, size_t tokens_max) {
    Request request;
    for (uint32_t i = 0; i < 20; ++i) request.tokens.push_back(3 + (seed * 37 + i * 11) % 290);
    request.tokens_max = tokens_max;
    request.tokens_min = tokens_max;
    request.sampler.temperature = 1;
    request.sampler.seed = seed;
    return request;
  }
  struct Answer {
    std::string text;
    std::optional<Finish> finish;
  };
  static Answer ReadAll(AnswerStream& stream) {
    Answer answer;
    while (!stream.ended()) {
      std::optional<Event> event = stream.Next();
      if (!event) break;
      answer.text += event->text;
      if (event->finish) answer.finish = std::move(event->finish);
    }
    return answer;
  }

  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  MemoryBudget budget_{uint64_t{1} << 30};
  std::unique_ptr<ThreadPool> threads_owner_ = ThreadPool::Make(2).value();
  ThreadPool& pool_ = *threads_owner_;
  MonotonicClock clock_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Model> model_;
  PlanOptions options_;
  MemoryPlan plan_;
};

// Adapters come and go from other threads while answers run; each answer is that of its own adapter.
TEST_F(EngineThreadTest, AdaptersFromManyThreads) {
  std::vector<std::shared_ptr<const Adapter>> adapters;
  for (uint64_t seed = 1; seed <= 2; ++seed) {
    testing::BuildTinyAdapter({.width = 64, .feed_forward = 64}, /*rank=*/4, seed).Write(folder_.Path("a.gguf"));
    AdapterOutline outline = OutlineAdapter(*files_, folder_.Path("a.gguf"), {model_->config, model_->program, *model_->kernels}).value();
    adapters.push_back(LoadAdapter(std::move(outline), *model_, budget_).value());
  }
  std::vector<std::string> alone;
  for (const auto& adapter : adapters) {
    const auto engine = Start();
    ASSERT_TRUE(engine->AddAdapter("own", adapter).ok());
    Request request = Prompt(5, 30);
    request.adapter = "own";
    alone.push_back(ReadAll(*engine->Submit(request)->answer).text);
  }
  EXPECT_NE(alone[0], alone[1]);
  const auto engine = Start();
  std::atomic<int> wrong = 0;
  const auto caller = [&](size_t which) {
    const std::string name(1, static_cast<char>('a' + which));
    for (int round = 0; round < 4; ++round) {
      if (!engine->AddAdapter(name, adapters[which % 2]).ok()) ++wrong;
      Request request = Prompt(5, 30);
      request.adapter = name;
      const auto ticket = engine->Submit(request);
      // What was submitted before the name goes has it.
      if (!engine->RemoveAdapter(name).ok()) ++wrong;
      if (!ticket.ok() || ReadAll(*ticket->answer).text != alone[which % 2]) ++wrong;
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 0; i < 4; ++i) threads.emplace_back(caller, i);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_TRUE(engine->adapters().empty());
  Request unknown = Prompt(5, 30);
  unknown.adapter = "a";
  const auto refused = engine->Submit(unknown);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), Code::kNotFound);
  EXPECT_EQ(engine->RemoveAdapter("a").error().code(), Code::kNotFound);
}

// Many callers at once; each gets what it would get alone.
TEST_F(EngineThreadTest, CallersFromManyThreads) {
  std::vector<std::string> alone;
  for (uint32_t seed = 0; seed < 6; ++seed) {
    const auto engine = Start();
    alone.push_back(ReadAll(*engine->Submit(Prompt(seed, 20))->answer).text);
  }
  const auto engine = Start();
  std::vector<std::thread> callers;
  std::atomic<int> wrong = 0;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      for (int i = 0; i < 12; ++i) {
        const uint32_t seed = static_cast<uint32_t>(caller + i) % 6;
        const auto ticket = engine->Submit(Prompt(seed, 20));
        if (!ticket.ok()) {
          ++wrong;
          continue;
        }
        if (i % 5 == 4) {
          engine->Cancel(ticket->id);
          engine->Cancel(ticket->id);
          if (!ReadAll(*ticket->answer).finish.has_value()) ++wrong;
        } else if (ReadAll(*ticket->answer).text != alone[seed]) {
          ++wrong;
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(engine->counters().generated_tokens, 500u);
}

TEST_F(EngineThreadTest, AQueueThatIsFullRefusesAtOnce) {
  EngineOptions options;
  options.admission.requests_max = 3;
  const auto engine = Start(options);
  std::vector<EngineThread::Ticket> tickets;
  size_t refused = 0;
  for (uint32_t i = 0; i < 10; ++i) {
    auto ticket = engine->Submit(Prompt(i, 60));
    if (ticket.ok()) {
      tickets.push_back(*ticket);
    } else {
      EXPECT_EQ(ticket.error().code(), Code::kUnavailable);
      EXPECT_NE(ticket.error().message().find("requests wait or run already"), std::string::npos);
      ++refused;
    }
  }
  EXPECT_GT(refused, 0u);
  for (const auto& ticket : tickets) EXPECT_EQ(ReadAll(*ticket.answer).finish->reason, StopReason::kLength);
  EXPECT_EQ(engine
                ->Submit([] {
                  Request bad;
                  bad.sampler.top_p = 7;
                  bad.tokens = {1};
                  return bad;
                }())
                .error()
                .code(),
            Code::kInvalidArgument);
}

// Who closes the engine leaves nobody waiting.
TEST_F(EngineThreadTest, ClosingEndsAllAnswers) {
  auto engine = Start();
  Request request = Prompt(1, 100);
  request.choices = 3;
  const auto ticket = engine->Submit(request).value();
  engine.reset();
  size_t finished = 0;
  while (!ticket.answer->ended()) {
    const std::optional<Event> event = ticket.answer->Next();
    ASSERT_TRUE(event.has_value());
    if (event->finish) {
      ++finished;
      EXPECT_EQ(event->finish->reason, StopReason::kCancelled);
    }
  }
  EXPECT_EQ(finished, 3u);
  EXPECT_FALSE(ticket.answer->Next().has_value());
}

// A budget without room for what a request holds: it is refused at once.
TEST_F(EngineThreadTest, NoMemoryForARequest) {
  const uint64_t engine_bytes = plan_.kv_bytes + plan_.activations_bytes;
  MemoryBudget budget(engine_bytes + 100);
  const auto engine = EngineThread::Start({*model_, *tokenizer_, plan_, clock_, {}}, {budget, pool_}).value();
  const auto refused = engine->Submit(Prompt(1, 10));
  EXPECT_EQ(refused.error().code(), Code::kExhausted) << "nothing runs that could give some back";
  EXPECT_EQ(engine->counters().refusals, 1u);
  EXPECT_EQ(budget.used_bytes(), engine_bytes);
}

// A long prompt is warm after a restart.
TEST_F(EngineThreadTest, PrefixesOutliveARestart) {
  EngineOptions options;
  options.prefix_file = folder_.Path("prefixes");
  std::vector<std::string> notices;
  std::mutex mutex;
  options.notice = [&](std::string_view change) {
    const std::lock_guard lock(mutex);
    notices.emplace_back(change);
  };
  Request request = Prompt(3, 10);
  request.tokens.insert(request.tokens.end(), 60, 9);
  std::string texts[2];
  for (int run = 0; run < 2; ++run) {
    const auto engine = Start(options);
    const Answer answer = ReadAll(*engine->Submit(request)->answer);
    texts[run] = answer.text;
    EXPECT_EQ(answer.finish->usage.cached_tokens, run == 0 ? 0u : 64u);
  }
  EXPECT_EQ(texts[0], texts[1]);
  ASSERT_EQ(notices.size(), 2u);
  EXPECT_NE(notices[0].find("no prefixes"), std::string::npos) << notices[0];
  EXPECT_NE(notices[1].find("blocks of prefixes are warm"), std::string::npos) << notices[1];
  options.model_digest[0] = 1;
  const auto other = Start(options);
  EXPECT_EQ(ReadAll(*other->Submit(request)->answer).finish->usage.cached_tokens, 0u);
  EXPECT_NE(notices[2].find("of another model"), std::string::npos) << notices[2];
}

// What watches the machine's memory is asked while nothing runs, too.
TEST_F(EngineThreadTest, WatchesMemory) {
  EngineOptions options;
  std::atomic<int> looks = 0;
  options.watch = [&] {
    ++looks;
    return MemoryPressure{.left_bytes = 1, .limit_bytes = uint64_t{1} << 30};
  };
  const auto engine = Start(options);
  bool refused = false;
  for (uint32_t i = 0; i < 1000 && !refused; ++i) {
    const auto ticket = engine->Submit(Prompt(i, 3));
    refused = !ticket.ok();
    if (refused) {
      EXPECT_NE(ticket.error().message().find("short of memory"), std::string::npos) << ticket.error().message();
    } else {
      ReadAll(*ticket->answer);
    }
  }
  EXPECT_TRUE(refused);
  EXPECT_GT(looks, 0);
}

// Whoever is told that something came, and takes it all without waiting, misses nothing.
TEST_F(EngineThreadTest, TellsThatSomethingCame) {
  std::mutex mutex;
  std::condition_variable changed;
  int told = 0;
  const auto engine = Start();
  const Answer waited = ReadAll(*engine->Submit(Prompt(3, 40))->answer);
  const auto ticket = engine->Submit(Prompt(3, 40), [&] {
    const std::lock_guard lock(mutex);
    ++told;
    changed.notify_all();
  });
  ASSERT_TRUE(ticket.ok());
  Answer answer;
  while (!ticket->answer->ended()) {
    {
      std::unique_lock lock(mutex);
      ASSERT_TRUE(changed.wait_for(lock, std::chrono::seconds(20), [&] { return told > 0; }));
      told = 0;
    }
    while (std::optional<Event> event = ticket->answer->Next(/*timeout_ns=*/0)) {
      answer.text += event->text;
      if (event->finish) answer.finish = std::move(event->finish);
    }
  }
  EXPECT_EQ(answer.text, waited.text);
  EXPECT_TRUE(answer.finish.has_value());
  EXPECT_FALSE(engine->failed().has_value());
  EXPECT_GE(engine->PredictFirstToken(Prompt(4, 1)), 0);
}

// A search gives all its answers at its end, and as many ends as were asked for when it is cancelled.
TEST_F(EngineThreadTest, Searches) {
  const auto engine = Start();
  for (const bool cancelled : {false, true}) {
    Request search = Prompt(5, 10);
    search.sampler = {};
    search.beams = 2;
    search.choices = 2;
    const auto ticket = engine->Submit(search);
    ASSERT_TRUE(ticket.ok()) << ticket.error().message();
    if (cancelled) engine->Cancel(ticket->id);
    std::set<size_t> ended;
    while (const std::optional<Event> event = ticket->answer->Next(/*timeout_ns=*/-1)) {
      ASSERT_TRUE(event->finish.has_value()) << "nothing comes before the end";
      EXPECT_TRUE(ended.insert(event->choice).second);
      if (!cancelled) {
        EXPECT_EQ(event->token_count, 10u);
      }
    }
    EXPECT_EQ(ended.size(), 2u);
  }
}

TEST_F(EngineThreadTest, WaitingEndsAtItsTime) {
  const auto engine = Start();
  const auto ticket = engine->Submit(Prompt(1, 3)).value();
  while (!ticket.answer->ended()) (void)ticket.answer->Next(/*timeout_ns=*/1'000'000);
  EXPECT_FALSE(ticket.answer->Next(/*timeout_ns=*/0).has_value());
}

}  // namespace
}  // namespace bantam
