// Numbers for Prometheus, in its text format (version 0.0.4): counters, gauges and histograms by labels (ADR 0021).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bantam {

using MetricLabels = std::vector<std::pair<std::string_view, std::string>>;

// One metric of each name, whoever writes it: first all that is known of it, then its numbers.
class MetricsText {
 public:
  enum class Kind : uint8_t { kCounter, kGauge, kHistogram };
  // Begins a metric; numbers follow.
  void Begin(std::string_view name, Kind kind, std::string_view help);
  void Add(const MetricLabels& labels, double value) { AddTo(name_, labels, value); }
  void AddTo(std::string_view name, const MetricLabels& labels, double value);
  const std::string& text() const { return text_; }

 private:
  std::string name_;
  std::string text_;
};

class Histogram {
 public:
  // For seconds: buckets that grow by half an order of magnitude or less.
  static std::span<const double> Bounds();
  // The bounds outlive it.
  explicit Histogram(std::span<const double> bounds = Bounds()) : bounds_(bounds), counts_(bounds.size(), 0) {}
  void Observe(double value);
  void Write(std::string_view name, const MetricLabels& labels, MetricsText* text) const;
  uint64_t count() const { return count_; }

 private:
  std::span<const double> bounds_;
  std::vector<uint64_t> counts_;
  uint64_t count_ = 0;
  double sum_ = 0;
};

// What one answer was like.
struct AnswerFigures {
  double queued_s = 0;
  double first_token_s = 0;  // 0: none came
  double total_s = 0;
  size_t prompt_tokens = 0;
  size_t cached_tokens = 0;
  size_t generated_tokens = 0;
  std::string_view operation = "chat";  // as OpenTelemetry's gen_ai.operation.name has it; or "text_completion"
};

// The histograms of OpenTelemetry's conventions for generative AI, in its buckets, by the names that they have in Prometheus.
struct GenAiHistograms {
  GenAiHistograms();
  void Observe(const AnswerFigures& figures);
  Histogram duration;
  Histogram first_token;
  Histogram per_token;
  Histogram input_tokens;
  Histogram output_tokens;
};

// What requests were like; any thread may say so.
class Metrics {
 public:
  void CountRequest(std::string_view route, int status);
  void CountRefusal(std::string_view reason);
  void ObserveAnswer(const std::string& model, std::string_view priority, const AnswerFigures& figures);
  void ObserveTokenGap(const std::string& model, std::string_view priority, double seconds, size_t tokens);
  void Write(MetricsText* text) const;

 private:
  using Key = std::pair<std::string, std::string>;
  struct OfClass {
    Histogram queued;
    Histogram first_token;
    Histogram between_tokens;
    Histogram total;
    uint64_t prompt_tokens = 0;
    uint64_t cached_tokens = 0;
    uint64_t generated_tokens = 0;
  };
  mutable std::mutex mutex_;
  std::map<Key, uint64_t> requests_;  // by route and status
  std::map<std::string, uint64_t> refusals_;
  std::map<Key, OfClass> answers_;         // by model and priority
  std::map<Key, GenAiHistograms> gen_ai_;  // by model and operation
  void WriteGenAi(MetricsText* text) const;
};

}  // namespace bantam
