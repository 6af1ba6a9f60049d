#include "engine/session.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>
#include <optional>

#include "formats/gguf.h"
#include "kernels/ref/ref.h"
#include "model/vocabulary.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"

// Counts every allocation of this program. The address sanitizer has its own.
namespace {
#ifdef __SANITIZE_ADDRESS__
constexpr bool kCounts = false;
#else
constexpr bool kCounts = true;
#endif
std::atomic<uint64_t> allocations = 0;
}  // namespace

#ifndef __SANITIZE_ADDRESS__
// Not inlined: the compiler would see through one of a pair and warn of a mismatch.
__attribute__((noinline)) void* operator new(size_t size) {
  ++allocations;
  void* memory = std::malloc(size);
  if (memory == nullptr) std::abort();
  return memory;
}
__attribute__((noinline)) void operator delete(void* memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, size_t) noexcept { std::free(memory); }
#endif

namespace bantam {
namespace {

class SessionTest : public ::testing::Test {
 protected:
  void Load(const testing::TinyModel& tiny, size_t context, size_t step_tokens = 16, bool all_outputs = false, size_t window = 0) {
    testing::BuildTinyModel(tiny).Write(folder_.Path("m.gguf"));
    if (damage_) Damage(*damage_);
    ModelFile file = OpenGguf(*files_, folder_.Path("m.gguf")).value();
    tokenizer_ = std::make_unique<Tokenizer>(ReadVocabulary(file).value());
    ModelOutline outline = OutlineModel(file, *RunnableKernels().front()).value();
    outline.program.kv_layers[0].window = window;
    PlanOptions options = {context, KvType::kF16, step_tokens, all_outputs ? step_tokens : 1, pool_.size()};
    plan_ = PlanMemory(outline.program, options, {});
    model_ = LoadModel(std::move(outline), file, {budget_, pool_}, nullptr).value();
    session_ = Session::Make(*model_, plan_, {budget_, pool_}).value();
  }
  // Puts a number into the last norm of the file.
  void Damage(float weight) {
    const uint64_t place = OpenGguf(*files_, folder_.Path("m.gguf")).value().directory.Find("output_norm.weight")->offset_bytes;
    std::fstream file(folder_.Path("m.gguf"), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(place));
    file.write(reinterpret_cast<const char*>(&weight), sizeof(weight));
  }
  static std::vector<uint32_t> Tokens(size_t n, uint32_t seed = 1) {
    std::vector<uint32_t> tokens(n);
    for (size_t i = 0; i < n; ++i) tokens[i] = static_cast<uint32_t>((i * 31 + seed * 7) % 300);
    return tokens;
  }
  std::vector<float> Logits() const { return {session_->logits().begin(), session_->logits().end()}; }

  std::optional<float> damage_;
  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  MemoryBudget budget_{uint64_t{1} << 30};
  std::unique_ptr<ThreadPool> threads_owner_ = ThreadPool::Make(2).value();
  ThreadPool& pool_ = *threads_owner_;
  MemoryPlan plan_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Session> session_;
};

// The plan is kept to the byte: what was reserved is what was planned.
// Each reservation of memory fails in turn: an error that names what for, and nothing kept.
TEST_F(SessionTest, EveryReservationMayFail) {
  Load({}, /*context=*/64);
  const uint64_t session_bytes = plan_.kv_bytes + plan_.activations_bytes;
  for (const auto& [limit, what] :
       {std::pair{uint64_t{0}, "kv"}, {plan_.kv_bytes - 1, "kv"}, {plan_.kv_bytes, "activations"}, {session_bytes - 1, "activations"}}) {
    MemoryBudget budget(limit);
    const auto session = Session::Make(*model_, plan_, {budget, pool_});
    ASSERT_FALSE(session.ok()) << limit;
    EXPECT_EQ(session.error().code(), Code::kExhausted);
    EXPECT_NE(session.error().message().find(what), std::string::npos) << session.error().message();
    EXPECT_EQ(budget.used_bytes(), 0u) << limit;
  }
  MemoryBudget budget(session_bytes);
  EXPECT_TRUE(Session::Make(*model_, plan_, {budget, pool_}).ok()) << "the plan is exact";
}

// A sliding window forgets: going back a little keeps the tokens, going back far drops all, and reading on gives the same bits.
TEST_F(SessionTest, GoesBackAsFarAsTheWindowAllows) {
  Load({}, /*context=*/256, /*step_tokens=*/16, /*all_outputs=*/false, /*window=*/20);
  const std::vector<uint32_t> tokens = Tokens(200);
  ASSERT_TRUE(session_->Append(std::span(tokens).first(150)).ok());
  const std::vector<float> expected = Logits();
  ASSERT_TRUE(session_->Append(std::span(tokens).subspan(150, 6)).ok());
  EXPECT_EQ(session_->Truncate(149), 149u);
  ASSERT_TRUE(session_->Append(std::span(tokens).subspan(149, 1)).ok());
  EXPECT_EQ(Logits(), expected);
  ASSERT_TRUE(session_->Append(std::span(tokens).subspan(150)).ok());
  EXPECT_EQ(session_->Truncate(149), 0u);
  EXPECT_TRUE(session_->tokens().empty());
  ASSERT_TRUE(session_->Append(std::span(tokens).first(150)).ok());
  EXPECT_EQ(Logits(), expected);
}

// Recurrent layers have no past but their state: the last step can be taken back, and no more.
TEST_F(SessionTest, RecurrentLayersGoBackOneStep) {
  Load({.layers = 3, .hybrid = true, .matrices = DType::kQ8_0}, /*context=*/256);
  const std::vector<uint32_t> tokens = Tokens(100);
  ASSERT_TRUE(session_->Append(std::span(tokens).first(40)).ok());
  ASSERT_TRUE(session_->Append(std::span(tokens).subspan(40, 1)).ok());
  const std::vector<float> expected = Logits();
  ASSERT_TRUE(session_->Append(std::span(tokens).subspan(60, 1)).ok());
  EXPECT_NE(Logits(), expected);
  EXPECT_EQ(session_->Truncate(42), 42u) << "nothing to forget";
  EXPECT_EQ(session_->Truncate(41), 41u);
  EXPECT_EQ(session_->Truncate(41), 41u);
  ASSERT_TRUE(session_->Append(std::span(tokens).subspan(70, 1)).ok());
  EXPECT_EQ(session_->Truncate(41), 41u);
  EXPECT_EQ(session_->Truncate(40), 0u) << "two steps back";
  ASSERT_TRUE(session_->Append(std::span(tokens).first(41)).ok());
  EXPECT_EQ(Logits(), expected);
}

// A step that was left has written over the older state: what it held is gone.
TEST_F(SessionTest, RecurrentLayersDoNotGoBackBehindAStepThatWasLeft) {
  Load({.layers = 2, .hybrid = true}, /*context=*/256, /*step_tokens=*/16);
  const std::vector<uint32_t> tokens = Tokens(100);
  ASSERT_TRUE(session_->Append(std::span(tokens).first(10)).ok());
  // One step is done, the next is left in its middle.
  int polls = 0;
  const Status stopped = session_->Append(std::span(tokens).subspan(10, 32), [&](std::string_view, uint64_t done, uint64_t) {
    polls += done == 16 ? 1 : 0;
    return polls < 6;
  });
  ASSERT_EQ(stopped.error().code(), Code::kCancelled);
  ASSERT_EQ(session_->tokens().size(), 26u);
  EXPECT_EQ(session_->Truncate(10), 0u);
}

// Nor do a step's tokens, threads, or a step that was left halfway, in any form of weights.
TEST_F(SessionTest, RecurrentLayersGiveTheSameBitsHoweverTextIsCut) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_K, DType::kIQ2_XXS}) {
    const std::vector<uint32_t> tokens = Tokens(50);
    Load({.layers = 4, .hybrid = true, .matrices = dtype}, 100, /*step_tokens=*/20);
    ASSERT_TRUE(session_->Append(tokens).ok());
    const std::vector<float> expected = Logits();
    session_->Truncate(0);
    for (const uint32_t token : tokens) ASSERT_TRUE(session_->Append(std::span(&token, 1)).ok());
    EXPECT_EQ(Logits(), expected) << Info(dtype).name;
    for (int polls = 1; polls < 90; polls += 11) {
      session_->Truncate(0);
      int left = polls;
      const Status stopped = session_->Append(tokens, [&](std::string_view, uint64_t, uint64_t) { return --left > 0; });
      ASSERT_TRUE(stopped.ok() || stopped.error().code() == Code::kCancelled);
      if (session_->tokens().size() < tokens.size()) {
        ASSERT_TRUE(session_->Append(std::span(tokens).subspan(session_->tokens().size())).ok());
      }
      EXPECT_EQ(Logits(), expected) << Info(dtype).name << ", stopped after " << polls;
    }
  }
}

TEST_F(SessionTest, HoldsExactlyThePlannedBytes) {
  for (const DType dtype : {DType::kF32, DType::kQ4_K}) {
    session_.reset();
    model_.reset();
    Load({.experts = 4, .experts_used = 2, .matrices = dtype}, 100);
    EXPECT_EQ(budget_.used_bytes(), plan_.weights_bytes + plan_.kv_bytes + plan_.activations_bytes);
  }
}

TEST_F(SessionTest, DecodingAllocatesNothing) {
  if (!kCounts) GTEST_SKIP() << "a sanitizer allocates here";
  Load({.matrices = DType::kQ8_0}, 200);
  SamplerOptions options;
  options.temperature = 0.8f;
  options.penalties.repetition = 1.1f;
  Sampler sampler(options, session_->vocabulary());
  ASSERT_TRUE(session_->Append(Tokens(20)).ok());
  const uint64_t before = allocations;
  for (int i = 0; i < 100; ++i) {
    const uint32_t token = sampler.Sample(session_->logits());
    sampler.Accept(token);
    ASSERT_TRUE(session_->Append(std::span(&token, 1)).ok());
  }
  EXPECT_EQ(allocations, before);
}

TEST_F(SessionTest, TruncatingAndReadingAgainGivesTheSameLogits) {
  Load({.matrices = DType::kQ4_0}, 200);
  ASSERT_TRUE(session_->Append(Tokens(50)).ok());
  const auto expected = Logits();
  ASSERT_TRUE(session_->Append(Tokens(60, 9)).ok());
  EXPECT_NE(Logits(), expected);
  session_->Truncate(17);
  const std::vector<uint32_t> tokens = Tokens(50);
  ASSERT_TRUE(session_->Append(std::span(tokens).subspan(17)).ok());
  EXPECT_EQ(Logits(), expected);
  session_->Truncate(0);
  for (const uint32_t token : Tokens(50)) ASSERT_TRUE(session_->Append(std::span(&token, 1)).ok());
  EXPECT_EQ(Logits(), expected);
}

// Three heads of keys and values cannot be shared evenly: threads take segments of the context. A prompt, and decoding on any number of
// threads, give the same bits.
TEST_F(SessionTest, SegmentsOfAContextGiveTheSameBitsOnAnyNumberOfThreads) {
  const testing::TinyModel tiny = {.layers = 2, .width = 192, .heads = 6, .kv_heads = 3, .feed_forward = 64, .context = 2048};
  const std::vector<uint32_t> tokens = Tokens(1300);
  for (const size_t window : {size_t{0}, size_t{600}}) {
    std::vector<float> expected;
    for (const int threads : {1, 2, 4}) {
      const auto pool = ThreadPool::Make(threads).value();
      session_.reset();
      model_.reset();
      Load(tiny, /*context=*/2048, /*step_tokens=*/64, /*all_outputs=*/false, window);
      PlanOptions options = plan_.options;
      options.threads = threads;
      const MemoryPlan plan = PlanMemory(model_->program, options, {});
      session_ = Session::Make(*model_, plan, {budget_, *pool}).value();
      EXPECT_EQ(budget_.used_bytes(), plan.weights_bytes + plan.kv_bytes + plan.activations_bytes);
      if (expected.empty()) {
        ASSERT_TRUE(session_->Append(tokens).ok());
        expected = Logits();
        session_->Truncate(0);
      }
      ASSERT_TRUE(session_->Append(std::span(tokens).first(1290)).ok());
      for (size_t t = 1290; t < tokens.size(); ++t) ASSERT_TRUE(session_->Append(std::span(tokens).subspan(t, 1)).ok());
      EXPECT_EQ(Logits(), expected) << threads << " threads, window " << window;
      session_.reset();
    }
  }
}

TEST_F(SessionTest, LogitsOfEveryToken) {
  Load({}, 100, /*step_tokens=*/8, /*all_outputs=*/true);
  std::vector<float> all;
  ASSERT_TRUE(session_
                  ->AppendForLogits(Tokens(21),
                                    [&](std::span<const float> logits) {
                                      all.insert(all.end(), logits.begin(), logits.end());
                                      return Ok();
                                    })
                  .ok());
  ASSERT_EQ(all.size(), 21u * 300);
  session_->Truncate(0);
  ASSERT_TRUE(session_->Append(Tokens(13)).ok());
  EXPECT_EQ(std::memcmp(Logits().data(), all.data() + 12 * 300, 300 * 4), 0);
}

TEST_F(SessionTest, ErrorsLeaveTheSessionUsable) {
  Load({}, 32);
  EXPECT_EQ(session_->Append({}).error().code(), Code::kInvalidArgument);
  const std::vector<uint32_t> foreign = {1, 300};
  EXPECT_EQ(session_->Append(foreign).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(session_->Append(Tokens(33)).error().code(), Code::kExhausted);
  EXPECT_TRUE(session_->Append(Tokens(32)).ok());
  EXPECT_EQ(session_->Append(Tokens(1)).error().code(), Code::kExhausted);
}

TEST_F(SessionTest, ReadingCanBeStoppedBetweenSteps) {
  Load({}, 100, /*step_tokens=*/10);
  const Status stopped = session_->Append(Tokens(50), [](std::string_view, uint64_t done, uint64_t) { return done < 20; });
  EXPECT_EQ(stopped.error().code(), Code::kCancelled);
  EXPECT_EQ(session_->tokens().size(), 20u);
}

// A step may be left anywhere; the session is then as before it, on any number of threads.
TEST_F(SessionTest, AStepCanBeStoppedWithin) {
  Load({.matrices = DType::kQ4_0}, 100, /*step_tokens=*/20);
  ASSERT_TRUE(session_->Append(Tokens(40)).ok());
  const auto expected = Logits();
  for (int polls = 1; polls < 60; polls += 7) {
    session_->Truncate(0);
    int left = polls;
    const Status stopped = session_->Append(Tokens(40), [&](std::string_view, uint64_t, uint64_t) { return --left > 0; });
    if (!stopped.ok()) {
      EXPECT_EQ(stopped.error().code(), Code::kCancelled);
      EXPECT_EQ(session_->tokens().size() % 20, 0u);
    }
    const std::vector<uint32_t> tokens = Tokens(40);
    if (session_->tokens().size() < 40) {
      ASSERT_TRUE(session_->Append(std::span(tokens).subspan(session_->tokens().size())).ok());
    }
    EXPECT_EQ(Logits(), expected) << polls;
  }
}

// The same where threads take segments of the context: nobody counts what a step that was left has done.
TEST_F(SessionTest, AStepOverSegmentsCanBeStoppedWithin) {
  Load({.width = 192, .heads = 6, .kv_heads = 3, .feed_forward = 64, .context = 1024}, 1024, /*step_tokens=*/64);
  const std::vector<uint32_t> tokens = Tokens(603);
  const auto read = [&](size_t from) {
    ASSERT_TRUE(session_->Append(std::span(tokens).subspan(from)).ok());
    for (size_t t = 0; t < 2; ++t) {
      session_->Truncate(602);
      ASSERT_TRUE(session_->Append(std::span(tokens).subspan(602)).ok());
    }
  };
  read(0);
  const auto expected = Logits();
  for (int polls = 1; polls < 30; ++polls) {
    session_->Truncate(602);
    int left = polls;
    const Status stopped =
        session_->Append(std::span(tokens).subspan(602), [&](std::string_view, uint64_t, uint64_t) { return --left > 0; });
    if (!stopped.ok()) {
      EXPECT_EQ(stopped.error().code(), Code::kCancelled);
    }
    session_->Truncate(600);
    read(600);
    EXPECT_EQ(Logits(), expected) << polls;
  }
}

TEST_F(SessionTest, GenerationStops) {
  Load({}, 40);
  MonotonicClock clock;
  Sampler sampler({}, session_->vocabulary());
  ASSERT_TRUE(session_->Append(Tokens(10)).ok());
  const auto by_length = Generate(*session_, sampler, *tokenizer_, clock, {.tokens_max = 5, .cancelled = {}, .stops = {}, .on_text = {}});
  EXPECT_EQ(by_length->reason, StopReason::kLength);
  EXPECT_EQ(by_length->tokens, 5u);
  EXPECT_EQ(session_->tokens().size(), 14u) << "the last token need not be read";
  const auto by_user =
      Generate(*session_, sampler, *tokenizer_, clock, {.tokens_max = 5, .cancelled = [] { return true; }, .stops = {}, .on_text = {}});
  EXPECT_EQ(by_user->reason, StopReason::kCancelled);
  EXPECT_EQ(by_user->tokens, 0u);
  std::string streamed;
  const auto by_context =
      Generate(*session_, sampler, *tokenizer_, clock,
               {.tokens_max = 1000, .cancelled = {}, .stops = {}, .on_text = [&](std::string_view text) { streamed += text; }});
  EXPECT_TRUE(by_context->reason == StopReason::kContextFull || by_context->reason == StopReason::kEndOfTurn);
  EXPECT_EQ(streamed, by_context->text);
}

// A weight that is no number makes logits that are none, and one that is too large a hidden state beyond all numbers.
TEST_F(SessionTest, WeightsThatAreNoNumbersGiveNoAnswer) {
  for (const float weight : {std::nanf(""), INFINITY}) {
    damage_ = weight;
    MonotonicClock clock;
    Load({}, /*context=*/64);
    ASSERT_TRUE(session_->Append(Tokens(5)).ok());
    for (const float temperature : {0.0f, 1.0f}) {
      SamplerOptions options;
      options.temperature = temperature;
      Sampler sampler(options, session_->vocabulary());
      const auto result = Generate(*session_, sampler, *tokenizer_, clock, {.tokens_max = 5, .cancelled = {}, .stops = {}, .on_text = {}});
      ASSERT_FALSE(result.ok()) << weight << " at temperature " << temperature;
      EXPECT_EQ(result.error().code(), Code::kCorrupt);
      EXPECT_NE(result.error().message().find("the logits behind token 5 of the context are no numbers"), std::string::npos);
    }
  }
}

TEST_F(SessionTest, StopStringsEndAnAnswerInFrontOfThem) {
  MonotonicClock clock;
  const auto answer = [&](std::vector<std::string> stops) {
    Load({}, 40);
    Sampler sampler({}, session_->vocabulary());
    EXPECT_TRUE(session_->Append(Tokens(10)).ok());
    return Generate(*session_, sampler, *tokenizer_, clock, {.tokens_max = 20, .cancelled = {}, .stops = std::move(stops), .on_text = {}});
  };
  const auto whole = answer({});
  ASSERT_TRUE(whole.ok());
  ASSERT_GT(whole->text.size(), 8u);
  // Across the middle, so that no token begins or ends with it.
  const std::string stop = whole->text.substr(whole->text.size() / 2, 3);
  const auto stopped = answer({"never there", stop});
  ASSERT_TRUE(stopped.ok());
  EXPECT_EQ(stopped->reason, StopReason::kStopString);
  EXPECT_EQ(stopped->text, whole->text.substr(0, whole->text.find(stop)));
  EXPECT_EQ(answer({""}).error().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace bantam
