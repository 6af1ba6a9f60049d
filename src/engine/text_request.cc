#include "engine/text_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <iterator>

#include "base/base64.h"
#include "engine/json_members.h"

namespace bantam {
namespace {

// What stands beside the texts; each is read where it means something.
constexpr std::string_view kMembers[] = {"input",      "query",     "documents",       "classify", "encoding_format",
                                         "dimensions", "normalize", "prompt_name",     "top_n",    "truncate",
                                         "model",      "user",      "return_documents"};

Result<std::optional<bool>> Flag(const Json& body, const char* member) {
  const Json& value = JsonMember(body, member);
  if (value.is_null()) return std::optional<bool>();
  BANTAM_ASSIGN(const bool flag, ReadFlag(member, value));
  return std::optional(flag);
}

Result<std::optional<size_t>> Count(const Json& body, const char* member) {
  const Json& value = JsonMember(body, member);
  if (value.is_null()) return std::optional<size_t>();
  BANTAM_ASSIGN(const uint64_t count, ReadWhole(member, value, 1, UINT32_MAX));
  return std::optional<size_t>(count);
}

Status CheckMembers(const Json& body) {
  if (!body.is_object()) {
    return Error(Code::kInvalidArgument,
                 fmt::format("{}: expected an object with \"input\", \"classify\", or \"query\" and \"documents\"", ShortJson(body)));
  }
  for (const auto& [name, value] : body.items()) {
    if (std::find(std::begin(kMembers), std::end(kMembers), name) != std::end(kMembers)) continue;
    return UnknownMember(name, kMembers);
  }
  return Ok();
}

// A list's elements, or the only one.
Result<std::span<const Json>> ListOf(const char* member, const Json& value, const Json::array_t*& list) {
  list = value.is_array() ? value.get_ptr<const Json::array_t*>() : nullptr;
  const std::span<const Json> all = list == nullptr ? std::span<const Json>(&value, 1) : std::span<const Json>(*list);
  if (!all.empty() && all.size() <= kTextsMax) return all;
  return Error(Code::kInvalidArgument, fmt::format("{}: {} texts, expected 1 to {}", member, all.size(), kTextsMax));
}

bool IsIds(const Json& value) {
  return value.is_array() && !value.empty() && std::all_of(value.begin(), value.end(), [](const Json& id) { return id.is_number(); });
}

class Reader {
 public:
  Reader(const Json& body, const TextRequestContext& context) : body_(body), context_(context), limit_(context.limit) {}

  Result<TextRequest> Read() {
    BANTAM_TRY(CheckMembers(body_));
    BANTAM_ASSIGN(const auto truncate, Flag(body_, "truncate"));
    limit_.truncate = truncate.value_or(limit_.truncate);
    BANTAM_ASSIGN(request_.top, Count(body_, "top_n"));
    const std::array<bool, 3> asked = {Has("input"), Has("query") || Has("documents"), Has("classify")};
    if (std::count(asked.begin(), asked.end(), true) != 1) {
      return Error(Code::kInvalidArgument,
                   "expected \"input\" (vectors), \"classify\" (classes), or \"query\" and \"documents\" (a ranking)");
    }
    BANTAM_TRY(CheckWork(asked[0]));
    BANTAM_TRY(asked[0] ? ReadVectors() : asked[1] ? ReadRanking() : ReadClasses());
    for (const TextTokens& text : request_.texts) request_.tokens += text.tokens.size();
    return std::move(request_);
  }

 private:
  bool Has(const char* member) const { return !JsonMember(body_, member).is_null(); }

  Status CheckWork(bool vectors) const {
    if (vectors == (context_.work == TextWork::kVectors)) return Ok();
    return Error(Code::kUnsupported,
                 vectors
                     ? "input: no vectors are made here, where texts are classified and ranked (bantam batch --task vectors makes them)"
                     : "texts become vectors here (\"input\"), and are neither classified nor ranked (bantam batch --task scores does)");
  }
  // Members that go with another task would be passed over.
  Status Refuse(std::initializer_list<const char*> members) const {
    for (const char* member : members) {
      if (Has(member))
        return Error(Code::kInvalidArgument, fmt::format("{}: means nothing beside what is asked for; leave it out", member));
    }
    return Ok();
  }

  Status Take(std::string_view member, size_t i, Result<TextTokens> text) {
    BANTAM_ASSIGN(TextTokens tokens, std::move(text).With(fmt::format("{}[{}]", member, i)));
    held_bytes_ += tokens.tokens.capacity() * sizeof(uint32_t);
    if (held_bytes_ > kTextAnswerBytesMax) {
      return Error(Code::kExhausted, fmt::format("{}: texts of more than {} tokens in all; ask for fewer at once", member,
                                                 kTextAnswerBytesMax / sizeof(uint32_t)));
    }
    request_.texts.push_back(std::move(tokens));
    return Ok();
  }

  Result<TextTokens> Ids(const Json& ids) const {
    TextTokens text;
    if (ids.size() > limit_.tokens_max) return TextTooLong(ids.size(), limit_);
    for (const Json& id : ids) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() >= context_.model.tokenizer.size()) {
        return WrongMember("id", id, fmt::format("a token below {}", context_.model.tokenizer.size()));
      }
      text.tokens.push_back(id.get<uint32_t>());
    }
    return text;
  }

  Status ReadVectors() {
    BANTAM_TRY(Refuse({"top_n", "return_documents"}));
    const TextRules& rules = context_.model.rules;
    BANTAM_ASSIGN(const auto unit, Flag(body_, "normalize"));
    BANTAM_ASSIGN(const auto dimensions, Count(body_, "dimensions"));
    request_.unit_length = unit.value_or(context_.unit_length);
    request_.dimensions = dimensions.value_or(context_.width);
    BANTAM_TRY(CheckDimensions(rules, request_.dimensions, context_.width));
    const Json& format = JsonMember(body_, "encoding_format");
    if (!format.is_null() && format != "float" && format != "base64")
      return WrongMember("encoding_format", format, "\"float\" or \"base64\"");
    request_.base64 = format == "base64";
    const Json& name = JsonMember(body_, "prompt_name");
    if (!name.is_null() && !name.is_string()) return WrongMember("prompt_name", name, "the name of one of the model's prompts");
    BANTAM_ASSIGN(const std::string prefix, ChoosePrefix(rules, JsonText(body_, "prompt_name"), std::nullopt));
    BANTAM_TRY(CheckPrefix(rules, prefix, context_.pooling));
    const Json& input = JsonMember(body_, "input");
    if (IsIds(input)) return Take("input", 0, Ids(input));
    const Json::array_t* list = nullptr;
    BANTAM_ASSIGN(const auto all, ListOf("input", input, list));
    for (size_t i = 0; i < all.size(); ++i) {
      const std::string* text = all[i].get_ptr<const std::string*>();
      if (text == nullptr && !IsIds(all[i])) return WrongMember("input", all[i], "a text, or a list of token ids");
      BANTAM_TRY(Take("input", i,
                      text == nullptr ? Ids(all[i]) : TokenizeText(context_.model.tokenizer, WholeText(rules, prefix, *text), limit_)));
    }
    return Ok();
  }

  Status ReadRanking() {
    BANTAM_TRY(Refuse({"encoding_format", "dimensions", "normalize", "prompt_name"}));
    request_.task = TextRequest::Task::kRanking;
    if (!context_.ranking.ok()) return context_.ranking.error();
    BANTAM_ASSIGN(const auto with_documents, Flag(body_, "return_documents"));
    if (with_documents.value_or(false)) return WrongMember("return_documents", Json(true), "false: the request has them");
    const std::string* query = JsonMember(body_, "query").get_ptr<const std::string*>();
    if (query == nullptr) return WrongMember("query", JsonMember(body_, "query"), "a text");
    const Json::array_t* list = nullptr;
    BANTAM_ASSIGN(const auto all, ListOf("documents", JsonMember(body_, "documents"), list));
    if (list == nullptr) return WrongMember("documents", JsonMember(body_, "documents"), "a list of texts");
    for (size_t i = 0; i < all.size(); ++i) {
      const Json& document = all[i].is_object() ? JsonMember(all[i], "text") : all[i];
      const std::string* text = document.get_ptr<const std::string*>();
      if (text == nullptr) return WrongMember("documents", all[i], "a text, or an object with \"text\"");
      BANTAM_TRY(Take("documents", i, context_.ranking->Tokenize(context_.model.tokenizer, *query, *text, limit_)));
    }
    return Ok();
  }

  Result<TextTokens> TextOrPair(const Json& value) const {
    const Tokenizer& tokenizer = context_.model.tokenizer;
    const auto whole = [&](const Json& text) { return WholeText(context_.model.rules, "", text.get_ref<const std::string&>()); };
    if (value.is_string()) return TokenizeText(tokenizer, whole(value), limit_);
    if (!value.is_array() || value.size() != 2 || !value[0].is_string() || !value[1].is_string()) {
      return WrongMember("classify", value, "a text, or a list of two");
    }
    BANTAM_ASSIGN(const std::vector<uint32_t> first, TokenizePart(tokenizer, whole(value[0]), limit_));
    return TokenizePair(tokenizer, first, whole(value[1]), limit_);
  }

  Status ReadClasses() {
    BANTAM_TRY(Refuse({"encoding_format", "dimensions", "normalize", "prompt_name", "return_documents"}));
    request_.task = TextRequest::Task::kClasses;
    if (context_.model.classes == 0) return Error(Code::kUnsupported, "classify: the model has no classifier, so it knows no classes");
    const Json::array_t* list = nullptr;
    BANTAM_ASSIGN(const auto all, ListOf("classify", JsonMember(body_, "classify"), list));
    request_.listed = list != nullptr;
    for (size_t i = 0; i < all.size(); ++i) BANTAM_TRY(Take("classify", i, TextOrPair(all[i])));
    return Ok();
  }

  const Json& body_;
  const TextRequestContext& context_;
  TextLimit limit_;
  TextRequest request_;
  uint64_t held_bytes_ = 0;  // by its texts' tokens
};

// As OpenAI's clients read them: f32, the lowest byte first.
std::string LittleEndian(std::span<const float> values) {
  std::string bytes;
  bytes.reserve(4 * values.size());
  for (const float value : values) {
    const auto bits = std::bit_cast<uint32_t>(value);
    for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(bits >> shift & 0xff);
  }
  return bytes;
}

}  // namespace

std::span<const std::string_view> TextRequestMembers() { return kMembers; }

Result<TextRequest> ReadTextRequest(const Json& body, const TextRequestContext& context) { return Reader(body, context).Read(); }

void TextAnswer::AddVector(std::span<float> values) {
  const std::span<float> kept = values.first(request_.dimensions);
  if (request_.unit_length) ScaleToUnitLength(kept);
  const bool objects = form_ == VectorList::kObjects;
  if (objects) list_ += fmt::format("{{\"object\":\"embedding\",\"index\":{},\"embedding\":", vectors_++);
  if (request_.base64) {
    list_ += fmt::format("\"{}\"", EncodeBase64(LittleEndian(kept)));
  } else {
    fmt::format_to(std::back_inserter(list_), "[{}]", fmt::join(kept, ","));
  }
  if (objects) list_ += '}';
}

void TextAnswer::AddClasses(std::span<float> values) {
  Activate(context_.activation, values);
  const size_t usual = context_.activation == ClassActivation::kSoftmax ? 1 : 0;
  const char* kind = context_.activation == ClassActivation::kNothing ? "score" : "probability";
  Json classes = Json::array();
  for (const size_t number : TopClasses(values, request_.top.value_or(usual))) {
    classes.push_back({{"label", LabelOf(context_.model.rules, number)}, {kind, values[number]}});
  }
  list_ += DumpJson(classes, /*indent=*/-1);
}

Status TextAnswer::Add(std::span<float> values) {
  BANTAM_TRY(CheckNumbers(values));
  if (request_.task == TextRequest::Task::kRanking) {
    ranks_.push_back(context_.ranking->ranking.Of(values));
    return Ok();
  }
  if (!list_.empty()) list_ += ',';
  request_.task == TextRequest::Task::kVectors ? AddVector(values) : AddClasses(values);
  if (list_.size() <= kTextAnswerBytesMax) return Ok();
  return Error(Code::kExhausted, fmt::format("an answer of more than {} bytes; ask for fewer texts at once", kTextAnswerBytesMax));
}

std::string TextAnswer::Finish() {
  const std::string usage = fmt::format("\"usage\":{{\"prompt_tokens\":{0},\"total_tokens\":{0}}}", request_.tokens);
  switch (request_.task) {
    case TextRequest::Task::kVectors:
      return fmt::format("\"{}\":[{}],{}", form_ == VectorList::kObjects ? "data" : "embeddings", list_, usage);
    case TextRequest::Task::kClasses:
      return request_.listed ? fmt::format("\"labels\":[{}],{}", list_, usage) : fmt::format("\"labels\":{},{}", list_, usage);
    case TextRequest::Task::kRanking:
      break;
  }
  Json results = Json::array();
  for (const size_t index : TopClasses(ranks_, request_.top.value_or(0))) {
    results.push_back({{"index", index}, {"relevance_score", ranks_[index]}});
  }
  return fmt::format("\"results\":{},{}", DumpJson(results, /*indent=*/-1), usage);
}

}  // namespace bantam
