#include "text/spec_builder.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/rng.h"
#include "text/byte_level.h"
#include "text/matcher.h"
#include "text/pre_tokenizers.h"
#include "text/vocabulary_index.h"

namespace bantam {
namespace {

// Of chat models in the field. Beside <|call|> or <|return|> (harmony), <|end|> only ends a message.
constexpr std::string_view kTurnEnds[] = {"<|eot_id|>",
                                          "<|im_end|>",
                                          "<|end|>",
                                          "<end_of_turn>",
                                          "<|endoftext|>",
                                          "<|eom_id|>",
                                          "<|end_of_text|>",
                                          "<|END_OF_TURN_TOKEN|>",
                                          "<EOT>",
                                          "_<EOT>",
                                          "[EOT]",
                                          "<\xef\xbd\x9c"
                                          "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>",
                                          "<end_of_utterance>",
                                          "<|return|>",
                                          "<|call|>",
                                          "<|calls|>",
                                          "<|flush|>",
                                          "<|tool_response>",
                                          "<turn|>",
                                          "[e~[",
                                          "<|eot|>"};

bool Contains(const TokenizerSpec& spec, const std::vector<uint32_t>& tokens, std::string_view text) {
  return std::any_of(tokens.begin(), tokens.end(), [&](uint32_t token) { return spec.Text(token) == text; });
}

}  // namespace

Status AddToken(std::string_view text, TokenType type, double score, TokenizerSpec* spec) {
  if (spec->texts.size() + text.size() > kVocabularyTextMax) {
    return Error(Code::kCorrupt,
                 fmt::format("the vocabulary's texts take more than {} bytes; convert the model again", kVocabularyTextMax));
  }
  if (spec->size() >= kVocabularyMax) {
    return Error(Code::kCorrupt, fmt::format("the vocabulary has more than {} tokens; convert the model again", kVocabularyMax));
  }
  if (spec->byte_level && IsMergeable(type, /*added_apart=*/true)) {
    // A text outside the alphabet stays as it is: merging never reaches it.
    std::string bytes;
    if (AppendFromByteLevel(text, &bytes)) {
      spec->Add(bytes, type, score);
      return Ok();
    }
  }
  spec->Add(text, type, score);
  return Ok();
}

void SetMerges(const std::vector<std::pair<std::string_view, std::string_view>>& merges, std::string_view continuation,
               TokenizerSpec* spec) {
  const VocabularyIndex index(*spec, RandomSeed());
  spec->merges.reserve(merges.size());
  constexpr size_t kBatch = 128;
  std::string texts;            // of a batch
  std::vector<TextSpan> spans;  // in `texts`: the parts and the whole of each merge
  std::vector<std::string_view> wanted;
  std::vector<std::optional<uint32_t>> tokens;
  const auto append = [&](std::string_view part) {
    // A part outside the alphabet leaves an empty text, which is no token.
    if (spec->byte_level) {
      AppendFromByteLevel(part, &texts);
    } else {
      texts += part;
    }
  };
  for (size_t begin = 0; begin < merges.size(); begin += kBatch) {
    texts.clear();
    spans.clear();
    wanted.clear();
    for (size_t i = begin; i < std::min(begin + kBatch, merges.size()); ++i) {
      const auto& [left, right] = merges[i];
      const size_t first = texts.size();
      append(left);
      const size_t second = texts.size();
      append(right);
      spans.push_back({first, second});
      spans.push_back({second, texts.size()});
      size_t whole = first;
      if (!continuation.empty() && right.starts_with(continuation)) {
        whole = texts.size();
        texts.append(left).append(right.substr(continuation.size()));
      }
      spans.push_back({whole, texts.size()});
    }
    for (const TextSpan& span : spans) wanted.push_back(std::string_view(texts).substr(span.begin, span.end - span.begin));
    index.FindAll(wanted, &tokens);
    for (size_t i = 0; i < tokens.size(); i += 3) {
      if (tokens[i] && tokens[i + 1] && tokens[i + 2]) spec->merges.push_back({*tokens[i], *tokens[i + 1], *tokens[i + 2]});
    }
  }
}

void AddBertNormalizer(const BertOptions& options, TokenizerSpec* spec) {
  const auto add = [&](NormalizerStep::Kind kind) { spec->normalizer.push_back({kind, "", ""}); };
  if (options.clean) add(NormalizerStep::Kind::kBertClean);
  if (options.ideographs) add(NormalizerStep::Kind::kBertIdeographs);
  if (options.strip_accents) {
    add(NormalizerStep::Kind::kNfd);
    add(NormalizerStep::Kind::kStripAccents);
  }
  if (options.lowercase) add(NormalizerStep::Kind::kLowercase);
}

void AddBertSplits(TokenizerSpec* spec) {
  SplitStep spaces;
  spaces.pattern = R"(\s)";
  spaces.behavior = SplitStep::Behavior::kRemoved;
  SplitStep punctuation;
  // ASCII's symbols count as punctuation.
  punctuation.pattern = kPunctuationPattern;
  spec->splits.push_back(std::move(spaces));
  spec->splits.push_back(std::move(punctuation));
}

void SetWordPieceDecoding(bool tidy, TokenizerSpec* spec) {
  spec->decode.space_mark = kSpaceMark;
  spec->decode.strip_space = true;
  spec->decode.tidy_punctuation = tidy;
}

void FindByteTokens(bool required, TokenizerSpec* spec) {
  std::vector<uint32_t> found(256, UINT32_MAX);
  for (uint32_t token = 0; token < spec->size(); ++token) {
    if (const auto byte = FallbackByte(spec->Text(token))) found[*byte] = token;
  }
  const bool all = std::find(found.begin(), found.end(), UINT32_MAX) == found.end();
  if (!all && !required) return;
  for (const uint32_t token : found) {
    if (token != UINT32_MAX) spec->types[token] = TokenType::kByte;
  }
}

void FindTurnEnds(TokenizerSpec* spec) {
  constexpr size_t kEndsMax = 64;
  auto& ends = spec->end_of_turn;
  if (spec->eos && std::find(ends.begin(), ends.end(), *spec->eos) == ends.end()) ends.insert(ends.begin(), *spec->eos);
  for (uint32_t token = 0; token < spec->size() && ends.size() < kEndsMax; ++token) {
    const std::string_view text = spec->Text(token);
    if (text.empty() || std::string_view("<[_").find(text[0]) == std::string_view::npos) continue;  // as all of them begin
    if (std::find(std::begin(kTurnEnds), std::end(kTurnEnds), text) == std::end(kTurnEnds)) continue;
    if (std::find(ends.begin(), ends.end(), token) == ends.end()) ends.push_back(token);
  }
  // Whatever the file calls them, nobody who is not trusted may write them.
  for (const uint32_t token : ends) {
    const bool named = std::find(std::begin(kTurnEnds), std::end(kTurnEnds), spec->Text(token)) != std::end(kTurnEnds);
    if (named || spec->types[token] == TokenType::kUserDefined) spec->types[token] = TokenType::kControl;
  }
  for (const auto& role : {spec->bos, spec->pad}) {
    if (role && spec->types[*role] == TokenType::kUserDefined) spec->types[*role] = TokenType::kControl;
  }
  const bool harmony = (Contains(*spec, ends, "<|call|>") && Contains(*spec, ends, "<|return|>")) ||
                       (Contains(*spec, ends, "<|calls|>") && Contains(*spec, ends, "<|flush|>"));
  if (!harmony) return;
  ends.erase(std::remove_if(ends.begin(), ends.end(), [&](uint32_t token) { return spec->Text(token) == "<|end|>"; }), ends.end());
}

}  // namespace bantam
