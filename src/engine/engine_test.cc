#include "engine/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "engine/constraints.h"
#include "engine/session.h"
#include "formats/gguf.h"
#include "kernels/ref/ref.h"
#include "model/vocabulary.h"
#include "program/exit_points.h"
#include "testing/engine_answers.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

using Answer = testing::EngineAnswer;
using testing::RunAll;

struct Kind {
  const char* name;
  size_t window = 0;
  bool hybrid = false;
  uint32_t experts = 0;
  KvType kv_type = KvType::kF16;
};
std::ostream& operator<<(std::ostream& out, const Kind& kind) { return out << kind.name; }

class EngineTest : public ::testing::TestWithParam<Kind> {
 protected:
  static constexpr size_t kContext = 160;

  EngineTest() {
    const Kind& kind = GetParam();
    tiny_.hybrid = kind.hybrid;
    tiny_.experts = kind.experts;
    tiny_.experts_used = kind.experts == 0 ? 0 : 2;
    testing::BuildTinyModel(tiny_).Write(folder_.Path("m.gguf"));
    ModelFile file = OpenGguf(*files_, folder_.Path("m.gguf")).value();
    tokenizer_ = std::make_unique<Tokenizer>(ReadVocabulary(file).value());
    ModelOutline outline = OutlineModel(file, *RunnableKernels().front()).value();
    if (kind.window > 0) outline.program.kv_layers[0].window = kind.window;
    model_ = LoadModel(std::move(outline), file, {budget_, pool_}, nullptr).value();
  }

  PlanOptions Options(size_t sequences, size_t kv_tokens) const {
    PlanOptions options = {kContext, GetParam().kv_type, /*step_tokens=*/16, /*step_outputs=*/sequences + 4, pool_.size()};
    options.sequences = sequences;
    options.kv_tokens = kv_tokens;
    options.checkpoints = 2;
    options.narrow_kv = true;
    return options;
  }
  std::unique_ptr<Engine> MakeEngine(size_t sequences, size_t kv_tokens, EngineOptions options = {}) {
    options.check = true;
    const MemoryPlan plan = PlanMemory(model_->program, Options(sequences, kv_tokens), {});
    return Engine::Make({*model_, *tokenizer_, plan, clock_, options}, {budget_, pool_},
                        [this](Event event) { testing::TakeEvent(std::move(event), &answers_); })
        .value();
  }
  std::shared_ptr<const Adapter> MakeAdapter(size_t rank, uint64_t seed) {
    testing::BuildTinyAdapter(tiny_, rank, seed).Write(folder_.Path("a.gguf"));
    AdapterOutline outline = OutlineAdapter(*files_, folder_.Path("a.gguf"), {model_->config, model_->program, *model_->kernels}).value();
    return LoadAdapter(std::move(outline), *model_, budget_).value();
  }

  // The same by a session of its own, token by token: nothing of the engine takes part.
  Answer Solo(const Request& request, size_t choice, const std::shared_ptr<const Adapter>& adapter = nullptr) {
    const KvType kv_type = request.kv_type.value_or(GetParam().kv_type);
    PlanOptions options = {kContext, kv_type, /*step_tokens=*/16, /*step_outputs=*/1, pool_.size()};
    auto session = Session::Make(*model_, PlanMemory(model_->program, options, {}), {budget_, pool_}).value();
    if (adapter != nullptr) {
      EXPECT_TRUE(session->Use(adapter, budget_).ok());
    }
    std::vector<TokenInfo> prompt;
    if (request.prompt_details) {
      prompt.push_back({{request.tokens[0], std::nanf("")}, {}});
      for (size_t i = 0; i + 1 < request.tokens.size(); ++i) {
        EXPECT_TRUE(session->Append(std::span(request.tokens).subspan(i, 1)).ok());
        prompt.push_back(DescribeToken(session->logits(), request.tokens[i + 1], request.top_logprobs));
      }
      EXPECT_TRUE(session->Append(std::span(request.tokens).last(1)).ok());
      if (request.tokens_max == 0) return {.prompt = prompt, .finish = Finish{.reason = StopReason::kLength}};
    } else {
      EXPECT_TRUE(session->Append(request.tokens).ok());
    }
    SamplerOptions sampler_options = request.sampler;
    sampler_options.seed += choice;
    Sampler sampler(sampler_options, model_->program.vocabulary);
    const GenerateResult result =
        Generate(*session, sampler, *tokenizer_, clock_,
                 {.tokens_max = request.tokens_max, .cancelled = nullptr, .stops = request.stops, .on_text = nullptr})
            .value();
    Answer answer = {.text = result.text, .tokens = result.tokens, .prompt = prompt};
    answer.finish = Finish{.reason = result.reason};
    return answer;
  }
  void ExpectSolo(RequestId id, const Request& request, const std::shared_ptr<const Adapter>& adapter = nullptr) {
    for (size_t choice = 0; choice < request.choices; ++choice) {
      const Answer& answer = answers_[{id, choice}];
      ASSERT_TRUE(answer.finish.has_value());
      Request same = request;
      if (request.kv_type) {
        EXPECT_EQ(answer.finish->usage.kv_type, *request.kv_type);
      }
      same.kv_type = answer.finish->usage.kv_type;
      const Answer solo = Solo(same, choice, adapter);
      EXPECT_EQ(answer.text, solo.text) << "request " << id << " choice " << choice;
      EXPECT_EQ(answer.tokens, solo.tokens);
      ASSERT_EQ(answer.prompt.size(), solo.prompt.size());
      for (size_t i = 0; i < answer.prompt.size(); ++i) ExpectSame(answer.prompt[i], solo.prompt[i]);
      if (answer.finish->reason != StopReason::kContextFull) {
        EXPECT_EQ(answer.finish->reason, solo.finish->reason);
      }
    }
  }
  static void ExpectSame(const TokenInfo& one, const TokenInfo& other) {
    const auto expect_same = [](const TokenLogprob& a, const TokenLogprob& b) {
      EXPECT_EQ(a.token, b.token);
      EXPECT_TRUE(a.logprob == b.logprob || (std::isnan(a.logprob) && std::isnan(b.logprob))) << a.logprob << " and " << b.logprob;
    };
    expect_same(one.chosen, other.chosen);
    ASSERT_EQ(one.top.size(), other.top.size());
    for (size_t i = 0; i < one.top.size(); ++i) expect_same(one.top[i], other.top[i]);
  }
  static Request RandomRequest(Rng& rng) {
    Request request;
    // Of a few beginnings, so that there is something to share; of a few tokens, so that texts repeat themselves.
    Rng beginning(rng.Next() % 3);
    for (uint64_t i = 0, end = rng.Next() % 70; i < end; ++i) request.tokens.push_back(static_cast<uint32_t>(3 + beginning.Next() % 40));
    for (uint64_t i = 0, end = 1 + rng.Next() % 20; i < end; ++i) request.tokens.push_back(static_cast<uint32_t>(3 + rng.Next() % 280));
    request.tokens_max = 1 + rng.Next() % 50;
    request.priority = static_cast<Priority>(rng.Next() % 4);
    request.client = std::string(1, static_cast<char>('a' + rng.Next() % 3));
    if (rng.Next() % 2 == 0) {
      request.sampler.temperature = 1.2f;
      request.sampler.seed = rng.Next();
    }
    if (rng.Next() % 4 == 0) request.sampler.penalties.repetition = 1.3f;
    if (rng.Next() % 4 == 0) request.stops = {"e", "qu"};
    if (rng.Next() % 4 == 0) request.choices = 1 + rng.Next() % 4;
    if (rng.Next() % 6 == 0) request.cache = false;
    if (rng.Next() % 6 == 0) request.tenant = "other";
    if (rng.Next() % 4 == 0) request.kv_type = KvType::kInt8;
    return request;
  }
  // Some are asked for the probabilities of their prompts too, or for these alone.
  static void MayDescribe(Rng& rng, Request* request) {
    if (rng.Next() % 4 != 0) return;
    request->token_details = request->prompt_details = true;
    request->top_logprobs = rng.Next() % 3;
    if (rng.Next() % 2 == 0) request->tokens_max = 0;
  }

  testing::TinyModel tiny_ = {.width = 64, .feed_forward = 64};
  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  MemoryBudget budget_{uint64_t{1} << 30};
  std::unique_ptr<ThreadPool> threads_owner_ = ThreadPool::Make(2).value();
  ThreadPool& pool_ = *threads_owner_;
  testing::TickingClock clock_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Model> model_;
  testing::EngineAnswers answers_;
};

// Random arrivals, priorities, clients, choices and cancellations in little memory: every answer is that of a run of its own.
TEST_P(EngineTest, EveryAnswerIsThatOfItsOwnRun) {
  for (const size_t kv_tokens : {size_t{1000}, size_t{200}}) {
    answers_.clear();
    const auto engine = MakeEngine(/*sequences=*/4, kv_tokens);
    const uint64_t held = budget_.used_bytes();
    Rng rng(kv_tokens);
    Rng details(kv_tokens + 1);
    std::map<RequestId, Request> requests;
    std::map<RequestId, bool> cancelled;
    for (int step = 0; step < 250; ++step) {
      if (rng.Next() % 5 == 0) {
        Request request = RandomRequest(rng);
        const RequestId id = engine->Submit(request).value();
        requests[id] = request;
      }
      if (details.Next() % 12 == 0) {
        Request request = RandomRequest(details);
        MayDescribe(details, &request);
        requests[engine->Submit(request).value()] = request;
      }
      if (rng.Next() % 40 == 0 && !requests.empty()) {
        const RequestId id = 1 + rng.Next() % requests.size();
        if (engine->Cancel(id)) cancelled[id] = true;
      }
      const auto stepped = engine->Step();
      ASSERT_TRUE(stepped.ok()) << stepped.error().message();
    }
    RunAll(*engine);
    for (const auto& [id, request] : requests) {
      if (!cancelled.contains(id)) ExpectSolo(id, request);
    }
    for (const auto& [id, yes] : cancelled) EXPECT_EQ((answers_[{id, 0}].finish->reason), StopReason::kCancelled);
    EXPECT_GT(engine->counters().cached_tokens, 100u);
    EXPECT_EQ(budget_.used_bytes(), held) << "what requests held is free";
    engine->DropPrefixes();
    for (const KvPart part : kAllKvParts) EXPECT_EQ(engine->kv().free_blocks(part), engine->kv().blocks(part));
    if (kv_tokens == 200 && !GetParam().hybrid) {
      EXPECT_GT(engine->counters().preemptions, 0u);
    }
  }
}

// Under pressure prefixes go first, then new requests keep KV in 8 bits, those that run go on as they began, and at last nothing is taken.
TEST_P(EngineTest, WhoComesWhileMemoryIsShortKeepsEightBits) {
  std::vector<std::string> notices;
  EngineOptions options;
  options.narrow_kv = true;
  options.notice = [&](std::string_view change) { notices.emplace_back(change); };
  const auto engine = MakeEngine(/*sequences=*/3, /*kv_tokens=*/1000, options);
  Rng rng(5);
  std::map<RequestId, Request> requests;
  const auto ask = [&] {
    Request request = RandomRequest(rng);
    request.kv_type.reset();
    request.choices = 1;
    request.tokens_max = 30;
    const RequestId id = engine->Submit(request).value();
    requests[id] = request;
    return id;
  };
  const auto type_of = [&](RequestId id) { return answers_[{id, 0}].finish->usage.kv_type; };
  const RequestId before = ask();
  for (int step = 0; step < 8; ++step) ASSERT_TRUE(engine->Step().ok());
  engine->SetPressure(Pressure::kHigh);
  const RequestId during = ask();
  Request fixed = requests[before];
  fixed.kv_type = GetParam().kv_type;
  const RequestId by_name = engine->Submit(fixed).value();
  requests[by_name] = fixed;
  for (int step = 0; step < 8; ++step) ASSERT_TRUE(engine->Step().ok());
  engine->SetPressure(Pressure::kCalm);
  const RequestId after = ask();
  RunAll(*engine);
  for (const RequestId id : {before, by_name, after}) EXPECT_EQ(type_of(id), GetParam().kv_type);
  EXPECT_EQ(type_of(during), KvType::kInt8);
  const bool planned = GetParam().kv_type == KvType::kInt8;
  EXPECT_EQ(engine->counters().narrowed, planned ? 0u : 1u);
  for (const auto& [id, request] : requests) ExpectSolo(id, request);
  ASSERT_EQ(notices.size(), 2u);
  EXPECT_EQ(notices[0].find("new requests keep KV in 8 bits") != std::string::npos, !planned) << notices[0];
  engine->SetPressure(Pressure::kCritical);
  EXPECT_EQ(engine->Submit(requests[before]).error().code(), Code::kUnavailable);
}

// Each reservation of KV fails now and then: answers come later, and are the same.
TEST_P(EngineTest, ReservationsMayFail) {
  for (const uint64_t every : {2, 3, 7}) {
    answers_.clear();
    Rng failures(every);
    EngineOptions options;
    options.fail = [&] { return failures.Next() % every == 0; };
    const auto engine = MakeEngine(/*sequences=*/3, /*kv_tokens=*/400, options);
    Rng rng(every);
    std::map<RequestId, Request> requests;
    for (int i = 0; i < 8; ++i) {
      Request request = RandomRequest(rng);
      MayDescribe(rng, &request);
      requests[engine->Submit(request).value()] = request;
    }
    RunAll(*engine);
    for (const auto& [id, request] : requests) ExpectSolo(id, request);
  }
}

// Requests with one adapter, with another and without any share steps, blocks and little memory: each answer is that of its own run.
TEST_P(EngineTest, EachRequestHasItsAdapter) {
  const auto engine = MakeEngine(/*sequences=*/4, /*kv_tokens=*/400);
  const std::map<std::string, std::shared_ptr<const Adapter>> adapters = {
      {"", nullptr}, {"one", MakeAdapter(4, 1)}, {"other", MakeAdapter(20, 2)}};
  for (const auto& [name, adapter] : adapters) {
    if (adapter == nullptr) continue;
    ASSERT_TRUE(engine->AddAdapter(name, adapter).ok());
  }
  Rng rng(3);
  std::map<RequestId, Request> requests;
  size_t differ = 0;
  for (int i = 0; i < 30; ++i) {
    Request request = RandomRequest(rng);
    request.adapter = i % 3 == 0 ? "" : i % 3 == 1 ? "one" : "other";
    requests[engine->Submit(request).value()] = request;
    for (int step = 0; step < 4; ++step) {
      const auto stepped = engine->Step();
      ASSERT_TRUE(stepped.ok()) << stepped.error().message();
    }
  }
  RunAll(*engine);
  for (const auto& [id, request] : requests) {
    ExpectSolo(id, request, adapters.at(request.adapter));
    differ += request.adapter.empty() || answers_[{id, 0}].text == Solo(request, 0).text ? 0 : 1;
  }
  EXPECT_GT(differ, 10u) << "adapters matter";
  EXPECT_GT(engine->counters().cached_tokens, 0u);
}

// Beam search as it is defined, over every token of the vocabulary and whole texts computed anew: the answers, the best first.
struct Beam {
  double sum = 0;
  std::vector<uint32_t> tokens = {};
  double score = 0;  // once it ended
};
std::vector<Beam> SearchPlainly(Session& session, const Tokenizer& tokenizer, const Request& request) {
  std::vector<Beam> running = {{}};
  std::vector<Beam> ended;
  const auto end = [&](Beam beam, size_t length) {
    beam.score = beam.sum / std::pow(static_cast<double>(length), static_cast<double>(request.length_penalty));
    ended.push_back(std::move(beam));
    std::stable_sort(ended.begin(), ended.end(), [](const Beam& a, const Beam& b) { return a.score > b.score; });
    if (ended.size() > request.beams) ended.pop_back();
  };
  for (size_t length = 1; length <= request.tokens_max && !running.empty(); ++length) {
    std::vector<std::pair<Beam, uint32_t>> all;
    for (const Beam& beam : running) {
      std::vector<uint32_t> text = request.tokens;
      text.insert(text.end(), beam.tokens.begin(), beam.tokens.end());
      session.Truncate(0);
      EXPECT_TRUE(session.Append(text).ok());
      const std::span<const float> logits = session.logits();
      double sum = 0;
      for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
      std::optional<TokenConstraint> constraint;
      if (request.constraint) constraint.emplace(request.constraint);
      for (size_t i = 0; constraint && i < beam.tokens.size(); ++i) EXPECT_TRUE(constraint->Accept(beam.tokens[i]).ok());
      for (uint32_t token = 0; token < logits.size(); ++token) {
        if (constraint && !TokenConstraint(*constraint).Accept(token).ok()) continue;
        all.push_back({{beam.sum + static_cast<double>(logits[token]) - std::log(sum), beam.tokens}, token});
      }
    }
    std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.first.sum > b.first.sum; });
    running.clear();
    for (size_t i = 0; i < all.size() && running.size() < request.beams; ++i) {
      auto& [beam, token] = all[i];
      if (tokenizer.EndsTurn(token)) {
        if (i < request.beams) end(beam, length);
        continue;
      }
      beam.tokens.push_back(token);
      running.push_back(beam);
    }
    if (running.empty() || ended.size() < request.beams || length == request.tokens_max) continue;
    const double attainable = running[0].sum / std::pow(static_cast<double>(length), static_cast<double>(request.length_penalty));
    if (ended.back().score >= attainable) return ended;
  }
  for (const Beam& beam : running) end(beam, request.tokens_max);
  return ended;
}

class BeamTest : public EngineTest {
 protected:
  std::unique_ptr<Session> MakeSession(KvType kv_type) {
    PlanOptions options = {kContext, kv_type, /*step_tokens=*/16, /*step_outputs=*/1, pool_.size()};
    return Session::Make(*model_, PlanMemory(model_->program, options, {}), {budget_, pool_}).value();
  }
  static Request RandomBeams(Rng& rng) {
    Request request = RandomRequest(rng);
    request.sampler = {};
    request.stops.clear();
    request.tokens_max = 1 + rng.Next() % 12;
    request.beams = 1 + rng.Next() % 4;
    request.choices = 1 + rng.Next() % request.beams;
    request.length_penalty = static_cast<float>(rng.Next() % 3);
    request.token_details = true;
    request.top_logprobs = rng.Next() % 3;
    return request;
  }
  void ExpectPlain(RequestId id, const Request& request) {
    const auto session = MakeSession(request.kv_type.value_or(GetParam().kv_type));
    const std::vector<Beam> best = SearchPlainly(*session, *tokenizer_, request);
    for (size_t choice = 0; choice < request.choices; ++choice) {
      const Answer& answer = answers_[{id, choice}];
      ASSERT_TRUE(answer.finish.has_value());
      ASSERT_LT(choice, best.size());
      std::vector<uint32_t> tokens;
      for (const TokenInfo& info : answer.infos) {
        tokens.push_back(info.chosen.token);
        EXPECT_EQ(info.top.size(), request.top_logprobs);
      }
      EXPECT_EQ(tokens, best[choice].tokens) << "request " << id << " choice " << choice << " of " << request.beams << " beams";
      EXPECT_NEAR(*answer.finish->beam_score, best[choice].score, 1e-4);
      TokenStream stream(*tokenizer_);
      std::string text;
      for (const uint32_t token : tokens) text += stream.Push(token);
      EXPECT_EQ(answer.text, text + stream.Finish());
      EXPECT_EQ(answer.finish->usage.generated_tokens, tokens.size());
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Kinds, BeamTest,
                         ::testing::Values(Kind{"Plain"}, Kind{"Windowed", 20}, Kind{"Hybrid", 0, true},
                                           Kind{"Int8", 0, false, 0, KvType::kInt8}),
                         [](const auto& test) { return test.param.name; });

// Several searches and other requests in too little memory and too few places, with reservations that fail: each finds what the definition
// says, and changes nobody's answer.
TEST_P(BeamTest, FindsWhatTheDefinitionSays) {
  for (const uint64_t seed : {1, 2, 3}) {
    answers_.clear();
    Rng failures(seed);
    EngineOptions options;
    if (seed == 3) options.fail = [&] { return failures.Next() % 5 == 0; };
    const auto engine = MakeEngine(/*sequences=*/4, /*kv_tokens=*/seed == 1 ? 1000 : 200, options);
    const uint64_t held = budget_.used_bytes();
    Rng rng(seed);
    std::map<RequestId, Request> searches;
    std::map<RequestId, Request> others;
    std::vector<RequestId> cancelled;
    for (int i = 0; i < 24; ++i) {
      Request request = i % 3 == 2 ? RandomRequest(rng) : RandomBeams(rng);
      const RequestId id = engine->Submit(request).value();
      (request.beams > 0 ? searches : others)[id] = request;
      if (i % 8 == 7) cancelled.push_back(id);
      for (uint64_t step = 0, end = rng.Next() % 6; step < end; ++step) {
        const auto stepped = engine->Step();
        ASSERT_TRUE(stepped.ok()) << stepped.error().message();
      }
    }
    for (const RequestId id : cancelled) {
      if (!engine->Cancel(id)) continue;
      searches.erase(id);
      others.erase(id);
    }
    RunAll(*engine);
    for (const auto& [id, request] : searches) ExpectPlain(id, request);
    for (const auto& [id, request] : others) ExpectSolo(id, request);
    EXPECT_EQ(budget_.used_bytes(), held);
    engine->DropPrefixes();
    for (const KvPart part : kAllKvParts) EXPECT_EQ(engine->kv().free_blocks(part), engine->kv().blocks(part));
  }
}

// Copies of a search take places that are free, and no more; who decodes beside it goes on in each step.
TEST_P(BeamTest, BeamsTakeNoMorePlacesThanThereAre) {
  const auto engine = MakeEngine(/*sequences=*/4, /*kv_tokens=*/1000);
  Rng rng(2);
  Request decoding;
  for (uint32_t i = 0; i < 20; ++i) decoding.tokens.push_back(3 + i);
  decoding.tokens_max = 60;
  for (uint32_t token = 0; token < tokenizer_->size(); ++token) {
    if (tokenizer_->EndsTurn(token)) decoding.sampler.logit_bias.push_back({token, -INFINITY});
  }
  const RequestId first = engine->Submit(decoding).value();
  decoding.tokens[0] = 9;
  const RequestId second = engine->Submit(decoding).value();
  for (int step = 0; step < 6; ++step) ASSERT_TRUE(engine->Step().ok());
  Request search = RandomBeams(rng);
  search.beams = 4;
  search.tokens_max = 4;
  const RequestId id = engine->Submit(search).value();
  while (!(answers_[{id, 0}].finish)) {
    const size_t before = answers_[{first, 0}].tokens + answers_[{second, 0}].tokens;
    ASSERT_TRUE(engine->Step().ok());  // CheckHolders counts residents
    EXPECT_GE((answers_[{first, 0}].tokens + answers_[{second, 0}].tokens), std::min<size_t>(before + 2, 120));
  }
  RunAll(*engine);
  ExpectPlain(id, search);
}

// Searches with more beams than places are left run one beam after another.
TEST_P(BeamTest, BeamsTakeTurnsWherePlacesAreFew) {
  std::vector<std::string> notices;
  EngineOptions options;
  options.prefix_cache = false;
  const auto engine = MakeEngine(/*sequences=*/4, /*kv_tokens=*/170, options);
  Rng rng(9);
  std::map<RequestId, Request> searches;
  for (const Priority priority : {Priority::kLow, Priority::kLow, Priority::kNormal, Priority::kHigh}) {
    Request request = RandomBeams(rng);
    request.priority = priority;
    request.beams = 4;
    request.tokens_max = 8;
    while (request.tokens.size() < 60) request.tokens.push_back(static_cast<uint32_t>(3 + rng.Next() % 280));
    searches[engine->Submit(request).value()] = request;
    for (int step = 0; step < 7; ++step) ASSERT_TRUE(engine->Step().ok());
  }
  RunAll(*engine);
  for (const auto& [id, request] : searches) ExpectPlain(id, request);
  EXPECT_GT(engine->counters().preemptions, 0u);
}

TEST_P(BeamTest, AnswersFollowTheirGrammar) {
  const auto engine = MakeEngine(/*sequences=*/4, /*kv_tokens=*/1000);
  Constraints constraints(*tokenizer_, budget_);
  Rng rng(4);
  for (const char* regex : {"[a-e]{1,3}", "(the|then|a) [0-9]+", "yes|no"}) {
    Request request = RandomBeams(rng);
    request.constraint = constraints.Get(ConstraintKind::kRegex, regex).value();
    request.beams = 4;
    request.choices = 2;
    request.tokens_max = 12;
    const RequestId id = engine->Submit(request).value();
    RunAll(*engine);
    ExpectPlain(id, request);
    EXPECT_EQ((answers_[{id, 0}].finish->reason), StopReason::kEndOfTurn) << regex;
  }
}

// Three layers, of which two are asked first; and a model of these two alone.
class ExitTest : public EngineTest {
 protected:
  ExitTest() {
    model_ = Load({0, 1, 0});
    early_ = Load({0, 1});
  }
  std::unique_ptr<Model> Load(const std::vector<int32_t>& layers) {
    tiny_.layer_weights = layers;
    testing::BuildTinyModel(tiny_).Write(folder_.Path("exit.gguf"));
    ModelFile file = OpenGguf(*files_, folder_.Path("exit.gguf")).value();
    ModelOutline outline = OutlineModel(file, *RunnableKernels().front()).value();
    if (GetParam().window > 0) outline.program.kv_layers[0].window = GetParam().window;
    return LoadModel(std::move(outline), file, {budget_, pool_}, nullptr).value();
  }
  // The tokens and how many left early, by two sessions that read every token: what the engine skipped and read later changes nothing.
  std::pair<std::string, size_t> SoloWithExit(const Request& request, size_t choice) {
    PlanOptions options = {kContext, request.kv_type.value_or(GetParam().kv_type), /*step_tokens=*/16, /*step_outputs=*/1, pool_.size()};
    const auto all = Session::Make(*model_, PlanMemory(model_->program, options, {}), {budget_, pool_}).value();
    const auto early = Session::Make(*early_, PlanMemory(early_->program, options, {}), {budget_, pool_}).value();
    SamplerOptions sampler_options = request.sampler;
    sampler_options.seed += choice;
    Sampler sampler(sampler_options, model_->program.vocabulary);
    sampler.Observe(request.tokens);
    std::vector<uint32_t> next = request.tokens;
    TokenStream stream(*tokenizer_);
    std::string text;
    size_t left = 0;
    for (size_t i = 0; i < request.tokens_max && all->tokens().size() + next.size() <= kContext; ++i) {
      EXPECT_TRUE(all->Append(next).ok());
      EXPECT_TRUE(early->Append(next).ok());
      double sum = 0;
      double largest = 0;
      for (const float logit : early->logits()) {
        sum += std::exp(static_cast<double>(logit));
        largest = std::max(largest, std::exp(static_cast<double>(logit)));
      }
      // The prompt is read by all layers.
      const bool leaves = i > 0 && largest / sum >= static_cast<double>(request.exit_confidence);
      left += leaves ? 1 : 0;
      const uint32_t token = sampler.Sample(leaves ? early->logits() : all->logits());
      if (tokenizer_->EndsTurn(token)) break;
      sampler.Accept(token);
      text += stream.Push(token);
      next = {token};
    }
    return {text + stream.Finish(), left};
  }
  std::unique_ptr<Model> early_;
};
INSTANTIATE_TEST_SUITE_P(Kinds, ExitTest, ::testing::Values(Kind{"Plain"}, Kind{"Windowed", 20}, Kind{"Int8", 0, false, 0, KvType::kInt8}),
                         [](const auto& test) { return test.param.name; });

// Requests with and without exits, searches among them, in little memory: each answer is what its own layers say, whoever else is there.
TEST_P(ExitTest, TokensThatAreSureLeaveEarly) {
  size_t left = 0;
  size_t tokens = 0;
  for (const size_t kv_tokens : {1000, 200}) {
    answers_.clear();
    EngineOptions options;
    options.exit_layer = 2;
    const auto engine = MakeEngine(/*sequences=*/4, kv_tokens, options);
    Rng rng(kv_tokens);
    std::map<RequestId, Request> requests;
    for (int i = 0; i < 40; ++i) {
      Request request = RandomRequest(rng);
      request.stops.clear();
      constexpr float kConfidences[] = {1e-6f, 0.01f, 0.015f, 0.02f, 0.03f, 1};
      if (i % 4 != 3) request.exit_confidence = kConfidences[rng.Next() % 6];
      if (i % 8 == 7) {
        request.sampler = {};
        request.choices = 1;
        request.beams = 2;
      }
      requests[engine->Submit(request).value()] = request;
      for (uint64_t step = 0, end = rng.Next() % 8; step < end; ++step) {
        const auto stepped = engine->Step();
        ASSERT_TRUE(stepped.ok()) << stepped.error().message();
      }
    }
    RunAll(*engine);
    size_t exited = 0;
    for (const auto& [id, request] : requests) {
      if (request.beams > 0) continue;
      if (request.exit_confidence == 0) {
        ExpectSolo(id, request);
        continue;
      }
      for (size_t choice = 0; choice < request.choices; ++choice) {
        const auto [text, early] = SoloWithExit(request, choice);
        EXPECT_EQ((answers_[{id, choice}].text), text) << "request " << id << " at " << request.exit_confidence;
        exited += early;
        tokens += answers_[{id, choice}].tokens;
      }
    }
    EXPECT_EQ(engine->counters().exited_tokens, exited);
    left += exited;
    EXPECT_GT(kv_tokens == 200 ? engine->counters().preemptions : 1, 0u);
  }
  EXPECT_GT(left, tokens / 5);
  EXPECT_LT(left, tokens * 4 / 5);
}

TEST_P(ExitTest, AreRefusedWhereThereAreNone) {
  EngineOptions options;
  options.exit_layer = 3;
  const MemoryPlan plan = PlanMemory(model_->program, Options(2, 0), {});
  const auto make = [&] { return Engine::Make({*model_, *tokenizer_, plan, clock_, options}, {budget_, pool_}, [](const Event&) {}); };
  EXPECT_EQ(make().error().message(), "exit_layer 3: expected 1 to 2, for the model has 3 layers");
  options.exit_layer = 0;
  const auto engine = make().value();
  Request request;
  request.tokens = {5, 6};
  request.exit_confidence = 0.5f;
  EXPECT_EQ(engine->Submit(request).error().message(), "exit_confidence: the engine was opened without exit_layer; leave it out");
  request.exit_confidence = NAN;
  EXPECT_EQ(engine->Submit(request).error().code(), Code::kInvalidArgument);
}

TEST(ExitPoints, RecurrentModelsHaveNone) {
  testing::TemporaryFolder folder;
  for (const bool hybrid : {false, true}) {
    testing::TinyModel tiny = {.layers = 4, .hybrid = hybrid};
    testing::BuildTinyModel(tiny).Write(folder.Path("m.gguf"));
    const auto files = MakeFileSystem();
    ModelFile file = OpenGguf(*files, folder.Path("m.gguf")).value();
    const Program program = OutlineModel(file, *RunnableKernels().front()).value().program;
    EXPECT_EQ(FindExitPoints(program).layers.size(), hybrid ? 0u : 3u);
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, EngineTest,
                         ::testing::Values(Kind{"Plain"}, Kind{"Windowed", 20}, Kind{"Hybrid", 0, true}, Kind{"Experts", 0, false, 4},
                                           Kind{"Int8", 0, false, 0, KvType::kInt8}),
                         [](const auto& test) { return test.param.name; });

class PlainEngine : public EngineTest {};
INSTANTIATE_TEST_SUITE_P(Plain, PlainEngine, ::testing::Values(Kind{"Plain"}), [](const auto& test) { return test.param.name; });

// Where the pool is too small for all that have a place, those that come last take half of it, and nobody loses what was computed.
TEST_P(PlainEngine, MoreFitIntoAPoolThatIsShort) {
  // Blocks are whole pages: of 8 of them, or of 5.
  tiny_.width = 1024;
  testing::BuildTinyModel(tiny_).Write(folder_.Path("wide.gguf"));
  ModelFile file = OpenGguf(*files_, folder_.Path("wide.gguf")).value();
  model_ = LoadModel(OutlineModel(file, *RunnableKernels().front()).value(), file, {budget_, pool_}, nullptr).value();
  Request request;
  for (uint32_t i = 0; i < 60; ++i) request.tokens.push_back(3 + i);
  request.tokens_max = 60;
  request.cache = false;
  for (uint32_t token = 0; token < tokenizer_->size(); ++token) {
    if (tokenizer_->EndsTurn(token)) request.sampler.logit_bias.push_back({token, -INFINITY});
  }
  for (const bool narrow : {false, true}) {
    answers_.clear();
    EngineOptions options;
    options.narrow_kv = narrow;
    // 21 blocks, of which each takes 8.
    const auto engine = MakeEngine(/*sequences=*/4, /*kv_tokens=*/288, options);
    std::vector<RequestId> ids;
    for (uint32_t i = 0; i < 3; ++i) {
      request.tokens[0] = 3 + i;
      ids.push_back(engine->Submit(request).value());
    }
    RunAll(*engine);
    for (uint32_t i = 0; i < 3; ++i) {
      request.tokens[0] = 3 + i;
      ExpectSolo(ids[i], request);
      EXPECT_EQ((*answers_[{ids[i], 0}].finish->usage.kv_type), narrow && i == 2 ? KvType::kInt8 : KvType::kF16);
    }
    EXPECT_EQ(engine->counters().narrowed, narrow ? 1u : 0u);
    EXPECT_EQ(engine->counters().preemptions == 0, narrow);
  }
}

TEST_P(PlainEngine, RefusesWhatMakesNoSense) {
  const auto engine = MakeEngine(2, 0);
  Request good;
  good.tokens = {5, 6, 7};
  good.tokens_max = 3;
  const auto refused = [&](auto change) {
    Request request = good;
    change(request);
    const auto id = engine->Submit(std::move(request));
    return id.ok() ? std::string("accepted") : id.error().message();
  };
  EXPECT_NE(refused([](Request& r) { r.tokens.clear(); }).find("no tokens"), std::string::npos);
  EXPECT_NE(refused([](Request& r) { r.tokens = {300}; }).find("token 300: expected an id below"), std::string::npos);
  EXPECT_NE(refused([](Request& r) { r.tokens.assign(kContext, 5); }).find("leaves no room"), std::string::npos);
  EXPECT_NE(refused([](Request& r) { r.tokens_max = 0; }).find("tokens_max 0"), std::string::npos);
  EXPECT_NE(refused([](Request& r) { r.tokens_min = 4; }).find("tokens_min 4"), std::string::npos);
  EXPECT_NE(refused([](Request& r) { r.choices = 17; }).find("choices 17"), std::string::npos);
  EXPECT_NE(refused([](Request& r) { r.top_logprobs = 21; }).find("top_logprobs 21"), std::string::npos);
  EXPECT_NE(refused([](Request& r) { r.confidence_min = NAN; }).find("confidence_min"), std::string::npos);
  EXPECT_NE(refused([](Request& r) { r.sampler.top_p = 2; }).find("--top-p"), std::string::npos);
  EXPECT_NE(refused([](Request& r) { r.stops = {""}; }).find("stop"), std::string::npos);
  EXPECT_EQ(refused([](Request& r) { r.kv_type = KvType::kF32; }), "kv f32: the engine has f16 and q8");
  EXPECT_TRUE(engine->idle());
  EXPECT_TRUE(engine->Submit(good).ok());
}

// Some models have more logits than tokens: what follows a grammar is a token.
TEST_P(PlainEngine, LikeliestTokensAreTokens) {
  constexpr size_t kMore = 200;
  CandidateList list(tokenizer_->size() + kMore);
  Constraints constraints(*tokenizer_, budget_);
  Request request;
  request.tokens = {5, 6};
  request.beams = 4;
  request.constraint = constraints.Get(ConstraintKind::kRegex, "[ab]").value();
  const auto generation = Generation::Make(request, /*choice=*/0, *tokenizer_, &list).value();
  std::vector<float> logits(tokenizer_->size() + kMore, 1.0f);
  std::fill(logits.end() - kMore, logits.end(), 9.0f);
  const auto likeliest = generation->Likeliest(logits, 100);
  ASSERT_TRUE(likeliest.ok()) << likeliest.error().message();
  EXPECT_LE(likeliest->size(), 4u) << "letters, and the bytes of them";
  for (const auto& [token, logprob] : *likeliest) {
    EXPECT_LT(token, tokenizer_->size());
    EXPECT_NEAR(logprob, 1 - std::log(static_cast<double>(tokenizer_->size()) * std::exp(1.0) + kMore * std::exp(9.0)), 1e-4);
  }
}

TEST_P(PlainEngine, BeamsAreRefusedWhereTheyMakeNoSense) {
  const auto engine = MakeEngine(4, 0);
  Request good;
  good.tokens = {5, 6, 7};
  good.beams = 4;
  const auto refused = [&](auto change) {
    Request request = good;
    change(request);
    const auto id = engine->Submit(std::move(request));
    return id.ok() ? std::string("accepted") : id.error().message();
  };
  EXPECT_EQ(refused([](Request& r) { r.beams = 5; }), "beams 5: expected at most 4, as many answers as are computed at once");
  EXPECT_NE(refused([](Request& r) { r.choices = 5; }).find("choices 5: 4 beams"), std::string::npos);
  EXPECT_NE(refused([](Request& r) { r.length_penalty = NAN; }).find("length_penalty"), std::string::npos);
  EXPECT_NE(refused([](Request& r) { r.sampler.temperature = 1; }).find("leave out temperature"), std::string::npos);
  EXPECT_NE(refused([](Request& r) { r.sampler.logit_bias = {{5, 1.0f}}; }).find("logit_bias"), std::string::npos);
  EXPECT_EQ(refused([](Request&) {}), "accepted");
}

// What a search has by its end from outside is what it gives: as many answers as were asked for, each once.
TEST_P(PlainEngine, SearchesEndFromOutside) {
  const auto engine = MakeEngine(4, 0);
  Request request;
  for (uint32_t i = 0; i < 20; ++i) request.tokens.push_back(3 + i);
  request.beams = 4;
  request.choices = 3;
  request.tokens_max = 100;
  const RequestId early = engine->Submit(request).value();
  ASSERT_TRUE(engine->Step().ok());
  ASSERT_TRUE(engine->Cancel(early));
  const RequestId late = engine->Submit(request).value();
  for (int step = 0; step < 12; ++step) ASSERT_TRUE(engine->Step().ok());
  ASSERT_TRUE(engine->Cancel(late));
  Request long_one = request;
  long_one.tokens.resize(kContext - 5, 7);
  const RequestId full = engine->Submit(long_one).value();
  RunAll(*engine);
  for (size_t choice = 0; choice < 3; ++choice) {
    for (const RequestId id : {early, late, full}) {
      const Answer& answer = answers_[{id, choice}];
      ASSERT_TRUE(answer.finish.has_value());
      EXPECT_EQ(answer.finish->reason, id == full ? StopReason::kContextFull : StopReason::kCancelled);
      EXPECT_EQ(answer.tokens > 0, id != early);
    }
  }
  EXPECT_GE(*(answers_[{late, 0}].finish->beam_score), *(answers_[{late, 1}].finish->beam_score));
  // A grammar of one text leaves one answer.
  Constraints constraints(*tokenizer_, budget_);
  request.constraint = constraints.Get(ConstraintKind::kRegex, "q").value();
  const RequestId few = engine->Submit(request).value();
  RunAll(*engine);
  EXPECT_EQ((answers_[{few, 0}].text), "q");
  ASSERT_TRUE((answers_[{few, 2}].finish->error.has_value()));
  EXPECT_EQ((answers_[{few, 2}].finish->error->message().substr(0, 15)), "there are only ");
}

// A request goes on with the adapter that it began with, whatever becomes of the name, and its memory is free when it ends.
TEST_P(PlainEngine, AdaptersComeAndGoWhileAnswersRun) {
  const auto engine = MakeEngine(3, 0);
  Request request;
  request.tokens = {5, 6, 7, 8, 9};
  request.tokens_max = 30;
  request.tokens_min = 30;
  const auto refused = [&](const std::string& name) {
    Request unknown = request;
    unknown.adapter = name;
    const auto id = engine->Submit(unknown);
    return id.ok() ? std::string("accepted") : id.error().message();
  };
  EXPECT_EQ(refused("one"), "adapter one: none is loaded");
  const uint64_t before = budget_.used_bytes();
  std::shared_ptr<const Adapter> first = MakeAdapter(4, 1);
  const uint64_t each = budget_.used_bytes() - before;
  std::shared_ptr<const Adapter> second = MakeAdapter(4, 2);
  ASSERT_TRUE(engine->AddAdapter("one", first).ok());
  const uint64_t room = budget_.used_bytes() - before - 2 * each;
  request.adapter = "one";
  const RequestId of_first = engine->Submit(request).value();
  for (int step = 0; step < 10; ++step) ASSERT_TRUE(engine->Step().ok());
  ASSERT_TRUE(engine->AddAdapter("one", second).ok());
  const RequestId of_second = engine->Submit(request).value();
  for (int step = 0; step < 5; ++step) ASSERT_TRUE(engine->Step().ok());
  ASSERT_TRUE(engine->AddAdapter("two", second).ok());
  ASSERT_TRUE(engine->RemoveAdapter("one").ok());
  EXPECT_EQ(refused("one"), "adapter one: not among those that are loaded: two");
  const Status twice = engine->RemoveAdapter("one");
  ASSERT_FALSE(twice.ok());
  EXPECT_EQ(twice.error().code(), Code::kNotFound);
  ASSERT_TRUE(engine->RemoveAdapter("two").ok());
  RunAll(*engine);
  ExpectSolo(of_first, request, first);
  ExpectSolo(of_second, request, second);
  EXPECT_NE((answers_[{of_first, 0}].text), (answers_[{of_second, 0}].text));
  first.reset();
  second.reset();
  EXPECT_EQ(budget_.used_bytes(), before + room) << "only the place for their rows stays";
  EXPECT_FALSE(engine->AddAdapter("", MakeAdapter(4, 1)).ok());
  EXPECT_FALSE(engine->AddAdapter(std::string(kAdapterNameMax + 1, 'x'), MakeAdapter(4, 1)).ok());
  const auto many = MakeAdapter(4, 1);
  for (size_t i = 0; i < kAdaptersMax; ++i) ASSERT_TRUE(engine->AddAdapter(std::to_string(i), many).ok());
  const Status full = engine->AddAdapter("more", many);
  ASSERT_FALSE(full.ok());
  EXPECT_EQ(full.error().code(), Code::kExhausted);
  EXPECT_TRUE(engine->AddAdapter("7", many).ok()) << "a name that is there takes no more room";
}

// A name that ran out of memory stays as it was.
TEST_P(PlainEngine, AdaptersThatDoNotFitChangeNothing) {
  const auto engine = MakeEngine(2, 0);
  const auto small = MakeAdapter(4, 1);
  const auto large = MakeAdapter(200, 1);
  ASSERT_TRUE(engine->AddAdapter("one", small).ok());
  auto rest = budget_.Reserve(budget_.limit_bytes() - budget_.used_bytes(), "all there is").value();
  const Status refused = engine->AddAdapter("one", large);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), Code::kExhausted);
  EXPECT_EQ(engine->adapters().at("one"), small);
}

// Keys and values are those of an adapter's contents: neither another adapter nor another generation of the name finds them.
TEST_P(PlainEngine, PrefixesAreOfOneAdapter) {
  const auto engine = MakeEngine(2, 0);
  ASSERT_TRUE(engine->AddAdapter("one", MakeAdapter(4, 1)).ok());
  ASSERT_TRUE(engine->AddAdapter("other", MakeAdapter(4, 2)).ok());
  const auto cached = [&](const std::string& name) {
    Request request;
    for (uint32_t i = 0; i < 50; ++i) request.tokens.push_back(3 + i);
    request.tokens_max = 2;
    request.adapter = name;
    const RequestId id = engine->Submit(request).value();
    RunAll(*engine);
    return answers_[{id, 0}].finish->usage.cached_tokens;
  };
  EXPECT_EQ(cached(""), 0u);
  EXPECT_EQ(cached("one"), 0u);
  EXPECT_EQ(cached("other"), 0u);
  for (const char* name : {"", "one", "other"}) EXPECT_EQ(cached(name), 48u) << name;
  ASSERT_TRUE(engine->AddAdapter("one", MakeAdapter(4, 3)).ok());
  EXPECT_EQ(cached("one"), 0u) << "another generation";
  ASSERT_TRUE(engine->AddAdapter("same", MakeAdapter(4, 2)).ok());
  EXPECT_EQ(cached("same"), 48u) << "the same contents by another name";
}

// What prompts that come at once begin with is computed by the first of them, and by no other.
TEST_P(EngineTest, ABurstComputesItsPrefixOnce) {
  constexpr size_t kBurst = 5;
  for (const bool equal : {true, false}) {
    const auto engine = MakeEngine(kBurst, kBurst * kContext);
    std::vector<Request> requests(kBurst);
    std::vector<RequestId> ids;
    for (uint32_t i = 0; i < kBurst; ++i) {
      for (uint32_t t = 0; t < 100; ++t) requests[i].tokens.push_back(3 + t % 40);
      requests[i].tokens.push_back(equal ? 7 : 7 + i);
      requests[i].tokens_max = 5;
      ids.push_back(engine->Submit(requests[i]).value());
    }
    RunAll(*engine);
    for (size_t i = 0; i < kBurst; ++i) ExpectSolo(ids[i], requests[i]);
    // Where there are windows or states, prompts that differ behind their prefix have none to share.
    const bool shared = equal || (GetParam().window == 0 && !GetParam().hybrid);
    if (GetParam().window > 0 && equal) {
      // A checkpoint may go when sequences need its blocks.
      EXPECT_LT(engine->counters().prompt_tokens, 3 * 101u);
    } else if (shared) {
      EXPECT_EQ(engine->counters().prompt_tokens, 101u + (kBurst - 1) * (101 - 96)) << equal;
    }
    // Who waits for one that is cancelled goes on by itself.
    answers_.clear();
    engine->DropPrefixes();
    const RequestId first = engine->Submit(requests[0]).value();
    const RequestId second = engine->Submit(requests[1]).value();
    ASSERT_TRUE(engine->Step().ok());
    ASSERT_TRUE(engine->Cancel(first));
    RunAll(*engine);
    ExpectSolo(second, requests[1]);
    answers_.clear();
  }
}

// Two engines do not write one file at a time, and others cannot read what was asked.
TEST_P(PlainEngine, PrefixFilesAreLockedAndPrivate) {
  const auto engine = MakeEngine(2, 0);
  Request request;
  for (uint32_t i = 0; i < 50; ++i) request.tokens.push_back(3 + i);
  request.tokens_max = 2;
  engine->Submit(request).value();
  RunAll(*engine);
  const auto disk = MakeDisk();
  const std::string path = folder_.Path("prefixes");
  {
    const auto other = disk->Lock(path + ".lock");
    ASSERT_NE(other.value(), nullptr);
    EXPECT_EQ(engine->SavePrefixes(*disk, path).error().code(), Code::kUnavailable);
  }
  ASSERT_TRUE(engine->SavePrefixes(*disk, path).ok());
  EXPECT_EQ(std::filesystem::status(path).permissions(), std::filesystem::perms(0600));
  EXPECT_FALSE(std::filesystem::exists(path + ".lock"));
}

TEST_P(PlainEngine, EndsAtItsDeadline) {
  const auto engine = MakeEngine(2, 0);
  Request request;
  request.tokens = {5, 6, 7};
  request.tokens_max = 1000;
  request.sampler.temperature = 1;
  request.choices = 2;
  request.deadline_ns = 60'000'000;  // the clock ticks a millisecond at each look
  const RequestId id = engine->Submit(request).value();
  RunAll(*engine);
  for (const size_t choice : {0u, 1u}) {
    const Answer& answer = answers_[{id, choice}];
    ASSERT_TRUE(answer.finish.has_value());
    EXPECT_EQ(answer.finish->reason, StopReason::kDeadline);
    EXPECT_GT(answer.tokens, 2u);
    EXPECT_GE(answer.finish->usage.total_ns, request.deadline_ns);
  }
}

// A cancelled request that waits for its prompt still ends each of its choices.
TEST_P(PlainEngine, CancelledBeforeItBegan) {
  const auto engine = MakeEngine(2, 0);
  Request request;
  request.tokens = {5, 6, 7};
  request.choices = 3;
  const RequestId id = engine->Submit(request).value();
  EXPECT_TRUE(engine->Cancel(id));
  EXPECT_FALSE(engine->Cancel(id));
  for (const size_t choice : {0u, 1u, 2u}) EXPECT_EQ((answers_[{id, choice}].finish->reason), StopReason::kCancelled);
  EXPECT_TRUE(engine->idle());
  EXPECT_FALSE(engine->Step().value());
}

TEST_P(PlainEngine, ContextFullEndsAnAnswer) {
  const auto engine = MakeEngine(2, 0);
  Request request;
  request.tokens.assign(kContext - 10, 5);
  request.tokens_max = 100;
  request.tokens_min = 100;  // whatever would end it
  const RequestId id = engine->Submit(request).value();
  RunAll(*engine);
  const Answer& answer = answers_[{id, 0}];
  EXPECT_EQ(answer.finish->reason, StopReason::kContextFull);
  EXPECT_EQ(answer.tokens, 10u);
}

// An answer whose probabilities are known, with and without what somebody measured of such answers; with the prompt's text in front.
TEST_P(PlainEngine, CalibratedAndEchoed) {
  Request request;
  request.tokens = {3, 4, 5};
  request.tokens_max = 6;
  request.confidence_min = 0.6f;
  request.echo = "what was asked";
  std::optional<Finish> finishes[2];
  std::string texts[2];
  for (int calibrated = 0; calibrated < 2; ++calibrated) {
    EngineOptions options;
    if (calibrated == 1) {
      options.calibration =
          std::make_shared<Calibration>(Calibration::Read(ParseJson(R"({"confidence": [[0, 0.7], [1, 0.9]]})").value()).value());
    }
    const auto engine = MakeEngine(1, kContext, options);
    request.choices = 2;
    const RequestId id = engine->Submit(request).value();
    RunAll(*engine);
    finishes[calibrated] = answers_[{id, 1}].finish;
    texts[calibrated] = answers_[{id, 1}].text;
    EXPECT_EQ((answers_[{id, 0}].text.find(request.echo)), 0u);
    answers_.clear();
  }
  EXPECT_EQ(texts[0], request.echo + Solo(request, 1).text);
  EXPECT_EQ(texts[1], texts[0]);
  const float computed = *finishes[0]->confidence;
  ASSERT_LT(computed, 0.6f) << "random weights are never sure";
  EXPECT_TRUE(finishes[0]->low_confidence);
  EXPECT_FALSE(finishes[0]->computed_confidence.has_value());
  EXPECT_FLOAT_EQ(*finishes[1]->computed_confidence, computed);
  EXPECT_FLOAT_EQ(*finishes[1]->confidence, 0.7f + 0.2f * computed);
  EXPECT_FALSE(finishes[1]->low_confidence);
}

// log p against a sum by hand, the likeliest first, and the confidence of the documented formula.
TEST_P(PlainEngine, LogarithmsOfProbabilities) {
  const auto engine = MakeEngine(2, 0);
  Request request;
  request.tokens = {5, 6, 7};
  request.tokens_max = 4;
  request.tokens_min = 4;
  request.token_details = true;
  request.top_logprobs = 5;
  request.confidence_min = 0.9f;
  const RequestId id = engine->Submit(request).value();
  RunAll(*engine);
  const Answer& answer = answers_[{id, 0}];
  ASSERT_EQ(answer.infos.size(), 4u);
  PlanOptions options = {kContext, KvType::kF16, 16, 1, pool_.size()};
  auto session = Session::Make(*model_, PlanMemory(model_->program, options, {}), {budget_, pool_}).value();
  ASSERT_TRUE(session->Append(request.tokens).ok());
  double sum_logs = 0;
  for (const TokenInfo& info : answer.infos) {
    std::vector<std::pair<double, uint32_t>> sorted;
    double sum = 0;
    for (uint32_t t = 0; t < session->logits().size(); ++t) {
      sum += std::exp(static_cast<double>(session->logits()[t]));
      sorted.push_back({-static_cast<double>(session->logits()[t]), t});
    }
    std::sort(sorted.begin(), sorted.end());
    ASSERT_EQ(info.top.size(), 5u);
    for (size_t i = 0; i < 5; ++i) {
      EXPECT_EQ(info.top[i].token, sorted[i].second);
      EXPECT_NEAR(static_cast<double>(info.top[i].logprob), -sorted[i].first - std::log(sum), 1e-5);
    }
    EXPECT_NEAR(static_cast<double>(info.chosen.logprob), static_cast<double>(session->logits()[info.chosen.token]) - std::log(sum), 1e-5);
    sum_logs += static_cast<double>(info.chosen.logprob);
    ASSERT_TRUE(session->Append(std::span(&info.chosen.token, 1)).ok());
  }
  EXPECT_NEAR(static_cast<double>(*answer.finish->confidence), std::exp(sum_logs / 4), 1e-5);
  EXPECT_TRUE(answer.finish->low_confidence);
}

// The last token of a prompt needs a place for its logits, which drafts of others do not take.
TEST_P(PlainEngine, PromptsEndBesideDrafts) {
  const auto engine = MakeEngine(/*sequences=*/2, /*kv_tokens=*/400);
  Request circles;
  circles.tokens = {5, 6, 7, 8, 5, 6, 7, 8, 5, 6, 7, 8};
  circles.tokens_max = 140;
  circles.tokens_min = 140;
  const RequestId first = engine->Submit(circles).value();
  while (engine->counters().accepted_tokens < 10) ASSERT_TRUE(engine->Step().ok());
  Request prompt;
  prompt.tokens = {9, 10, 11};
  prompt.tokens_max = 1;
  const RequestId second = engine->Submit(prompt).value();
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(engine->Step().ok());
  EXPECT_TRUE((answers_[{second, 0}].finish.has_value()));
  EXPECT_FALSE((answers_[{first, 0}].finish.has_value()));
}

// What an answer has to be it is, alone or among others, and what has to come next is read in one step.
TEST_P(EngineTest, ConstrainedAnswers) {
  Constraints constraints(*tokenizer_, budget_);
  const auto masks = [&](ConstraintKind kind, std::string_view source) { return constraints.Get(kind, source).value(); };
  std::vector<Request> requests;
  Rng rng(4);
  for (int i = 0; i < 12; ++i) {
    Request request = RandomRequest(rng);
    request.stops.clear();
    request.tokens_max = 90;
    request.tokens_min = i % 3 == 0 ? 6 : 0;
    request.sampler.penalties = {};
    request.tokens.resize(std::min<size_t>(request.tokens.size(), 40));
    if (i % 2 == 0) request.constraint = masks(ConstraintKind::kRegex, "(north|south) wall: [0-9]{2} degrees");
    if (i % 2 == 1)
      request.constraint = masks(ConstraintKind::kJsonSchema, R"({"type": "object", "properties": {"state": {"enum": ["on", "off"]},
        "level": {"type": "integer", "minimum": 3, "maximum": 17}}, "required": ["state", "level"], "additionalProperties": false})");
    requests.push_back(request);
  }
  std::vector<std::string> alone;
  for (const Request& request : requests) {
    answers_.clear();
    const auto engine = MakeEngine(/*sequences=*/1, /*kv_tokens=*/0);
    const RequestId id = engine->Submit(request).value();
    RunAll(*engine);
    alone.push_back(answers_[{id, 0}].text);
  }
  answers_.clear();
  const auto engine = MakeEngine(/*sequences=*/4, /*kv_tokens=*/320);
  std::vector<RequestId> ids;
  for (const Request& request : requests) ids.push_back(engine->Submit(request).value());
  RunAll(*engine);
  for (size_t i = 0; i < requests.size(); ++i) {
    for (size_t choice = 0; choice < requests[i].choices; ++choice) {
      const Answer& answer = answers_[{ids[i], choice}];
      ASSERT_EQ(answer.finish->reason, StopReason::kEndOfTurn) << answer.text;
      if (i % 2 == 0) {
        const size_t colon = answer.text.find(" wall: ");
        EXPECT_TRUE(answer.text.starts_with("north wall: ") || answer.text.starts_with("south wall: ")) << answer.text;
        ASSERT_EQ(answer.text.size(), std::string_view("north wall: 00 degrees").size()) << answer.text;
        EXPECT_TRUE(std::isdigit(static_cast<unsigned char>(answer.text[colon + 7]))) << answer.text;
        EXPECT_TRUE(std::isdigit(static_cast<unsigned char>(answer.text[colon + 8]))) << answer.text;
        EXPECT_TRUE(answer.text.ends_with(" degrees")) << answer.text;
        continue;
      }
      const Json json = ParseJson(answer.text).value();
      ASSERT_EQ(json.size(), 2u) << answer.text;
      EXPECT_TRUE(json["state"] == "on" || json["state"] == "off");
      EXPECT_GE(json["level"].get<int>(), 3);
      EXPECT_LE(json["level"].get<int>(), 17);
    }
    EXPECT_EQ((answers_[{ids[i], 0}].text), alone[i]);
  }
  if (!GetParam().hybrid) {
    EXPECT_GT(engine->counters().accepted_tokens, 5u) << "forced text is drafted; random models like other tokens of it as much";
  }
}

// Compiled once for all that ask for the same, and never more than the budget holds.
TEST_P(PlainEngine, ConstraintsAreKeptAndCounted) {
  const uint64_t before = budget_.used_bytes();
  {
    Constraints constraints(*tokenizer_, budget_);
    const auto first = constraints.Get(ConstraintKind::kRegex, "a+").value();
    EXPECT_EQ(constraints.Get(ConstraintKind::kRegex, "a+").value(), first);
    EXPECT_NE(constraints.Get(ConstraintKind::kRegex, "b+").value(), first);
    EXPECT_GT(budget_.used_bytes(), before + 2 * TokenMasks::kBytesMax);
    for (int i = 0; i < 20; ++i) ASSERT_TRUE(constraints.Get(ConstraintKind::kRegex, "c{" + std::to_string(i) + "}d").ok());
    EXPECT_LT(budget_.used_bytes(), before + (Constraints::kKeptMax + 2) * TokenMasks::kBytesMax + (1 << 20));
    EXPECT_EQ(constraints.Get(ConstraintKind::kJsonSchema, R"({"uniqueItems": true, "items": {"type": "integer"}, "type": "array"})")
                  .error()
                  .code(),
              Code::kUnsupported);
  }
  EXPECT_EQ(budget_.used_bytes(), before);
  MemoryBudget small(TokenMasks::kBytesMax + (4 << 20));
  Constraints constraints(*tokenizer_, small);
  {
    const auto held = constraints.Get(ConstraintKind::kRegex, "a+").value();
    EXPECT_EQ(constraints.Get(ConstraintKind::kRegex, "b+").error().code(), Code::kExhausted);
  }
  EXPECT_TRUE(constraints.Get(ConstraintKind::kRegex, "b+").ok()) << "what nobody follows makes room";
}

// Adaptive mode: fewer run at once, those that run stay, and every answer is what it would have been; new ones are shorter.
TEST_P(PlainEngine, AdaptsToItsTargets) {
  EngineOptions options;
  options.adaptive =
      std::make_shared<AdaptiveController>(AdaptiveTargets{.token_ns = 1, .memory_share = 0.5, .answer_tokens_min = 3},
                                           AdaptiveSettings{.sequences = 4, .speculate = false}, std::vector<std::string>{"F16", "Q8_0"});
  std::vector<std::string> changes;
  options.notice = [&](std::string_view change) { changes.emplace_back(change); };
  size_t wanted = 0;
  options.use_precision = [&](size_t precision) { wanted = precision; };
  const auto engine = MakeEngine(4, 4 * kContext, options);
  const MemoryPressure full = {.left_bytes = 10, .limit_bytes = 100};
  const auto look = [&](int64_t after_ns, const MemoryPressure& memory) {
    clock_.Pass(after_ns);
    engine->Adapt(memory, std::nullopt);
  };
  std::vector<Request> requests(6);
  std::vector<RequestId> ids;
  for (uint32_t i = 0; i < requests.size(); ++i) {
    requests[i].tokens = {3 + i, 5, 7};
    requests[i].tokens_max = 40;
    ids.push_back(engine->Submit(requests[i]).value());
  }
  for (int steps = 0; steps < 8; ++steps) {
    ASSERT_TRUE(engine->Step().ok());
  }
  look(AdaptiveController::kSettleNs, {});
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_NE(changes[0].find("ms between tokens, and 0.0 ms is the target: 3 sequences at once instead of 4"), std::string::npos)
      << changes[0];
  EXPECT_EQ(engine->load().places, 3u);
  while (!engine->idle()) {
    ASSERT_TRUE(engine->Step().ok());
    look(AdaptiveController::kSettleNs, full);
  }
  for (size_t i = 0; i < requests.size(); ++i) ExpectSolo(ids[i], requests[i]);
  for (int i = 0; i < 30; ++i) look(AdaptiveController::kAnswersNs, full);
  EXPECT_EQ(wanted, 1u);
  EXPECT_EQ(engine->load().places, 1u);
  EXPECT_EQ(engine->prefixes().nodes(), 0u);
  // Of several answers to one prompt no more begin than there are places, and they are short.
  requests[0].choices = 4;
  const RequestId several = engine->Submit(requests[0]).value();
  RunAll(*engine);
  for (size_t choice = 0; choice < 4; ++choice) {
    EXPECT_EQ((answers_[{several, choice}].tokens), 3u);
    EXPECT_EQ((answers_[{several, choice}].finish->reason), StopReason::kLength);
  }
}

// Short of memory, prefixes go and nothing new is taken; what runs goes on as if nothing were.
TEST_P(PlainEngine, MemoryPressure) {
  std::vector<std::string> notices;
  EngineOptions options;
  options.notice = [&](std::string_view change) { notices.emplace_back(change); };
  const auto engine = MakeEngine(2, 400, options);
  Request request;
  request.tokens.assign(50, 7);
  request.tokens_max = 40;
  request.tokens_min = 40;
  const RequestId first = engine->Submit(request).value();
  RunAll(*engine);
  EXPECT_GT(engine->prefixes().nodes(), 0u);
  request.sampler.temperature = 1;
  const RequestId second = engine->Submit(request).value();
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(engine->Step().ok());
  engine->SetPressure(Pressure::kCritical);
  EXPECT_EQ(engine->prefixes().nodes(), 0u);
  EXPECT_EQ(engine->Submit(request).error().code(), Code::kUnavailable);
  RunAll(*engine);
  request.tokens_min = 0;
  EXPECT_EQ(engine->prefixes().nodes(), 0u) << "none is kept";
  engine->SetPressure(Pressure::kHigh);
  const RequestId third = engine->Submit(request).value();
  RunAll(*engine);
  engine->SetPressure(Pressure::kCalm);
  EXPECT_EQ(notices.size(), 3u);
  EXPECT_NE(notices[0].find("memory pressure is critical (was calm)"), std::string::npos) << notices[0];
  EXPECT_EQ((answers_[{second, 0}].tokens), 40u);
  EXPECT_NE((answers_[{first, 0}].text), (answers_[{second, 0}].text));
  ExpectSolo(third, request);
}

// A text that repeats itself is read from drafts, in fewer steps, and is the same.
TEST_P(PlainEngine, DraftsSaveSteps) {
  const auto run = [&](bool speculate) {
    const auto engine = MakeEngine(1, 0);
    Request request;
    request.tokens = {5, 6, 7, 8, 5, 6, 7, 8, 5, 6, 7, 8};
    request.tokens_max = 140;
    request.tokens_min = 140;
    request.speculate = speculate;
    request.cache = false;
    const RequestId id = engine->Submit(request).value();
    RunAll(*engine);
    EXPECT_EQ((answers_[{id, 0}].tokens), 140u);
    const auto result = std::pair(answers_[{id, 0}].text, engine->counters());
    answers_.clear();
    return result;
  };
  const auto [plain, plain_counters] = run(false);
  const auto [drafted, counters] = run(true);
  EXPECT_EQ(drafted, plain);
  EXPECT_GT(counters.accepted_tokens, 10u) << "greedy answers of a random model go round in circles";
  EXPECT_LT(counters.steps, plain_counters.steps);
  EXPECT_EQ(counters.steps + counters.accepted_tokens, plain_counters.steps);
}

}  // namespace
}  // namespace bantam
