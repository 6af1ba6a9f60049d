#include "text/tokenizer_bytes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/bytes.h"

namespace bantam {
namespace {

constexpr uint32_t kVersion = 1;
// Far above those of any vocabulary; what has fewer of its own is refused by whoever uses it.
constexpr size_t kStepsMax = 64;
constexpr size_t kEndsMax = 256;  // tokens that end a turn, that a text begins with, and the like
constexpr auto kModelLast = TokenizerModel::kWordLevel;
constexpr auto kNormalizerLast = NormalizerStep::Kind::kByteLevel;
constexpr auto kSplitLast = SplitStep::Kind::kMetaspace;
constexpr auto kBehaviorLast = SplitStep::Behavior::kContiguous;
constexpr auto kPrefixLast = SplitStep::Prefix::kAlways;
constexpr auto kTypeLast = TokenType::kByte;

// The flags of each field, from bit 0 on: what is written and what is read cannot differ.
template <typename Spec, typename Visit>
void SpecFlags(Spec& spec, const Visit& visit) {
  for (auto* flag : {&spec.byte_level, &spec.added_apart, &spec.symbols_within, &spec.added_listed, &spec.ignore_merges,
                     &spec.byte_fallback, &spec.single_precision, &spec.fuse_unknown, &spec.pieces_anywhere})
    visit(flag);
}
template <typename Added, typename Visit>
void AddedFlags(Added& added, const Visit& visit) {
  for (auto* flag : {&added.strip_left, &added.strip_right, &added.whole_word, &added.normalized}) visit(flag);
}
template <typename Step, typename Visit>
void NormalizerFlags(Step& step, const Visit& visit) {
  for (auto* flag : {&step.collapse_spaces, &step.space_as_suffix, &step.add_space, &step.whole_text}) visit(flag);
}
template <typename Step, typename Visit>
void SplitFlags(Step& step, const Visit& visit) {
  for (auto* flag : {&step.invert, &step.split}) visit(flag);
}
template <typename Style, typename Visit>
void DecodeFlags(Style& style, const Visit& visit) {
  for (auto* flag : {&style.strip_space, &style.byte_level, &style.tidy_punctuation}) visit(flag);
}

class Writer {
 public:
  void U32(uint64_t value) { AppendLittleEndian(&bytes_, static_cast<uint32_t>(value)); }
  void U64(uint64_t value) { AppendLittleEndian(&bytes_, value); }
  template <typename Kind>
  void Number(Kind kind) {
    U32(static_cast<uint32_t>(kind));
  }
  void Text(std::string_view text) {
    U32(text.size());
    bytes_ += text;
  }
  // Elements that are stored as they are in memory.
  template <typename Element>
  void List(const std::vector<Element>& list) {
    U32(list.size());
    bytes_ += AsText(std::as_bytes(std::span(list)));
  }
  template <typename Each, typename Owner>
  void Flags(const Each& each, const Owner& owner) {
    uint32_t bits = 0;
    int at = 0;
    each(owner, [&](const bool* flag) { bits |= static_cast<uint32_t>(*flag) << at++; });
    U32(bits);
  }
  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

void PutSteps(const TokenizerSpec& spec, Writer* out) {
  out->U32(spec.added.size());
  for (const AddedToken& added : spec.added) {
    out->U32(added.token);
    out->Flags([](auto& owner, const auto& visit) { AddedFlags(owner, visit); }, added);
  }
  out->U32(spec.normalizer.size());
  for (const NormalizerStep& step : spec.normalizer) {
    out->Number(step.kind);
    out->Flags([](auto& owner, const auto& visit) { NormalizerFlags(owner, visit); }, step);
    out->Text(step.pattern);
    out->Text(step.with);
  }
  out->U32(spec.splits.size());
  for (const SplitStep& step : spec.splits) {
    out->Number(step.kind);
    out->Number(step.behavior);
    out->Number(step.prefix);
    out->Flags([](auto& owner, const auto& visit) { SplitFlags(owner, visit); }, step);
    out->Text(step.pattern);
    out->Text(step.mark);
  }
}

Error TooMany(std::string_view what, size_t count, size_t count_max) {
  return Error(Code::kCorrupt, fmt::format("{}: {} entries or bytes, expected at most {}; the file is damaged", what, count, count_max));
}

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : reader_(bytes) {}

  Result<uint32_t> U32(std::string_view what) { return reader_.Read<uint32_t>(what); }
  Result<uint64_t> U64(std::string_view what) { return reader_.Read<uint64_t>(what); }
  Status Text(std::string_view what, std::string* text, size_t size_max = kCharsmapBytesMax) {
    BANTAM_ASSIGN(const uint32_t size, U32(what));
    if (size > size_max) return TooMany(what, size, size_max);
    BANTAM_ASSIGN(const auto bytes, reader_.Take(size, what));
    *text = AsText(bytes);
    return Ok();
  }
  // A count of things that take at least so many bytes each: what is reserved for them is bounded by what is there.
  Result<size_t> Count(std::string_view what, size_t bytes_each, size_t count_max) {
    BANTAM_ASSIGN(const uint32_t count, U32(what));
    if (count > count_max) return TooMany(what, count, count_max);
    if (count <= reader_.remaining() / bytes_each) return size_t{count};
    return Error(Code::kCorrupt,
                 fmt::format("{}: {} entries, and {} bytes are left; the file is damaged", what, count, reader_.remaining()));
  }
  template <typename Element>
  Status List(std::string_view what, std::vector<Element>* list, size_t count_max = kVocabularyMax) {
    BANTAM_ASSIGN(const size_t count, Count(what, sizeof(Element), count_max));
    BANTAM_ASSIGN(const auto bytes, reader_.Take(count * sizeof(Element), what));
    list->resize(count);
    if (count != 0) std::memcpy(list->data(), bytes.data(), bytes.size());
    return Ok();
  }
  template <typename Kind>
  Status Number(std::string_view what, Kind last, Kind* kind) {
    BANTAM_ASSIGN(const uint32_t number, U32(what));
    if (number > static_cast<uint32_t>(last)) {
      return Error(Code::kCorrupt, fmt::format("{}: {}, expected at most {}; the file is damaged or newer than this program", what, number,
                                               static_cast<uint32_t>(last)));
    }
    *kind = static_cast<Kind>(number);
    return Ok();
  }
  template <typename Each, typename Owner>
  Status Flags(std::string_view what, const Each& each, Owner* owner) {
    BANTAM_ASSIGN(const uint32_t bits, U32(what));
    int at = 0;
    each(*owner, [&](bool* flag) { *flag = (bits >> at++ & 1) != 0; });
    if (bits >> at != 0) {
      return Error(Code::kCorrupt,
                   fmt::format("{}: flags {:#x} that are not known; the file is damaged or newer than this program", what, bits));
    }
    return Ok();
  }
  Status End() const {
    if (reader_.remaining() == 0) return Ok();
    return Error(Code::kCorrupt, fmt::format("{} bytes behind the vocabulary; the file is damaged", reader_.remaining()));
  }

 private:
  ByteReader reader_;
};

Status ReadSteps(Reader& in, TokenizerSpec* spec) {
  BANTAM_ASSIGN(const size_t added, in.Count("added", /*bytes_each=*/8, kVocabularyMax));
  for (size_t i = 0; i < added; ++i) {
    AddedToken token = {};
    BANTAM_ASSIGN(token.token, in.U32("added"));
    BANTAM_TRY(in.Flags(
        "added", [](auto& owner, const auto& visit) { AddedFlags(owner, visit); }, &token));
    spec->added.push_back(token);
  }
  BANTAM_ASSIGN(const size_t steps, in.Count("normalizer", /*bytes_each=*/16, kStepsMax));
  for (size_t i = 0; i < steps; ++i) {
    NormalizerStep step = {};
    BANTAM_TRY(in.Number("normalizer", kNormalizerLast, &step.kind));
    BANTAM_TRY(in.Flags(
        "normalizer", [](auto& owner, const auto& visit) { NormalizerFlags(owner, visit); }, &step));
    BANTAM_TRY(in.Text("normalizer", &step.pattern));
    BANTAM_TRY(in.Text("normalizer", &step.with));
    spec->normalizer.push_back(std::move(step));
  }
  BANTAM_ASSIGN(const size_t splits, in.Count("splits", /*bytes_each=*/24, kStepsMax));
  for (size_t i = 0; i < splits; ++i) {
    SplitStep step = {};
    BANTAM_TRY(in.Number("splits", kSplitLast, &step.kind));
    BANTAM_TRY(in.Number("splits", kBehaviorLast, &step.behavior));
    BANTAM_TRY(in.Number("splits", kPrefixLast, &step.prefix));
    BANTAM_TRY(in.Flags(
        "splits", [](auto& owner, const auto& visit) { SplitFlags(owner, visit); }, &step));
    BANTAM_TRY(in.Text("splits", &step.pattern));
    BANTAM_TRY(in.Text("splits", &step.mark));
    spec->splits.push_back(std::move(step));
  }
  return Ok();
}

Error Contradiction(std::string_view what) {
  return Error(Code::kCorrupt, fmt::format("the vocabulary's {}; the file is damaged, fetch it again", what));
}

// Lists against each other, and ids against the number of tokens.
Status CheckLists(const TokenizerSpec& spec) {
  const size_t size = spec.size();
  if (size == 0 || size > kVocabularyMax) return Contradiction(fmt::format("{} tokens are none, or more than {}", size, kVocabularyMax));
  if (spec.texts.size() > kVocabularyTextMax) return Contradiction(fmt::format("texts are longer than {} bytes", kVocabularyTextMax));
  if (!std::is_sorted(spec.text_ends.begin(), spec.text_ends.end()) || spec.text_ends.back() != spec.texts.size()) {
    return Contradiction("texts do not end where they should");
  }
  if (spec.types.size() != size || (!spec.scores.empty() && spec.scores.size() != size)) {
    return Contradiction("types and scores are not as many as its tokens");
  }
  const auto known_type = [](TokenType type) { return type <= kTypeLast; };
  if (!std::all_of(spec.types.begin(), spec.types.end(), known_type)) return Contradiction("types are outside their list");
  const auto finite = [](double score) { return std::fabs(score) <= kScoreMax; };
  if (!std::all_of(spec.scores.begin(), spec.scores.end(), finite)) return Contradiction("scores are no finite numbers");
  const auto known = [&](uint32_t id) { return id < size; };
  const auto all_known = [&](const auto& ids) { return std::all_of(ids.begin(), ids.end(), known); };
  const bool merges_known = std::all_of(spec.merges.begin(), spec.merges.end(),
                                        [&](const Merge& merge) { return known(merge.left) && known(merge.right) && known(merge.joined); });
  const bool added_known = std::all_of(spec.added.begin(), spec.added.end(), [&](const AddedToken& added) { return known(added.token); });
  const bool ends_known = all_known(spec.end_of_turn) && all_known(spec.prefix) && all_known(spec.suffix) && all_known(spec.between);
  if (!merges_known || !added_known || !ends_known) {
    return Contradiction("lists name tokens that it has not");
  }
  for (const auto& id : {spec.bos, spec.eos, spec.unknown, spec.pad}) {
    if (id && !known(*id)) return Contradiction("special tokens are none of its own");
  }
  return Ok();
}

// The version, and the names behind it.
Result<TemplateTokens> ReadNames(Reader& in) {
  BANTAM_ASSIGN(const uint32_t version, in.U32("version"));
  if (version != kVersion) {
    return Error(Code::kUnsupported, fmt::format("a vocabulary of version {}, expected {}; update this program", version, kVersion));
  }
  TemplateTokens names;
  for (std::string* name : {&names.bos, &names.eos, &names.unknown, &names.pad}) BANTAM_TRY(in.Text("names", name, kTokenBytesMax));
  return names;
}

static_assert(sizeof(Merge) == 3 * sizeof(uint32_t) && sizeof(TokenType) == 1, "these lists are stored as they are in memory");

}  // namespace

std::string EncodeTokenizer(const StoredTokenizer& tokenizer) {
  const TokenizerSpec& spec = tokenizer.spec;
  Writer out;
  out.U32(kVersion);
  for (const std::string* name : {&tokenizer.names.bos, &tokenizer.names.eos, &tokenizer.names.unknown, &tokenizer.names.pad}) {
    out.Text(*name);
  }
  out.Number(spec.model);
  out.Flags([](auto& owner, const auto& visit) { SpecFlags(owner, visit); }, spec);
  out.U64(spec.word_characters_max);
  out.Text(spec.word_end);
  out.Text(spec.word_inside);
  out.Text(spec.texts);
  out.List(spec.text_ends);
  out.List(spec.types);
  out.List(spec.scores);
  out.List(spec.merges);
  PutSteps(spec, &out);
  out.Flags([](auto& owner, const auto& visit) { DecodeFlags(owner, visit); }, spec.decode);
  out.Text(spec.decode.space_mark);
  out.Text(spec.decode.word_end);
  for (const auto& id : {spec.bos, spec.eos, spec.unknown, spec.pad}) out.U32(id.value_or(kNoToken));
  out.List(spec.end_of_turn);
  out.List(spec.prefix);
  out.List(spec.suffix);
  out.List(spec.between);
  return out.Take();
}

Result<StoredTokenizer> DecodeTokenizer(std::span<const std::byte> bytes) {
  StoredTokenizer tokenizer;
  TokenizerSpec& spec = tokenizer.spec;
  Reader in(bytes);
  BANTAM_ASSIGN(tokenizer.names, ReadNames(in));
  BANTAM_TRY(in.Number("model", kModelLast, &spec.model));
  BANTAM_TRY(in.Flags(
      "flags", [](auto& owner, const auto& visit) { SpecFlags(owner, visit); }, &spec));
  BANTAM_ASSIGN(spec.word_characters_max, in.U64("word_characters_max"));
  BANTAM_TRY(in.Text("word_end", &spec.word_end));
  BANTAM_TRY(in.Text("word_inside", &spec.word_inside));
  BANTAM_TRY(in.Text("texts", &spec.texts, kVocabularyTextMax));
  BANTAM_TRY(in.List("text_ends", &spec.text_ends));
  BANTAM_TRY(in.List("types", &spec.types));
  BANTAM_TRY(in.List("scores", &spec.scores));
  BANTAM_TRY(in.List("merges", &spec.merges, kMergesMax));
  BANTAM_TRY(ReadSteps(in, &spec));
  BANTAM_TRY(in.Flags(
      "decode", [](auto& owner, const auto& visit) { DecodeFlags(owner, visit); }, &spec.decode));
  BANTAM_TRY(in.Text("space_mark", &spec.decode.space_mark));
  BANTAM_TRY(in.Text("word_end", &spec.decode.word_end));
  for (std::optional<uint32_t>* id : {&spec.bos, &spec.eos, &spec.unknown, &spec.pad}) {
    BANTAM_ASSIGN(const uint32_t stored, in.U32("special tokens"));
    if (stored != kNoToken) *id = stored;
  }
  BANTAM_TRY(in.List("end_of_turn", &spec.end_of_turn, kEndsMax));
  BANTAM_TRY(in.List("prefix", &spec.prefix, kEndsMax));
  BANTAM_TRY(in.List("suffix", &spec.suffix, kEndsMax));
  BANTAM_TRY(in.List("between", &spec.between, kEndsMax));
  BANTAM_TRY(in.End());
  BANTAM_TRY(CheckLists(spec));
  return tokenizer;
}

Result<TemplateTokens> DecodeTokenizerNames(std::span<const std::byte> bytes) {
  Reader in(bytes);
  return ReadNames(in);
}

}  // namespace bantam
