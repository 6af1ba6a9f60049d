#include "engine/step_policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "base/rng.h"
#include "engine/admission.h"

namespace bantam {
namespace {

constexpr int64_t kMs = 1'000'000;

// A machine: a step takes 20 ms, and from 8 rows on 2 ms for each more.
int64_t StepNs(size_t rows) { return 20 * kMs + 2 * kMs * static_cast<int64_t>(rows > 8 ? rows - 8 : 0); }

// An engine without a model: sequences as numbers.
class Simulation {
 public:
  struct Job {
    Priority priority;
    size_t prompt;
    size_t answer;
    std::string client;
    int64_t arrival_ns = 0;
    int64_t first_token_ns = -1;
    int64_t end_ns = -1;
    std::vector<int64_t> gaps_ns = {};  // between tokens
    size_t computed = 0;
    size_t generated = 0;
    int64_t last_ns = 0;  // token, or part in a step
    bool resident = false;
    size_t preempted = 0;
    bool touched = false;
    bool was_resident = false;
    int64_t token_ns = 0;
  };

  explicit Simulation(const PolicyOptions& options, size_t blocks) : options_(options), blocks_(blocks) {
    for (const size_t rows : {1, 2, 4, 8, 16, 32, 64, 128}) cost_.Observe(rows, StepNs(rows));
  }

  size_t Add(Job job) {
    job.arrival_ns = job.last_ns = now_ns_;
    jobs_.push_back(std::move(job));
    return jobs_.size() - 1;
  }

  // Empty, or what went wrong.
  std::string_view Step() {
    PolicySnapshot snapshot = {.now_ns = now_ns_, .sequences = {}, .blocks_available = FreeBlocks(), .cost = &cost_};
    std::vector<size_t> indices;
    for (size_t i = 0; i < jobs_.size(); ++i) {
      const Job& job = jobs_[i];
      if (job.end_ns >= 0) continue;
      const size_t known = job.prompt + job.generated;
      indices.push_back(i);
      snapshot.sequences.push_back({.priority = job.priority,
                                    .waiting_since_ns = job.last_ns,
                                    .arrival = i,
                                    .deadline_ns = INT64_MAX,
                                    .service = service_[job.client],
                                    .resident = job.resident,
                                    .decoding = job.generated > 0 && job.computed + 1 == known,
                                    .pending = known - job.computed,
                                    .blocks = job.resident ? 0 : known / 16 + 2,
                                    .held = Held(job)});
    }
    for (const size_t i : indices) jobs_[i].was_resident = jobs_[i].resident;
    const StepPlan plan = PlanStep(options_, snapshot);
    if (const std::string_view wrong = CheckPlan(options_, snapshot, plan); !wrong.empty()) return wrong;
    for (const size_t victim : plan.displaced) Drop(jobs_[indices[victim]]);
    size_t rows = 0;
    for (const Grant& grant : plan.grants) rows += Compute(jobs_[indices[grant.sequence]], grant.tokens, plan, indices);
    if (rows == 0 && !indices.empty()) return "nothing could be computed";
    now_ns_ += rows == 0 ? kMs : StepNs(rows);
    for (const size_t i : indices) Sample(jobs_[i]);
    ++steps_;
    return {};
  }

  bool busy() const {
    return std::any_of(jobs_.begin(), jobs_.end(), [](const Job& job) { return job.end_ns < 0; });
  }
  const std::deque<Job>& jobs() const { return jobs_; }
  std::deque<Job>& jobs() { return jobs_; }
  int64_t now_ns() const { return now_ns_; }
  const StepCost& cost() const { return cost_; }

 private:
  size_t Held(const Job& job) const { return job.resident ? (job.computed + 15) / 16 : 0; }
  size_t FreeBlocks() const {
    size_t held = 0;
    for (const Job& job : jobs_) held += Held(job);
    return blocks_ - held;
  }
  void Drop(Job& job) {
    job.preempted += job.computed > 0 ? 1 : 0;
    job.resident = false;
    job.computed = 0;
    job.last_ns = now_ns_;
  }
  size_t Compute(Job& job, size_t tokens, const StepPlan& plan, const std::vector<size_t>& indices) {
    const auto needs = [&] { return (job.computed + tokens + 15) / 16 - Held(job); };
    if (!job.resident && job.was_resident) return 0;  // it made way
    for (auto at = plan.ranked.rbegin(); needs() > FreeBlocks() && &jobs_[indices[*at]] != &job; ++at) {
      Job& victim = jobs_[indices[*at]];
      if (victim.resident && !victim.touched) Drop(victim);
    }
    if (needs() > FreeBlocks()) return 0;
    job.resident = true;
    job.computed += tokens;
    job.touched = true;
    service_[job.client] += static_cast<double>(tokens);
    return tokens;
  }
  void Sample(Job& job) {
    if (!std::exchange(job.touched, false)) return;
    if (job.computed != job.prompt + job.generated) return;
    if (job.first_token_ns < 0) {
      job.first_token_ns = now_ns_;
    } else {
      job.gaps_ns.push_back(now_ns_ - job.token_ns);
    }
    job.token_ns = now_ns_;
    if (++job.generated < job.answer) return;
    job.end_ns = now_ns_;
    job.resident = false;
  }

  const PolicyOptions options_;
  const size_t blocks_;
  StepCost cost_;
  std::deque<Job> jobs_;
  std::map<std::string, double> service_;
  int64_t now_ns_ = 0;
  size_t steps_ = 0;
};

int64_t Percentile(std::vector<int64_t> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
}

// One of a search that has its logits waits for its siblings: it gives place and KV to them and to what is higher, and to nothing else.
TEST(StepPolicy, WhoRestsGivesWayToItsOwn) {
  PolicyOptions options;
  options.residents_max = 2;
  const auto plan = [&](uint64_t search, Priority coming, size_t pending) {
    PolicySnapshot snapshot;
    snapshot.blocks_available = 0;
    snapshot.sequences = {{.arrival = 1, .resident = true, .pending = pending, .held = 5},
                          {.arrival = 2, .service = 9, .resident = true, .decoding = true, .pending = 1, .held = 5},
                          {.priority = coming, .arrival = search, .begun = search == 1, .pending = 40, .blocks = 5},
                          // With less service than the others, and more to keep.
                          {.arrival = 4, .service = -1, .pending = 400, .blocks = 30}};
    const StepPlan made = PlanStep(options, snapshot);
    EXPECT_EQ(CheckPlan(options, snapshot, made), "");
    return made.displaced;
  };
  EXPECT_EQ(plan(1, Priority::kNormal, 0), std::vector<size_t>{0});
  EXPECT_EQ(plan(1, Priority::kNormal, 9), std::vector<size_t>{});
  EXPECT_EQ(plan(3, Priority::kNormal, 0), std::vector<size_t>{});
  EXPECT_EQ(plan(3, Priority::kLow, 0), std::vector<size_t>{});
  EXPECT_EQ(plan(3, Priority::kHigh, 0), std::vector<size_t>{0});
}

TEST(StepPolicy, ThousandsOfStepsWithRandomLoadEndForAll) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    Rng rng(seed);
    Simulation simulation({.residents_max = 1 + rng.Next() % 8, .step_tokens = 64, .step_outputs = 8}, /*blocks=*/40 + rng.Next() % 100);
    for (int step = 0; step < 4000 || simulation.busy(); ++step) {
      if (step < 4000 && rng.Next() % 16 == 0) {
        simulation.Add({.priority = static_cast<Priority>(rng.Next() % 4),
                        .prompt = 1 + rng.Next() % 400,
                        .answer = 1 + rng.Next() % 60,
                        .client = std::string(1, static_cast<char>('a' + rng.Next() % 3))});
      }
      ASSERT_EQ(simulation.Step(), "") << "seed " << seed << " step " << step;
      ASSERT_LT(step, 400'000) << "it ends";
    }
  }
}

// A prompt of 4,000 tokens raises the time between other streams' tokens to at most 1.5 times what it was.
TEST(StepPolicy, ALongPromptHardlySlowsOthers) {
  Simulation simulation({}, /*blocks=*/1000);
  for (int i = 0; i < 4; ++i) simulation.Add({.priority = Priority::kNormal, .prompt = 16, .answer = 3000, .client = "a"});
  for (int i = 0; i < 100; ++i) ASSERT_EQ(simulation.Step(), "");
  const size_t before = simulation.jobs()[0].gaps_ns.size();
  const size_t prompt = simulation.Add({.priority = Priority::kNormal, .prompt = 4000, .answer = 10, .client = "b"});
  while (simulation.jobs()[prompt].first_token_ns < 0) ASSERT_EQ(simulation.Step(), "");
  const auto& gaps = simulation.jobs()[0].gaps_ns;
  const int64_t alone = Percentile({gaps.begin(), gaps.begin() + static_cast<std::ptrdiff_t>(before)}, 0.99);
  const int64_t beside = Percentile({gaps.begin() + static_cast<std::ptrdiff_t>(before), gaps.end()}, 0.99);
  EXPECT_LE(static_cast<double>(beside), 1.5 * static_cast<double>(alone));
  EXPECT_GT(beside, alone) << "the prompt goes on meanwhile";
}

// Under a flood of low requests high ones wait for a step, and not for the flood.
TEST(StepPolicy, HighRequestsDoNotFeelAFlood) {
  const Simulation::Job high = {.priority = Priority::kHigh, .prompt = 300, .answer = 20, .client = "high"};
  Simulation idle({}, /*blocks=*/400);
  idle.Add(high);
  while (idle.busy()) ASSERT_EQ(idle.Step(), "");
  const int64_t alone = idle.jobs()[0].first_token_ns;
  Simulation flooded({}, /*blocks=*/400);
  Rng rng(3);
  std::vector<int64_t> waits;
  for (int round = 0; round < 30; ++round) {
    for (int i = 0; i < 20; ++i) flooded.Add({.priority = Priority::kLow, .prompt = 500, .answer = 100, .client = "low"});
    for (size_t i = 0, end = rng.Next() % 100; i < end; ++i) ASSERT_EQ(flooded.Step(), "");
    const size_t index = flooded.Add(high);
    while (flooded.jobs()[index].first_token_ns < 0) ASSERT_EQ(flooded.Step(), "");
    waits.push_back(flooded.jobs()[index].first_token_ns - flooded.jobs()[index].arrival_ns);
  }
  EXPECT_LE(static_cast<double>(Percentile(waits, 0.99)), 1.2 * static_cast<double>(alone) + static_cast<double>(StepNs(128)));
}

// What is lowest is served though normal requests never end: it ages.
TEST(StepPolicy, NobodyStarvesBelowNormal) {
  Simulation simulation({.residents_max = 2, .ageing_ns = 1000 * kMs}, /*blocks=*/200);
  const size_t batch = simulation.Add({.priority = Priority::kBatch, .prompt = 600, .answer = 60, .client = "batch"});
  int running = 0;
  while (simulation.jobs()[batch].end_ns < 0) {
    running = 0;
    for (const auto& job : simulation.jobs()) running += job.end_ns < 0 ? 1 : 0;
    for (; running < 6; ++running) simulation.Add({.priority = Priority::kNormal, .prompt = 64, .answer = 40, .client = "busy"});
    ASSERT_EQ(simulation.Step(), "");
    ASSERT_LT(simulation.now_ns(), 120'000 * kMs);
  }
}

// A client with one request does not wait behind another's hundred.
TEST(StepPolicy, ClientsShareEvenly) {
  Simulation simulation({.residents_max = 2}, /*blocks=*/400);
  for (int i = 0; i < 100; ++i) simulation.Add({.priority = Priority::kNormal, .prompt = 200, .answer = 20, .client = "greedy"});
  for (int i = 0; i < 50; ++i) ASSERT_EQ(simulation.Step(), "");
  const size_t one = simulation.Add({.priority = Priority::kNormal, .prompt = 200, .answer = 20, .client = "modest"});
  while (simulation.jobs()[one].end_ns < 0) ASSERT_EQ(simulation.Step(), "");
  size_t done_later = 0;
  for (size_t i = 0; i < 100; ++i) {
    const auto& job = simulation.jobs()[i];
    done_later += job.first_token_ns >= 0 && job.first_token_ns > simulation.jobs()[one].arrival_ns ? 1 : 0;
  }
  EXPECT_LE(done_later, 4u) << "those that ran already, and no more";
}

TEST(StepPolicy, PlansOfRandomSnapshotsArePossible) {
  Rng rng(11);
  StepCost cost;
  for (const size_t rows : {1, 8, 64}) cost.Observe(rows, StepNs(rows));
  for (int i = 0; i < 20'000; ++i) {
    const PolicyOptions options = {
        .residents_max = 1 + rng.Next() % 6, .step_tokens = 1 + rng.Next() % 64, .step_outputs = 1 + rng.Next() % 8};
    PolicySnapshot snapshot = {
        .now_ns = 1000, .sequences = {}, .blocks_available = rng.Next() % 50, .cost = rng.Next() % 2 == 0 ? &cost : nullptr};
    size_t residents = 0;
    for (uint64_t s = 0, end = rng.Next() % 12; s < end; ++s) {
      const bool resident = rng.Next() % 2 == 0 && residents < options.residents_max;
      residents += resident ? 1 : 0;
      const bool decoding = resident && rng.Next() % 2 == 0;
      snapshot.sequences.push_back({.priority = static_cast<Priority>(rng.Next() % 4),
                                    .arrival = s,
                                    .service = static_cast<double>(rng.Next() % 100),
                                    .resident = resident,
                                    .decoding = decoding,
                                    .pending = decoding ? 1 + rng.Next() % 4 : 1 + rng.Next() % 100,
                                    .blocks = resident ? 0 : rng.Next() % 60,
                                    .held = resident ? rng.Next() % 20 : 0});
    }
    const StepPlan plan = PlanStep(options, snapshot);
    ASSERT_EQ(CheckPlan(options, snapshot, plan), "") << i;
  }
}

// Who waits for many blocks is not passed for ever by those that need few.
TEST(StepPolicy, NobodyTakesWhatALargeOneWaitsFor) {
  const PolicyOptions options = {.residents_max = 4, .step_tokens = 64, .step_outputs = 8};
  PolicySnapshot snapshot = {.now_ns = 0, .sequences = {}, .blocks_available = 40, .cost = nullptr};
  snapshot.sequences = {{.arrival = 0, .resident = true, .decoding = true, .pending = 1, .blocks = 0},
                        {.arrival = 1, .pending = 800, .blocks = 51},
                        {.arrival = 2, .pending = 20, .blocks = 2}};
  StepPlan plan = PlanStep(options, snapshot);
  ASSERT_EQ(plan.grants.size(), 1u);
  EXPECT_EQ(plan.grants[0].sequence, 0u);
  snapshot.sequences.push_back({.priority = Priority::kHigh, .arrival = 3, .pending = 20, .blocks = 2});
  plan = PlanStep(options, snapshot);
  ASSERT_EQ(plan.grants.size(), 1u);
  EXPECT_EQ(plan.grants[0].sequence, 3u) << "but high ones do not wait";
  snapshot.sequences.pop_back();
  snapshot.sequences[0].pending = 0;
  snapshot.sequences[0].resident = false;
  plan = PlanStep(options, snapshot);
  ASSERT_GE(plan.grants.size(), 1u);
  EXPECT_EQ(plan.grants[0].sequence, 1u) << "alone it has all there is";
}

// What is lower gives its blocks as it gives its place; what is equal keeps both.
TEST(StepPolicy, BlocksGoToWhatIsHigher) {
  const PolicyOptions options = {.residents_max = 4, .step_tokens = 64, .step_outputs = 8};
  PolicySnapshot snapshot = {.now_ns = 0, .sequences = {}, .blocks_available = 2, .cost = nullptr};
  snapshot.sequences = {{.priority = Priority::kLow, .arrival = 0, .resident = true, .decoding = true, .pending = 1, .held = 40},
                        {.priority = Priority::kNormal, .arrival = 1, .pending = 400, .blocks = 26}};
  const auto first = [&] { return PlanStep(options, snapshot).grants.at(0).sequence; };
  EXPECT_EQ(first(), 1u);
  EXPECT_EQ(PlanStep(options, snapshot).ranked, (std::vector<size_t>{1, 0}));
  snapshot.sequences[0].priority = Priority::kNormal;
  EXPECT_EQ(first(), 0u);
  EXPECT_EQ(PlanStep(options, snapshot).grants.size(), 1u);
  snapshot.sequences[0].priority = Priority::kLow;
  snapshot.sequences.push_back(snapshot.sequences[1]);
  snapshot.sequences[2].arrival = 2;
  EXPECT_EQ(PlanStep(options, snapshot).grants.size(), 1u) << "what one was promised the next one does not get";
}

TEST(StepCost, LearnsAndNeverFalls) {
  StepCost cost;
  EXPECT_EQ(cost.Predict(7), 0);
  EXPECT_FALSE(cost.known());
  Rng rng(5);
  for (int i = 0; i < 2000; ++i) {
    const size_t rows = 1 + rng.Next() % 128;
    cost.Observe(rows, static_cast<int64_t>(static_cast<double>(StepNs(rows)) * (0.9 + 0.2 * rng.Uniform())));
  }
  int64_t last = 0;
  for (size_t rows = 1; rows <= 200; ++rows) {
    const int64_t predicted = cost.Predict(rows);
    EXPECT_GE(predicted, last);
    last = predicted;
    if (rows > 128) continue;
    EXPECT_NEAR(static_cast<double>(predicted), static_cast<double>(StepNs(rows)), 0.25 * static_cast<double>(StepNs(rows))) << rows;
  }
  const size_t within = cost.RowsWithin(4, 1.5, 128);
  EXPECT_LE(cost.Predict(within), cost.Predict(4) * 3 / 2);
  EXPECT_GT(cost.Predict(within + 1), cost.Predict(4) * 3 / 2);
}

TEST(Admission, RefusesWithThePrediction) {
  EngineLoad load;
  load.cost.Observe(128, 1'000 * kMs);
  load.cost.Observe(1, 20 * kMs);
  load.classes[1].prompt_tokens = 12'800;
  Request request;
  request.tokens.assign(128, 1);
  const AdmissionLimits limits = {.requests_max = 4, .tokens_max = 20'000, .bytes_max = 1'000, .first_token_max_ns = 0};
  const auto admit = [&] { return Admit(limits, {}, load, request, /*bytes=*/100, /*cached=*/0); };
  EXPECT_TRUE(admit().ok());
  EXPECT_NEAR(static_cast<double>(PredictFirstToken({}, load, request, 0)), 101e9, 1e9);
  request.first_token_max_ns = 50'000 * kMs;
  EXPECT_EQ(admit().error().code(), Code::kUnavailable);
  EXPECT_NE(admit().error().message().find("101.0 s"), std::string::npos) << admit().error().message();
  request.priority = Priority::kHigh;
  EXPECT_TRUE(admit().ok()) << "nothing of its priority waits";
  request.deadline_ns = 500 * kMs;
  EXPECT_NE(admit().error().message().find("deadline of 0.5 s"), std::string::npos);
  request.deadline_ns = 0;
  load.bytes = 950;
  EXPECT_FALSE(admit().ok());
  load.bytes = 0;
  load.requests = 4;
  EXPECT_NE(admit().error().message().find("4 requests"), std::string::npos);
  load.requests = 3;
  load.tokens = 19'900;
  EXPECT_FALSE(admit().ok());
}

// A place for one that waits is not given to one behind it, and costs nobody else his.
TEST(StepPolicy, WhoWaitsKeepsItsPlace) {
  const PolicyOptions options = {.residents_max = 2};
  PolicySnapshot snapshot;
  snapshot.blocks_available = 100;
  snapshot.sequences = {{.arrival = 0, .resident = true, .pending = 50},
                        {.arrival = 1, .waits = true, .pending = 500, .blocks = 40},
                        {.arrival = 2, .pending = 5, .blocks = 1}};
  const StepPlan plan = PlanStep(options, snapshot);
  EXPECT_EQ(CheckPlan(options, snapshot, plan), "");
  ASSERT_EQ(plan.grants.size(), 1u);
  EXPECT_EQ(plan.grants[0].sequence, 0u);
  snapshot.sequences[1].waits = false;
  EXPECT_EQ(PlanStep(options, snapshot).grants[0].sequence, 0u);
  // With a place more the one behind runs, and blocks that the waiting one needs are not his.
  const PolicyOptions more = {.residents_max = 3};
  snapshot.sequences[1].waits = true;
  EXPECT_EQ(PlanStep(more, snapshot).grants.size(), 2u);
  snapshot.blocks_available = 40;
  EXPECT_EQ(PlanStep(more, snapshot).grants.size(), 1u);
}

// Where there were more places before, a high prompt takes as many as it needs to have one.
TEST(StepPolicy, FewerPlacesThanResidents) {
  const PolicyOptions options = {.residents_max = 2};
  PolicySnapshot snapshot;
  snapshot.blocks_available = 100;
  for (uint64_t i = 0; i < 4; ++i) {
    snapshot.sequences.push_back({.priority = Priority::kLow, .arrival = i, .resident = true, .decoding = true, .pending = 1, .held = 3});
  }
  EXPECT_EQ(CheckPlan(options, snapshot, PlanStep(options, snapshot)), "") << "they may stay";
  snapshot.sequences.push_back({.priority = Priority::kHigh, .arrival = 4, .pending = 5, .blocks = 1});
  const StepPlan plan = PlanStep(options, snapshot);
  EXPECT_EQ(CheckPlan(options, snapshot, plan), "");
  EXPECT_EQ(plan.displaced.size(), 3u);
  ASSERT_FALSE(plan.grants.empty());
  EXPECT_EQ(plan.grants[0].sequence, 4u);
}

}  // namespace
}  // namespace bantam
