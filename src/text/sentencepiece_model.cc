#include "text/sentencepiece_model.h"

#include <fmt/format.h>

#include <cmath>

#include "base/protobuf.h"
#include "text/spec_builder.h"

namespace bantam {
namespace {

// Numbers of fields and values in sentencepiece_model.proto.
constexpr uint32_t kPieces = 1;
constexpr uint32_t kTrainer = 2;
constexpr uint32_t kNormalizer = 3;
constexpr uint64_t kUnigramType = 1;
constexpr uint64_t kBpeType = 2;

struct TrainerSpec {
  uint64_t model_type = kUnigramType;
  bool space_as_suffix = false;
  bool byte_fallback = false;
  int64_t unknown = 0;
  int64_t bos = 1;
  int64_t eos = 2;
  int64_t pad = -1;
};

struct NormalizerSpec {
  std::string_view charsmap;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

Result<TrainerSpec> ReadTrainer(std::string_view message) {
  TrainerSpec spec;
  ProtoReader reader(message, "trainer_spec");
  for (ProtoField field;;) {
    BANTAM_ASSIGN(const bool more, reader.Next(&field));
    if (!more) return spec;
    if (field.kind != ProtoField::Kind::kVarint) continue;
    if (field.number == 3) spec.model_type = field.value;
    if (field.number == 24) spec.space_as_suffix = field.value != 0;
    if (field.number == 35) spec.byte_fallback = field.value != 0;
    if (field.number == 40) spec.unknown = static_cast<int64_t>(field.value);
    if (field.number == 41) spec.bos = static_cast<int64_t>(field.value);
    if (field.number == 42) spec.eos = static_cast<int64_t>(field.value);
    if (field.number == 43) spec.pad = static_cast<int64_t>(field.value);
  }
}

Result<NormalizerSpec> ReadNormalizerSpec(std::string_view message) {
  NormalizerSpec spec;
  ProtoReader reader(message, "normalizer_spec");
  for (ProtoField field;;) {
    BANTAM_ASSIGN(const bool more, reader.Next(&field));
    if (!more) return spec;
    if (field.number == 2 && field.kind == ProtoField::Kind::kBytes) spec.charsmap = field.bytes;
    if (field.kind != ProtoField::Kind::kVarint) continue;
    if (field.number == 3) spec.add_dummy_prefix = field.value != 0;
    if (field.number == 4) spec.remove_extra_whitespaces = field.value != 0;
    if (field.number == 5) spec.escape_whitespaces = field.value != 0;
  }
}

Status ReadPiece(std::string_view message, TokenizerSpec* spec) {
  std::string_view text;
  float score = 0;
  uint64_t type = 1;
  ProtoReader reader(message, "piece");
  for (ProtoField field;;) {
    BANTAM_ASSIGN(const bool more, reader.Next(&field));
    if (!more) break;
    if (field.number == 1 && field.kind == ProtoField::Kind::kBytes) text = field.bytes;
    if (field.number == 2 && field.kind == ProtoField::Kind::kFixed32) score = field.AsFloat();
    if (field.number == 3 && field.kind == ProtoField::Kind::kVarint) type = field.value;
  }
  constexpr TokenType kTypes[] = {TokenType::kNormal,      TokenType::kUnknown, TokenType::kControl,
                                  TokenType::kUserDefined, TokenType::kUnused,  TokenType::kByte};
  if (type < 1 || type > 6 || !std::isfinite(score)) {
    return Error(Code::kCorrupt, fmt::format("piece {}: type {} and score {}, expected 1 to 6 and a finite number; the file is damaged",
                                             spec->size(), type, score));
  }
  return AddToken(text, kTypes[type - 1], static_cast<double>(score), spec);
}

}  // namespace

Result<TokenizerSpec> ReadSentencePieceModel(std::string_view file) {
  TokenizerSpec spec;
  TrainerSpec trainer;
  NormalizerSpec normalizer;
  // The scores are wanted whichever model it turns out to be.
  spec.model = TokenizerModel::kUnigram;
  spec.single_precision = true;
  spec.symbols_within = true;
  ProtoReader reader(file, "SentencePiece model");
  for (ProtoField field;;) {
    BANTAM_ASSIGN(const bool more, reader.Next(&field));
    if (!more) break;
    if (field.kind != ProtoField::Kind::kBytes) continue;
    if (field.number == kPieces) {
      BANTAM_TRY(ReadPiece(field.bytes, &spec));
    } else if (field.number == kTrainer) {
      BANTAM_ASSIGN(trainer, ReadTrainer(field.bytes));
    } else if (field.number == kNormalizer) {
      BANTAM_ASSIGN(normalizer, ReadNormalizerSpec(field.bytes));
    }
  }
  if (spec.size() == 0) return Error(Code::kCorrupt, "SentencePiece model: no pieces; expected a .model file");
  if (trainer.model_type != kUnigramType && trainer.model_type != kBpeType) {
    return Error(Code::kUnsupported, fmt::format("SentencePiece model: type {}, expected 1 (unigram) or 2 (BPE)", trainer.model_type));
  }
  if (trainer.model_type == kBpeType) spec.model = TokenizerModel::kSpmBpe;
  spec.byte_fallback = trainer.byte_fallback;
  if (!normalizer.charsmap.empty()) {
    spec.normalizer.push_back({NormalizerStep::Kind::kCharsmap, std::string(normalizer.charsmap), ""});
  }
  NormalizerStep spaces = {NormalizerStep::Kind::kSentencePiece, "", normalizer.escape_whitespaces ? std::string(kSpaceMark) : ""};
  spaces.collapse_spaces = normalizer.remove_extra_whitespaces;
  spaces.space_as_suffix = trainer.space_as_suffix;
  spaces.add_space = normalizer.add_dummy_prefix;
  spaces.whole_text = true;
  spec.normalizer.push_back(std::move(spaces));
  spec.decode.space_mark = kSpaceMark;
  spec.decode.strip_space = normalizer.add_dummy_prefix && !trainer.space_as_suffix;
  const auto role = [&](int64_t id) {
    const bool known = id >= 0 && static_cast<uint64_t>(id) < spec.size();
    return known ? std::optional(static_cast<uint32_t>(id)) : std::nullopt;
  };
  spec.unknown = role(trainer.unknown);
  spec.bos = role(trainer.bos);
  spec.eos = role(trainer.eos);
  spec.pad = role(trainer.pad);
  FindTurnEnds(&spec);
  return spec;
}

}  // namespace bantam
