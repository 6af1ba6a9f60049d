#include "text/tokenizer_json_steps.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>

#include "base/base64.h"
#include "text/pre_tokenizers.h"
#include "text/spec_builder.h"

namespace bantam {
namespace {

std::string TypeOf(const Json& json) {
  return json.is_object() && json.contains("type") && json["type"].is_string() ? json["type"].get<std::string>() : std::string("?");
}
const Json& ListAt(const Json& object, const char* name) {
  static const Json kNone = Json::array();
  return object.is_object() && object.contains(name) && object[name].is_array() ? object[name] : kNone;
}

Error Unknown(std::string_view what, const Json& json) {
  return Error(Code::kUnsupported, fmt::format("{} {} is not known to this build; use a newer one", what, TypeOf(json)));
}
Error Missing(std::string_view what, const Json& json, std::string_view member) {
  return Error(Code::kCorrupt, fmt::format("{} {}: no usable member \"{}\"", what, TypeOf(json), member));
}

// A literal text as a regular expression.
std::string Literal(std::string_view text) {
  std::string regex;
  for (const char c : text) {
    if (std::string_view("\\^$.|?*+()[]{}-").find(c) != std::string_view::npos) regex += '\\';
    regex += c;
  }
  return regex;
}

// {"String": ...} or {"Regex": ...}.
struct PatternText {
  std::string text;
  bool regex = false;
};
std::optional<PatternText> PatternAt(const Json& json) {
  if (!json.contains("pattern")) return std::nullopt;
  const Json& pattern = json["pattern"];
  if (pattern.is_string()) return PatternText{pattern.get<std::string>(), false};
  if (auto text = JsonText(pattern, "String")) return PatternText{std::move(*text), false};
  if (auto text = JsonText(pattern, "Regex")) return PatternText{std::move(*text), true};
  return std::nullopt;
}

std::optional<SplitStep::Behavior> BehaviorAt(const Json& json) {
  const std::string name = JsonText(json, "behavior").value_or("Isolated");
  if (name == "Isolated") return SplitStep::Behavior::kIsolated;
  if (name == "Removed") return SplitStep::Behavior::kRemoved;
  if (name == "MergedWithPrevious") return SplitStep::Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitStep::Behavior::kMergedWithNext;
  if (name == "Contiguous") return SplitStep::Behavior::kContiguous;
  return std::nullopt;
}

void AddSplit(std::string_view pattern, SplitStep::Behavior behavior, bool invert, TokenizerSpec* spec) {
  SplitStep step;
  step.pattern = pattern;
  step.behavior = behavior;
  step.invert = invert;
  spec->splits.push_back(std::move(step));
}

Status ReadPrecompiled(const Json& json, TokenizerSpec* spec) {
  const auto text = JsonText(json, "precompiled_charsmap");
  const auto blob = text ? DecodeBase64(*text) : std::nullopt;
  if (!blob) return Missing("normalizer", json, "precompiled_charsmap");
  if (!blob->empty()) spec->normalizer.push_back({NormalizerStep::Kind::kCharsmap, *blob, ""});
  return Ok();
}

Status ReadReplace(const Json& json, TokenizerSpec* spec) {
  const auto pattern = PatternAt(json);
  const auto content = JsonText(json, "content");
  if (!pattern) return Missing("normalizer", json, "pattern");
  if (!content) return Missing("normalizer", json, "content");
  const auto kind = pattern->regex ? NormalizerStep::Kind::kReplaceRegex : NormalizerStep::Kind::kReplace;
  spec->normalizer.push_back({kind, pattern->text, *content});
  return Ok();
}

Status ReadBertNormalizer(const Json& json, TokenizerSpec* spec) {
  BertOptions options;
  options.clean = JsonFlag(json, "clean_text", true);
  options.ideographs = JsonFlag(json, "handle_chinese_chars", true);
  options.lowercase = JsonFlag(json, "lowercase", true);
  options.strip_accents = JsonFlag(json, "strip_accents", options.lowercase);
  AddBertNormalizer(options, spec);
  return Ok();
}

Status ReadByteLevelSplit(const Json& json, TokenizerSpec* spec) {
  spec->byte_level = true;
  if (JsonFlag(json, "add_prefix_space", true)) {
    SplitStep step;
    step.kind = SplitStep::Kind::kPrefixSpace;
    spec->splits.push_back(std::move(step));
  }
  if (JsonFlag(json, "use_regex", true)) AddSplit(kGpt2Pattern, SplitStep::Behavior::kIsolated, /*invert=*/false, spec);
  return Ok();
}

Status ReadMetaspace(const Json& json, TokenizerSpec* spec) {
  SplitStep step;
  step.kind = SplitStep::Kind::kMetaspace;
  step.mark = JsonText(json, "replacement").value_or(std::string(kSpaceMark));
  step.split = JsonFlag(json, "split", true);
  const std::string scheme = JsonText(json, "prepend_scheme").value_or(JsonFlag(json, "add_prefix_space", true) ? "always" : "never");
  step.prefix = scheme == "always" ? SplitStep::Prefix::kAlways : scheme == "first" ? SplitStep::Prefix::kFirst : SplitStep::Prefix::kNever;
  spec->splits.push_back(std::move(step));
  return Ok();
}

Status ReadSplit(const Json& json, TokenizerSpec* spec) {
  const auto pattern = PatternAt(json);
  const auto behavior = BehaviorAt(json);
  if (!pattern) return Missing("pre-tokenizer", json, "pattern");
  if (!behavior) return Missing("pre-tokenizer", json, "behavior");
  AddSplit(pattern->regex ? pattern->text : Literal(pattern->text), *behavior, JsonFlag(json, "invert", false), spec);
  return Ok();
}

// The tokens of {"SpecialToken": {"id": NAME}} in front of the first sequence, behind it, and behind the second.
Status ReadTemplateTokens(const Json& json, const char* member, std::array<std::vector<uint32_t>*, 3> places, TokenizerSpec* spec) {
  size_t sequences = 0;
  for (const Json& part : ListAt(json, member)) {
    if (part.contains("Sequence")) {
      sequences = std::min<size_t>(sequences + 1, places.size() - 1);
      continue;
    }
    const auto name = part.contains("SpecialToken") ? JsonText(part["SpecialToken"], "id") : std::nullopt;
    const bool known =
        name && json.contains("special_tokens") && json["special_tokens"].is_object() && json["special_tokens"].contains(*name);
    if (!known) return Missing("post-processor", json, "special_tokens");
    for (const Json& id : ListAt(json["special_tokens"][*name], "ids")) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() >= spec->size()) return Missing("post-processor", json, "ids");
      places[sequences]->push_back(id.get<uint32_t>());
    }
  }
  return Ok();
}

// What stands round a text, and between two; round two stands what stands round one.
Status ReadTemplate(const Json& json, TokenizerSpec* spec) {
  BANTAM_TRY(ReadTemplateTokens(json, "single", {&spec->prefix, &spec->suffix, &spec->suffix}, spec));
  std::vector<uint32_t> ignored;
  BANTAM_TRY(ReadTemplateTokens(json, "pair", {&ignored, &spec->between, &ignored}, spec));
  if (ListAt(json, "pair").empty()) spec->between = spec->suffix;
  return Ok();
}

// "cls" and "sep" as [text, id].
Status ReadBertProcessing(const Json& json, size_t separators, TokenizerSpec* spec) {
  for (const char* name : {"cls", "sep"}) {
    const Json& pair = ListAt(json, name);
    const bool valid = pair.size() == 2 && pair[1].is_number_unsigned() && pair[1].get<uint64_t>() < spec->size();
    if (!valid) return Missing("post-processor", json, name);
    (name == std::string_view("cls") ? spec->prefix : spec->suffix).push_back(pair[1].get<uint32_t>());
  }
  spec->between.assign(separators, spec->suffix.back());
  return Ok();
}

}  // namespace

Status ReadNormalizer(const Json& json, TokenizerSpec* spec) {
  if (json.is_null()) return Ok();
  const std::string type = TypeOf(json);
  const auto add = [&](NormalizerStep::Kind kind, std::string with = "") { spec->normalizer.push_back({kind, "", std::move(with)}); };
  if (type == "Sequence") {
    for (const Json& step : ListAt(json, "normalizers")) {
      BANTAM_TRY(ReadNormalizer(step, spec));
    }
  } else if (type == "NFC") {
    add(NormalizerStep::Kind::kNfc);
  } else if (type == "NFD") {
    add(NormalizerStep::Kind::kNfd);
  } else if (type == "NFKC") {
    add(NormalizerStep::Kind::kNfkc);
  } else if (type == "NFKD") {
    add(NormalizerStep::Kind::kNfkd);
  } else if (type == "Lowercase") {
    add(NormalizerStep::Kind::kLowercase);
  } else if (type == "StripAccents") {
    add(NormalizerStep::Kind::kStripMarks);
  } else if (type == "Strip") {
    if (JsonFlag(json, "strip_left", true)) add(NormalizerStep::Kind::kStripLeft);
    if (JsonFlag(json, "strip_right", true)) add(NormalizerStep::Kind::kStripRight);
  } else if (type == "Prepend") {
    add(NormalizerStep::Kind::kPrepend, JsonText(json, "prepend").value_or(std::string(kSpaceMark)));
  } else if (type == "ByteLevel") {
    add(NormalizerStep::Kind::kByteLevel);
    spec->decode.byte_level = true;
  } else if (type == "Nmt") {
    add(NormalizerStep::Kind::kNmt);
  } else if (type == "Replace") {
    return ReadReplace(json, spec);
  } else if (type == "Precompiled") {
    return ReadPrecompiled(json, spec);
  } else if (type == "BertNormalizer") {
    return ReadBertNormalizer(json, spec);
  } else {
    return Unknown("normalizer", json);
  }
  return Ok();
}

Status ReadPreTokenizer(const Json& json, TokenizerSpec* spec) {
  if (json.is_null()) return Ok();
  const std::string type = TypeOf(json);
  if (spec->byte_level) {
    // Steps behind ByteLevel see its alphabet: they, the tokens and their merges stay in it.
    SplitStep step;
    step.kind = SplitStep::Kind::kByteLevel;
    spec->splits.push_back(std::move(step));
    spec->byte_level = false;
    spec->decode.byte_level = true;
  }
  if (type == "Sequence") {
    for (const Json& step : ListAt(json, "pretokenizers")) {
      BANTAM_TRY(ReadPreTokenizer(step, spec));
    }
  } else if (type == "ByteLevel") {
    return ReadByteLevelSplit(json, spec);
  } else if (type == "Split") {
    return ReadSplit(json, spec);
  } else if (type == "Metaspace") {
    return ReadMetaspace(json, spec);
  } else if (type == "BertPreTokenizer") {
    AddBertSplits(spec);
  } else if (type == "Whitespace") {
    AddSplit(R"([\w\x{200C}\x{200D}]+|[^\w\x{200C}\x{200D}\s]+)", SplitStep::Behavior::kRemoved, /*invert=*/true, spec);
  } else if (type == "WhitespaceSplit") {
    AddSplit(R"(\s+)", SplitStep::Behavior::kRemoved, /*invert=*/false, spec);
  } else if (type == "Digits") {
    AddSplit(JsonFlag(json, "individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)", SplitStep::Behavior::kIsolated, /*invert=*/false, spec);
  } else if (type == "Punctuation") {
    const auto behavior = BehaviorAt(json);
    if (!behavior) return Missing("pre-tokenizer", json, "behavior");
    AddSplit(kPunctuationPattern, *behavior, /*invert=*/false, spec);
  } else if (type == "CharDelimiterSplit") {
    const auto delimiter = JsonText(json, "delimiter");
    if (!delimiter || delimiter->empty()) return Missing("pre-tokenizer", json, "delimiter");
    AddSplit(Literal(*delimiter), SplitStep::Behavior::kRemoved, /*invert=*/false, spec);
  } else if (type == "FixedLength") {
    const Json& length = JsonMember(json, "length");
    if (!length.is_number_unsigned() || length.get<uint64_t>() == 0) return Missing("pre-tokenizer", json, "length");
    AddSplit(fmt::format(R"([\s\S]{{1,{}}})", length.get<uint64_t>()), SplitStep::Behavior::kIsolated, /*invert=*/false, spec);
  } else {
    return Unknown("pre-tokenizer", json);
  }
  return Ok();
}

Status ReadDecoder(const Json& json, TokenizerSpec* spec) {
  if (json.is_null()) return Ok();
  const std::string type = TypeOf(json);
  DecodeStyle& decode = spec->decode;
  if (type == "Sequence") {
    for (const Json& step : ListAt(json, "decoders")) {
      BANTAM_TRY(ReadDecoder(step, spec));
    }
  } else if (type == "Replace") {
    const auto pattern = PatternAt(json);
    if (!pattern || pattern->regex || JsonText(json, "content") != " ") return Unknown("decoder", json);
    decode.space_mark = pattern->text;
  } else if (type == "Strip") {
    const bool one_space = JsonText(json, "content") == " " && json.contains("start") && json["start"] == 1;
    if (!one_space) return Unknown("decoder", json);
    decode.strip_space = true;
  } else if (type == "Metaspace") {
    decode.space_mark = JsonText(json, "replacement").value_or(std::string(kSpaceMark));
    const std::string scheme = JsonText(json, "prepend_scheme").value_or(JsonFlag(json, "add_prefix_space", true) ? "always" : "never");
    decode.strip_space = scheme != "never";
  } else if (type == "WordPiece") {
    SetWordPieceDecoding(JsonFlag(json, "cleanup", true), spec);
  } else if (type == "BPEDecoder") {
    decode.word_end = JsonText(json, "suffix").value_or("</w>");
  } else if (type != "ByteLevel" && type != "ByteFallback" && type != "Fuse") {
    return Unknown("decoder", json);
  }
  return Ok();
}

Status ReadPostProcessor(const Json& json, TokenizerSpec* spec) {
  if (json.is_null()) return Ok();
  const std::string type = TypeOf(json);
  if (type == "Sequence") {
    for (const Json& step : ListAt(json, "processors")) {
      BANTAM_TRY(ReadPostProcessor(step, spec));
    }
    return Ok();
  }
  if (type == "TemplateProcessing") return ReadTemplate(json, spec);
  if (type == "BertProcessing") return ReadBertProcessing(json, /*separators=*/1, spec);
  if (type == "RobertaProcessing") return ReadBertProcessing(json, /*separators=*/2, spec);
  if (type != "ByteLevel") return Unknown("post-processor", json);
  return Ok();
}

}  // namespace bantam
