// Questions whose answers are known, each a JSON object: what `bantam eval` asks a model (docs/evaluation.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace bantam {

enum class TaskKind : uint8_t {
  kChoice,  // the choice that is likeliest by byte is the right one
  kClass,   // the label that is likeliest as a whole is the right one
  kCloze,   // a gap: with choices as kChoice; without, every token of the answer is the likeliest in its place
  kExact,   // what the model goes on with is the answer
};
inline constexpr size_t kTaskKinds = 4;
std::string_view TaskName(TaskKind kind);

// Bounds of a question: more is a mistake.
inline constexpr size_t kTaskOptionsMax = 256;
inline constexpr size_t kTaskTokensMax = 4096;  // that a model may go on with

struct TaskItem {
  TaskKind kind = TaskKind::kChoice;
  std::string prompt;                // in front of the options
  std::vector<std::string> options;  // with the space in front that belongs to them; of kCloze without choices the answer alone
  std::string rest;                  // behind a gap
  size_t right = 0;                  // of options
  // Of kExact.
  std::vector<std::string> answers;  // any of them
  std::vector<std::string> stops;    // texts that end what the model goes on with
  size_t tokens_max = 32;
  bool ignore_case = false;

  // A cloze that is not chosen but said.
  bool said() const { return kind == TaskKind::kCloze && options.size() == 1; }
};

// InvalidArgument names the member and what it should be.
Result<TaskItem> ReadTaskItem(const Json& json);

}  // namespace bantam
