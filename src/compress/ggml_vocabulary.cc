#include "compress/ggml_vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "base/bytes.h"
#include "formats/gguf_writer.h"
#include "model/vocabulary.h"
#include "text/byte_level.h"
#include "text/pre_tokenizers.h"

namespace bantam {
namespace {

constexpr std::string_view kFolderKeys[] = {"tokenizer.huggingface.json", "tokenizer.huggingface.config", "tokenizer.sentencepiece.model"};

// GGUF's numbers for kinds of tokens.
int32_t TypeNumber(TokenType type) {
  switch (type) {
    case TokenType::kNormal:
      return 1;
    case TokenType::kUnknown:
      return 2;
    case TokenType::kControl:
      return 3;
    case TokenType::kUserDefined:
      return 4;
    case TokenType::kUnused:
      return 5;
    case TokenType::kByte:
      return 6;
  }
  return 1;
}

class Maker {
 public:
  // `rows` of the table of embeddings: other programs want a token for each.
  Maker(const TokenizerSpec& spec, size_t rows) : spec_(spec), rows_(std::max(rows, spec.size())) {}

  Result<GgmlVocabulary> Make() {
    const bool bpe = spec_.model == TokenizerModel::kBpe && spec_.byte_level;
    if (!bpe && spec_.model != TokenizerModel::kSpmBpe) {
      return Error(Code::kUnsupported, "its vocabulary is neither byte-level BPE nor SentencePiece's BPE");
    }
    Text("tokenizer.ggml.model", bpe ? "gpt2" : "llama");
    BANTAM_TRY(bpe ? NamePreTokenizer() : CheckSpaces());
    PutTokens(bpe);
    if (bpe) PutMerges();
    Id("tokenizer.ggml.bos_token_id", spec_.bos);
    Id("tokenizer.ggml.eos_token_id", spec_.eos);
    EndOfTurn();
    Id("tokenizer.ggml.unknown_token_id", spec_.unknown);
    Id("tokenizer.ggml.padding_token_id", spec_.pad);
    Flag("tokenizer.ggml.add_bos_token", !spec_.prefix.empty());
    Flag("tokenizer.ggml.add_eos_token", !spec_.suffix.empty());
    return std::move(made_);
  }

 private:
  std::string_view Keep(std::string bytes) { return made_.bytes.emplace_back(std::move(bytes)); }
  void Text(std::string_view key, std::string_view text) { made_.entries.push_back({key, text, ValueType::kString}); }
  void Flag(std::string_view key, bool flag) { made_.entries.push_back({key, flag, ValueType::kBool}); }
  void Id(std::string_view key, const std::optional<uint32_t>& id) {
    if (id) made_.entries.push_back({key, uint64_t{*id}, ValueType::kU32});
  }
  void Array(std::string_view key, ValueType type, uint64_t count, std::string bytes) {
    made_.entries.push_back({key, MetadataArray{type, count, AsBytes(Keep(std::move(bytes)))}, type});
  }
  void Texts(std::string_view key, const std::vector<std::string>& texts) {
    const std::vector<std::string_view> views(texts.begin(), texts.end());
    Array(key, ValueType::kString, views.size(), EncodeTexts(views));
  }

  // Two more that end an answer have a key.
  void EndOfTurn() {
    std::vector<uint32_t> others = spec_.end_of_turn;
    std::erase_if(others, [&](uint32_t id) { return spec_.eos && id == *spec_.eos; });
    if (!others.empty()) Id("tokenizer.ggml.eot_token_id", others[0]);
    if (others.size() > 1) Id("tokenizer.ggml.eom_token_id", others[1]);
  }

  // The name under which GGUF files know the folder's expressions.
  Status NamePreTokenizer() {
    std::vector<std::string_view> patterns;
    // Files of such models say nothing of NFC, and programs that read them leave it out.
    const bool nfc = std::all_of(spec_.normalizer.begin(), spec_.normalizer.end(),
                                 [](const NormalizerStep& step) { return step.kind == NormalizerStep::Kind::kNfc; });
    bool plain = nfc && spec_.word_end.empty();
    for (const SplitStep& step : spec_.splits) {
      if (step.kind == SplitStep::Kind::kByteLevel) continue;
      plain = plain && step.kind == SplitStep::Kind::kPattern && step.behavior == SplitStep::Behavior::kIsolated && !step.invert;
      patterns.push_back(step.pattern);
    }
    for (const NamedPreTokenizer& named : NamedPreTokenizers()) {
      const bool same = std::equal(named.patterns.begin(), named.patterns.end(), patterns.begin(), patterns.end());
      if (!plain || !same || named.ignore_merges != spec_.ignore_merges) continue;
      Text("tokenizer.ggml.pre", named.name);
      return Ok();
    }
    return Error(Code::kUnsupported, "how its tokenizer cuts text into words has no name in GGUF files");
  }

  // What is done to spaces: nothing but marking them, with or without one in front.
  Status CheckSpaces() {
    bool front = false;
    for (const NormalizerStep& step : spec_.normalizer) {
      const bool sentence_piece = step.kind == NormalizerStep::Kind::kSentencePiece && !step.collapse_spaces && !step.space_as_suffix;
      const bool marks = step.kind == NormalizerStep::Kind::kReplace && step.pattern == " " && step.with == kSpaceMark;
      const bool prepends = step.kind == NormalizerStep::Kind::kPrepend && (step.with == " " || step.with == kSpaceMark);
      if (!sentence_piece && !marks && !prepends) {
        return Error(Code::kUnsupported, "its tokenizer changes text in ways that GGUF files have no word for");
      }
      front = front || prepends || step.add_space;
    }
    Flag("tokenizer.ggml.add_space_prefix", front);
    return Ok();
  }

  void PutTokens(bool bpe) {
    std::vector<std::string> texts;
    std::string types, scores;
    for (uint32_t token = 0; token < spec_.size(); ++token) {
      const TokenType type = spec_.types[token];
      const bool spelled = bpe && (type == TokenType::kNormal || type == TokenType::kByte || type == TokenType::kUnused);
      texts.push_back(spelled ? ToByteLevel(spec_.Text(token)) : std::string(spec_.Text(token)));
      AppendLittleEndian<int32_t>(&types, TypeNumber(type));
      if (bpe) continue;
      const float score = static_cast<float>(spec_.scores[token]);
      scores.append(reinterpret_cast<const char*>(&score), sizeof(score));
    }
    for (size_t token = spec_.size(); token < rows_; ++token) {
      constexpr float kLeast = -1000;
      texts.push_back(fmt::format("[PAD{}]", token));
      AppendLittleEndian<int32_t>(&types, TypeNumber(TokenType::kUnused));
      scores.append(reinterpret_cast<const char*>(&kLeast), sizeof(kLeast));
    }
    Texts("tokenizer.ggml.tokens", texts);
    Array("tokenizer.ggml.token_type", ValueType::kI32, rows_, std::move(types));
    if (!bpe) Array("tokenizer.ggml.scores", ValueType::kF32, rows_, std::move(scores));
  }

  void PutMerges() {
    std::vector<std::string> merges;
    for (const Merge& merge : spec_.merges) {
      merges.push_back(ToByteLevel(spec_.Text(merge.left)) + " " + ToByteLevel(spec_.Text(merge.right)));
    }
    Texts("tokenizer.ggml.merges", merges);
  }

  const TokenizerSpec& spec_;
  const size_t rows_;
  GgmlVocabulary made_;
};

}  // namespace

bool IsFolderVocabularyKey(std::string_view key) {
  return std::find(std::begin(kFolderKeys), std::end(kFolderKeys), key) != std::end(kFolderKeys);
}

bool HasFolderVocabulary(const Metadata& metadata) {
  return std::any_of(std::begin(kFolderKeys), std::end(kFolderKeys), [&](std::string_view key) { return metadata.Find(key) != nullptr; });
}

Result<GgmlVocabulary> MakeGgmlVocabulary(const ModelFile& file) {
  BANTAM_ASSIGN(const StoredTokenizer stored, ReadStoredTokenizer(file));
  const TensorInfo* const table = file.directory.Find("token_embd.weight");
  return Maker(stored.spec, table == nullptr ? 0 : static_cast<size_t>(table->rows())).Make();
}

}  // namespace bantam
