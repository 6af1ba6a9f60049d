#include "engine/draft_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "engine/constraints.h"
#include "engine/engine.h"
#include "engine/session.h"
#include "formats/gguf.h"
#include "model/vocabulary.h"
#include "testing/engine_answers.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

using Answer = testing::EngineAnswer;
using testing::RunAll;

struct Kind {
  const char* name;
  size_t window = 0;        // of the model's first layer
  size_t draft_window = 0;  // and of the draft model's
  bool same = false;        // weights
  KvType kv_type = KvType::kF16;
};
std::ostream& operator<<(std::ostream& out, const Kind& kind) { return out << kind.name; }

class DraftModelTest : public ::testing::TestWithParam<Kind> {
 protected:
  static constexpr size_t kContext = 160;

  DraftModelTest() {
    model_ = LoadTiny({.width = 64, .feed_forward = 64}, GetParam().window);
    draft_ = LoadTiny({.width = 64, .feed_forward = 64, .seed = GetParam().same ? 1u : 2u}, GetParam().draft_window);
  }
  ModelFile WriteTiny(const testing::TinyModel& tiny, const std::string& name) {
    testing::BuildTinyModel(tiny).Write(folder_.Path(name));
    return OpenGguf(*files_, folder_.Path(name)).value();
  }
  std::unique_ptr<Model> LoadTiny(const testing::TinyModel& tiny, size_t window) {
    ModelFile file = WriteTiny(tiny, "m.gguf");
    if (tokenizer_ == nullptr) tokenizer_ = std::make_unique<Tokenizer>(ReadVocabulary(file).value());
    ModelOutline outline = OutlineModel(file, *RunnableKernels().front()).value();
    if (window > 0) outline.program.kv_layers[0].window = window;
    return LoadModel(std::move(outline), file, {budget_, pool_}, nullptr).value();
  }
  MemoryPlan DraftPlan(size_t sequences, size_t kv_tokens, size_t context = kContext) const {
    PlanOptions options = {context, GetParam().kv_type, /*step_tokens=*/16, /*step_outputs=*/sequences, pool_.size()};
    options.sequences = sequences;
    options.kv_tokens = kv_tokens;
    return PlanMemory(draft_->program, options, {});
  }
  std::unique_ptr<DraftModel> MakeDraft(const MemoryPlan& plan, std::function<bool()> fail = {}) {
    return DraftModel::Make({*draft_, plan, *tokenizer_, clock_, model_->program.vocabulary, std::move(fail)}, {budget_, pool_}).value();
  }
  // Without a draft model where its plan is null.
  std::unique_ptr<Engine> MakeEngine(size_t sequences, size_t kv_tokens, const MemoryPlan* draft_plan, EngineOptions options = {}) {
    options.check = true;
    PlanOptions plan = {kContext, GetParam().kv_type, /*step_tokens=*/16, sequences + kDraftTokensMax, pool_.size()};
    plan.sequences = sequences;
    plan.kv_tokens = kv_tokens;
    plan.checkpoints = 2;
    Engine::Setup setup = {*model_, *tokenizer_, PlanMemory(model_->program, plan, {}), clock_, options};
    if (draft_plan != nullptr) {
      setup.draft = draft_.get();
      setup.draft_plan = *draft_plan;
    }
    return Engine::Make(setup, {budget_, pool_},
                        [this](Event event) {
                          clock_.Pass(5'000'000);  // of the model's step: it is slower than the draft model's
                          testing::TakeEvent(std::move(event), &answers_);
                        })
        .value();
  }
  static Request RandomRequest(Rng& rng) {
    Request request;
    for (uint64_t i = 0, end = 1 + rng.Next() % 60; i < end; ++i) request.tokens.push_back(static_cast<uint32_t>(3 + rng.Next() % 280));
    request.tokens_max = 1 + rng.Next() % 80;
    request.priority = static_cast<Priority>(1 + rng.Next() % 2);
    if (rng.Next() % 2 == 0) {
      request.sampler.temperature = 0.3f;
      request.sampler.seed = rng.Next();
    }
    if (rng.Next() % 4 == 0) request.sampler.penalties.repetition = 1.3f;
    if (rng.Next() % 4 == 0) request.stops = {"e", "qu"};
    if (rng.Next() % 4 == 0) request.choices = 1 + rng.Next() % 3;
    if (rng.Next() % 6 == 0) request.speculate = false;
    return request;
  }
  static Request LongRequest() {
    Request request;
    request.tokens = {5, 80, 7, 99, 13};
    request.tokens_max = 60;
    request.tokens_min = 60;
    request.sampler.temperature = 1;
    return request;
  }
  // Until the draft model has KV.
  static void StepUntilHeld(Engine& engine) {
    const KvCache& kv = engine.draft_model()->kv();
    while (kv.free_blocks(KvPart::kFull) == kv.blocks(KvPart::kFull)) ASSERT_TRUE(engine.Step().value());
  }
  static void ExpectNothingHeld(const Engine& engine) {
    const KvCache& kv = engine.draft_model()->kv();
    for (const KvPart part : kAllKvParts) EXPECT_EQ(kv.free_blocks(part), kv.blocks(part));
  }
  // Random arrivals and cancellations; what each answer was in the end.
  testing::EngineAnswers Load(Engine& engine, uint64_t seed) {
    answers_.clear();
    Rng rng(seed);
    RequestId last = 0;
    for (int step = 0; step < 400; ++step) {
      // Now many come, now nobody.
      if (step / 40 % 2 == 0 && rng.Next() % 8 == 0) last = engine.Submit(RandomRequest(rng)).value();
      // The same ones in every run, as far as they had not ended.
      if (rng.Next() % 40 == 0 && last > 0) engine.Cancel(1 + rng.Next() % last);
      const auto stepped = engine.Step();
      EXPECT_TRUE(stepped.ok()) << stepped.error().message();
    }
    RunAll(engine);
    return std::exchange(answers_, {});
  }

  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  MemoryBudget budget_{uint64_t{1} << 30};
  std::unique_ptr<ThreadPool> threads_owner_ = ThreadPool::Make(2).value();
  ThreadPool& pool_ = *threads_owner_;
  testing::TickingClock clock_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Model> draft_;
  testing::EngineAnswers answers_;
};

// What the draft model guesses is what it goes on with by itself, whatever it was told in steps of whatever size, was wrong about, shared
// with others, or found no room for.
TEST_P(DraftModelTest, GuessesAreWhatItWouldSay) {
  for (const size_t kv_tokens : {size_t{600}, size_t{0}}) {
    Rng failures(1);
    const MemoryPlan plan = DraftPlan(/*sequences=*/3, kv_tokens);
    const uint64_t held = budget_.used_bytes();
    const auto drafts = MakeDraft(plan, [&] { return failures.Next() % 50 == 0; });
    auto session = Session::Make(*draft_, DraftPlan(1, 0), {budget_, pool_}).value();
    Rng rng(kv_tokens);
    struct Writer {
      std::unique_ptr<DraftModel::Sequence> sequence = {};
      std::vector<uint32_t> known = {};
      std::vector<uint32_t> draft = {};
    };
    std::vector<Writer> writers(4);
    size_t guessed = 0;
    size_t without = 0;
    for (int round = 0; round < 400; ++round) {
      std::vector<DraftModel::Ask> asks;
      for (Writer& writer : writers) {
        if (writer.sequence == nullptr || writer.known.size() > 120 || rng.Next() % 40 == 0) {
          writer.sequence = drafts->Begin();
          writer.known.clear();
          for (uint64_t i = 0, end = 1 + rng.Next() % 60; i < end; ++i) writer.known.push_back(static_cast<uint32_t>(3 + rng.Next() % 280));
        }
        writer.draft.clear();
        const size_t room = std::min<size_t>(drafts->Room(*writer.sequence, writer.known), 1 + rng.Next() % 5);
        if (room > 0 && rng.Next() % 4 != 0) asks.push_back({writer.sequence.get(), writer.known, room, &writer.draft});
      }
      drafts->Propose(asks, /*rows_max=*/8 + rng.Next() % 60);
      ASSERT_TRUE(drafts->CheckHolders().ok()) << drafts->CheckHolders().error().message();
      for (const DraftModel::Ask& ask : asks) ++(ask.draft->empty() ? without : guessed);
      for (Writer& writer : writers) {
        if (!writer.draft.empty()) {
          session->Truncate(0);
          ASSERT_TRUE(session->Append(writer.known).ok());
          for (const uint32_t guess : writer.draft) {
            const auto logits = session->logits();
            ASSERT_EQ(guess, std::max_element(logits.begin(), logits.end()) - logits.begin());
            ASSERT_TRUE(session->Append(std::span(&guess, 1)).ok());
          }
        }
        // Some come true, and something else follows; or nothing happens.
        const size_t right = writer.draft.empty() ? 0 : rng.Next() % (writer.draft.size() + 1);
        writer.known.insert(writer.known.end(), writer.draft.begin(), writer.draft.begin() + static_cast<std::ptrdiff_t>(right));
        if (rng.Next() % 5 != 0) writer.known.push_back(static_cast<uint32_t>(3 + rng.Next() % 280));
      }
    }
    EXPECT_GT(guessed, 100u);
    EXPECT_GT(without, 10u);
    writers.clear();
    for (const KvPart part : kAllKvParts) EXPECT_EQ(drafts->kv().free_blocks(part), drafts->kv().blocks(part));
    EXPECT_GT(budget_.used_bytes(), held);
  }
}

// Random arrivals, priorities, samplers, stops and cancellations in much memory and in little: to the bit what an engine without drafts of
// a model says.
TEST_P(DraftModelTest, AnswersAreThoseWithout) {
  for (const size_t kv_tokens : {size_t{1000}, size_t{200}}) {
    const auto plain = Load(*MakeEngine(/*sequences=*/4, kv_tokens, nullptr), kv_tokens);
    const uint64_t before = budget_.used_bytes();
    const MemoryPlan plan = DraftPlan(4, kv_tokens);
    const auto engine = MakeEngine(4, kv_tokens, &plan);
    const uint64_t held = budget_.used_bytes();
    const auto drafted = Load(*engine, kv_tokens);
    ASSERT_EQ(drafted.size(), plain.size());
    size_t compared = 0;
    for (const auto& [key, answer] : plain) {
      const Answer& other = drafted.at(key);
      if (answer.finish->reason == StopReason::kCancelled || other.finish->reason == StopReason::kCancelled) continue;
      EXPECT_EQ(other.text, answer.text) << "request " << key.first << " choice " << key.second;
      EXPECT_EQ(other.tokens, answer.tokens);
      EXPECT_EQ(other.finish->reason, answer.finish->reason);
      ++compared;
    }
    EXPECT_GT(compared, 15u);
    EXPECT_GT(engine->counters().draft_steps, 10u);
    EXPECT_GT(engine->counters().model_drafted_tokens, 10u);
    if (GetParam().same && GetParam().window == GetParam().draft_window) {
      EXPECT_GT(engine->counters().model_accepted_tokens, 10u);
    }
    EXPECT_EQ(budget_.used_bytes(), held) << "what requests held is free";
    EXPECT_GT(held, before + plan.kv_bytes);
    ExpectNothingHeld(*engine);
  }
}

// Reservations of both models' KV fail now and then.
TEST_P(DraftModelTest, ReservationsMayFail) {
  const auto plain = Load(*MakeEngine(/*sequences=*/3, /*kv_tokens=*/400, nullptr), 7);
  for (const uint64_t every : {2, 3, 7}) {
    Rng failures(every);
    EngineOptions options;
    options.fail = [&] { return failures.Next() % every == 0; };
    const MemoryPlan plan = DraftPlan(3, 400);
    const auto engine = MakeEngine(3, 400, &plan, options);
    const auto drafted = Load(*engine, 7);
    for (const auto& [key, answer] : plain) {
      const Answer& other = drafted.at(key);
      if (answer.finish->reason == StopReason::kCancelled || other.finish->reason == StopReason::kCancelled) continue;
      EXPECT_EQ(other.text, answer.text) << "request " << key.first << " choice " << key.second;
    }
    ExpectNothingHeld(*engine);
  }
}

// Cancelled, preempted or at its end, an answer gives the draft model's KV back at once.
TEST_P(DraftModelTest, NothingIsHeldBehindTheEnd) {
  const MemoryPlan plan = DraftPlan(2, 400);
  const auto engine = MakeEngine(2, 400, &plan);
  Request request = LongRequest();
  const RequestId id = engine->Submit(request).value();
  StepUntilHeld(*engine);
  EXPECT_TRUE(engine->Cancel(id));
  ExpectNothingHeld(*engine);
}

// Who loses its place loses the draft model's too, in the same step.
TEST_P(DraftModelTest, WhoIsDisplacedHoldsNothing) {
  const MemoryPlan plan = DraftPlan(1, 0);
  const auto engine = MakeEngine(1, 0, &plan);
  Request request = LongRequest();
  request.priority = Priority::kLow;
  engine->Submit(request).value();
  StepUntilHeld(*engine);
  request.priority = Priority::kHigh;
  engine->Submit(request).value();
  ASSERT_TRUE(engine->Step().value());
  EXPECT_EQ(engine->counters().preemptions, 1u);
  ExpectNothingHeld(*engine);
}

INSTANTIATE_TEST_SUITE_P(Kinds, DraftModelTest,
                         ::testing::Values(Kind{"SameWeights", 0, 0, true}, Kind{"OtherWeights"}, Kind{"WindowedDraft", 0, 20, true},
                                           Kind{"WindowedModel", 20, 0, true}, Kind{"Int8", 0, 0, true, KvType::kInt8}),
                         [](const auto& test) { return test.param.name; });

class SameWeights : public DraftModelTest {};
INSTANTIATE_TEST_SUITE_P(Same, SameWeights, ::testing::Values(Kind{"Same", 0, 0, true}), [](const auto& test) { return test.param.name; });

// The same weights guess right, every time, and all of the answer comes in fewer steps.
TEST_P(SameWeights, GuessesOfAnEqualAreRight) {
  const MemoryPlan plan = DraftPlan(1, 0);
  const auto run = [&](const MemoryPlan* draft_plan) {
    const auto engine = MakeEngine(1, 0, draft_plan);
    Request request;
    request.tokens = {5, 80, 7, 99, 13, 120, 44};
    request.tokens_max = 100;
    request.cache = false;
    const RequestId id = engine->Submit(request).value();
    RunAll(*engine);
    // What the draft model takes is no part of what the model's steps do.
    EXPECT_LE(engine->cost().Predict(8), engine->cost().Predict(1) + 4'000'000);
    return std::pair(answers_.extract({id, 0}).mapped(), engine->counters());
  };
  const auto [plain, plain_counters] = run(nullptr);
  const auto [drafted, counters] = run(&plan);
  EXPECT_EQ(drafted.text, plain.text);
  EXPECT_GT(plain.tokens, 50u);
  EXPECT_GT(counters.model_accepted_tokens, 10u);
  EXPECT_EQ(counters.model_accepted_tokens, counters.model_drafted_tokens) << "none is wrong";
  EXPECT_LT(counters.steps, plain_counters.steps);
  EXPECT_EQ(drafted.finish->usage.drafted_tokens, counters.drafted_tokens);
  EXPECT_EQ(drafted.finish->usage.accepted_tokens, counters.accepted_tokens);
  EXPECT_EQ(counters.generated_tokens, plain_counters.generated_tokens);
}

// What a constraint does not allow is not guessed, and the answer is what it has to be.
TEST_P(SameWeights, ConstrainedAnswers) {
  Constraints constraints(*tokenizer_, budget_);
  Request request;
  request.tokens = {5, 80, 7};
  request.tokens_max = 120;
  request.constraint = constraints.Get(ConstraintKind::kRegex, "[a-f]{20} and [0-9]{20}").value();
  request.sampler.temperature = 1;
  const MemoryPlan plan = DraftPlan(2, 0);
  std::vector<std::string> texts;
  for (const MemoryPlan* draft_plan : {static_cast<const MemoryPlan*>(nullptr), &plan}) {
    const auto engine = MakeEngine(2, 0, draft_plan);
    const RequestId id = engine->Submit(request).value();
    RunAll(*engine);
    const Answer answer = answers_.extract({id, 0}).mapped();
    EXPECT_EQ(answer.finish->reason, StopReason::kEndOfTurn);
    EXPECT_EQ(answer.text.size(), 45u) << answer.text;
    texts.push_back(answer.text);
    if (draft_plan != nullptr) {
      EXPECT_GT(engine->counters().draft_steps, 0u);
    }
  }
  EXPECT_EQ(texts[0], texts[1]);
}

// A model whose guesses may not come learns that they are wrong, and stands still but for a try now and then.
TEST_P(SameWeights, GuessesThatMayNotComeAreWrong) {
  Constraints constraints(*tokenizer_, budget_);
  Request request;
  request.tokens = {5, 80, 7};
  request.tokens_max = 140;
  // Five of 300 tokens: what is likeliest is seldom among them.
  request.constraint = constraints.Get(ConstraintKind::kRegex, "[qxzj~]{120}").value();
  request.sampler.temperature = 1;
  const MemoryPlan plan = DraftPlan(2, 0);
  const auto engine = MakeEngine(2, 0, &plan);
  engine->Submit(request).value();
  RunAll(*engine);
  EXPECT_GT(engine->counters().draft_steps, 0u);
  EXPECT_LT(engine->counters().draft_steps, engine->counters().steps / 2);
}

// Guesses are cut where a constraint ends them.
TEST_P(SameWeights, WhatAConstraintAllows) {
  Constraints constraints(*tokenizer_, budget_);
  CandidateList candidates(model_->program.vocabulary);
  Request request;
  request.tokens = {5};
  const auto ids = [&](std::string_view text) {
    std::vector<uint32_t> tokens;
    for (const char c : text) tokens.push_back(tokenizer_->Encode(std::string(1, c), /*special=*/false).value().back());
    return tokens;
  };
  EXPECT_EQ(Generation::Make(request, 0, *tokenizer_, &candidates).value()->Allows(ids("xyz")), 3u) << "all without one";
  request.constraint = constraints.Get(ConstraintKind::kRegex, "ab*c").value();
  const auto generation = Generation::Make(request, 0, *tokenizer_, &candidates).value();
  EXPECT_EQ(generation->Allows(ids("abbc")), 4u);
  EXPECT_EQ(generation->Allows(ids("accb")), 2u);
  EXPECT_EQ(generation->Allows(ids("bbc")), 0u);
  EXPECT_EQ(generation->Allows({}), 0u);
  EXPECT_EQ(generation->Allows(ids("abbc")), 4u) << "looking changes nothing";
}

// Where the draft model's context ends its guesses do, and ids that it does not know are not read.
TEST_P(SameWeights, RoomOfASequence) {
  const auto drafts = MakeDraft(DraftPlan(1, 0, /*context=*/32));
  const auto sequence = drafts->Begin();
  EXPECT_EQ(drafts->Room(*sequence, std::vector<uint32_t>(30, 5)), 3u) << "two more tokens are read, and one is guessed behind them";
  EXPECT_EQ(drafts->Room(*sequence, std::vector<uint32_t>(32, 5)), 1u);
  EXPECT_EQ(drafts->Room(*sequence, std::vector<uint32_t>(33, 5)), 0u);
  EXPECT_EQ(drafts->Room(*sequence, std::vector<uint32_t>{5, 300}), 0u);
  const std::vector<uint32_t> known(30, 5);
  std::vector<uint32_t> draft;
  const DraftModel::Ask ask = {sequence.get(), known, 3, &draft};
  drafts->Propose(std::span(&ask, 1), /*rows_max=*/100);
  EXPECT_EQ(drafts->Behind(*sequence, known), 14u) << "a step of 16";
  EXPECT_TRUE(draft.empty());
  drafts->Propose(std::span(&ask, 1), /*rows_max=*/100);
  EXPECT_EQ(draft.size(), 3u);
}

// Nothing follows the end of a turn, which is no guess itself.
TEST_P(SameWeights, GuessesEndWithATurn) {
  const std::vector<uint32_t> known = {5, 80, 7, 99, 13};
  std::vector<uint32_t> whole;
  const auto guess = [&](const Tokenizer& tokenizer, std::vector<uint32_t>* draft) {
    const auto drafts =
        DraftModel::Make({*draft_, DraftPlan(1, 0), tokenizer, clock_, model_->program.vocabulary}, {budget_, pool_}).value();
    const auto sequence = drafts->Begin();
    const DraftModel::Ask ask = {sequence.get(), known, 5, draft};
    drafts->Propose(std::span(&ask, 1), /*rows_max=*/100);
  };
  guess(*tokenizer_, &whole);
  ASSERT_EQ(whole.size(), 5u);
  for (const size_t last : {4u, 2u, 0u}) {
    TokenizerSpec spec = tokenizer_->spec();
    spec.end_of_turn = {whole[last]};
    std::vector<uint32_t> draft;
    guess(Tokenizer::Make(std::move(spec)).value(), &draft);
    const auto end = std::find(whole.begin(), whole.end(), whole[last]);
    EXPECT_EQ(draft, std::vector<uint32_t>(whole.begin(), end));
  }
}

TEST_P(SameWeights, OtherVocabulariesAreRefused) {
  const auto of = [&](const std::function<void(TokenizerSpec&)>& change) {
    TokenizerSpec spec = tokenizer_->spec();
    change(spec);
    return Tokenizer::Make(std::move(spec)).value();
  };
  const auto refusal = [&](const std::function<void(TokenizerSpec&)>& change) {
    const Status same = CheckSameVocabulary(*tokenizer_, of(change));
    if (!same.ok()) {
      EXPECT_EQ(same.error().code(), Code::kInvalidArgument);
    }
    return same.ok() ? std::string() : same.error().message();
  };
  EXPECT_EQ(refusal([](TokenizerSpec&) {}), "");
  EXPECT_EQ(refusal([](TokenizerSpec& spec) { spec.texts.back() = '#'; }).find("token 299 is "), 0u);
  EXPECT_EQ(refusal([](TokenizerSpec& spec) { spec.Add("more", TokenType::kNormal, 0); }).find("301 tokens here, 300 in the model"), 0u);
  EXPECT_EQ(refusal([](TokenizerSpec& spec) { spec.Add("more", TokenType::kUnused, 0); }), "") << "files fill up with such";
  EXPECT_EQ(refusal([](TokenizerSpec& spec) { spec.bos.reset(); }).find("a text's beginning is token 1 in the model and no token here"),
            0u);
  EXPECT_EQ(refusal([](TokenizerSpec& spec) { spec.eos = 5; }).find("a text's end is token 2 in the model and token 5 here"), 0u);
}

TEST_P(SameWeights, ModelsThatCannotGuessAreRefused) {
  const auto outline = [&](const testing::TinyModel& tiny, const char* name) {
    ModelFile file = WriteTiny(tiny, name);
    return OutlineModel(file, *RunnableKernels().front()).value();
  };
  const testing::TinyModel plain = {.width = 64, .feed_forward = 64};
  testing::TinyModel hybrid = plain;
  hybrid.hybrid = true;
  const ModelOutline plain_outline = outline(plain, "plain.gguf");
  const auto refused = OutlineDraft(WriteTiny(hybrid, "hybrid.gguf"), *tokenizer_, plain_outline);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), Code::kUnsupported);
  EXPECT_NE(refused.error().message().find("hybrid.gguf: granitehybrid models have recurrent layers"), std::string::npos);
  const auto unchecked = OutlineDraft(WriteTiny(plain, "p.gguf"), *tokenizer_, outline(hybrid, "h.gguf"));
  ASSERT_FALSE(unchecked.ok());
  EXPECT_EQ(unchecked.error().code(), Code::kUnsupported);
  EXPECT_TRUE(OutlineDraft(WriteTiny(plain, "p.gguf"), *tokenizer_, plain_outline).ok());
}

// Both models and all that they need fit the bytes that were planned, and none less.
TEST_P(SameWeights, PlannedToTheByte) {
  const testing::TinyModel tiny = {.width = 64, .feed_forward = 64};
  const auto file = [&](const char* name) { return WriteTiny(tiny, name); };
  ModelFile main_file = file("main.gguf");
  ModelOutline outline = OutlineModel(main_file, *RunnableKernels().front()).value();
  const DraftOutline draft = OutlineDraft(file("draft.gguf"), *tokenizer_, outline).value();
  FitRequest fit;
  fit.wanted = {kContext, KvType::kF16, /*step_tokens=*/16, 1, pool_.size()};
  PlanSequences(4, &fit.wanted);
  fit.held.draft = DraftBytesMin(draft, fit.wanted);
  fit.fixed_context = true;
  for (const uint64_t more : {uint64_t{0}, uint64_t{64} << 10, uint64_t{1} << 30}) {
    fit.limit_bytes = PlanMemory(outline.program, fit.wanted, fit.held).total_bytes() + more;
    MemoryPlan plan = FitMemory(&outline.program, fit).value();
    const MemoryPlan own = PlanDraft(draft, fit.limit_bytes, &plan);
    EXPECT_LE(plan.total_bytes(), fit.limit_bytes);
    EXPECT_GE(own.kv_bytes, KvBlockCount(kContext) * KvLayout(KvType::kF16, draft.outline.program.kv_layers).block_bytes(KvPart::kFull));
    if (more > (1 << 29)) {
      EXPECT_EQ(own.options.kv_tokens, 4 * kContext);
    }
    // Weights and what is counted beside them are no matter of the engine.
    const uint64_t engine_bytes = plan.kv_bytes + plan.activations_bytes + own.kv_bytes + own.activations_bytes;
    MemoryBudget budget(engine_bytes);
    const auto make = [&](MemoryBudget& of) {
      return Engine::Make({*model_, *tokenizer_, plan, clock_, {}, draft_.get(), own}, {of, pool_}, [](const Event&) {});
    };
    EXPECT_TRUE(make(budget).ok());
    MemoryBudget small(engine_bytes - 1);
    const auto failed = make(small);
    ASSERT_FALSE(failed.ok());
    EXPECT_EQ(failed.error().code(), Code::kExhausted);
  }
  fit.limit_bytes = 1 << 20;
  EXPECT_NE(FitMemory(&outline.program, fit).error().message().find("leave the draft model away"), std::string::npos);
}

}  // namespace
}  // namespace bantam
