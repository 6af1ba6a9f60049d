#include "text/tokenizer_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "text/spec_builder.h"
#include "text/tokenizer_json_steps.h"

namespace bantam {
namespace {

struct VocabularyEntry {
  uint32_t begin;  // in the texts
  uint32_t size;
  double number;  // id of a map's entry, score of a list's
};

// The vocabulary and the merges, streamed.
class Lists : public JsonListener {
 public:
  bool Wants(std::string_view path) override {
    in_merges_ = path == "model.merges";
    return in_merges_ || path == "model.vocab";
  }
  void Text(std::string_view, std::string& text) override {
    if (texts.size() + text.size() > kTextsMax) {
      too_large = true;
      return;
    }
    const Entry entry = {static_cast<uint32_t>(texts.size()), static_cast<uint32_t>(text.size()), 0};
    texts += text;
    (in_merges_ ? merges : vocabulary).push_back(entry);
  }
  void Number(std::string_view key, double number) override {
    if (in_merges_) return;
    if (key.empty()) {
      // A list's piece came before.
      if (!vocabulary.empty()) vocabulary.back().number = number;
      return;
    }
    std::string text(key);
    Text(key, text);
    if (!too_large) vocabulary.back().number = number;
    is_map = true;
  }
  void Begin(std::string_view, JsonContainer) override { nested = nested || in_merges_; }
  void End() override {}

  using Entry = VocabularyEntry;
  static constexpr size_t kTextsMax = 4 * kVocabularyTextMax;
  std::string_view TextOf(const Entry& entry) const { return std::string_view(texts).substr(entry.begin, entry.size); }

  std::string texts;
  std::vector<Entry> vocabulary;
  std::vector<Entry> merges;
  bool is_map = false;  // the vocabulary: text to id
  bool nested = false;  // a merge is a list of two texts, not one text
  bool too_large = false;

 private:
  bool in_merges_ = false;
};

class Reader {
 public:
  Reader(const Json& file, const Lists& lists) : file_(file), lists_(lists), model_(JsonMember(file, "model")) {}

  Result<TokenizerSpec> Read(const Json& config) {
    BANTAM_TRY(SetModel());
    BANTAM_TRY(ReadNormalizer(JsonMember(file_, "normalizer"), &spec_));
    BANTAM_TRY(ReadPreTokenizer(JsonMember(file_, "pre_tokenizer"), &spec_));
    BANTAM_TRY(ReadDecoder(JsonMember(file_, "decoder"), &spec_));
    BANTAM_TRY(ReadTokens());
    if (spec_.model == TokenizerModel::kBpe) {
      BANTAM_TRY(ReadMerges());
    }
    BANTAM_TRY(ReadPostProcessor(JsonMember(file_, "post_processor"), &spec_));
    ReadRoles(config);
    FindTurnEnds(&spec_);
    return std::move(spec_);
  }

 private:
  Status SetModel() {
    spec_.added_apart = true;
    spec_.added_listed = true;
    std::string type = JsonText(model_, "type").value_or("");
    // Files of old do not say.
    if (type.empty()) type = model_.contains("merges") ? "BPE" : lists_.is_map ? "WordPiece" : "Unigram";
    spec_.byte_fallback = JsonFlag(model_, "byte_fallback", false);
    if (type == "BPE") {
      spec_.model = TokenizerModel::kBpe;
      spec_.ignore_merges = JsonFlag(model_, "ignore_merges", false);
      spec_.fuse_unknown = JsonFlag(model_, "fuse_unk", false);
      spec_.word_end = JsonText(model_, "end_of_word_suffix").value_or("");
      spec_.word_inside = JsonText(model_, "continuing_subword_prefix").value_or("");
    } else if (type == "Unigram") {
      spec_.model = TokenizerModel::kUnigram;
    } else if (type == "WordPiece") {
      spec_.model = TokenizerModel::kWordPiece;
      spec_.word_inside = JsonText(model_, "continuing_subword_prefix").value_or("##");
      spec_.pieces_anywhere = spec_.word_inside.empty();
      const Json& longest = JsonMember(model_, "max_input_chars_per_word");
      spec_.word_characters_max = longest.is_number_unsigned() ? longest.get<size_t>() : 100;
    } else if (type == "WordLevel") {
      spec_.model = TokenizerModel::kWordLevel;
    } else {
      return Error(Code::kUnsupported,
                   fmt::format("model {} is not known to this build; it knows BPE, Unigram, WordPiece and WordLevel", type));
    }
    const bool map = spec_.model != TokenizerModel::kUnigram;
    if (lists_.vocabulary.empty() || lists_.is_map != map || lists_.too_large) {
      return Error(Code::kCorrupt, fmt::format("model.vocab: expected {} of at most {} bytes of texts",
                                               map ? "texts with their ids" : "texts with their scores", kVocabularyTextMax));
    }
    return Ok();
  }

  // Texts by id: those of the model, then added tokens, which may replace them.
  Status ReadTokens() {
    struct Token {
      std::string_view text;
      TokenType type = TokenType::kUnused;
      double score = 0;
      std::optional<AddedToken> rules;
    };
    std::vector<Token> tokens;
    const auto at = [&](double id) -> Token* {
      if (!(id >= 0) || id >= kVocabularyMax) return nullptr;
      if (static_cast<size_t>(id) >= tokens.size()) tokens.resize(static_cast<size_t>(id) + 1);
      return &tokens[static_cast<size_t>(id)];
    };
    for (size_t i = 0; i < lists_.vocabulary.size(); ++i) {
      const VocabularyEntry& entry = lists_.vocabulary[i];
      Token* token = at(lists_.is_map ? entry.number : static_cast<double>(i));
      if (token == nullptr) return BadId(lists_.TextOf(entry));
      const double score = lists_.is_map ? 0 : entry.number;
      if (!(std::fabs(score) <= kScoreMax)) return BadId(lists_.TextOf(entry));
      *token = {lists_.TextOf(entry), TokenType::kNormal, score, std::nullopt};
    }
    const Json& added = JsonMember(file_, "added_tokens");
    std::vector<std::string> added_texts;
    added_texts.reserve(added.size());
    for (const Json& item : added) {
      const Json& id = JsonMember(item, "id");
      auto text = JsonText(item, "content");
      Token* token = id.is_number() ? at(id.get<double>()) : nullptr;
      if (token == nullptr || !text) return BadId(text.value_or("?"));
      added_texts.push_back(std::move(*text));
      token->text = added_texts.back();
      token->type = JsonFlag(item, "special", false) ? TokenType::kControl : TokenType::kUserDefined;
      token->rules = AddedToken{id.get<uint32_t>(), JsonFlag(item, "lstrip", false), JsonFlag(item, "rstrip", false),
                                JsonFlag(item, "single_word", false), JsonFlag(item, "normalized", true)};
    }
    const auto unknown = UnknownId();
    for (size_t id = 0; id < tokens.size(); ++id) {
      Token& token = tokens[id];
      if (unknown == id && token.type != TokenType::kUserDefined) token.type = TokenType::kUnknown;
      std::string text(token.text);
      const bool piece = spec_.model == TokenizerModel::kWordPiece && token.type == TokenType::kNormal && !spec_.pieces_anywhere;
      if (piece && text.starts_with(spec_.word_inside)) {
        text.erase(0, spec_.word_inside.size());
      } else if (piece) {
        text.insert(0, kSpaceMark);
      }
      BANTAM_TRY(AddToken(text, token.type, token.score, &spec_));
      if (token.rules) spec_.added.push_back(*token.rules);
    }
    if (unknown && *unknown < spec_.size()) spec_.unknown = *unknown;
    if (spec_.byte_fallback) FindByteTokens(/*required=*/true, &spec_);
    return Ok();
  }

  static Error BadId(std::string_view text) {
    return Error(Code::kCorrupt,
                 fmt::format("token \"{}\": expected a text, an id from 0 to {} and a score that 32 bits hold", text, kVocabularyMax - 1));
  }

  std::optional<uint32_t> UnknownId() const {
    const Json& id = JsonMember(model_, "unk_id");
    if (id.is_number_unsigned() && id.get<uint64_t>() < kVocabularyMax) return id.get<uint32_t>();
    const auto text = JsonText(model_, "unk_token");
    if (!text) return std::nullopt;
    for (const Json& item : JsonMember(file_, "added_tokens")) {
      if (JsonText(item, "content") == *text && JsonMember(item, "id").is_number_unsigned()) return JsonMember(item, "id").get<uint32_t>();
    }
    for (size_t i = 0; i < lists_.vocabulary.size(); ++i) {
      const VocabularyEntry& entry = lists_.vocabulary[i];
      if (lists_.TextOf(entry) != *text) continue;
      const double place = lists_.is_map ? entry.number : static_cast<double>(i);
      return place >= 0 && place < kVocabularyMax ? std::optional(static_cast<uint32_t>(place)) : std::nullopt;
    }
    return std::nullopt;
  }

  Status ReadMerges() {
    std::vector<std::pair<std::string_view, std::string_view>> merges;
    const auto& parts = lists_.merges;
    if (lists_.nested && parts.size() % 2 != 0) return Error(Code::kCorrupt, "model.merges: expected lists of two texts");
    for (size_t i = 0; i < parts.size(); i += lists_.nested ? 2 : 1) {
      const std::string_view text = lists_.TextOf(parts[i]);
      if (lists_.nested) {
        merges.emplace_back(text, lists_.TextOf(parts[i + 1]));
        continue;
      }
      const size_t space = text.find(' ', 1);
      if (space == std::string_view::npos) {
        return Error(Code::kCorrupt, fmt::format("model.merges, entry {}: expected two texts with a space between them", i));
      }
      merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    }
    SetMerges(merges, spec_.word_inside, &spec_);
    return Ok();
  }

  // What tokenizer_config.json says of special tokens: a text, or an object with one.
  void ReadRoles(const Json& config) {
    const auto role = [&](const char* name) -> std::optional<uint32_t> {
      const Json& value = JsonMember(config, name);
      const auto text = value.is_string() ? std::optional(value.get<std::string>()) : JsonText(value, "content");
      if (!text || text->empty()) return std::nullopt;
      for (uint32_t token = static_cast<uint32_t>(spec_.size()); token-- > 0;) {
        if (spec_.Text(token) == *text && spec_.types[token] != TokenType::kNormal) return token;
      }
      return std::nullopt;
    };
    spec_.bos = role("bos_token");
    spec_.eos = role("eos_token");
    spec_.pad = role("pad_token");
    if (!spec_.unknown) spec_.unknown = spec_.model == TokenizerModel::kBpe ? std::nullopt : role("unk_token");
    if (!spec_.bos && !spec_.prefix.empty()) spec_.bos = spec_.prefix.front();
    if (!spec_.eos && !spec_.suffix.empty()) spec_.eos = spec_.suffix.back();
  }

  const Json& file_;
  const Lists& lists_;
  const Json& model_;
  TokenizerSpec spec_;
};

}  // namespace

Result<TokenizerSpec> ReadTokenizerJson(std::string_view tokenizer, std::string_view config) {
  Lists lists;
  BANTAM_ASSIGN(const Json file, ParseJson(tokenizer, &lists));
  if (!file.is_object() || !file.contains("model") || !file["model"].is_object()) {
    return Error(Code::kCorrupt, "expected an object with a member \"model\", as in the tokenizers library's tokenizer.json");
  }
  Json roles;
  if (!config.empty()) {
    auto parsed = ParseJson(config);
    if (!parsed.ok()) return std::move(parsed).error().With("tokenizer_config.json");
    roles = std::move(parsed).value();
  }
  return Reader(file, lists).Read(roles);
}

}  // namespace bantam
