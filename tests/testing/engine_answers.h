// What engine tests share: a clock of their own, and what each answer is so far.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "engine/engine.h"

namespace bantam::testing {

// Each look is a millisecond later.
class TickingClock final : public Clock {
 public:
  int64_t NowNs() const override { return now_ns_ += 1'000'000; }
  void Pass(int64_t ns) { now_ns_ += ns; }

 private:
  mutable int64_t now_ns_ = 0;
};

struct EngineAnswer {
  std::string text = {};
  size_t tokens = 0;
  std::vector<TokenInfo> infos = {};
  std::vector<TokenInfo> prompt = {};
  std::optional<Finish> finish = {};
};

// By request and choice.
using EngineAnswers = std::map<std::pair<RequestId, size_t>, EngineAnswer>;

inline void TakeEvent(Event event, EngineAnswers* answers) {
  EngineAnswer& answer = (*answers)[{event.request, event.choice}];
  ASSERT_FALSE(answer.finish.has_value()) << "nothing comes behind the end";
  answer.text += event.text;
  answer.tokens += event.token_count;
  answer.infos.insert(answer.infos.end(), event.tokens.begin(), event.tokens.end());
  answer.prompt.insert(answer.prompt.end(), event.prompt.begin(), event.prompt.end());
  if (event.finish) answer.finish = std::move(event.finish);
}

inline void RunAll(Engine& engine) {
  for (int steps = 0; !engine.idle(); ++steps) {
    const auto stepped = engine.Step();
    ASSERT_TRUE(stepped.ok()) << stepped.error().message();
    ASSERT_LT(steps, 100'000);
  }
}

}  // namespace bantam::testing
