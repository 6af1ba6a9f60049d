#include "cli/evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "cli/terminal.h"
#include "engine/batch_files.h"

namespace bantam {
namespace {

// Of a million questions with a few options.
constexpr size_t kAnswersBytesMax = size_t{256} << 20;

// Answers that nobody wants to keep.
class LinesInMemory final : public PartFile {
 public:
  uint64_t size() const override { return bytes_.size(); }
  Result<size_t> Read(uint64_t offset, std::span<std::byte> into) override {
    const size_t n = offset >= bytes_.size() ? 0 : std::min<size_t>(into.size(), bytes_.size() - offset);
    if (n > 0) std::memcpy(into.data(), bytes_.data() + offset, n);
    return n;
  }
  Status Append(std::span<const std::byte> bytes) override {
    if (bytes_.size() + bytes.size() > kAnswersBytesMax) {
      return Error(Code::kExhausted,
                   fmt::format("answers of more than {} bytes; give a file for them, or fewer questions", kAnswersBytesMax));
    }
    bytes_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return Ok();
  }
  Status Truncate(uint64_t size) override {
    bytes_.resize(size);
    return Ok();
  }
  Status Sync() override { return Ok(); }

 private:
  std::string bytes_;
};

std::string AnswerMembers(const TaskItem& item, const TaskAnswer& answer, const std::string& model) {
  Json json = {{"model", model}, {"task", TaskName(item.kind)}, {"right", answer.right}};
  if (item.kind == TaskKind::kExact) {
    json["text"] = answer.text;
  } else {
    json["scores"] = answer.scores;
    if (!item.said()) json["chosen"] = answer.chosen;
  }
  const std::string text = DumpJson(json, /*indent=*/-1);
  return text.substr(1, text.size() - 2);
}

// Asked and written down. Errors end the run.
Status AskLine(const BatchFiles::Line& line, Evaluator& evaluator, const std::string& model, BatchFiles* files) {
  if (line.error) return files->Write(line, *line.error);
  const Result<TaskItem> item = ReadTaskItem(line.request);
  if (!item.ok()) return files->Write(line, item.error());
  Result<TaskAnswer> answer = evaluator.Ask(*item, Interrupted);
  if (answer.ok()) return files->Write(line, AnswerMembers(*item, *answer, model));
  const Code code = answer.error().code();
  if (code == Code::kInvalidArgument || code == Code::kExhausted) return files->Write(line, answer.error());
  return std::move(answer).error();
}

Result<Evaluation> ReadAnswers(PartFile& output, const std::string& model) {
  Evaluation evaluation;
  LineReader reader(output);
  while (true) {
    BANTAM_ASSIGN(const std::optional<LineReader::Line> line, reader.Next());
    if (!line) return evaluation;
    BANTAM_ASSIGN(const Json json, ParseJson(line->text));
    const std::string task = JsonText(json, "task").value_or("");
    size_t kind = 0;
    while (kind < kTaskKinds && TaskName(static_cast<TaskKind>(kind)) != task) ++kind;
    if (kind == kTaskKinds) {
      const std::string why = JsonText(JsonMember(json, "error"), "message").value_or("no answer of a task");
      if (evaluation.first_problem.empty()) evaluation.first_problem = fmt::format("line {}: {}", evaluation.verdicts.size() + 1, why);
      evaluation.verdicts.push_back(Verdict::kNotAsked);
      continue;
    }
    if (JsonText(json, "model") != model) {
      return Error(Code::kInvalidArgument,
                   fmt::format("line {} was answered by another model, or with other options; give another file, or --force",
                               evaluation.verdicts.size() + 1));
    }
    const bool right = JsonFlag(json, "right", /*fallback=*/false);
    evaluation.verdicts.push_back(right ? Verdict::kRight : Verdict::kWrong);
    ++evaluation.kinds[kind].asked;
    evaluation.kinds[kind].right += right ? 1 : 0;
  }
}

Json TallyJson(const TaskTally& tally) {
  const Interval interval = WilsonInterval(tally.right, tally.asked);
  Json json = {{"asked", tally.asked}, {"right", tally.right}};
  json["accuracy"] = tally.asked == 0 ? Json(nullptr) : Json(static_cast<double>(tally.right) / static_cast<double>(tally.asked));
  json["interval"] = {interval.low, interval.high};
  return json;
}

}  // namespace

TaskTally Evaluation::all() const {
  return std::accumulate(kinds.begin(), kinds.end(), TaskTally{}, [](const TaskTally& sum, const TaskTally& kind) {
    return TaskTally{sum.asked + kind.asked, sum.right + kind.right};
  });
}

Result<Evaluation> EvaluateTask(WindowModel& model, const Tokenizer& tokenizer, const TaskFiles& files, const std::string& name) {
  BatchFiles lines(files.input, files.output);
  BANTAM_TRY(lines.Resume());
  // Another model's answers are known before anything is asked.
  BANTAM_TRY(ReadAnswers(files.output, name));
  Evaluator evaluator(*model.runner, tokenizer);
  const Progress progress = MakeProgressLine();
  while (!Interrupted()) {
    BANTAM_ASSIGN(const std::optional<BatchFiles::Line> line, lines.Next());
    if (!line) break;
    Status asked = AskLine(*line, evaluator, name, &lines);
    if (!asked.ok() && asked.error().code() == Code::kCancelled) break;
    BANTAM_TRY(std::move(asked).With(fmt::format("line {}", line->index + 1)));
    progress("asking", lines.bytes_read(), lines.size_bytes());
  }
  EndProgressLine();
  BANTAM_TRY(lines.Sync());
  BANTAM_ASSIGN(Evaluation evaluation, ReadAnswers(files.output, name));
  evaluation.resumed = lines.summary().resumed;
  // Figures of nothing would look like figures.
  if (!evaluation.verdicts.empty() && evaluation.all().asked == 0 && !Interrupted()) {
    return Error(Code::kInvalidArgument, fmt::format("no question could be asked: {}", evaluation.first_problem));
  }
  if (!evaluation.verdicts.empty() || Interrupted()) return evaluation;
  return Error(Code::kInvalidArgument, "no questions; expected a JSON object on each line (docs/evaluation.md)");
}

Result<Evaluation> EvaluateTask(WindowModel& model, const Tokenizer& tokenizer, PartFile& input) {
  LinesInMemory output;
  return EvaluateTask(model, tokenizer, {input, output}, /*name=*/"");
}

std::string TallyText(const TaskTally& tally) {
  const Interval interval = WilsonInterval(tally.right, tally.asked);
  return fmt::format("{:.1f} % right ({} of {}), 95 %: {:.1f} to {:.1f}",
                     tally.asked == 0 ? 0.0 : 100 * static_cast<double>(tally.right) / static_cast<double>(tally.asked), tally.right,
                     tally.asked, 100 * interval.low, 100 * interval.high);
}

Json EvaluationJson(const Evaluation& evaluation) {
  Json json = TallyJson(evaluation.all());
  Json kinds = Json::object();
  for (size_t kind = 0; kind < kTaskKinds; ++kind) {
    if (evaluation.kinds[kind].asked > 0) kinds[std::string(TaskName(static_cast<TaskKind>(kind)))] = TallyJson(evaluation.kinds[kind]);
  }
  json["tasks"] = kinds;
  json["not_asked"] = evaluation.not_asked();
  json["resumed"] = evaluation.resumed;
  json["interrupted"] = Interrupted();
  return json;
}

std::string EvaluationText(const Evaluation& evaluation) {
  std::string text;
  const auto asked = [](const TaskTally& tally) { return tally.asked > 0; };
  if (std::count_if(evaluation.kinds.begin(), evaluation.kinds.end(), asked) > 1) {
    for (size_t kind = 0; kind < kTaskKinds; ++kind) {
      if (evaluation.kinds[kind].asked == 0) continue;
      text += fmt::format("  {}: {}\n", TaskName(static_cast<TaskKind>(kind)), TallyText(evaluation.kinds[kind]));
    }
  }
  if (evaluation.resumed > 0) text += fmt::format("  {} were there from an earlier call\n", evaluation.resumed);
  if (evaluation.not_asked() > 0) {
    text += fmt::format("  {} could not be asked: {}\n", evaluation.not_asked(), Printable(evaluation.first_problem));
  }
  return text;
}

}  // namespace bantam
