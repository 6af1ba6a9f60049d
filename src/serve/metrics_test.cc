#include "serve/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <sstream>

namespace bantam {
namespace {

using ::testing::HasSubstr;

// What Prometheus' parser demands: each metric is described once, before its numbers, and no series occurs twice.
void CheckFormat(const std::string& text) {
  std::set<std::string> described;
  std::set<std::string> series;
  std::string current;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("# HELP ")) {
      current = line.substr(7, line.find(' ', 7) - 7);
      EXPECT_TRUE(described.insert(current).second) << line;
    } else if (line.starts_with("# TYPE ")) {
      EXPECT_EQ(line.substr(7, line.find(' ', 7) - 7), current);
    } else {
      EXPECT_TRUE(line.starts_with(current)) << line;
      EXPECT_TRUE(series.insert(line.substr(0, line.rfind(' '))).second) << line;
    }
  }
}

TEST(Metrics, TextFormat) {
  MetricsText text;
  text.Begin("a_total", MetricsText::Kind::kCounter, "Things.");
  text.Add({}, 3);
  text.Add({{"name", "quote \" back \\ line \n"}}, 0.5);
  EXPECT_EQ(text.text(),
            "# HELP a_total Things.\n# TYPE a_total counter\na_total 3\na_total{name=\"quote \\\" back \\\\ line \\n\"} 0.5\n");
}

TEST(Metrics, HistogramsAreCumulative) {
  Histogram histogram;
  for (const double seconds : {0.0005, 0.03, 0.03, 5.0, 10'000.0}) histogram.Observe(seconds);
  MetricsText text;
  text.Begin("h", MetricsText::Kind::kHistogram, "Times.");
  histogram.Write("h", {{"model", "m"}}, &text);
  EXPECT_THAT(text.text(), HasSubstr("h_bucket{model=\"m\",le=\"0.001\"} 1\n"));
  EXPECT_THAT(text.text(), HasSubstr("h_bucket{model=\"m\",le=\"0.025\"} 1\n"));
  EXPECT_THAT(text.text(), HasSubstr("h_bucket{model=\"m\",le=\"0.05\"} 3\n"));
  EXPECT_THAT(text.text(), HasSubstr("h_bucket{model=\"m\",le=\"5\"} 4\n"));
  EXPECT_THAT(text.text(), HasSubstr("h_bucket{model=\"m\",le=\"640\"} 4\n"));
  EXPECT_THAT(text.text(), HasSubstr("h_bucket{model=\"m\",le=\"+Inf\"} 5\n"));
  EXPECT_THAT(text.text(), HasSubstr("h_count{model=\"m\"} 5\n"));
  CheckFormat(text.text());
}

TEST(Metrics, WhatRequestsWereLike) {
  Metrics metrics;
  metrics.CountRequest("/v1/models", 200);
  metrics.CountRequest("/v1/models", 200);
  metrics.CountRefusal("queue");
  metrics.ObserveAnswer("m", "normal", {.queued_s = 0.1, .first_token_s = 0.2, .total_s = 1, .prompt_tokens = 7, .generated_tokens = 9});
  metrics.ObserveAnswer("m", "high", {});
  metrics.ObserveTokenGap("m", "normal", 0.2, 4);
  MetricsText text;
  metrics.Write(&text);
  EXPECT_THAT(text.text(), HasSubstr("bantam_requests_total{route=\"/v1/models\",status=\"200\"} 2\n"));
  EXPECT_THAT(text.text(), HasSubstr("bantam_refusals_total{reason=\"queue\"} 1\n"));
  EXPECT_THAT(text.text(), HasSubstr("bantam_generated_tokens_total{model=\"m\",priority=\"normal\"} 9\n"));
  EXPECT_THAT(text.text(), HasSubstr("bantam_between_tokens_seconds_count{model=\"m\",priority=\"normal\"} 4\n"));
  EXPECT_THAT(text.text(), HasSubstr("bantam_first_token_seconds_count{model=\"m\",priority=\"high\"} 0\n"));
  // OpenTelemetry's names for the same: (1 - 0.2) / 8 seconds a token.
  const std::string labels =
      R"({gen_ai_operation_name="chat",gen_ai_provider_name="bantam",gen_ai_request_model="m",gen_ai_response_model="m")";
  EXPECT_THAT(text.text(), HasSubstr("gen_ai_server_request_duration_seconds_bucket" + labels + ",le=\"1.28\"} 2\n"));
  EXPECT_THAT(text.text(), HasSubstr("gen_ai_server_time_to_first_token_seconds_count" + labels + "} 1\n"));
  EXPECT_THAT(text.text(), HasSubstr("gen_ai_server_time_per_output_token_seconds_sum" + labels + "} 0.1\n"));
  EXPECT_THAT(text.text(), HasSubstr("gen_ai_client_token_usage_sum" + labels + ",gen_ai_token_type=\"output\"} 9\n"));
  CheckFormat(text.text());
}

}  // namespace
}  // namespace bantam
