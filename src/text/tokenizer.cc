#include "text/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <limits>

#include "base/bytes.h"
#include "text/spm.h"
#include "text/utf8.h"

namespace bantam {
namespace {

constexpr uint32_t kNoToken = std::numeric_limits<uint32_t>::max();
constexpr std::string_view kSpaceMark = "\xe2\x96\x81";  // U+2581

// The byte that a token text like <0x0A> stands for.
std::optional<uint8_t> ByteOf(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return std::nullopt;
  unsigned value = 0;
  for (const char digit : text.substr(3, 2)) {
    const size_t place = std::string_view("0123456789ABCDEF").find(digit);
    if (place == std::string_view::npos) return std::nullopt;
    value = value * 16 + static_cast<unsigned>(place);
  }
  return static_cast<uint8_t>(value);
}

std::string SpacesToMarks(std::string_view text) {
  std::string marked;
  marked.reserve(text.size());
  for (const char c : text) {
    if (c == ' ') {
      marked += kSpaceMark;
    } else {
      marked += c;
    }
  }
  return marked;
}

// Over whole texts, not per token: behind a byte that announces a longer character the mark of a space is taken apart
// into byte tokens, and only their bytes together are the mark again.
std::string MarksToSpaces(std::string_view text) {
  std::string plain;
  plain.reserve(text.size());
  while (!text.empty()) {
    const bool mark = text.starts_with(kSpaceMark);
    plain += mark ? ' ' : text.front();
    text.remove_prefix(mark ? kSpaceMark.size() : 1);
  }
  return plain;
}

// Whether plain text may become this token by merging: not by spelling out the name of a control or byte token.
bool IsMergeable(TokenType type) { return type == TokenType::kNormal || type == TokenType::kUserDefined || type == TokenType::kUnused; }
bool IsAdded(TokenType type) { return type == TokenType::kControl || type == TokenType::kUserDefined || type == TokenType::kUnknown; }

}  // namespace

Result<Tokenizer> Tokenizer::Make(TokenizerSpec spec, uint64_t hash_seed) {
  if (spec.size() == 0) return Error(Code::kCorrupt, "the vocabulary has no tokens; convert the model again");
  CHECK(spec.scores.size() == spec.size() && spec.types.size() == spec.size());
  Tokenizer tokenizer;
  tokenizer.spec_ = std::move(spec);
  tokenizer.hash_seed_ = hash_seed;
  tokenizer.byte_tokens_.assign(256, kNoToken);
  for (uint32_t token = 0; token < tokenizer.size(); ++token) {
    const size_t size = tokenizer.spec_.Text(token).size();
    const size_t size_max = IsAdded(tokenizer.spec_.types[token]) ? kAddedTokenBytesMax : kTokenBytesMax;
    if (size > size_max) {
      return Error(Code::kCorrupt,
                   fmt::format("token {}: a text of {} bytes, expected at most {}; convert the model again", token, size, size_max));
    }
    tokenizer.longest_token_ = std::max(tokenizer.longest_token_, size);
    if (tokenizer.spec_.types[token] != TokenType::kByte) continue;
    const auto byte = ByteOf(tokenizer.spec_.Text(token));
    if (!byte) {
      return Error(Code::kCorrupt,
                   fmt::format("token {}: typed as a byte, but its text is not of the form <0x0A>; convert the model again", token));
    }
    tokenizer.byte_tokens_[*byte] = token;
  }
  const auto& bytes = tokenizer.byte_tokens_;
  if (!tokenizer.spec_.unknown && std::find(bytes.begin(), bytes.end(), kNoToken) != bytes.end()) {
    return Error(Code::kCorrupt, "the vocabulary has neither a token for every byte nor an unknown token; convert the model again");
  }
  tokenizer.BuildIndex();
  tokenizer.BuildAdded();
  return tokenizer;
}

// Eight bytes at a time through a 128-bit product, from a seed that the vocabulary's author does not know: texts that
// collide for one process do not for the next.
uint64_t Tokenizer::HashOf(std::string_view text) const {
  __extension__ using Wide = unsigned __int128;
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15ULL;
  uint64_t hash = hash_seed_ ^ (text.size() * kOdd);
  const auto mix = [&](uint64_t word) {
    const auto product = static_cast<Wide>(hash ^ word) * (hash_seed_ | 1);
    hash = (static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64)) + kOdd;
  };
  for (; text.size() >= 8; text.remove_prefix(8)) mix(LoadUnaligned<uint64_t>(text.data()));
  uint64_t rest = 0;
  for (const char c : text) rest = rest << 8 | static_cast<unsigned char>(c);
  mix(rest);
  return hash ^ (hash >> 32);
}

void Tokenizer::BuildIndex() {
  index_.assign(std::bit_ceil(2 * size()), 0);
  for (uint32_t token = 0; token < size(); ++token) {
    const std::string_view text = spec_.Text(token);
    if (!IsMergeable(spec_.types[token]) || text.empty()) continue;
    size_t slot = HashOf(text) & (index_.size() - 1);
    // Of tokens with one text the last counts, as in other readers.
    while (index_[slot] != 0 && spec_.Text(index_[slot] - 1) != text) slot = (slot + 1) & (index_.size() - 1);
    index_[slot] = token + 1;
    for (size_t at = text.find(kSpaceMark); at != std::string_view::npos; at = text.find(kSpaceMark, at + 1)) {
      if (at > 0 && !text.substr(0, at).ends_with(kSpaceMark)) words_are_apart_ = false;
    }
  }
}

void Tokenizer::BuildAdded() {
  for (uint32_t token = 0; token < size(); ++token) {
    if (IsAdded(spec_.types[token]) && !spec_.Text(token).empty()) added_.push_back(token);
  }
  std::sort(added_.begin(), added_.end(),
            [&](uint32_t a, uint32_t b) { return spec_.Text(a) != spec_.Text(b) ? spec_.Text(a) < spec_.Text(b) : a < b; });
}

std::optional<uint32_t> Tokenizer::Find(std::string_view text) const {
  for (size_t slot = HashOf(text) & (index_.size() - 1); index_[slot] != 0; slot = (slot + 1) & (index_.size() - 1)) {
    if (spec_.Text(index_[slot] - 1) == text) return index_[slot] - 1;
  }
  return std::nullopt;
}

std::optional<uint32_t> Tokenizer::MatchAdded(std::string_view text, bool trusted) const {
  std::optional<uint32_t> longest;
  auto begin = added_.begin();
  auto end = added_.end();
  // All in [begin, end) start with the first `depth` bytes of the text; one more byte narrows the range.
  for (size_t depth = 0; depth < text.size() && begin != end; ++depth) {
    const auto byte_of = [&](uint32_t token) {
      return spec_.Text(token).size() > depth ? static_cast<int>(static_cast<unsigned char>(spec_.Text(token)[depth])) : -1;
    };
    const int byte = static_cast<unsigned char>(text[depth]);
    begin = std::lower_bound(begin, end, byte, [&](uint32_t token, int wanted) { return byte_of(token) < wanted; });
    end = std::upper_bound(begin, end, byte, [&](int wanted, uint32_t token) { return wanted < byte_of(token); });
    for (auto at = begin; at != end && spec_.Text(*at).size() == depth + 1; ++at) {
      if (trusted || spec_.types[*at] == TokenType::kUserDefined) {
        longest = *at;
        break;
      }
    }
  }
  return longest;
}

std::vector<Tokenizer::Fragment> Tokenizer::Split(std::span<const PromptPiece> pieces) const {
  std::vector<Fragment> fragments;
  std::string plain;
  const auto end_plain = [&] {
    if (!plain.empty()) fragments.push_back({std::move(plain), std::nullopt});
    plain.clear();
  };
  for (const PromptPiece& piece : pieces) {
    for (size_t at = 0; at < piece.text.size();) {
      const auto token = MatchAdded(std::string_view(piece.text).substr(at), piece.trusted);
      if (token) {
        end_plain();
        fragments.push_back({{}, token});
        at += spec_.Text(*token).size();
      } else {
        plain += piece.text[at++];
      }
    }
  }
  end_plain();
  return fragments;
}

void Tokenizer::EncodePlain(std::string_view text, std::vector<uint32_t>* tokens) const {
  // Where no piece reaches across, every word (its spaces first) is merged on its own: the same result in less memory.
  while (words_are_apart_ && !text.empty()) {
    size_t end = 0;
    while (text.substr(end).starts_with(kSpaceMark)) end += kSpaceMark.size();
    end = std::min(text.find(kSpaceMark, end), text.size());
    EncodeWord(text.substr(0, end), tokens);
    text.remove_prefix(end);
  }
  if (!text.empty()) EncodeWord(text, tokens);
}

void Tokenizer::EncodeWord(std::string_view text, std::vector<uint32_t>* tokens) const {
  const auto find = [&](std::string_view part) -> std::optional<SpmPiece> {
    const auto token = Find(part);
    if (!token) return std::nullopt;
    return SpmPiece{*token, spec_.scores[*token]};
  };
  MergeSpm(text, find, [&](std::string_view part, std::optional<uint32_t> token) {
    if (token) {
      tokens->push_back(*token);
      return;
    }
    for (const char c : part) {
      const uint32_t byte = byte_tokens_[static_cast<unsigned char>(c)];
      tokens->push_back(byte == kNoToken ? *spec_.unknown : byte);
    }
  });
}

std::vector<uint32_t> Tokenizer::Encode(std::span<const PromptPiece> pieces) const {
  std::vector<uint32_t> tokens;
  bool after_special = true;
  for (const Fragment& fragment : Split(pieces)) {
    if (fragment.special) {
      tokens.push_back(*fragment.special);
      after_special = true;
      continue;
    }
    // The space goes in front of the text, and of text that follows a special token.
    const bool prefix = spec_.add_space_prefix && after_special;
    EncodePlain(SpacesToMarks(prefix ? " " + fragment.text : fragment.text), &tokens);
    after_special = false;
  }
  return tokens;
}

std::vector<uint32_t> Tokenizer::Encode(std::string_view text, bool special) const {
  const PromptPiece piece = {std::string(text), special};
  return Encode(std::span(&piece, 1));
}

void Tokenizer::AppendRaw(uint32_t token, bool special, std::string* bytes) const {
  if (token >= size()) return;
  const std::string_view text = spec_.Text(token);
  switch (spec_.types[token]) {
    case TokenType::kNormal:
    case TokenType::kUserDefined:
    case TokenType::kUnused:
      *bytes += text;
      return;
    case TokenType::kByte:
      *bytes += static_cast<char>(*ByteOf(text));
      return;
    case TokenType::kUnknown:
      *bytes += special ? std::string(text) : std::string(" \xe2\x81\x87 ");
      return;
    case TokenType::kControl:
      if (special) *bytes += text;
      return;
  }
}

std::string Tokenizer::Decode(std::span<const uint32_t> tokens, bool special) const {
  std::string bytes;
  for (const uint32_t token : tokens) AppendRaw(token, special, &bytes);
  bytes = MarksToSpaces(bytes);
  // The space that Encode put in front, unless the text starts with a token that takes none.
  const bool plain_start = !tokens.empty() && tokens[0] < size() && spec_.types[tokens[0]] != TokenType::kControl;
  const bool bos_first = !tokens.empty() && spec_.bos && tokens[0] == *spec_.bos && !special;
  if (spec_.add_space_prefix && (plain_start || bos_first) && bytes.starts_with(' ')) bytes.erase(0, 1);
  return bytes;
}

bool Tokenizer::EndsTurn(uint32_t token) const {
  return std::find(spec_.end_of_turn.begin(), spec_.end_of_turn.end(), token) != spec_.end_of_turn.end();
}

uint64_t Tokenizer::bytes() const {
  const auto size_of = [](const auto& list) { return list.capacity() * sizeof(list[0]); };
  return spec_.texts.capacity() + size_of(spec_.text_ends) + size_of(spec_.scores) + size_of(spec_.types) + size_of(index_) +
         size_of(added_) + size_of(byte_tokens_);
}

std::string TokenStream::Push(uint32_t token) {
  tokenizer_.AppendRaw(token, /*special=*/false, &pending_);
  const size_t complete = pending_.size() - IncompleteUtf8Tail(pending_);
  std::string text = ReplaceInvalidUtf8(MarksToSpaces(std::string_view(pending_).substr(0, complete)));
  pending_.erase(0, complete);
  return text;
}

std::string TokenStream::Finish() {
  std::string text = ReplaceInvalidUtf8(pending_);
  pending_.clear();
  return text;
}

}  // namespace bantam
