#include "compress/evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/ascii.h"
#include "compress/logit_shape.h"

namespace bantam {
namespace {

size_t Shared(std::span<const uint32_t> a, std::span<const uint32_t> b) {
  const size_t n = std::min(a.size(), b.size());
  return static_cast<size_t>(std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(n), b.begin()).first - a.begin());
}

// Runs of white space are one space; none at the ends.
std::string Normalised(std::string_view text, bool ignore_case) {
  std::string out;
  for (const char c : text) {
    const bool space = c == ' ' || c == '\n' || c == '\t' || c == '\r';
    if (!space) {
      out += ignore_case ? LowerAscii(c) : c;
    } else if (!out.empty() && out.back() != ' ') {
      out += ' ';
    }
  }
  if (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

}  // namespace

Result<std::vector<uint32_t>> Evaluator::Encode(std::string_view text) const {
  BANTAM_ASSIGN(std::vector<uint32_t> tokens, tokenizer_.Encode(text, /*special=*/false));
  const std::vector<uint32_t>& prefix = tokenizer_.spec().prefix;
  tokens.insert(tokens.begin(), prefix.begin(), prefix.end());
  return tokens;
}

Status Evaluator::CheckLength(size_t tokens) const {
  if (tokens <= runner_.window()) return Ok();
  return Error(Code::kInvalidArgument,
               fmt::format("{} tokens, and the context has {}; give a larger --context, or shorten it", tokens, runner_.window()));
}

template <typename Visit>
Status Evaluator::Read(std::span<const uint32_t> tokens, size_t first, const Cancelled& cancelled, const Visit& visit) {
  BANTAM_TRY(CheckLength(tokens.size()));
  size_t at = runner_.Keep(std::min(Shared(read_, tokens), first));
  read_.resize(at);
  while (at < tokens.size()) {
    const size_t n = std::min(runner_.step_tokens(), tokens.size() - at);
    WindowRunner::Extras extras;
    extras.outputs = std::min(n, at + n - std::min(at + n, first));
    extras.cancelled = cancelled ? &cancelled : nullptr;
    BANTAM_ASSIGN(const bool ran, runner_.Read(tokens.subspan(at, n), extras));
    if (!ran) {
      read_.clear();
      runner_.Begin();
      return Error(Code::kCancelled, "the evaluation was interrupted");
    }
    const auto part = tokens.subspan(at, n);
    read_.insert(read_.end(), part.begin(), part.end());
    at += n;
    for (size_t i = 0; i < extras.outputs; ++i) {
      const std::span<const float> logits(runner_.logits() + i * runner_.vocabulary(), runner_.vocabulary());
      visit(at - extras.outputs + i, logits);
    }
  }
  return Ok();
}

Result<Evaluator::Behind> Evaluator::EncodeBehind(std::string_view prompt, std::span<const std::string> texts) const {
  BANTAM_ASSIGN(const std::vector<uint32_t> front, Encode(prompt));
  Behind behind;
  behind.begin = front.size();
  for (const std::string& text : texts) {
    BANTAM_ASSIGN(std::vector<uint32_t> whole, Encode(std::string(prompt).append(text)));
    const size_t shared = Shared(front, whole);
    if (shared == whole.size()) return Error(Code::kInvalidArgument, "the vocabulary has no tokens for an option");
    BANTAM_TRY(CheckLength(whole.size() - 1));
    // Tokens that hold the end of the prompt together with the beginning of the text count as the text's.
    behind.begin = std::min(behind.begin, shared);
    behind.wholes.push_back(std::move(whole));
  }
  if (behind.begin == 0) return Error(Code::kInvalidArgument, "nothing stands in front of it; give a prompt");
  return behind;
}

Result<Evaluator::Likelihood> Evaluator::Score(std::span<const uint32_t> whole, size_t begin, const Cancelled& cancelled) {
  Likelihood likelihood;
  const auto visit = [&](size_t i, std::span<const float> logits) {
    if (i + 1 >= whole.size()) return;
    const LogitShape shape = ShapeOf(logits);
    likelihood.log += shape.LogProbability(logits[whole[i + 1]]);
    likelihood.greedy = likelihood.greedy && shape.top == whole[i + 1];
  };
  // The last token is not read: nothing is asked behind it.
  BANTAM_TRY(Read(whole.first(whole.size() - 1), begin - 1, cancelled, visit));
  if (!std::isfinite(likelihood.log)) return Error(Code::kCorrupt, "logits that are no numbers; the model is damaged");
  return likelihood;
}

Result<std::string> Evaluator::GoOn(const TaskItem& item, const Cancelled& cancelled) {
  BANTAM_ASSIGN(std::vector<uint32_t> tokens, Encode(item.prompt));
  if (tokens.empty()) return Error(Code::kInvalidArgument, "\"prompt\": empty, and this model begins texts with nothing");
  const size_t begin = tokens.size();
  // Not when it is known what comes: then answers without an end would not count.
  if (begin + item.tokens_max > runner_.window()) {
    return Error(Code::kInvalidArgument,
                 fmt::format("{} tokens and {} of an answer, and the context has {}; give a larger --context, or fewer \"tokens\"", begin,
                             item.tokens_max, runner_.window()));
  }
  std::string text;
  while (tokens.size() - begin < item.tokens_max) {
    uint32_t next = 0;
    bool finite = true;
    const auto visit = [&](size_t, std::span<const float> logits) {
      const LogitShape shape = ShapeOf(logits);
      next = static_cast<uint32_t>(shape.top);
      finite = std::isfinite(shape.log_total);
    };
    BANTAM_TRY(Read(tokens, tokens.size() - 1, cancelled, visit));
    if (!finite) return Error(Code::kCorrupt, "logits that are no numbers; the model is damaged");
    if (tokenizer_.EndsTurn(next) || next >= tokenizer_.size()) break;
    tokens.push_back(next);
    text = tokenizer_.Decode(std::span(tokens).subspan(begin), /*special=*/false);
    size_t end = std::string::npos;
    for (const std::string& stop : item.stops) end = std::min(end, text.find(stop, text.find_first_not_of(" \n\t\r")));
    if (end != std::string::npos) return text.substr(0, end);
  }
  return text;
}

Result<TaskAnswer> Evaluator::Ask(const TaskItem& item, const Cancelled& cancelled) {
  TaskAnswer answer;
  if (item.kind == TaskKind::kExact) {
    BANTAM_ASSIGN(answer.text, GoOn(item, cancelled));
    const std::string said = Normalised(answer.text, item.ignore_case);
    answer.right = std::any_of(item.answers.begin(), item.answers.end(),
                               [&](const std::string& known) { return Normalised(known, item.ignore_case) == said; });
    return answer;
  }
  std::vector<std::string> texts;
  for (const std::string& option : item.options) texts.push_back(option + item.rest);
  BANTAM_ASSIGN(const Behind behind, EncodeBehind(item.prompt, texts));
  for (size_t i = 0; i < texts.size(); ++i) {
    BANTAM_ASSIGN(const Likelihood likelihood, Score(behind.wholes[i], behind.begin, cancelled));
    const bool by_byte = item.kind != TaskKind::kClass;
    answer.scores.push_back(by_byte ? likelihood.log / static_cast<double>(texts[i].size()) : likelihood.log);
    if (item.said()) answer.right = likelihood.greedy;
  }
  if (item.said()) return answer;
  const auto best = std::max_element(answer.scores.begin(), answer.scores.end());
  answer.chosen = static_cast<size_t>(best - answer.scores.begin());
  answer.right = answer.chosen == item.right;
  return answer;
}

Interval WilsonInterval(size_t right, size_t asked) {
  if (asked == 0) return {};
  constexpr double kZ = 1.959963984540054;
  const double n = static_cast<double>(asked);
  const double p = static_cast<double>(right) / n;
  const double middle = (p + kZ * kZ / (2 * n)) / (1 + kZ * kZ / n);
  const double half = kZ / (1 + kZ * kZ / n) * std::sqrt(p * (1 - p) / n + kZ * kZ / (4 * n * n));
  return {std::max(0.0, middle - half), std::min(1.0, middle + half)};
}

}  // namespace bantam
