// Requests for vectors, classes and rankings of texts as JSON, and their answers: the members of OpenAI's embeddings and of the usual
// rerankers (docs/library.md).
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "engine/text_model.h"

namespace bantam {

inline constexpr size_t kTextsMax = 2048;                        // of one request
inline constexpr size_t kTextAnswerBytesMax = size_t{16} << 20;  // of one answer

// What a program makes of a text: one program does not do both.
enum class TextWork : uint8_t { kVectors, kScores };

struct TextRequestContext {
  const TextModel& model;
  TextLimit limit = {};
  TextWork work = TextWork::kVectors;
  size_t width = 0;         // of what the program gives for a text
  bool unit_length = true;  // of vectors, where a request does not say
  Pooling pooling = Pooling::kMean;
  ClassActivation activation = ClassActivation::kNothing;
  Result<RankPlan> ranking = RankPlan();  // or why nothing is ranked
};

struct TextRequest {
  enum class Task : uint8_t { kVectors, kClasses, kRanking };
  Task task = Task::kVectors;
  std::vector<TextTokens> texts;
  size_t tokens = 0;
  // Of vectors.
  bool base64 = false;
  bool unit_length = true;
  size_t dimensions = 0;
  // Of classes and rankings: the first so many, or all of a ranking.
  std::optional<size_t> top = {};
  bool listed = true;  // classes were asked of a list
};

// {"input": a text, or a list of at most kTextsMax texts or lists of ids}, with "encoding_format" ("float", "base64"), "dimensions",
// "normalize", "prompt_name": vectors. {"query": a text, "documents": texts, or objects with "text"}, with "top_n": a ranking.
// {"classify": a text, or a list of texts and pairs of them}, with "top_n": classes. "truncate" goes with all of them; "model", "user" and
// "return_documents" false are not looked at. Null is as if a member were not there. Errors: InvalidArgument, naming the member, also of
// one that is not known; Unsupported for what the program does not make; those of tokenizers, naming the text.
std::span<const std::string_view> TextRequestMembers();  // all of them
Result<TextRequest> ReadTextRequest(const Json& body, const TextRequestContext& context);

// How vectors are listed: as such, or each in an object with its index ("data", as OpenAI's embeddings have it).
enum class VectorList : uint8_t { kPlain, kObjects };

// Grows as what was asked for is computed.
class TextAnswer {
 public:
  TextAnswer(const TextRequest& request, const TextRequestContext& context, VectorList form = VectorList::kPlain)
      : request_(request), context_(context), form_(form) {}

  // What the program gives for the next text, which is changed. Errors: Corrupt (no numbers), Exhausted (more than kTextAnswerBytesMax).
  Status Add(std::span<float> values);

  // The members as JSON: "embeddings", "labels" or "results" ("index", "relevance_score"), and "usage".
  std::string Finish();

 private:
  void AddVector(std::span<float> values);
  void AddClasses(std::span<float> values);

  const TextRequest& request_;
  const TextRequestContext& context_;
  const VectorList form_;
  size_t vectors_ = 0;
  std::string list_;  // of what was added
  std::vector<float> ranks_;
};

}  // namespace bantam
