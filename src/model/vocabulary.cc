#include "model/vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include "base/json.h"
#include "text/pre_tokenizers.h"
#include "text/sentencepiece_model.h"
#include "text/spec_builder.h"
#include "text/tokenizer_json.h"

namespace bantam {
namespace {

// HF's WordPiece: longer words are unknown.
constexpr size_t kWordPieceCharactersMax = 100;

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

// Tokens that the file does not say to be, or not to be, in front of a text and behind it.
struct Ends {
  bool bos = false;
  bool eos = false;
  bool separator = false;
};

Status ReadSpecials(const Metadata& metadata, Ends ends, TokenizerSpec* spec) {
  const size_t size = spec->size();
  BANTAM_ASSIGN(spec->bos, ReadId(metadata, "tokenizer.ggml.bos_token_id", size));
  BANTAM_ASSIGN(spec->eos, ReadId(metadata, "tokenizer.ggml.eos_token_id", size));
  BANTAM_ASSIGN(spec->unknown, ReadId(metadata, "tokenizer.ggml.unknown_token_id", size));
  BANTAM_ASSIGN(spec->pad, ReadId(metadata, "tokenizer.ggml.padding_token_id", size));
  // Written so in the format's own key.
  BANTAM_ASSIGN(const auto separator, ReadId(metadata, "tokenizer.ggml.seperator_token_id", size));
  BANTAM_ASSIGN(const auto classifier, ReadId(metadata, "tokenizer.ggml.cls_token_id", size));
  BANTAM_ASSIGN(const auto end_of_turn, ReadId(metadata, "tokenizer.ggml.eot_token_id", size));
  BANTAM_ASSIGN(const auto end_of_message, ReadId(metadata, "tokenizer.ggml.eom_token_id", size));
  BANTAM_ASSIGN(const auto add_bos, metadata.Bool("tokenizer.ggml.add_bos_token"));
  BANTAM_ASSIGN(const auto add_eos, metadata.Bool("tokenizer.ggml.add_eos_token"));
  BANTAM_ASSIGN(const auto add_separator, metadata.Bool("tokenizer.ggml.add_sep_token"));
  if (spec->model == TokenizerModel::kWordPiece && !spec->bos) spec->bos = classifier;
  if (add_bos.value_or(ends.bos) && spec->bos) spec->prefix.push_back(*spec->bos);
  if (add_eos.value_or(ends.eos) && spec->eos) spec->suffix.push_back(*spec->eos);
  const bool separated = add_separator.value_or(ends.separator) && separator;
  if (spec->suffix.empty() && separated) {
    spec->suffix.push_back(*separator);
    spec->between = spec->suffix;
  } else {
    spec->between = spec->suffix;
    if (separated) spec->between.push_back(*separator);
  }
  if (end_of_turn) spec->end_of_turn.push_back(*end_of_turn);
  if (end_of_message) spec->end_of_turn.push_back(*end_of_message);
  FindTurnEnds(spec);
  return Ok();
}

Status ReadTokens(const Metadata& metadata, bool scored, TokenizerSpec* spec) {
  BANTAM_ASSIGN(const auto texts, metadata.Texts("tokenizer.ggml.tokens", kVocabularyMax));
  BANTAM_ASSIGN(const auto scores, metadata.Numbers("tokenizer.ggml.scores", kVocabularyMax));
  BANTAM_ASSIGN(const auto types, metadata.Numbers("tokenizer.ggml.token_type", kVocabularyMax));
  const bool types_fit = types ? texts && types->size() == texts->size() : !scored;
  if (!texts || !types_fit || (scored && (!scores || scores->size() != texts->size()))) {
    return Error(Code::kCorrupt, fmt::format("tokenizer.ggml.tokens, .scores and .token_type have {}, {} and {} entries: expected the same "
                                             "number in each; convert the model again",
                                             texts ? texts->size() : 0, scores ? scores->size() : 0, types ? types->size() : 0));
  }
  spec->text_ends.reserve(texts->size());
  spec->types.reserve(texts->size());
  if (scored) spec->scores.reserve(texts->size());
  size_t total = 0;
  for (const std::string_view text : *texts) total += text.size();
  spec->texts.reserve(std::min(total, kVocabularyTextMax));
  for (size_t i = 0; i < texts->size(); ++i) {
    const double score = scored ? (*scores)[i] : 0;
    if (!(std::fabs(score) <= kScoreMax)) {
      return Error(Code::kCorrupt, fmt::format("token {}: score {}, expected a finite number; convert the model again", i, (*scores)[i]));
    }
    TokenType type = TokenType::kNormal;
    if (types) {
      BANTAM_ASSIGN(type, TypeOf((*types)[i], i));
    }
    BANTAM_TRY(AddToken((*texts)[i], type, score, spec));
  }
  return Ok();
}

Status ReadMerges(const Metadata& metadata, TokenizerSpec* spec) {
  BANTAM_ASSIGN(const auto lines, metadata.Texts("tokenizer.ggml.merges", kMergesMax));
  if (!lines) return Error(Code::kCorrupt, "tokenizer.ggml.merges is missing, which this kind of tokenizer needs; convert the model again");
  std::vector<std::pair<std::string_view, std::string_view>> merges;
  merges.reserve(lines->size());
  for (size_t rank = 0; rank < lines->size(); ++rank) {
    const std::string_view line = (*lines)[rank];
    // A space at the very front belongs to the first part.
    const size_t space = line.find(' ', 1);
    if (space == std::string_view::npos) {
      return Error(
          Code::kCorrupt,
          fmt::format("tokenizer.ggml.merges, entry {}: expected two texts with a space between them; convert the model again", rank));
    }
    merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  SetMerges(merges, /*continuation=*/"", spec);
  return Ok();
}

NormalizerStep MarkSpaces() { return {NormalizerStep::Kind::kReplace, " ", std::string(kSpaceMark)}; }

// SentencePiece-BPE (tokenizer model "llama").
Result<TokenizerSpec> ReadSpm(const Metadata& metadata) {
  TokenizerSpec spec;
  BANTAM_TRY(ReadTokens(metadata, /*scored=*/true, &spec));
  BANTAM_TRY(ReadSpecials(metadata, {/*bos=*/true, /*eos=*/false, /*separator=*/false}, &spec));
  BANTAM_ASSIGN(const auto add_space, metadata.Bool("tokenizer.ggml.add_space_prefix"));
  if (add_space.value_or(true)) spec.normalizer.push_back({NormalizerStep::Kind::kPrepend, "", " "});
  spec.normalizer.push_back(MarkSpaces());
  spec.decode.space_mark = kSpaceMark;
  spec.decode.strip_space = add_space.value_or(true);
  return spec;
}

// Phi-3's own tokens take the white space behind them along, which the format cannot say: its name decides, as in other readers.
Status FixPhi3(const Metadata& metadata, TokenizerSpec* spec) {
  BANTAM_ASSIGN(const auto name, metadata.Text("general.name"));
  std::string lower(name.value_or(""));
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  if (lower.find("phi-3") == std::string::npos && lower.find("phi3") == std::string::npos) return Ok();
  for (uint32_t token = 0; token < spec->size(); ++token) {
    const TokenType type = spec->types[token];
    const std::string_view text = spec->Text(token);
    if (type != TokenType::kControl && type != TokenType::kUserDefined) continue;
    if (text == "<s>" || text == "<|endoftext|>") continue;
    spec->added.push_back({token, /*strip_left=*/false, /*strip_right=*/true});
  }
  return Ok();
}

// Byte-pair encoding (tokenizer models "gpt2" and "gemma4").
Result<TokenizerSpec> ReadBpe(const Metadata& metadata, std::string_view model) {
  TokenizerSpec spec;
  spec.model = TokenizerModel::kBpe;
  BANTAM_ASSIGN(auto name, metadata.Text("tokenizer.ggml.pre"));
  if (model == "gemma4") name = model;
  if (!name) {
    return Error(Code::kUnsupported,
                 "tokenizer.ggml.pre is missing: how this model cuts text into words is not known; convert the model again");
  }
  const NamedPreTokenizer* pre = FindPreTokenizer(*name);
  if (pre == nullptr) {
    return Error(Code::kUnsupported,
                 fmt::format("pre-tokenizer {} is not known to this build; use a newer one, or the model's tokenizer.json", *name));
  }
  const bool marked = *name == "gemma4" || *name == "granite-embed-multi-311m" || *name == "sarvam-moe";
  spec.byte_level = !marked;
  spec.added_apart = !marked;
  spec.ignore_merges = pre->ignore_merges;
  for (const std::string_view pattern : pre->patterns) {
    SplitStep step;
    step.pattern = pattern;
    spec.splits.push_back(std::move(step));
  }
  BANTAM_TRY(ReadTokens(metadata, /*scored=*/false, &spec));
  if (marked) {
    FindByteTokens(/*required=*/false, &spec);
    spec.byte_fallback = true;
    spec.normalizer.push_back(MarkSpaces());
    spec.decode.space_mark = kSpaceMark;
  }
  BANTAM_TRY(ReadMerges(metadata, &spec));
  const bool bert = name->starts_with("jina-v") || *name == "roberta-bpe";
  BANTAM_TRY(ReadSpecials(metadata, {pre->add_bos, /*eos=*/false, /*separator=*/bert}, &spec));
  // Its files say otherwise, but the model was made with one.
  if (*name == "gemma4" && spec.prefix.empty() && spec.bos) spec.prefix.push_back(*spec.bos);
  return spec;
}

// WordPiece (tokenizer model "bert"). Pieces that begin a word carry U+2581 in the file.
Result<TokenizerSpec> ReadWordPiece(const Metadata& metadata) {
  TokenizerSpec spec;
  spec.model = TokenizerModel::kWordPiece;
  spec.word_characters_max = kWordPieceCharactersMax;
  BANTAM_TRY(ReadTokens(metadata, /*scored=*/false, &spec));
  BANTAM_TRY(ReadSpecials(metadata, {/*bos=*/true, /*eos=*/false, /*separator=*/true}, &spec));
  BANTAM_ASSIGN(const auto lowercase, metadata.Bool("tokenizer.ggml.normalizer.lowercase"));
  BANTAM_ASSIGN(const auto strip_accents, metadata.Bool("tokenizer.ggml.normalizer.strip_accents"));
  const bool lower = lowercase.value_or(true);
  AddBertNormalizer({/*clean=*/true, /*ideographs=*/true, strip_accents.value_or(lower), lower}, &spec);
  AddBertSplits(&spec);
  SetWordPieceDecoding(/*tidy=*/true, &spec);
  return spec;
}

// Unigram (tokenizer model "t5").
Result<TokenizerSpec> ReadUnigram(const Metadata& metadata) {
  TokenizerSpec spec;
  spec.model = TokenizerModel::kUnigram;
  BANTAM_TRY(ReadTokens(metadata, /*scored=*/true, &spec));
  BANTAM_TRY(ReadSpecials(metadata, {/*bos=*/false, /*eos=*/true, /*separator=*/false}, &spec));
  // XLM-RoBERTa's pairs have an end and a separator between them. Files of before add_sep_token do not say so.
  BANTAM_ASSIGN(const auto separated, metadata.Bool("tokenizer.ggml.add_sep_token"));
  BANTAM_ASSIGN(const auto separator, ReadId(metadata, "tokenizer.ggml.seperator_token_id", spec.size()));
  if (!separated && separator && !spec.suffix.empty()) spec.between.push_back(*separator);
  if (!spec.unknown) {
    const auto unknown = std::find(spec.types.begin(), spec.types.end(), TokenType::kUnknown);
    if (unknown != spec.types.end()) spec.unknown = static_cast<uint32_t>(unknown - spec.types.begin());
  }
  FindByteTokens(/*required=*/false, &spec);
  spec.byte_fallback = std::find(spec.types.begin(), spec.types.end(), TokenType::kByte) != spec.types.end();
  BANTAM_ASSIGN(const auto charsmap, metadata.Bytes("tokenizer.ggml.precompiled_charsmap", kCharsmapBytesMax));
  BANTAM_ASSIGN(const auto add_space, metadata.Bool("tokenizer.ggml.add_space_prefix"));
  BANTAM_ASSIGN(const auto collapse, metadata.Bool("tokenizer.ggml.remove_extra_whitespaces"));
  if (charsmap && !charsmap->empty()) spec.normalizer.push_back({NormalizerStep::Kind::kCharsmap, std::string(*charsmap), ""});
  NormalizerStep spaces = {NormalizerStep::Kind::kSentencePiece, "", std::string(kSpaceMark)};
  spaces.collapse_spaces = collapse.value_or(false);
  spaces.add_space = add_space.value_or(false);
  spec.normalizer.push_back(std::move(spaces));
  spec.decode.space_mark = kSpaceMark;
  spec.decode.strip_space = add_space.value_or(false);
  return spec;
}

Result<TokenizerSpec> ReadSpec(const Metadata& metadata, std::string_view model) {
  if (model == "gpt2" || model == "gemma4") return ReadBpe(metadata, model);
  if (model == "bert") return ReadWordPiece(metadata);
  if (model == "t5") return ReadUnigram(metadata);
  if (model != "llama") {
    return Error(Code::kUnsupported,
                 fmt::format("tokenizer model {} is not supported; this build knows llama, gpt2, gemma4, t5 and bert", model));
  }
  BANTAM_ASSIGN(TokenizerSpec spec, ReadSpm(metadata));
  BANTAM_TRY(FixPhi3(metadata, &spec));
  return spec;
}

// The text of a special token: a string, or an object that has it as its content.
std::string SpecialText(const Json& settings, const char* name) {
  return JsonText(settings, name).value_or(JsonText(JsonMember(settings, name), "content").value_or(""));
}

std::vector<uint32_t> SortByText(const TokenizerSpec& spec) {
  std::vector<uint32_t> ids(spec.size());
  for (uint32_t id = 0; id < ids.size(); ++id) ids[id] = id;
  std::sort(ids.begin(), ids.end(), [&](uint32_t a, uint32_t b) { return spec.Text(a) < spec.Text(b); });
  return ids;
}

// Control tokens behind those of the model.
Status AddTokens(const std::map<uint64_t, const Json*>& more, TokenizerSpec* spec) {
  for (const auto& [id, token] : more) {
    const auto next = static_cast<uint32_t>(spec->size());
    if (id != next || next >= kVocabularyMax) {
      return Error(Code::kUnsupported,
                   fmt::format("token {} is added, but {} would be the next; fetch the model's tokenizer.json too", id, next));
    }
    spec->Add(JsonText(*token, "content").value_or(""), TokenType::kControl, /*score=*/0);
    spec->added.push_back(
        {next, JsonFlag(*token, "lstrip", false), JsonFlag(*token, "rstrip", false), JsonFlag(*token, "single_word", false)});
  }
  return Ok();
}

// What tokenizer_config.json says of a SentencePiece model's tokens. Tokens that it renames, or adds to be found in a person's text, are
// only in tokenizer.json as a tokenizer needs them.
Status ApplySettings(const std::string& text, TokenizerSpec* spec) {
  BANTAM_ASSIGN(const Json settings, ParseJson(text));
  std::vector<uint32_t> by_text = SortByText(*spec);
  const auto find = [&](const std::string& wanted) {
    const auto at = std::lower_bound(by_text.begin(), by_text.end(), wanted,
                                     [&](uint32_t id, const std::string& text_of) { return spec->Text(id) < text_of; });
    return at != by_text.end() && !wanted.empty() && spec->Text(*at) == wanted ? std::optional(*at) : std::nullopt;
  };
  std::map<uint64_t, const Json*> more;  // by id
  for (const auto& [id, token] : JsonMember(settings, "added_tokens_decoder").items()) {
    const std::string content = JsonText(token, "content").value_or("");
    if (find(content)) continue;
    uint64_t number = 0;
    const auto [end, error] = std::from_chars(id.data(), id.data() + id.size(), number);
    if (error != std::errc() || end != id.data() + id.size() || number < spec->size() || content.empty() ||
        !JsonFlag(token, "special", false)) {
      return Error(Code::kUnsupported,
                   fmt::format("token {} is {}, which tokenizer.model does not have; fetch the model's tokenizer.json too", id, content));
    }
    more.emplace(number, &token);
  }
  BANTAM_TRY(AddTokens(more, spec));
  by_text = SortByText(*spec);
  if (const auto bos = find(SpecialText(settings, "bos_token"))) spec->bos = bos;
  if (const auto eos = find(SpecialText(settings, "eos_token"))) spec->eos = eos;
  // The publisher's code for such models puts one in front unless it is told not to.
  if (spec->prefix.empty() && spec->bos && JsonFlag(settings, "add_bos_token", true)) spec->prefix.push_back(*spec->bos);
  if (spec->suffix.empty() && spec->eos && JsonFlag(settings, "add_eos_token", false)) spec->suffix.push_back(*spec->eos);
  FindTurnEnds(spec);
  return Ok();
}

// Added tokens past the embeddings' rows, such as those of images, mean nothing to the model.
void DropUnembedded(size_t rows, TokenizerSpec* spec) {
  size_t kept = spec->size();
  const auto added = [&](size_t id) {
    const TokenType type = spec->types[id];
    const bool hole = type == TokenType::kUnused && spec->Text(static_cast<uint32_t>(id)).empty();
    return hole || type == TokenType::kControl || type == TokenType::kUserDefined;
  };
  while (kept > rows && added(kept - 1)) --kept;
  if (kept == spec->size()) return;
  const auto gone = [&](uint32_t id) { return id >= kept; };
  spec->text_ends.resize(kept);
  spec->texts.resize(kept == 0 ? 0 : spec->text_ends.back());
  spec->types.resize(kept);
  if (!spec->scores.empty()) spec->scores.resize(kept);
  std::erase_if(spec->added, [&](const AddedToken& token) { return gone(token.token); });
  std::erase_if(spec->merges, [&](const Merge& merge) { return gone(merge.left) || gone(merge.right) || gone(merge.joined); });
  for (std::vector<uint32_t>* ids : {&spec->end_of_turn, &spec->prefix, &spec->suffix, &spec->between}) std::erase_if(*ids, gone);
  for (std::optional<uint32_t>* id : {&spec->bos, &spec->eos, &spec->unknown, &spec->pad}) {
    if (*id && gone(**id)) id->reset();
  }
}

// What a Hugging Face folder has beside its weights: a tokenizer.json, or a SentencePiece model. The files are mapped, and others may write
// to them: they are read from a copy.
Result<TokenizerSpec> ReadPublishedSpec(const Metadata& metadata) {
  BANTAM_ASSIGN(const auto json, metadata.Bytes("tokenizer.huggingface.json", kTokenizerJsonBytesMax));
  BANTAM_ASSIGN(const auto settings, metadata.Bytes("tokenizer.huggingface.config", kTokenizerConfigBytesMax));
  BANTAM_ASSIGN(const auto pieces, metadata.Bytes("tokenizer.sentencepiece.model", kSentencePieceBytesMax));
  if (json) {
    const std::string text(*json);
    return ReadTokenizerJson(text, std::string(settings.value_or(""))).With("tokenizer.json");
  }
  if (pieces) {
    const std::string bytes(*pieces);
    BANTAM_ASSIGN(TokenizerSpec spec, ReadSentencePieceModel(bytes).With("tokenizer.model"));
    BANTAM_TRY(ApplySettings(std::string(settings.value_or("{}")), &spec).With("tokenizer_config.json"));
    return spec;
  }
  return Error(
      Code::kNotFound,
      "no vocabulary (tokenizer.ggml.model in a GGUF file, tokenizer.json or tokenizer.model in a folder): fetch tokenizer.json too; "
      "vocab.txt, vocab.json and sentencepiece.bpe.model do not say how text is cut");
}

Result<TokenizerSpec> ReadPublished(const ModelFile& file) {
  const Metadata& metadata = file.metadata;
  BANTAM_ASSIGN(TokenizerSpec spec, ReadPublishedSpec(metadata));
  const TensorInfo* embeddings = file.directory.Find("token_embd.weight");
  if (embeddings != nullptr) DropUnembedded(static_cast<size_t>(embeddings->rows()), &spec);
  BANTAM_ASSIGN(const auto ends, metadata.Numbers("tokenizer.huggingface.eos_token_ids", kVocabularyMax));
  for (const double end : ends.value_or(std::vector<double>())) {
    if (!(end >= 0 && end < static_cast<double>(spec.size()))) continue;
    const auto id = static_cast<uint32_t>(end);
    const bool known = std::find(spec.end_of_turn.begin(), spec.end_of_turn.end(), id) != spec.end_of_turn.end();
    if (!known) spec.end_of_turn.push_back(id);
  }
  return spec;
}

Result<TemplateTokens> ReadTemplateTokens(const Metadata& metadata) {
  BANTAM_ASSIGN(const auto settings, metadata.Bytes("tokenizer.huggingface.config", kTokenizerConfigBytesMax));
  if (settings) {
    BANTAM_ASSIGN(const Json json, ParseJson(std::string(*settings)).With("tokenizer_config.json"));
    return TemplateTokens{SpecialText(json, "bos_token"), SpecialText(json, "eos_token"), SpecialText(json, "unk_token"),
                          SpecialText(json, "pad_token")};
  }
  BANTAM_ASSIGN(const auto texts, metadata.Texts("tokenizer.ggml.tokens", kVocabularyMax));
  const size_t size = texts ? texts->size() : 0;
  BANTAM_ASSIGN(const auto bos, ReadId(metadata, "tokenizer.ggml.bos_token_id", size));
  BANTAM_ASSIGN(const auto eos, ReadId(metadata, "tokenizer.ggml.eos_token_id", size));
  BANTAM_ASSIGN(const auto unknown, ReadId(metadata, "tokenizer.ggml.unknown_token_id", size));
  BANTAM_ASSIGN(const auto pad, ReadId(metadata, "tokenizer.ggml.padding_token_id", size));
  const auto text = [&](const std::optional<uint32_t>& token) { return token ? std::string((*texts)[*token]) : std::string(); };
  return TemplateTokens{text(bos), text(eos), text(unknown), text(pad)};
}

}  // namespace

Result<StoredTokenizer> ReadStoredTokenizer(const ModelFile& file) {
  if (!file.tokenizer.empty()) return DecodeTokenizer(file.tokenizer).With(file.path);
  StoredTokenizer stored;
  BANTAM_ASSIGN(const auto model, file.metadata.Text("tokenizer.ggml.model").With(file.path));
  BANTAM_ASSIGN(stored.spec, (model ? ReadSpec(file.metadata, *model) : ReadPublished(file)).With(file.path));
  BANTAM_ASSIGN(stored.names, ReadTemplateTokens(file.metadata).With(file.path));
  return stored;
}

Result<Tokenizer> ReadVocabulary(const ModelFile& file) {
  BANTAM_ASSIGN(StoredTokenizer stored, ReadStoredTokenizer(file));
  return Tokenizer::Make(std::move(stored.spec)).With(file.path);
}

Result<std::string> ReadTemplateSource(const ModelFile& file) {
  BANTAM_ASSIGN(const auto source, file.metadata.Text("tokenizer.chat_template").With(file.path));
  return std::string(source.value_or(""));
}

Result<ChatTemplate> ReadChatTemplate(const ModelFile& file, bool tools) {
  const Metadata& metadata = file.metadata;
  BANTAM_ASSIGN(auto source, metadata.Text("tokenizer.chat_template").With(file.path));
  BANTAM_ASSIGN(const auto with_tools, metadata.Text("tokenizer.chat_template.tool_use").With(file.path));
  if (with_tools && (tools || !source)) source = with_tools;
  return MakeChatTemplate(file, source.value_or("")).With(file.path);
}

Result<ChatTemplate> MakeChatTemplate(const ModelFile& file, std::string_view source) {
  const Metadata& metadata = file.metadata;
  TemplateTokens tokens;
  if (file.tokenizer.empty()) {
    BANTAM_ASSIGN(tokens, ReadTemplateTokens(metadata).With(file.path));
  } else {
    BANTAM_ASSIGN(tokens, DecodeTokenizerNames(file.tokenizer).With(file.path));
  }
  return ChatTemplate::Make(source, tokens);
}

}  // namespace bantam
