#include "text/normalizer.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/byte_level.h"
#include "text/normal_form.h"
#include "text/unicode.h"
#include "text/utf8.h"

namespace bantam {
namespace {

constexpr size_t kStepsMax = 32;
constexpr size_t kStepTextMax = 4096;  // bytes of a pattern or a replacement
// Compatibility forms grow a text up to 11 times.
constexpr size_t kSpaceMarkBytesMax = 16;
constexpr size_t kGrowthMax = 64;
constexpr size_t kGrowthFree = 1 << 16;

// Each character through `change(code, bytes, out)`; malformed bytes stay.
template <typename Change>
std::string MapCharacters(std::string_view text, Change change) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Character character = DecodeUtf8(text, at);
    const std::string_view bytes = text.substr(at, character.size);
    if (character.malformed()) {
      out += bytes;
    } else {
      change(character.code, bytes, &out);
    }
    at += character.size;
  }
  return out;
}

std::string StripMarks(std::string_view text, PropertySet marks) {
  return MapCharacters(text, [&](char32_t code, std::string_view bytes, std::string* out) {
    if ((PropertiesOf(code) & marks) == 0) *out += bytes;
  });
}

// Control characters and U+FFFD go, white space becomes a space (the BERT tokenizer's clean_text).
std::string BertClean(std::string_view text) {
  constexpr PropertySet kControls = SetOf(Category::kCc) | SetOf(Category::kCf) | SetOf(Category::kCo);
  return MapCharacters(text, [](char32_t code, std::string_view bytes, std::string* out) {
    const bool line = code == '\t' || code == '\n' || code == '\r';
    const PropertySet properties = PropertiesOf(code);
    if (line || ((properties & kWhiteSpace) != 0 && (properties & kControls) == 0)) {
      *out += ' ';
    } else if (code != 0 && code != kReplacementCharacter && (properties & kControls) == 0) {
      *out += bytes;
    }
  });
}

// The ranges of the BERT tokenizer, which takes the block of extension E from 2B920 on.
bool IsIdeograph(char32_t code) {
  constexpr char32_t kRanges[][2] = {{0x4e00, 0x9fff},   {0x3400, 0x4dbf},   {0x20000, 0x2a6df}, {0x2a700, 0x2b73f},
                                     {0x2b740, 0x2b81f}, {0x2b920, 0x2ceaf}, {0xf900, 0xfaff},   {0x2f800, 0x2fa1f}};
  return std::any_of(std::begin(kRanges), std::end(kRanges), [&](const auto& range) { return code >= range[0] && code <= range[1]; });
}

std::string SpaceIdeographs(std::string_view text) {
  return MapCharacters(text, [](char32_t code, std::string_view bytes, std::string* out) {
    const bool apart = IsIdeograph(code);
    if (apart) *out += ' ';
    *out += bytes;
    if (apart) *out += ' ';
  });
}

// The rules of NMT in SentencePiece, which are not part of a normalization form.
std::string CleanNmt(std::string_view text) {
  return MapCharacters(text, [](char32_t code, std::string_view bytes, std::string* out) {
    const bool dropped =
        (code >= 1 && code <= 8) || code == 0xb || (code >= 0xe && code <= 0x1f) || code == 0x7f || code == 0x8f || code == 0x9f;
    const bool space = code == 9 || code == 0xa || code == 0xc || code == 0xd || code == 0x1680 || (code >= 0x200b && code <= 0x200f) ||
                       code == 0x2028 || code == 0x2029 || code == 0x2581 || code == 0xfeff || code == 0xfffd;
    if (space) {
      *out += ' ';
    } else if (!dropped) {
      *out += bytes;
    }
  });
}

Status ReplaceMatches(const NormalizerStep& step, const Matcher& matcher, size_t size_max, MatchWork* work, std::string* text) {
  std::string copy;
  const std::string_view searched = matcher.Prepare(*text, &copy);
  std::string out;
  size_t at = 0;
  work->failed = {};
  for (TextSpan match = {}; matcher.Find(searched, at, work, &match); at = match.end) {
    out += std::string_view(*text).substr(at, match.begin - at);
    out += step.with;
    if (out.size() > size_max) break;
  }
  if (work->exhausted) {
    return Error(Code::kExhausted, fmt::format("the normalizer's pattern {} takes too long on this text", step.pattern));
  }
  out += std::string_view(*text).substr(at);
  *text = std::move(out);
  return Ok();
}

// What grows past `size_max` is cut off there: it is refused as too large.
std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to, size_t size_max) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0;;) {
    const size_t found = text.find(from, at);
    out += text.substr(at, found - at);
    if (found == std::string_view::npos || out.size() > size_max) return out;
    out += to;
    at = found + from.size();
  }
}

// At each place what is kept comes first, then the longest replacement, which may take the beginning of something to keep along.
std::string ApplyMap(const Charsmap& map, const AddedTokens* keep, std::string_view text, size_t size_max) {
  if (keep == nullptr || keep->empty()) return map.Apply(text, size_max);
  std::string out;
  AddedTokens::Hit hit = {};
  bool more = keep->Find(text, 0, /*trusted=*/true, &hit);
  for (size_t at = 0; at < text.size() && out.size() <= size_max;) {
    if (more && hit.begin < at) more = keep->Find(text, at, /*trusted=*/true, &hit);
    if (more && hit.begin == at) {
      out += text.substr(at, hit.end - at);
      at = hit.end;
    } else {
      at = map.Step(text, at, &out);
    }
  }
  return out;
}

// Spaces as SentencePiece treats them behind its map of characters (its normalizer.cc describes the order).
std::string SentencePieceSpaces(const NormalizerStep& step, TextPlace place, std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  const std::string_view mark = step.with.empty() ? std::string_view(" ") : std::string_view(step.with);
  const bool begins = place.first || !step.whole_text;
  const bool ends = place.last || !step.whole_text;
  const bool add_front = step.add_space && begins && !step.space_as_suffix;
  bool pending = false;  // collapsed spaces that count once something follows
  for (const char c : text) {
    if (c == ' ' && step.collapse_spaces) {
      pending = !out.empty() || !begins;
      continue;
    }
    if (out.empty() && add_front) out += mark;
    if (pending) out += mark;
    pending = false;
    if (c == ' ') {
      out += mark;
    } else {
      out += c;
    }
  }
  if (pending && !ends) out += mark;
  const bool any = !out.empty();
  // Marks that were written as such count as spaces at the end, and nowhere else.
  while (step.collapse_spaces && step.whole_text && ends && out.ends_with(mark)) out.resize(out.size() - mark.size());
  if (any && step.add_space && ends && step.space_as_suffix) out += mark;
  return out;
}

}  // namespace

std::string Lowercase(std::string_view text) {
  return MapCharacters(text, [](char32_t code, std::string_view, std::string* out) { AppendLower(code, out); });
}

Result<Normalizer> Normalizer::Make(std::span<const NormalizerStep> steps) {
  Normalizer normalizer;
  if (steps.size() > kStepsMax) {
    return Error(Code::kUnsupported, fmt::format("the normalizer has {} steps, expected at most {}", steps.size(), kStepsMax));
  }
  for (const NormalizerStep& step : steps) {
    Prepared prepared;
    const bool map = step.kind == NormalizerStep::Kind::kCharsmap;
    if (step.with.size() > kStepTextMax || (!map && step.pattern.size() > kStepTextMax)) {
      return Error(Code::kUnsupported, fmt::format("a normalizer step with a text of more than {} bytes", kStepTextMax));
    }
    prepared.step = step;
    if (map) {
      BANTAM_ASSIGN(Charsmap charsmap, Charsmap::Parse(step.pattern));
      prepared.map = std::make_unique<const Charsmap>(std::move(charsmap));
      prepared.step.pattern.clear();
      prepared.step.pattern.shrink_to_fit();
    } else if (step.kind == NormalizerStep::Kind::kReplaceRegex) {
      BANTAM_ASSIGN(prepared.matcher, CompileMatcher(step.pattern));
    } else if (step.kind == NormalizerStep::Kind::kSentencePiece && step.with.size() > kSpaceMarkBytesMax) {
      return Error(Code::kCorrupt, fmt::format("a normalizer step marks spaces with {} bytes, expected at most {}; convert the model again",
                                               step.with.size(), kSpaceMarkBytesMax));
    } else if (step.kind == NormalizerStep::Kind::kReplace && step.pattern.empty()) {
      return Error(Code::kCorrupt, "a normalizer step replaces nothing (an empty pattern); convert the model again");
    }
    normalizer.steps_.push_back(std::move(prepared));
  }
  return normalizer;
}

Status Normalizer::Apply(TextPlace place, const AddedTokens* keep, MatchWork* work, std::string* text) const {
  const size_t size_max = kGrowthMax * text->size() + kGrowthFree;
  for (const Prepared& prepared : steps_) {
    BANTAM_TRY(ApplyOne(prepared, place, keep, {size_max, work}, text));
    if (text->size() > size_max) {
      return Error(Code::kExhausted,
                   fmt::format("the vocabulary's normalizer makes more than {} bytes of a text; convert the model again", size_max));
    }
  }
  return Ok();
}

Status Normalizer::ApplyOne(const Prepared& prepared, TextPlace place, const AddedTokens* keep, Limits limits, std::string* text) {
  const NormalizerStep& step = prepared.step;
  switch (step.kind) {
    case NormalizerStep::Kind::kNfc:
      *text = ToNormalForm(*text, NormalForm::kNfc);
      break;
    case NormalizerStep::Kind::kNfd:
      *text = ToNormalForm(*text, NormalForm::kNfd);
      break;
    case NormalizerStep::Kind::kNfkc:
      *text = ToNormalForm(*text, NormalForm::kNfkc);
      break;
    case NormalizerStep::Kind::kNfkd:
      *text = ToNormalForm(*text, NormalForm::kNfkd);
      break;
    case NormalizerStep::Kind::kLowercase:
      *text = Lowercase(*text);
      break;
    case NormalizerStep::Kind::kStripMarks:
      *text = StripMarks(*text, kMark);
      break;
    case NormalizerStep::Kind::kStripAccents:
      *text = StripMarks(*text, SetOf(Category::kMn));
      break;
    case NormalizerStep::Kind::kStripLeft:
      text->erase(0, SkipWhiteSpace(*text, 0));
      break;
    case NormalizerStep::Kind::kStripRight:
      text->resize(SizeWithoutTrailingSpace(*text));
      break;
    case NormalizerStep::Kind::kPrepend:
      if (!text->empty() && (place.first || !step.whole_text)) text->insert(0, step.with);
      break;
    case NormalizerStep::Kind::kReplace:
      *text = ReplaceAll(*text, step.pattern, step.with, limits.size_max);
      break;
    case NormalizerStep::Kind::kReplaceRegex:
      return ReplaceMatches(step, *prepared.matcher, limits.size_max, limits.work, text);
    case NormalizerStep::Kind::kBertClean:
      *text = BertClean(*text);
      break;
    case NormalizerStep::Kind::kBertIdeographs:
      *text = SpaceIdeographs(*text);
      break;
    case NormalizerStep::Kind::kNmt:
      *text = CleanNmt(*text);
      break;
    case NormalizerStep::Kind::kCharsmap:
      *text = ApplyMap(*prepared.map, keep, *text, limits.size_max);
      break;
    case NormalizerStep::Kind::kByteLevel:
      *text = ToByteLevel(*text);
      break;
    case NormalizerStep::Kind::kSentencePiece:
      *text = SentencePieceSpaces(step, place, *text);
      break;
  }
  return Ok();
}

uint64_t Normalizer::bytes() const {
  uint64_t total = steps_.capacity() * sizeof(Prepared);
  for (const Prepared& prepared : steps_) {
    if (prepared.map) total += prepared.map->bytes();
    if (prepared.matcher) total += prepared.matcher->bytes();
  }
  return total;
}

}  // namespace bantam
