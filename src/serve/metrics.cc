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

// The buckets that OpenTelemetry's conventions for generative AI advise.
constexpr std::array<double, 14> kGenAiDuration = {0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92};
constexpr std::array<double, 16> kGenAiFirstToken = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10};
constexpr std::array<double, 13> kGenAiPerToken = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5};
constexpr std::array<double, 14> kGenAiTokens = {1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864};

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

void Histogram::Observe(double value) {
  for (size_t i = 0; i < counts_.size(); ++i) {
    if (value <= bounds_[i]) ++counts_[i];
  }
  ++count_;
  sum_ += value;
}

void Histogram::Write(std::string_view name, const MetricLabels& labels, MetricsText* text) const {
  MetricLabels with_bound = labels;
  with_bound.emplace_back("le", "");
  const std::string bucket = fmt::format("{}_bucket", name);
  for (size_t i = 0; i < counts_.size(); ++i) {
    with_bound.back().second = fmt::format("{}", bounds_[i]);
    text->AddTo(bucket, with_bound, static_cast<double>(counts_[i]));
  }
  with_bound.back().second = "+Inf";
  text->AddTo(bucket, with_bound, static_cast<double>(count_));
  text->AddTo(fmt::format("{}_sum", name), labels, sum_);
  text->AddTo(fmt::format("{}_count", name), labels, static_cast<double>(count_));
}

GenAiHistograms::GenAiHistograms()
    : duration(kGenAiDuration),
      first_token(kGenAiFirstToken),
      per_token(kGenAiPerToken),
      input_tokens(kGenAiTokens),
      output_tokens(kGenAiTokens) {}

void GenAiHistograms::Observe(const AnswerFigures& figures) {
  duration.Observe(figures.total_s);
  if (figures.first_token_s > 0) first_token.Observe(figures.first_token_s);
  if (figures.first_token_s > 0 && figures.generated_tokens > 1) {
    per_token.Observe((figures.total_s - figures.first_token_s) / static_cast<double>(figures.generated_tokens - 1));
  }
  input_tokens.Observe(static_cast<double>(figures.prompt_tokens));
  output_tokens.Observe(static_cast<double>(figures.generated_tokens));
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
  gen_ai_[{model, std::string(figures.operation)}].Observe(figures);
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
  WriteGenAi(text);
}

void Metrics::WriteGenAi(MetricsText* text) const {
  const auto labels = [](const Key& key) {
    return MetricLabels{{"gen_ai_operation_name", key.second},
                        {"gen_ai_provider_name", "bantam"},
                        {"gen_ai_request_model", key.first},
                        {"gen_ai_response_model", key.first}};
  };
  const auto histograms = [&](std::string_view name, std::string_view help, Histogram GenAiHistograms::*which) {
    text->Begin(name, MetricsText::Kind::kHistogram, help);
    for (const auto& [key, of] : gen_ai_) (of.*which).Write(name, labels(key), text);
  };
  histograms("gen_ai_server_request_duration_seconds", "From arrival to the last token (OpenTelemetry).", &GenAiHistograms::duration);
  histograms("gen_ai_server_time_to_first_token_seconds", "From arrival to the first token (OpenTelemetry).",
             &GenAiHistograms::first_token);
  histograms("gen_ai_server_time_per_output_token_seconds", "Of an answer, the mean behind its first token (OpenTelemetry).",
             &GenAiHistograms::per_token);
  constexpr std::string_view kTokens = "gen_ai_client_token_usage";
  text->Begin(kTokens, MetricsText::Kind::kHistogram, "Tokens of a prompt or an answer (OpenTelemetry).");
  for (const auto& [key, of] : gen_ai_) {
    for (const auto& [type, which] : {std::pair("input", &of.input_tokens), {"output", &of.output_tokens}}) {
      MetricLabels with_type = labels(key);
      with_type.emplace_back("gen_ai_token_type", type);
      which->Write(kTokens, with_type, text);
    }
  }
}

}  // namespace bantam
