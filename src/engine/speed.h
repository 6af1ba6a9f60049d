// How fast a model reads prompts and decodes, and what it makes of this machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "engine/session.h"

namespace bantam {

// Work that is timed: a prompt of `tokens` in one go, or `tokens` single tokens, both after `depth` others that are not timed.
struct SpeedTest {
  bool prompt = true;
  size_t tokens = 0;
  size_t depth = 0;

  std::string Name() const;  // "prompt 512", "decode 128 at depth 2048"
  size_t context() const { return depth + tokens; }
};

// Seconds of one run, with tokens drawn from a fixed seed. The session is emptied first. The timed part goes into `profile` too, if there
// is one. Errors: those of Session::Append, Cancelled among them.
Result<double> TimeRun(Session& session, const SpeedTest& test, const Clock& clock, const Cancelled& cancelled = nullptr,
                       StepProfile* profile = nullptr);

// What one run of a test does, for shares of the machine's limits.
struct SpeedWork {
  double bytes = 0;       // weights (once per step) and KV read
  double multiplies = 0;  // by weights
};
SpeedWork WorkOf(const Session& session, const Program& program, const SpeedTest& test, const PlanOptions& options);

// Time per kind of operation, and of waiting for other threads, longest first.
struct OperationTime {
  std::string name;
  size_t operations = 0;  // of this kind in the program
  double seconds = 0;
  double share = 0;
};
std::vector<OperationTime> SumProfile(const Program& program, const StepProfile& profile);

double Median(std::vector<double> values);

}  // namespace bantam
