#include "engine/text_encoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace bantam {
namespace {

// What a user can do about a text that is too long.
Error TooLong(std::string_view what, const TextLimit& limit) {
  return Error(Code::kExhausted, fmt::format("{}, and the model reads at most {} at once{}; shorten the text, or have its end left away "
                                             "(--truncate)",
                                             what, limit.tokens_max, limit.can_grow ? ", unless it is asked for more (--context)" : ""));
}

void Append(std::span<const uint32_t> from, std::vector<uint32_t>* to) { to->insert(to->end(), from.begin(), from.end()); }

// Cuts `last` so that it and `others` fit.
Status Fit(size_t others, const TextLimit& limit, std::vector<uint32_t>* last) {
  if (others + last->size() <= limit.tokens_max) return Ok();
  if (!limit.truncate) return TooLong(fmt::format("{} tokens", others + last->size()), limit);
  if (others >= limit.tokens_max) {
    return Error(Code::kExhausted, fmt::format("{} tokens stand round what may be cut, and the model reads at most {} at once; shorten the "
                                               "first text",
                                               others, limit.tokens_max));
  }
  last->resize(limit.tokens_max - others);
  return Ok();
}

}  // namespace

Status CheckTextBytes(const Tokenizer& tokenizer, size_t bytes, const TextLimit& limit) {
  if (bytes / tokenizer.longest_token() <= limit.tokens_max) return Ok();
  return TooLong(fmt::format("{} bytes are more than {} tokens", bytes, limit.tokens_max), limit);
}

Error TextTooLong(size_t tokens, const TextLimit& limit) { return TooLong(fmt::format("{} tokens", tokens), limit); }

Result<std::vector<uint32_t>> TokenizePart(const Tokenizer& tokenizer, std::string_view text, const TextLimit& limit) {
  if (!limit.truncate) BANTAM_TRY(CheckTextBytes(tokenizer, text.size(), limit));
  return tokenizer.Encode(text, /*special=*/false);
}

Result<TextTokens> TokenizeText(const Tokenizer& tokenizer, std::string_view text, const TextLimit& limit) {
  const TokenizerSpec& spec = tokenizer.spec();
  BANTAM_ASSIGN(std::vector<uint32_t> tokens, TokenizePart(tokenizer, text, limit));
  BANTAM_TRY(Fit(spec.prefix.size() + spec.suffix.size(), limit, &tokens));
  TextTokens made;
  Append(spec.prefix, &made.tokens);
  Append(tokens, &made.tokens);
  Append(spec.suffix, &made.tokens);
  if (made.tokens.empty()) return Error(Code::kInvalidArgument, "an empty text has no tokens in this vocabulary; leave it out");
  return made;
}

Result<TextTokens> TokenizePair(const Tokenizer& tokenizer, std::span<const uint32_t> first, std::string_view second,
                                const TextLimit& limit) {
  const TokenizerSpec& spec = tokenizer.spec();
  BANTAM_ASSIGN(std::vector<uint32_t> behind, TokenizePart(tokenizer, second, limit));
  BANTAM_TRY(Fit(spec.prefix.size() + first.size() + spec.between.size() + spec.suffix.size(), limit, &behind));
  TextTokens made;
  made.tokens.reserve(spec.prefix.size() + first.size() + spec.between.size() + behind.size() + spec.suffix.size());
  Append(spec.prefix, &made.tokens);
  Append(first, &made.tokens);
  Append(spec.between, &made.tokens);
  made.second = made.tokens.size();
  Append(behind, &made.tokens);
  Append(spec.suffix, &made.tokens);
  if (made.tokens.empty()) return Error(Code::kInvalidArgument, "two empty texts have no tokens in this vocabulary; leave them out");
  return made;
}

Status CheckNumbers(std::span<const float> vector) {
  if (std::all_of(vector.begin(), vector.end(), [](float x) { return std::isfinite(x); })) return Ok();
  return Error(Code::kCorrupt, "what the model makes of it are no numbers (NaN or infinite); fetch or convert the model again");
}

void ScaleToUnitLength(std::span<float> vector) {
  double squares = 0;
  for (const float x : vector) squares += static_cast<double>(x) * static_cast<double>(x);
  if (squares == 0) return;
  const double scale = 1 / std::sqrt(squares);
  for (float& x : vector) x = static_cast<float>(static_cast<double>(x) * scale);
}

TextEncoder::TextEncoder(const Model& model, const MemoryPlan& plan)
    : model_(model), plan_(plan), width_(model.program.buffers[model.program.logits].width) {}

Result<std::unique_ptr<TextEncoder>> TextEncoder::Make(const Model& model, const MemoryPlan& plan, const Resources& resources) {
  CHECK(model.program.whole_texts);
  CHECK(plan.options.step_tokens >= plan.options.context);
  CHECK(plan.options.step_outputs >= (model.program.pooling == Pooling::kEveryToken ? plan.options.step_tokens : plan.options.step_texts));
  std::unique_ptr<TextEncoder> encoder(new TextEncoder(model, plan));
  const PerKvPart<size_t> blocks = KvBlocks(model.program, plan.options);
  BANTAM_ASSIGN(encoder->cache_, KvCache::Make(PlannedKv(model.program, plan.options), blocks,
                                               {model.program.state_floats, /*sequences=*/1}, resources.budget));
  if (encoder->cache_.recurrent()) {
    BANTAM_ASSIGN(encoder->states_, encoder->cache_.TakeStates());
  }
  BANTAM_ASSIGN(encoder->executor_, Executor::Make({model.program, model.weights, *model.kernels, plan.options}, resources));
  // As many as KvBlocks has, also of models that keep no keys and values.
  encoder->blocks_.resize(plan.options.step_tokens / kKvBlockTokens + plan.options.step_texts);
  std::iota(encoder->blocks_.begin(), encoder->blocks_.end(), 0);
  encoder->rows_.reserve(plan.options.step_tokens);
  encoder->output_rows_.reserve(plan.options.step_outputs);
  return encoder;
}

Status TextEncoder::Check(size_t index, const TextTokens& text) const {
  const auto place = [&] { return fmt::format("text {}", index); };
  if (text.tokens.empty()) return Error(Code::kInvalidArgument, "no tokens to read; give at least one").With(place());
  if (text.tokens.size() > plan_.options.context) {
    return TooLong(fmt::format("{} tokens", text.tokens.size()), {plan_.options.context}).With(place());
  }
  for (const uint32_t token : text.tokens) {
    if (token < model_.program.vocabulary) continue;
    return Error(Code::kInvalidArgument,
                 fmt::format("token {}: expected an id below the vocabulary size {}", token, model_.program.vocabulary))
        .With(place());
  }
  return Ok();
}

void TextEncoder::AddRows(const TextTokens& text, size_t first_block) {
  const size_t n = text.tokens.size();
  const size_t first = rows_.size();
  KvTables tables;
  for (const KvPart part : kAllKvParts) tables[part] = blocks_.data() + first_block;
  float* state = states_ ? cache_.State(*states_, texts_++ % 2) : nullptr;
  for (size_t i = 0; i < n; ++i) {
    StepRow row = {text.tokens[i], static_cast<uint32_t>(i), tables, state, state};
    row.end = static_cast<uint32_t>(n);
    // Files without a second type know no difference.
    row.type = i >= text.second && model_.program.token_types > 1 ? 1 : 0;
    rows_.push_back(row);
  }
  switch (model_.program.pooling) {
    case Pooling::kEveryToken:
      for (size_t i = 0; i < n; ++i) output_rows_.push_back(static_cast<uint32_t>(first + i));
      return;
    case Pooling::kMean:
    case Pooling::kFirst:
      output_rows_.push_back(static_cast<uint32_t>(first));
      return;
    case Pooling::kLast:
      output_rows_.push_back(static_cast<uint32_t>(first + n - 1));
      return;
  }
}

Status TextEncoder::Encode(std::span<const TextTokens> texts, const Sink& sink, const Cancelled& cancelled) {
  for (size_t i = 0; i < texts.size(); ++i) BANTAM_TRY(Check(i, texts[i]));
  for (size_t begin = 0, end = 0; begin < texts.size(); begin = end) {
    rows_.clear();
    output_rows_.clear();
    size_t block = 0;
    for (; end < texts.size() && end - begin < plan_.options.step_texts; ++end) {
      const size_t n = texts[end].tokens.size();
      if (rows_.size() + n > plan_.options.step_tokens) break;
      AddRows(texts[end], block);
      block += KvBlockCount(n);
    }
    CHECK(end > begin && block <= blocks_.size());
    if (!executor_->Run({rows_, output_rows_, cache_.base(), cancelled ? &cancelled : nullptr})) {
      return Error(Code::kCancelled, "reading texts was interrupted");
    }
    const float* from = executor_->logits();
    for (size_t i = begin; i < end; ++i) {
      const size_t floats = width_ * (model_.program.pooling == Pooling::kEveryToken ? texts[i].tokens.size() : 1);
      given_.assign(from, from + floats);
      BANTAM_TRY(sink(i, given_));
      from += floats;
    }
  }
  return Ok();
}

}  // namespace bantam
