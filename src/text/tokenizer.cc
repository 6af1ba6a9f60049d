#include "text/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/byte_level.h"
#include "text/unicode.h"
#include "text/utf8.h"
#include "text/word_cache.h"

namespace bantam {
namespace {

constexpr size_t kMarkBytesMax = 64;
constexpr size_t kEncodeBytesMax = size_t{1} << 31;
// Steps of pattern matching per byte of text: those of real pre-tokenizers need fewer than 10.
constexpr uint64_t kStepsPerByte = 200;
constexpr uint64_t kStepsFree = 100'000;

bool IsAdded(TokenType type) { return type == TokenType::kControl || type == TokenType::kUserDefined || type == TokenType::kUnknown; }

// Whether a piece goes on with a marked space behind something else.
bool ReachesAcross(std::string_view text) {
  for (size_t at = text.find(kSpaceMark); at != std::string_view::npos; at = text.find(kSpaceMark, at + 1)) {
    if (at > 0 && !text.substr(0, at).ends_with(kSpaceMark)) return true;
  }
  return false;
}

// No space in front of punctuation and contractions (the clean-up of the WordPiece decoder).
std::string TidyPunctuation(std::string text) {
  constexpr std::pair<std::string_view, std::string_view> kRules[] = {{" .", "."},     {" ?", "?"},     {" !", "!"},   {" ,", ","},
                                                                      {" ' ", "'"},    {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"},
                                                                      {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& [from, to] : kRules) {
    std::string out;
    for (size_t at = 0;;) {
      const size_t found = text.find(from, at);
      out.append(text, at, found - at);
      if (found == std::string::npos) break;
      out += to;
      at = found + from.size();
    }
    text = std::move(out);
  }
  return text;
}

}  // namespace

// One call of Encode.
class Tokenizer::Encoding final : public WordSink {
 public:
  Encoding(const Tokenizer& tokenizer, size_t text_bytes) : tokenizer_(tokenizer), cache_(text_bytes) {
    match_.steps_max = kStepsFree + kStepsPerByte * text_bytes;
    tokens_.reserve(text_bytes / 3 + 16);
  }

  Status Piece(const PromptPiece& piece) {
    const std::string_view text = piece.text;
    size_t at = 0;
    if (strip_next_) at = SkipWhiteSpace(text, 0);
    AddedTokens::Hit hit = {};
    while (tokenizer_.added_->Find(text, at, piece.trusted, &hit)) {
      AddPlain(text.substr(at, hit.begin - at), piece.trusted);
      if (hit.rules.strip_left) plain_.resize(SizeWithoutTrailingSpace(plain_));
      BANTAM_TRY(EndPlain(/*last=*/false));
      AddToken(hit.rules.token);
      strip_next_ = hit.rules.strip_right;
      at = strip_next_ ? SkipWhiteSpace(text, hit.end) : hit.end;
    }
    AddPlain(text.substr(at), piece.trusted);
    return Ok();
  }

  // The text between two added tokens is complete.
  Status EndPlain(bool last) {
    if (plain_.empty()) {
      plain_trusted_ = true;
      return Ok();
    }
    BANTAM_TRY(tokenizer_.normalizer_.Apply({first_, last}, tokenizer_.kept_, &match_, &plain_));
    const AddedTokens& added = *tokenizer_.normalized_;
    AddedTokens::Hit hit = {};
    size_t at = 0;
    while (tokenizer_.cut_at_symbols_ && added.Find(plain_, at, plain_trusted_, &hit)) {
      std::string_view before = std::string_view(plain_).substr(at, hit.begin - at);
      if (hit.rules.strip_left) before = before.substr(0, SizeWithoutTrailingSpace(before));
      BANTAM_TRY(Words(before));
      AddToken(hit.rules.token);
      at = hit.rules.strip_right ? SkipWhiteSpace(plain_, hit.end) : hit.end;
    }
    BANTAM_TRY(Words(std::string_view(plain_).substr(at)));
    plain_.clear();
    plain_trusted_ = true;
    first_ = false;
    return Ok();
  }

  void Word(std::string_view word) override {
    if (!tokenizer_.cut_at_marks_) {
      EncodeWord(word);
      return;
    }
    // Every word with the marks in front of it on its own: the same result in less time and memory.
    while (!word.empty()) {
      size_t end = 0;
      while (word.substr(end).starts_with(kSpaceMark)) end += kSpaceMark.size();
      end = std::min(word.find(kSpaceMark, end), word.size());
      EncodeWord(word.substr(0, end));
      word.remove_prefix(end);
    }
  }

  EncodeStats stats() const { return {match_.steps, work_.steps}; }
  std::vector<uint32_t> Take() { return std::move(tokens_); }

 private:
  Status Words(std::string_view text) {
    if (text.empty()) return Ok();
    BANTAM_TRY(tokenizer_.pre_tokenizer_.Split(text, first_, &match_, this));
    first_ = false;
    return Ok();
  }

  void EncodeWord(std::string_view word) {
    bool found = false;
    WordCache::Slot* slot = cache_.Find(word, &found);
    const size_t begin = tokens_.size();
    if (found) {
      tokens_.resize(begin + slot->tokens.count);
      std::copy_n(tokens_.begin() + slot->tokens.begin, slot->tokens.count, tokens_.begin() + static_cast<ptrdiff_t>(begin));
      return;
    }
    tokenizer_.encoder_->Encode(word, &work_, &tokens_);
    if (slot != nullptr) slot->tokens = {static_cast<uint32_t>(begin), static_cast<uint32_t>(tokens_.size() - begin)};
  }

  void AddPlain(std::string_view text, bool trusted) {
    if (text.empty()) return;
    plain_ += text;
    plain_trusted_ = plain_trusted_ && trusted;
    strip_next_ = false;
  }

  void AddToken(uint32_t token) {
    tokens_.push_back(token);
    first_ = false;
  }

  const Tokenizer& tokenizer_;
  WordCache cache_;
  MatchWork match_;
  EncodeWork work_;
  std::vector<uint32_t> tokens_;
  std::string plain_;
  bool plain_trusted_ = true;
  bool strip_next_ = false;  // white space that comes next belongs to the token before
  bool first_ = true;        // nothing came before
};

Result<Tokenizer> Tokenizer::Make(TokenizerSpec spec, uint64_t hash_seed) {
  if (spec.size() == 0) return Error(Code::kCorrupt, "the vocabulary has no tokens; convert the model again");
  CHECK(spec.types.size() == spec.size() && (spec.scores.empty() || spec.scores.size() == spec.size()));
  const bool scored = spec.model == TokenizerModel::kSpmBpe || spec.model == TokenizerModel::kUnigram;
  if (scored && spec.scores.empty()) return Error(Code::kCorrupt, "the vocabulary has no scores; convert the model again");
  for (uint32_t token = 0; spec.byte_level && token < spec.size(); ++token) {
    // A character that somebody uses as padding is a character all the same.
    if (spec.types[token] == TokenType::kControl && spec.Text(token).size() == 1) spec.types[token] = TokenType::kNormal;
  }
  // What nobody can read becomes no end of the text.
  const auto is_role = [&](uint32_t token) {
    return spec.bos == token || spec.eos == token ||
           std::find(spec.end_of_turn.begin(), spec.end_of_turn.end(), token) != spec.end_of_turn.end();
  };
  if (spec.model == TokenizerModel::kBpe && spec.unknown && is_role(*spec.unknown)) spec.unknown.reset();
  Tokenizer tokenizer(std::move(spec));
  BANTAM_TRY(tokenizer.CheckTexts());
  tokenizer.index_ = std::make_unique<const VocabularyIndex>(*tokenizer.spec_, hash_seed);
  // A mark that is unknown itself could be one unknown token with the end of the word before.
  tokenizer.cut_at_marks_ = tokenizer.cut_at_marks_ && tokenizer.index_->Find(kSpaceMark).has_value();
  if (tokenizer.spec_->byte_level) {
    for (unsigned byte = 0; byte < 256; ++byte) {
      const char text = static_cast<char>(byte);
      tokenizer.byte_tokens_[byte] = tokenizer.index_->Find(std::string_view(&text, 1)).value_or(kNoToken);
    }
  }
  BANTAM_ASSIGN(tokenizer.encoder_, WordEncoder::Make(*tokenizer.spec_, *tokenizer.index_, tokenizer.byte_tokens_, hash_seed));
  BANTAM_ASSIGN(tokenizer.normalizer_, Normalizer::Make(tokenizer.spec_->normalizer));
  BANTAM_ASSIGN(tokenizer.pre_tokenizer_, PreTokenizer::Make(tokenizer.spec_->splits));
  BANTAM_TRY(tokenizer.BuildAdded());
  const TokenizerSpec& made = *tokenizer.spec_;
  const auto& bytes = tokenizer.byte_tokens_;
  const bool every_byte = std::find(bytes.begin(), bytes.end(), kNoToken) == bytes.end();
  const bool marks_only = std::all_of(made.normalizer.begin(), made.normalizer.end(), [](const NormalizerStep& step) {
    return step.kind == NormalizerStep::Kind::kPrepend || (step.kind == NormalizerStep::Kind::kReplace && step.pattern == " ");
  });
  const bool dropping = !made.added.empty() || std::any_of(made.splits.begin(), made.splits.end(), [](const SplitStep& step) {
    return step.behavior == SplitStep::Behavior::kRemoved;
  });
  if (dropping || !marks_only || !every_byte) tokenizer.longest_token_ = kTokenBytesMax;
  return tokenizer;
}

Tokenizer::Tokenizer(TokenizerSpec spec) : spec_(std::make_unique<TokenizerSpec>(std::move(spec))) { byte_tokens_.assign(256, kNoToken); }

Status Tokenizer::CheckTexts() {
  const TokenizerSpec& spec = *spec_;
  // They are put to every token, or to every character of a word.
  for (const std::string* mark : {&spec.word_inside, &spec.word_end, &spec.decode.space_mark, &spec.decode.word_end}) {
    if (mark->size() > kMarkBytesMax) {
      return Error(Code::kCorrupt,
                   fmt::format("a mark of {} bytes inside or at the end of words, expected at most {}; convert the model again",
                               mark->size(), kMarkBytesMax));
    }
  }
  // Not the unigram model, whose sums are rounded: where two ways are equal, what came before decides.
  const bool by_marks = spec.model == TokenizerModel::kSpmBpe ||
                        (spec.model == TokenizerModel::kBpe && !spec.byte_level && spec.word_end.empty() && !spec.ignore_merges);
  const bool by_patterns =
      std::any_of(spec.splits.begin(), spec.splits.end(), [](const SplitStep& step) { return step.kind != SplitStep::Kind::kMetaspace; });
  cut_at_marks_ = by_marks && !by_patterns;
  for (uint32_t token = 0; token < size(); ++token) {
    const std::string_view text = spec.Text(token);
    const size_t size_max = IsAdded(spec.types[token]) ? kAddedTokenBytesMax : kTokenBytesMax;
    if (text.size() > size_max) {
      return Error(Code::kCorrupt,
                   fmt::format("token {}: a text of {} bytes, expected at most {}; convert the model again", token, text.size(), size_max));
    }
    longest_token_ = std::max(longest_token_, text.size());
    if (cut_at_marks_ && IsMergeable(spec.types[token], spec.added_apart) && ReachesAcross(text)) cut_at_marks_ = false;
    if (spec.types[token] != TokenType::kByte) continue;
    const auto byte = FallbackByte(text);
    if (!byte) {
      return Error(Code::kCorrupt,
                   fmt::format("token {}: typed as a byte, but its text is not of the form <0x0A>; convert the model again", token));
    }
    byte_tokens_[*byte] = token;
  }
  return Ok();
}

Status Tokenizer::BuildAdded() {
  std::vector<AddedToken> rules(size(), AddedToken{kNoToken});
  for (const AddedToken& rule : spec_->added) {
    if (rule.token >= size())
      return Error(Code::kCorrupt, fmt::format("added token {}: not in the vocabulary; convert the model again", rule.token));
    rules[rule.token] = rule;
  }
  std::vector<AddedTokens::Entry> plain;
  std::vector<AddedTokens::Entry> normalized;
  MatchWork work;
  work.steps_max = kStepsFree * 100;
  for (uint32_t token = 0; token < size(); ++token) {
    if (!IsAdded(spec_->types[token]) || spec_->Text(token).empty()) continue;
    if (spec_->added_listed && rules[token].token != token) continue;
    rules[token].token = token;
    const bool control = spec_->types[token] != TokenType::kUserDefined;
    AddedTokens::Entry entry = {std::string(spec_->Text(token)), rules[token], control};
    if (spec_->symbols_within && !control) {
      normalized.push_back(std::move(entry));
      continue;
    }
    // A control token's own name is found in trusted text in any case.
    if (control || !rules[token].normalized) plain.push_back(entry);
    if (!rules[token].normalized || (control && normalizer_.empty())) continue;
    BANTAM_TRY(normalizer_.Apply(TextPlace(), /*keep=*/nullptr, &work, &entry.text));
    if (entry.text.size() > kAddedTokenBytesMax) {
      return Error(Code::kCorrupt,
                   fmt::format("added token {}: a normalized text of {} bytes, expected at most {}; convert the model again", token,
                               entry.text.size(), kAddedTokenBytesMax));
    }
    if (!entry.text.empty()) normalized.push_back(std::move(entry));
  }
  added_ = std::make_unique<const AddedTokens>(std::move(plain));
  normalized_ = std::make_unique<const AddedTokens>(std::move(normalized));
  if (spec_->symbols_within) kept_ = normalized_.get();
  // The unigram model has them among its pieces.
  cut_at_symbols_ = !spec_->symbols_within || spec_->model != TokenizerModel::kUnigram;
  return Ok();
}

Result<std::vector<uint32_t>> Tokenizer::Encode(std::span<const PromptPiece> pieces, EncodeStats* stats) const {
  size_t bytes = 0;
  for (const PromptPiece& piece : pieces) bytes += piece.text.size();
  if (bytes >= kEncodeBytesMax) {
    return Error(Code::kExhausted, fmt::format("a text of {} bytes, expected fewer than {}; take it in parts", bytes, kEncodeBytesMax));
  }
  Encoding encoding(*this, bytes);
  for (const PromptPiece& piece : pieces) {
    BANTAM_TRY(encoding.Piece(piece));
  }
  BANTAM_TRY(encoding.EndPlain(/*last=*/true));
  if (stats != nullptr) *stats = encoding.stats();
  return encoding.Take();
}

Result<std::vector<uint32_t>> Tokenizer::Encode(std::string_view text, bool special) const {
  const PromptPiece piece = {std::string(text), special};
  return Encode(std::span(&piece, 1));
}

std::vector<uint32_t> Tokenizer::WithPrefix(std::vector<uint32_t> tokens) const {
  const auto& prefix = spec_->prefix;
  const auto& suffix = spec_->suffix;
  const bool begins = tokens.size() >= prefix.size() && std::equal(prefix.begin(), prefix.end(), tokens.begin());
  const bool ends = tokens.size() >= suffix.size() && std::equal(suffix.rbegin(), suffix.rend(), tokens.rbegin());
  if (!begins) tokens.insert(tokens.begin(), prefix.begin(), prefix.end());
  if (!ends) tokens.insert(tokens.end(), suffix.begin(), suffix.end());
  return tokens;
}

std::string Tokenizer::Name(uint32_t token) const {
  if (token >= size()) return {};
  const bool written = spec_->byte_level && IsMergeable(spec_->types[token], /*added_apart=*/true);
  return written ? ToByteLevel(spec_->Text(token)) : std::string(spec_->Text(token));
}

void Tokenizer::AppendRaw(uint32_t token, bool special, std::string* bytes) const {
  if (token >= size()) return;
  const std::string_view text = spec_->Text(token);
  switch (spec_->types[token]) {
    case TokenType::kNormal:
    case TokenType::kUnused:
      if (!spec_->decode.byte_level || !AppendFromByteLevel(text, bytes)) *bytes += text;
      return;
    case TokenType::kUserDefined:
      *bytes += text;
      return;
    case TokenType::kByte:
      *bytes += static_cast<char>(*FallbackByte(text));
      return;
    case TokenType::kUnknown:
      // As SentencePiece writes it, U+2047.
      *bytes += special ? std::string(text) : std::string(" \xe2\x81\x87 ");
      return;
    case TokenType::kControl:
      if (special) *bytes += text;
      return;
  }
}

// Over whole texts, not per token: behind a byte that announces a longer character the mark of a space is taken apart
// into byte tokens, and only their bytes together are the mark again.
std::string Tokenizer::Unmark(std::string_view bytes) const {
  const std::string_view mark = spec_->decode.space_mark;
  const std::string_view end = spec_->decode.word_end;
  if (mark.empty() && end.empty()) return std::string(bytes);
  std::string plain;
  plain.reserve(bytes.size());
  while (!bytes.empty()) {
    const bool at_mark = !mark.empty() && bytes.starts_with(mark);
    const bool at_end = !at_mark && !end.empty() && bytes.starts_with(end);
    plain += at_mark || at_end ? ' ' : bytes.front();
    bytes.remove_prefix(at_mark ? mark.size() : at_end ? end.size() : 1);
  }
  return plain;
}

std::string Tokenizer::Decode(std::span<const uint32_t> tokens, bool special) const {
  std::string bytes;
  for (const uint32_t token : tokens) AppendRaw(token, special, &bytes);
  bytes = Unmark(bytes);
  // The space that Encode put in front, unless the text starts with a token that takes none.
  const bool plain_start = !tokens.empty() && tokens[0] < size() && spec_->types[tokens[0]] != TokenType::kControl;
  const bool prefix_first = !tokens.empty() && spec_->bos && tokens[0] == *spec_->bos && !special;
  if (spec_->decode.strip_space && (plain_start || prefix_first) && bytes.starts_with(' ')) bytes.erase(0, 1);
  if (!spec_->decode.word_end.empty() && bytes.ends_with(' ')) bytes.pop_back();
  return spec_->decode.tidy_punctuation ? TidyPunctuation(std::move(bytes)) : bytes;
}

bool Tokenizer::EndsTurn(uint32_t token) const {
  return std::find(spec_->end_of_turn.begin(), spec_->end_of_turn.end(), token) != spec_->end_of_turn.end();
}

uint64_t Tokenizer::bytes() const {
  const auto size_of = [](const auto& list) { return list.capacity() * sizeof(list[0]); };
  return spec_->texts.capacity() + size_of(spec_->text_ends) + size_of(spec_->scores) + size_of(spec_->types) + size_of(spec_->merges) +
         size_of(byte_tokens_) + index_->bytes() + encoder_->bytes() + added_->bytes() + normalized_->bytes() + normalizer_.bytes() +
         pre_tokenizer_.bytes();
}

TokenStream::TokenStream(const Tokenizer& tokenizer, std::vector<uint32_t> written) : tokenizer_(tokenizer), written_(std::move(written)) {
  std::sort(written_.begin(), written_.end());
}

std::string TokenStream::Push(uint32_t token) {
  tokenizer_.AppendRaw(token, std::binary_search(written_.begin(), written_.end(), token), &pending_);
  const size_t complete = pending_.size() - IncompleteUtf8Tail(pending_);
  std::string text = ReplaceInvalidUtf8(tokenizer_.Unmark(std::string_view(pending_).substr(0, complete)));
  pending_.erase(0, complete);
  return text;
}

std::string TokenStream::Finish() {
  std::string text = ReplaceInvalidUtf8(pending_);
  pending_.clear();
  return text;
}

}  // namespace bantam
