// PreTokenizer: cuts a text into the parts ("words") that a model encodes one by one.
#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/matcher.h"
#include "text/tokenizer_spec.h"

namespace bantam {

class WordSink {
 public:
  virtual ~WordSink() = default;
  // The next part of the text, never empty; its bytes live until the call returns.
  virtual void Word(std::string_view word) = 0;
};

class PreTokenizer {
 public:
  // Unsupported for a pattern that this build cannot run.
  static Result<PreTokenizer> Make(std::span<const SplitStep> steps);

  bool empty() const { return steps_.empty(); }

  // Sends the parts of `text` in order. `first`: the text begins here. Exhausted when a pattern takes too long.
  Status Split(std::string_view text, bool first, MatchWork* work, WordSink* sink) const;

  uint64_t bytes() const;

 private:
  struct Prepared {
    SplitStep step;
    std::unique_ptr<const Matcher> matcher;
  };
  // From step `index` on.
  void Walk(size_t index, std::string_view text, bool first, MatchWork* work, WordSink* sink) const;
  void WalkPattern(size_t index, std::string_view text, bool first, MatchWork* work, WordSink* sink) const;
  void WalkMerged(size_t index, std::string_view text, bool first, MatchWork* work, WordSink* sink) const;
  void WalkMetaspace(size_t index, std::string_view text, bool first, MatchWork* work, WordSink* sink) const;

  std::vector<Prepared> steps_;
};

}  // namespace bantam
