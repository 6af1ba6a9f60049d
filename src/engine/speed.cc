#include "engine/speed.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/rng.h"
#include "program/memory_plan.h"

namespace bantam {
namespace {

constexpr uint64_t kTokenSeed = 7;

}  // namespace

std::string SpeedTest::Name() const {
  std::string name = fmt::format("{} {}", prompt ? "prompt" : "decode", tokens);
  return depth == 0 ? name : fmt::format("{} at depth {}", name, depth);
}

Result<double> TimeRun(Session& session, const SpeedTest& test, const Clock& clock, const Cancelled& cancelled, StepProfile* profile) {
  Rng rng(kTokenSeed);
  std::vector<uint32_t> tokens(test.context());
  for (uint32_t& token : tokens) token = static_cast<uint32_t>(rng.Next() % session.vocabulary());
  session.Truncate(0);
  const std::span<const uint32_t> all(tokens);
  Progress stop;
  if (cancelled) stop = [&](std::string_view, uint64_t, uint64_t) { return !cancelled(); };
  if (test.depth > 0) BANTAM_TRY(session.Append(all.first(test.depth), stop));
  session.Profile(profile);
  const int64_t begin = clock.NowNs();
  Status done = Ok();
  const size_t step = test.prompt ? test.tokens : 1;
  for (size_t i = test.depth; i < tokens.size() && done.ok(); i += step) done = session.Append(all.subspan(i, step), stop);
  const int64_t elapsed_ns = clock.NowNs() - begin;
  session.Profile(nullptr);
  BANTAM_TRY(done);
  return static_cast<double>(std::max<int64_t>(1, elapsed_ns)) * 1e-9;
}

SpeedWork WorkOf(const Session& session, const Program& program, const SpeedTest& test, const PlanOptions& options) {
  const size_t step_tokens = options.step_tokens;
  const Multiplies multiplies = CountMultiplies(program);
  const size_t steps = test.prompt ? (test.tokens + step_tokens - 1) / step_tokens : test.tokens;
  SpeedWork work;
  work.multiplies = static_cast<double>(multiplies.per_token * test.tokens + multiplies.per_output * steps);
  // Of experts, those of one token: with more tokens it is at least so much.
  const size_t passes =
      test.prompt ? steps * ((std::min(step_tokens, test.tokens) + options.token_tile - 1) / options.token_tile) : test.tokens;
  work.bytes = static_cast<double>(DecodeReadBytes(program) * passes);
  for (size_t i = 0; i < test.tokens; ++i) work.bytes += static_cast<double>(session.KvReadBytes(test.depth + i + 1));
  return work;
}

std::vector<OperationTime> SumProfile(const Program& program, const StepProfile& profile) {
  std::map<std::string, OperationTime> sums;
  double total = 0;
  for (size_t i = 0; i < profile.op_ns.size(); ++i) {
    OperationTime& sum = sums[OpName(program.ops[i])];
    sum.name = OpName(program.ops[i]);
    ++sum.operations;
    sum.seconds += static_cast<double>(profile.op_ns[i]) * 1e-9;
    total += static_cast<double>(profile.op_ns[i]) * 1e-9;
  }
  OperationTime& waiting = sums["(waiting)"];
  waiting.name = "(waiting)";
  waiting.seconds = static_cast<double>(profile.waiting_ns) * 1e-9;
  total += waiting.seconds;
  std::vector<OperationTime> times;
  for (auto& [name, sum] : sums) {
    sum.share = total > 0 ? sum.seconds / total : 0;
    times.push_back(sum);
  }
  std::sort(times.begin(), times.end(), [](const OperationTime& a, const OperationTime& b) { return a.seconds > b.seconds; });
  return times;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n == 0 ? 0 : n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

}  // namespace bantam
