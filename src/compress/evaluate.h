// How many questions of a task a model answers (docs/evaluation.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "compress/task.h"
#include "compress/window_runner.h"
#include "text/tokenizer.h"

namespace bantam {

// Of one question.
struct TaskAnswer {
  bool right = false;
  size_t chosen = 0;           // of the options
  std::vector<double> scores;  // of the options: log-likelihood, by byte where options are of different lengths (kChoice, kCloze)
  std::string text;            // what the model went on with (kExact)
};

// Asks a model one question after the other. What follows a text that was just read (the same few examples, the same prompt with another
// choice) reads on from there.
class Evaluator {
 public:
  // Both outlive it. The runner has step_outputs of step_tokens.
  Evaluator(WindowRunner& runner, const Tokenizer& tokenizer) : runner_(runner), tokenizer_(tokenizer) {}

  // Errors: InvalidArgument (longer than the window), Corrupt (logits that are no numbers), Cancelled, those of runner and tokenizer.
  Result<TaskAnswer> Ask(const TaskItem& item, const Cancelled& cancelled);

 private:
  struct Likelihood {
    double log = 0;
    bool greedy = true;  // every token was the likeliest in its place
  };
  Result<std::vector<uint32_t>> Encode(std::string_view text) const;
  // Texts behind a prompt, as tokens of both, and the first place in which one of them differs from the prompt alone: all are scored from
  // there, so that none has more to say for itself because its beginning is one token with the prompt's end.
  struct Behind {
    std::vector<std::vector<uint32_t>> wholes;
    size_t begin = 0;
  };
  Result<Behind> EncodeBehind(std::string_view prompt, std::span<const std::string> texts) const;
  // Of the tokens from `begin` on.
  Result<Likelihood> Score(std::span<const uint32_t> whole, size_t begin, const Cancelled& cancelled);
  Status CheckLength(size_t tokens) const;
  // Reads what is not read yet, at least the last of the tokens. visit(i, logits) for i from `first` on: what follows token i.
  template <typename Visit>
  Status Read(std::span<const uint32_t> tokens, size_t first, const Cancelled& cancelled, const Visit& visit);
  Result<std::string> GoOn(const TaskItem& item, const Cancelled& cancelled);

  WindowRunner& runner_;
  const Tokenizer& tokenizer_;
  std::vector<uint32_t> read_;  // what the runner holds
};

// Wilson's interval for a part of `asked` that is `right`, 95 %: of few questions too, and never beyond 0 and 1.
struct Interval {
  double low = 0;
  double high = 1;
};
Interval WilsonInterval(size_t right, size_t asked);

}  // namespace bantam
