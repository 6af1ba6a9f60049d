// A file of questions, asked of a model: what eval and compare share (docs/evaluation.md).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/disk.h"
#include "base/json.h"
#include "cli/comparison.h"
#include "compress/evaluate.h"
#include "text/tokenizer.h"

namespace bantam {

enum class Verdict : uint8_t { kWrong, kRight, kNotAsked };

struct TaskTally {
  size_t asked = 0;
  size_t right = 0;
};

struct Evaluation {
  std::array<TaskTally, kTaskKinds> kinds;
  std::vector<Verdict> verdicts;  // of each line
  std::string first_problem;      // why the first line that was not asked was not
  size_t resumed = 0;             // lines that an earlier call asked

  TaskTally all() const;
  size_t not_asked() const { return verdicts.size() - all().asked; }
};

// Asks what `input` has and keeps what was answered in `output`, where a call that ended early is gone on with; with a progress line. On
// Ctrl-C it ends with what is known so far. `model` names the model in the output: InvalidArgument where another one's answers are there.
// Other errors: those of BatchFiles and of Evaluator::Ask but for questions that are none, which are counted.
struct TaskFiles {
  PartFile& input;
  PartFile& output;
};
Result<Evaluation> EvaluateTask(WindowModel& model, const Tokenizer& tokenizer, const TaskFiles& files, const std::string& name);
// The same without keeping anything.
Result<Evaluation> EvaluateTask(WindowModel& model, const Tokenizer& tokenizer, PartFile& input);

// "72.5 % right (29 of 40), 95 %: 57.2 to 83.9".
std::string TallyText(const TaskTally& tally);
Json EvaluationJson(const Evaluation& evaluation);
// For people, after a first line of the verb's own.
std::string EvaluationText(const Evaluation& evaluation);

}  // namespace bantam
