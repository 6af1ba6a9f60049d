#include "serve/metrics.h"

#include <fmt/format.h>

#include <array>
#include <cmath>

namespace bantam {
namespace {

std::string Escaped(std::string_view value) {
  std::string escaped;
  for (const char c : value) {
    if (c == '\\' || c == '"') escaped += '\\';
    if (c == '\n') {
      escaped += "\\n";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

}  // namespace

void MetricsText::Begin(std::string_view name, Kind kind, std::string_view help) {
  constexpr std::string_view kKinds[] = {"counter", "gauge", "histogram"};
  name_ = name;
  text_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, kKinds[static_cast<size_t>(kind)]);
}

void MetricsText::AddTo(std::string_view name, const MetricLabels& labels, double value) {
  text_ += name;
  for (size_t i = 0; i < labels.size(); ++i) {
    text_ += fmt::format("{}{}=\"{}\"", i == 0 ? "{" : ",", labels[i].first, Escaped(labels[i].second));
  }
  text_ += labels.empty() ? " " : "} ";
  text_ += std::isinf(value) ? (value > 0 ? "+Inf\n" : "-Inf\n") : fmt::format("{}\n", value);
}

std::span<const double> Histogram::Bounds() {
  static constexpr std::array<double, 19> kBounds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
                                                     2.5,   5,      10,    20,   40,    80,   160, 320,  640};
  return kBounds;
}

void Histogram::Observe(double seconds) {
  for (size_t i = 0; i < counts_.size(); ++i) {
    if (seconds <= Bounds()[i]) ++counts_[i];
  }
  ++count_;
  sum_ += seconds;
}

void Histogram::Write(std::string_view name, const MetricLabels& labels, MetricsText* text) const {
  MetricLabels with_bound = labels;
  with_bound.emplace_back("le", "");
  const std::string bucket = fmt::format("{}_bucket", name);
  for (size_t i = 0; i < counts_.size(); ++i) {
    with_bound.back().second = fmt::format("{}", Bounds()[i]);
    text->AddTo(bucket, with_bound, static_cast<double>(counts_[i]));
  }
  with_bound.back().second = "+Inf";
  text->AddTo(bucket, with_bound, static_cast<double>(count_));
  text->AddTo(fmt::format("{}_sum", name), labels, sum_);
  text->AddTo(fmt::format("{}_count", name), labels, static_cast<double>(count_));
}

void Metrics::CountRequest(std::string_view route, int status) {
  const std::lock_guard lock(mutex_);
  ++requests_[{std::string(route), std::to_string(status)}];
}

void Metrics::CountRefusal(std::string_view reason) {
  const std::lock_guard lock(mutex_);
  ++refusals_[std::string(reason)];
}

void Metrics::ObserveAnswer(const std::string& model, std::string_view priority, const AnswerFigures& figures) {
  const std::lock_guard lock(mutex_);
  OfClass& of = answers_[{model, std::string(priority)}];
  of.queued.Observe(figures.queued_s);
  if (figures.first_token_s > 0) of.first_token.Observe(figures.first_token_s);
  of.total.Observe(figures.total_s);
  of.prompt_tokens += figures.prompt_tokens;
  of.cached_tokens += figures.cached_tokens;
  of.generated_tokens += figures.generated_tokens;
}

void Metrics::ObserveTokenGap(const std::string& model, std::string_view priority, double seconds, size_t tokens) {
  const std::lock_guard lock(mutex_);
  Histogram& gaps = answers_[{model, std::string(priority)}].between_tokens;
  for (size_t i = 0; i < tokens; ++i) gaps.Observe(seconds / static_cast<double>(tokens));
}

void Metrics::Write(MetricsText* text) const {
  const std::lock_guard lock(mutex_);
  using Kind = MetricsText::Kind;
  text->Begin("bantam_requests_total", Kind::kCounter, "Requests that were answered, by route and HTTP status.");
  for (const auto& [key, count] : requests_) text->Add({{"route", key.first}, {"status", key.second}}, static_cast<double>(count));
  text->Begin("bantam_refusals_total", Kind::kCounter, "Requests that were refused, by reason.");
  for (const auto& [reason, count] : refusals_) text->Add({{"reason", reason}}, static_cast<double>(count));
  const auto histograms = [&](std::string_view name, std::string_view help, Histogram OfClass::*which) {
    text->Begin(name, Kind::kHistogram, help);
    for (const auto& [key, of] : answers_) (of.*which).Write(name, {{"model", key.first}, {"priority", key.second}}, text);
  };
  histograms("bantam_queue_seconds", "From arrival to the first step.", &OfClass::queued);
  histograms("bantam_first_token_seconds", "From arrival to the first token.", &OfClass::first_token);
  histograms("bantam_between_tokens_seconds", "From one token of an answer to the next.", &OfClass::between_tokens);
  histograms("bantam_answer_seconds", "From arrival to the last token.", &OfClass::total);
  const auto tokens = [&](std::string_view name, std::string_view help, uint64_t OfClass::*which) {
    text->Begin(name, Kind::kCounter, help);
    for (const auto& [key, of] : answers_) {
      text->Add({{"model", key.first}, {"priority", key.second}}, static_cast<double>(of.*which));
    }
  };
  tokens("bantam_prompt_tokens_total", "Tokens of prompts, those of kept prefixes among them.", &OfClass::prompt_tokens);
  tokens("bantam_cached_tokens_total", "Tokens of prompts that were kept from others.", &OfClass::cached_tokens);
  tokens("bantam_generated_tokens_total", "Tokens of answers.", &OfClass::generated_tokens);
}

}  // namespace bantam
