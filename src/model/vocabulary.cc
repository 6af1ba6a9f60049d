#include "model/vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "model/config.h"

namespace bantam {
namespace {

// Bytes of all token texts together: several times those of the largest vocabularies.
constexpr size_t kVocabularyTextMax = size_t{32} << 20;

Result<TokenType> TypeOf(double value, size_t token) {
  constexpr TokenType kTypes[] = {TokenType::kNormal,      TokenType::kUnknown, TokenType::kControl,
                                  TokenType::kUserDefined, TokenType::kUnused,  TokenType::kByte};
  if (!(value >= 1 && value <= 6)) {
    return Error(Code::kCorrupt, fmt::format("token {}: type {}, expected 1 to 6; convert the model again", token, value));
  }
  return kTypes[static_cast<size_t>(value) - 1];
}

// A token id, or nothing when the key is absent or marks "none" (ids past the vocabulary).
Result<std::optional<uint32_t>> ReadId(const Metadata& metadata, std::string_view key, size_t size) {
  BANTAM_ASSIGN(const auto id, metadata.U32(key));
  if (!id || *id >= size) return std::optional<uint32_t>();
  return id;
}

// Control tokens by which chat models end a turn, beside the declared ones.
constexpr std::string_view kEndOfTurnTexts[] = {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>"};

Status ReadSpecials(const Metadata& metadata, TokenizerSpec* spec) {
  BANTAM_ASSIGN(spec->bos, ReadId(metadata, "tokenizer.ggml.bos_token_id", spec->size()));
  BANTAM_ASSIGN(spec->eos, ReadId(metadata, "tokenizer.ggml.eos_token_id", spec->size()));
  BANTAM_ASSIGN(spec->unknown, ReadId(metadata, "tokenizer.ggml.unknown_token_id", spec->size()));
  BANTAM_ASSIGN(const auto eot, ReadId(metadata, "tokenizer.ggml.eot_token_id", spec->size()));
  if (spec->eos) spec->end_of_turn.push_back(*spec->eos);
  if (eot && eot != spec->eos) spec->end_of_turn.push_back(*eot);
  for (uint32_t token = 0; token < spec->size(); ++token) {
    if (spec->types[token] != TokenType::kControl) continue;
    const bool ends = std::find(std::begin(kEndOfTurnTexts), std::end(kEndOfTurnTexts), spec->Text(token)) != std::end(kEndOfTurnTexts);
    const bool known = std::find(spec->end_of_turn.begin(), spec->end_of_turn.end(), token) != spec->end_of_turn.end();
    if (ends && !known) spec->end_of_turn.push_back(token);
  }
  BANTAM_ASSIGN(const auto add_bos, metadata.Bool("tokenizer.ggml.add_bos_token"));
  BANTAM_ASSIGN(const auto add_space, metadata.Bool("tokenizer.ggml.add_space_prefix"));
  spec->add_bos = add_bos.value_or(true);
  spec->add_space_prefix = add_space.value_or(true);
  return Ok();
}

Result<TokenizerSpec> ReadSpec(const Metadata& metadata) {
  TokenizerSpec spec;
  BANTAM_ASSIGN(const auto texts, metadata.Texts("tokenizer.ggml.tokens", kVocabularyMax));
  BANTAM_ASSIGN(const auto scores, metadata.Numbers("tokenizer.ggml.scores", kVocabularyMax));
  BANTAM_ASSIGN(const auto types, metadata.Numbers("tokenizer.ggml.token_type", kVocabularyMax));
  if (!texts || !scores || !types || scores->size() != texts->size() || types->size() != texts->size()) {
    return Error(Code::kCorrupt, fmt::format("tokenizer.ggml.tokens, .scores and .token_type have {}, {} and {} entries: expected the same "
                                             "number in each; convert the model again",
                                             texts ? texts->size() : 0, scores ? scores->size() : 0, types ? types->size() : 0));
  }
  size_t total = 0;
  for (const std::string_view text : *texts) total += text.size();
  if (total > kVocabularyTextMax) {
    return Error(Code::kCorrupt, fmt::format("the vocabulary's texts take {} bytes, expected at most {}; convert the model again", total,
                                             kVocabularyTextMax));
  }
  spec.texts.reserve(total);
  spec.text_ends.reserve(texts->size());
  for (size_t i = 0; i < texts->size(); ++i) {
    const auto score = static_cast<float>((*scores)[i]);
    if (!std::isfinite(score)) {
      return Error(Code::kCorrupt, fmt::format("token {}: score {}, expected a finite number; convert the model again", i, (*scores)[i]));
    }
    BANTAM_ASSIGN(const TokenType type, TypeOf((*types)[i], i));
    spec.Add((*texts)[i], type, score);
  }
  BANTAM_TRY(ReadSpecials(metadata, &spec));
  return spec;
}

}  // namespace

Result<Tokenizer> ReadVocabulary(const ModelFile& file) {
  BANTAM_ASSIGN(const auto model, file.metadata.Text("tokenizer.ggml.model"));
  if (!model) {
    return Error(Code::kNotFound,
                 fmt::format("{}: the file holds no vocabulary (tokenizer.ggml.model is missing); convert the model again", file.path));
  }
  if (*model != "llama") {
    return Error(Code::kUnsupported,
                 fmt::format("{}: tokenizer model {} is not supported; this build knows llama (SentencePiece-BPE)", file.path, *model));
  }
  Result<TokenizerSpec> spec = ReadSpec(file.metadata);
  if (!spec.ok()) return std::move(spec).error().With(file.path);
  return Tokenizer::Make(std::move(spec).value()).With(file.path);
}

Result<ChatTemplate> ReadChatTemplate(const ModelFile& file, bool tools) {
  const Metadata& metadata = file.metadata;
  BANTAM_ASSIGN(auto source, metadata.Text("tokenizer.chat_template").With(file.path));
  BANTAM_ASSIGN(const auto with_tools, metadata.Text("tokenizer.chat_template.tool_use").With(file.path));
  if (with_tools && (tools || !source)) source = with_tools;
  BANTAM_ASSIGN(const auto texts, metadata.Texts("tokenizer.ggml.tokens", kVocabularyMax).With(file.path));
  const size_t size = texts ? texts->size() : 0;
  BANTAM_ASSIGN(const auto bos, ReadId(metadata, "tokenizer.ggml.bos_token_id", size).With(file.path));
  BANTAM_ASSIGN(const auto eos, ReadId(metadata, "tokenizer.ggml.eos_token_id", size).With(file.path));
  const auto text = [&](const std::optional<uint32_t>& token) { return token ? std::string((*texts)[*token]) : std::string(); };
  return ChatTemplate::Make(source.value_or(""), {text(bos), text(eos)}).With(file.path);
}

}  // namespace bantam
