// TextEncoder: vectors, or a classifier's scores, of whole texts on a program that reads them at once (ADR 0020).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/memory_budget.h"
#include "base/result.h"
#include "model/kv_cache.h"
#include "model/load.h"
#include "program/executor.h"
#include "program/memory_plan.h"
#include "text/tokenizer.h"

namespace bantam {

struct TextTokens {
  std::vector<uint32_t> tokens;  // with what the vocabulary puts in front, between and behind
  size_t second = SIZE_MAX;      // where a second text begins
};

// Of one text, or of two that are read together, such as a question and a passage. What passes `tokens_max` is an error (Exhausted), or
// with `truncate` its end is left away: of two texts that of the second.
struct TextLimit {
  size_t tokens_max = 0;
  bool truncate = false;
  bool can_grow = false;  // the model can read more, where its user asks for that
};
Result<TextTokens> TokenizeText(const Tokenizer& tokenizer, std::string_view text, const TextLimit& limit);
// Without what stands round a text: the first of two, which may be the first of many pairs.
Result<std::vector<uint32_t>> TokenizePart(const Tokenizer& tokenizer, std::string_view text, const TextLimit& limit);
Result<TextTokens> TokenizePair(const Tokenizer& tokenizer, std::span<const uint32_t> first, std::string_view second,
                                const TextLimit& limit);

// Exhausted for so many bytes that they are more than the tokens of the limit: known before memory is spent on tokenising them.
Status CheckTextBytes(const Tokenizer& tokenizer, size_t bytes, const TextLimit& limit);
// What a user can do about so many tokens.
Error TextTooLong(size_t tokens, const TextLimit& limit);

// Corrupt where one of the numbers is none (NaN) or infinite: what damaged weights make.
Status CheckNumbers(std::span<const float> vector);

// A vector of zeros stays one.
void ScaleToUnitLength(std::span<float> vector);

class TextEncoder {
 public:
  // The model (Program::whole_texts) and pool outlive it. Exhausted when the budget cannot hold keys, values and activations.
  static Result<std::unique_ptr<TextEncoder>> Make(const Model& model, const MemoryPlan& plan, const Resources& resources);

  // What the model says of a text has so many numbers; without pooling, of each token.
  size_t width() const { return width_; }

  // Gives `sink` what is said of each text, in order: [width], or without pooling [tokens, width]. As many texts as fit share a step; none
  // changes a bit of another's result. Errors: InvalidArgument (an id outside the vocabulary, no tokens), Exhausted (more tokens than the
  // plan's context), Cancelled, those of the sink.
  using Sink = std::function<Status(size_t text, std::span<float> rows)>;
  Status Encode(std::span<const TextTokens> texts, const Sink& sink, const Cancelled& cancelled = nullptr);

 private:
  TextEncoder(const Model& model, const MemoryPlan& plan);
  Status Check(size_t index, const TextTokens& text) const;
  // One text's rows, behind those that are there, in blocks from the first free one on.
  void AddRows(const TextTokens& text, size_t first_block);

  const Model& model_;
  const MemoryPlan plan_;
  const size_t width_;
  KvCache cache_;
  std::unique_ptr<Executor> executor_;
  std::vector<uint32_t> blocks_;  // 0, 1, 2, ...: a text's table begins with its first block
  // Of recurrent layers, taken in turn: what a text leaves there is not read, but tells it from its neighbours.
  std::optional<uint32_t> states_;
  size_t texts_ = 0;
  std::vector<StepRow> rows_;
  std::vector<uint32_t> output_rows_;
  std::vector<float> given_;
};

}  // namespace bantam
