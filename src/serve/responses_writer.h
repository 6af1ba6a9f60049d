// Answers of the Responses API: typed events as an answer grows, and the object that they end in.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "serve/answer.h"
#include "serve/response_store.h"
#include "serve/served_model.h"

namespace bantam {

struct ResponsesWriterSetup {
  std::shared_ptr<const ServedModel> model;
  Json echo;              // what the answer repeats of its request
  bool logprobs = false;  // of each token, beside texts
  // Where the answer is kept, with the items that it was made of; null: nowhere.
  ResponseStore* store = nullptr;
  std::string owner = {};
  Json items = {};
};

class ResponsesWriter final : public AnswerWriter {
 public:
  explicit ResponsesWriter(ResponsesWriterSetup setup);

  std::string Begin() override;
  std::string Add(const AnswerDelta& delta) override;
  std::string End(const AnswerUsage& usage) override;
  std::optional<std::string> Break(const ApiError& error) override;
  void Abandon() override;
  Json Whole(std::span<const AnswerChoice> choices, const AnswerUsage& usage) override;

 private:
  enum class Open : uint8_t { kNothing, kReasoning, kText };
  std::string Event(std::string_view type, Json members);
  // Where something of the last item happens.
  Json Place(bool with_part) const;
  std::string OpenItem(Open what);
  std::string AddText(Open what, const std::string& text, const Json& logprobs);
  std::string AddCall(const ToolCall& call);
  // The item that grows ends.
  std::string Close();
  // The same before the answer's end: with what there is of it, as incomplete.
  std::string CutOff();
  Json Response(std::string_view status) const;
  void Keep(const Json& response) const;
  // The whole of it, kept where it is to be.
  Json Finish(const AnswerUsage& usage);
  size_t ReasoningTokens(size_t generated) const;

  const ResponsesWriterSetup setup_;
  const std::string id_;
  const int64_t created_s_;
  size_t sequence_number_ = 0;
  Open open_ = Open::kNothing;
  std::vector<Json> output_;  // items; the last may still grow
  std::string text_;          // of the item that grows
  Json logprobs_ = Json::array();
  Json waiting_logprobs_ = Json::array();  // of tokens without a text yet
  std::optional<bantam::Finish> finish_;
};

}  // namespace bantam
