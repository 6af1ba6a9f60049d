#include "compress/task.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

namespace bantam {
namespace {

constexpr std::array<std::string_view, kTaskKinds> kNames = {"choice", "class", "cloze", "exact"};
constexpr std::string_view kGap = "____";
constexpr size_t kStopsMax = 16;

Error Expected(const char* member, std::string_view what, const Json& found) {
  return Error(Code::kInvalidArgument, fmt::format("\"{}\": {}, expected {}", member, ShortJson(found), what));
}

Result<std::string> RequireText(const Json& json, const char* member) {
  auto text = JsonText(json, member);
  if (text) return std::move(*text);
  return Expected(member, "a text", JsonMember(json, member));
}

Result<std::vector<std::string>> ReadTexts(const Json& json, const char* member, size_t least, size_t most) {
  const Json& list = JsonMember(json, member);
  const auto what = fmt::format("a list of {} to {} texts", least, most);
  if (!list.is_array() || list.size() < least || list.size() > most) return Expected(member, what, list);
  std::vector<std::string> texts;
  for (const Json& text : list) {
    if (!text.is_string() || text.get_ref<const std::string&>().empty()) return Expected(member, what, list);
    texts.push_back(text.get<std::string>());
  }
  return texts;
}

// Of two that are alike neither could be told from the other.
Result<std::vector<std::string>> ReadDifferentTexts(const Json& json, const char* member) {
  BANTAM_ASSIGN(std::vector<std::string> texts, ReadTexts(json, member, /*least=*/2, kTaskOptionsMax));
  if (std::set<std::string>(texts.begin(), texts.end()).size() == texts.size()) return texts;
  return Expected(member, "texts that differ", JsonMember(json, member));
}

// The index of the answer: a number, or one of the options.
Result<size_t> ReadRight(const Json& json, const std::vector<std::string>& options) {
  const Json& answer = JsonMember(json, "answer");
  if (answer.is_number_unsigned() && answer.get<uint64_t>() < options.size()) return answer.get<size_t>();
  if (answer.is_string()) {
    const auto found = std::find(options.begin(), options.end(), answer.get_ref<const std::string&>());
    if (found != options.end()) return static_cast<size_t>(found - options.begin());
  }
  return Expected("answer", fmt::format("one of the {} options, or its number, from 0 on", options.size()), answer);
}

bool EndsInSpace(std::string_view text) { return text.empty() || text.back() == ' ' || text.back() == '\n' || text.back() == '\t'; }

// What stands between a prompt and what follows: words have a space in front, unless the item says otherwise.
Result<std::string> ReadJoin(const Json& json, std::string_view prompt) {
  const Json& join = JsonMember(json, "join");
  if (join.is_null()) return std::string(EndsInSpace(prompt) ? "" : " ");
  if (!join.is_string()) return Expected("join", "a text", join);
  return join.get<std::string>();
}

// Vocabularies have a word's space in front of it: it goes with the options.
void MoveSpaces(TaskItem* item) {
  const size_t end = item->prompt.find_last_not_of(' ');
  const size_t kept = end == std::string::npos ? 0 : end + 1;
  if (kept == 0) return;
  const std::string spaces = item->prompt.substr(kept);
  item->prompt.resize(kept);
  for (std::string& option : item->options) option.insert(0, spaces);
}

Status ReadOptions(const Json& json, const char* member, TaskItem* item) {
  BANTAM_ASSIGN(item->prompt, RequireText(json, "prompt"));
  BANTAM_ASSIGN(item->options, ReadDifferentTexts(json, member));
  BANTAM_ASSIGN(item->right, ReadRight(json, item->options));
  BANTAM_ASSIGN(const std::string join, ReadJoin(json, item->prompt));
  for (std::string& option : item->options) {
    if (!EndsInSpace(option.substr(0, 1))) option.insert(0, join);
  }
  MoveSpaces(item);
  return Ok();
}

Status ReadCloze(const Json& json, TaskItem* item) {
  BANTAM_ASSIGN(const std::string text, RequireText(json, "text"));
  const size_t gap = text.find(kGap);
  if (gap == std::string::npos || text.find(kGap, gap + 1) != std::string::npos) {
    return Expected("text", fmt::format("a text with one gap, {}", kGap), JsonMember(json, "text"));
  }
  item->prompt = text.substr(0, gap);
  item->rest = text.substr(gap + kGap.size());
  if (JsonMember(json, "choices").is_null()) {
    BANTAM_ASSIGN(std::string answer, RequireText(json, "answer"));
    if (answer.empty()) return Expected("answer", "a text", JsonMember(json, "answer"));
    item->options = {std::move(answer)};
    item->rest.clear();  // the model has not read it when it is asked
  } else {
    BANTAM_ASSIGN(item->options, ReadDifferentTexts(json, "choices"));
    BANTAM_ASSIGN(item->right, ReadRight(json, item->options));
  }
  MoveSpaces(item);
  return Ok();
}

Status ReadExact(const Json& json, TaskItem* item) {
  BANTAM_ASSIGN(item->prompt, RequireText(json, "prompt"));
  if (JsonMember(json, "answer").is_string()) {
    BANTAM_ASSIGN(std::string answer, RequireText(json, "answer"));
    if (answer.empty()) return Expected("answer", "a text", JsonMember(json, "answer"));
    item->answers = {std::move(answer)};
  } else {
    BANTAM_ASSIGN(item->answers, ReadTexts(json, "answer", /*least=*/1, kTaskOptionsMax));
  }
  item->stops = {"\n"};
  if (!JsonMember(json, "stop").is_null()) {
    BANTAM_ASSIGN(item->stops, ReadTexts(json, "stop", /*least=*/0, kStopsMax));
  }
  if (const Json& tokens = JsonMember(json, "tokens"); !tokens.is_null()) {
    if (!tokens.is_number_unsigned() || tokens.get<uint64_t>() < 1 || tokens.get<uint64_t>() > kTaskTokensMax) {
      return Expected("tokens", fmt::format("1 to {}", kTaskTokensMax), tokens);
    }
    item->tokens_max = tokens.get<size_t>();
  }
  const Json& ignore_case = JsonMember(json, "ignore_case");
  if (!ignore_case.is_null() && !ignore_case.is_boolean()) return Expected("ignore_case", "true or false", ignore_case);
  item->ignore_case = ignore_case == true;
  return Ok();
}

}  // namespace

std::string_view TaskName(TaskKind kind) { return kNames[static_cast<size_t>(kind)]; }

Result<TaskItem> ReadTaskItem(const Json& json) {
  const auto name = JsonText(json, "task");
  const auto known = name ? std::find(kNames.begin(), kNames.end(), *name) : kNames.end();
  if (known == kNames.end()) return Expected("task", "\"choice\", \"class\", \"cloze\" or \"exact\"", JsonMember(json, "task"));
  TaskItem item;
  item.kind = static_cast<TaskKind>(known - kNames.begin());
  switch (item.kind) {
    case TaskKind::kChoice:
      BANTAM_TRY(ReadOptions(json, "choices", &item));
      break;
    case TaskKind::kClass:
      BANTAM_TRY(ReadOptions(json, "labels", &item));
      break;
    case TaskKind::kCloze:
      BANTAM_TRY(ReadCloze(json, &item));
      break;
    case TaskKind::kExact:
      BANTAM_TRY(ReadExact(json, &item));
      break;
  }
  return item;
}

}  // namespace bantam
