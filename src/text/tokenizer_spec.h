// TokenizerSpec: everything that a vocabulary file says of how text becomes tokens, whichever format it came in.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bantam {

// Longest text of a token, and of one that is looked for at every byte of a text (control and user-defined tokens).
inline constexpr size_t kTokenBytesMax = 1024;
inline constexpr size_t kAddedTokenBytesMax = 256;
// Tokens of a vocabulary: several times those of the largest.
inline constexpr uint32_t kVocabularyMax = 1 << 20;
// Bytes of all token texts together: several times those of the largest vocabularies.
inline constexpr size_t kVocabularyTextMax = size_t{64} << 20;

inline constexpr size_t kMergesMax = 4 * kVocabularyMax;
// Of SentencePiece's precompiled map.
inline constexpr size_t kCharsmapBytesMax = size_t{8} << 20;

// Of a score: some models compute with 32 bits.
inline constexpr double kScoreMax = 3.4e38;

inline constexpr uint32_t kNoToken = UINT32_MAX;

// How SentencePiece and many others write a space.
inline constexpr std::string_view kSpaceMark = "\xe2\x96\x81";  // U+2581

enum class TokenType : uint8_t { kNormal, kUnknown, kControl, kUserDefined, kUnused, kByte };

enum class TokenizerModel : uint8_t {
  kSpmBpe,     // neighbours whose joined text has the highest score are joined (Kudo and Richardson, "SentencePiece", 2018)
  kBpe,        // neighbours are joined in the order of a list (Sennrich et al., "Neural Machine Translation of Rare Words", 2016)
  kUnigram,    // the segmentation of the highest sum of scores (Kudo, "Subword Regularization", 2018)
  kWordPiece,  // the longest piece first (Devlin et al., "BERT", 2018). Pieces that begin a word carry U+2581
  kWordLevel   // words as a whole
};

struct Merge {
  uint32_t left;
  uint32_t right;
  uint32_t joined;  // all three are tokens
};

// A step of normalization; steps apply to each stretch of text between added tokens, in order.
struct NormalizerStep {
  enum class Kind : uint8_t {
    kNfc,
    kNfd,
    kNfkc,
    kNfkd,
    kLowercase,
    kStripMarks,      // drops marks of all kinds
    kStripAccents,    // drops nonspacing marks
    kStripLeft,       // white space
    kStripRight,      // white space
    kPrepend,         // `with`, unless the text is empty
    kReplace,         // each `pattern` by `with`
    kReplaceRegex,    // each match of `pattern` by `with`
    kBertClean,       // control characters dropped, white space to spaces
    kBertIdeographs,  // spaces round CJK ideographs
    kNmt,             // SentencePiece's clean-up of control characters and spaces
    kCharsmap,        // `pattern` is SentencePiece's precompiled map
    kSentencePiece,   // spaces collapsed, prefixed and marked as the flags say
    kByteLevel        // bytes as characters of the byte-level alphabet
  };
  Kind kind;
  std::string pattern;
  std::string with;
  // Of kSentencePiece.
  bool collapse_spaces = false;  // runs become one, those at the ends none
  bool space_as_suffix = false;  // the added space goes to the end
  bool add_space = false;
  bool whole_text = false;  // ends are those of the text, not those at added tokens (kPrepend too)
};

// A step of pre-tokenization: parts of the text become smaller parts, which later steps see one by one.
struct SplitStep {
  enum class Kind : uint8_t {
    kPattern,      // at the matches of a regular expression
    kPrefixSpace,  // a space goes in front of each part that begins with none
    kByteLevel,    // bytes become characters of the byte-level alphabet, which later steps see
    kMetaspace     // spaces become `mark`, one goes in front as `prefix` says; with `split` each mark begins a part
  };
  enum class Behavior : uint8_t { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };
  enum class Prefix : uint8_t { kNever, kFirst, kAlways };
  Kind kind = Kind::kPattern;
  std::string pattern;
  Behavior behavior = Behavior::kIsolated;
  bool invert = false;  // what matches is kept and the rest is what `behavior` speaks of
  std::string mark;
  Prefix prefix = Prefix::kNever;
  bool split = false;
};

// How an added token (control, user-defined, unknown) is found in text.
struct AddedToken {
  uint32_t token;
  bool strip_left = false;   // takes the white space in front of it along
  bool strip_right = false;  // and behind it
  bool whole_word = false;   // only with no word character on either side
  bool normalized = false;   // is looked for in the normalized text, by its own normalized text
};

struct DecodeStyle {
  std::string space_mark;         // reads as a space, empty: none
  bool strip_space = false;       // one space at the beginning goes
  bool byte_level = false;        // tokens are written in the byte-level alphabet, and the spec is not byte_level
  std::string word_end;           // suffix of tokens that end a word, which becomes a space ("</w>")
  bool tidy_punctuation = false;  // no space in front of punctuation and contractions
};

struct TokenizerSpec {
  TokenizerModel model = TokenizerModel::kSpmBpe;
  std::string texts;                // all token texts, one after another; raw bytes in byte-level vocabularies
  std::vector<uint32_t> text_ends;  // of token i in `texts`; tokens are numbered from 0
  std::vector<double> scores;       // per token; empty where the model has none
  std::vector<TokenType> types;     // per token
  std::vector<Merge> merges;        // of kBpe, by rank
  bool byte_level = false;          // any byte is a symbol, and tokens are strings of them
  bool added_apart = false;         // user-defined tokens are found as a whole only, the model does not know them
  bool symbols_within = false;      // user-defined tokens are kept by kCharsmap and found in normalized text, as SentencePiece does
  bool added_listed = false;        // only the tokens in `added` are found, not all that are control, user-defined or unknown
  bool ignore_merges = false;       // a word that is a token needs no merging
  bool byte_fallback = false;       // characters without token become byte tokens (kBpe and kUnigram)
  bool single_precision = false;    // kUnigram: sums are rounded to 32 bits, as SentencePiece does and others do not
  bool fuse_unknown = true;         // neighbouring unknown characters are one unknown token
  std::string word_end;             // kBpe: suffix of the last symbol of a word
  std::string word_inside;  // kBpe: prefix of all symbols but the first; kWordPiece: as pieces that go on are written at a word's begin
  bool pieces_anywhere = false;           // kWordPiece: each piece may begin a word and go on with one
  size_t word_characters_max = SIZE_MAX;  // kWordPiece: longer words are unknown

  std::vector<AddedToken> added;  // those of the control, user-defined and unknown tokens that differ from the defaults
  std::vector<NormalizerStep> normalizer;
  std::vector<SplitStep> splits;
  DecodeStyle decode;

  std::optional<uint32_t> bos;
  std::optional<uint32_t> eos;
  std::optional<uint32_t> unknown;
  std::optional<uint32_t> pad;
  std::vector<uint32_t> end_of_turn;  // tokens that end an answer, eos included
  std::vector<uint32_t> prefix;       // tokens that a text begins with
  std::vector<uint32_t> suffix;       // and ends with
  std::vector<uint32_t> between;      // two texts that are read together

  size_t size() const { return text_ends.size(); }
  void Add(std::string_view text, TokenType type, double score) {
    texts += text;
    text_ends.push_back(static_cast<uint32_t>(texts.size()));
    types.push_back(type);
    if (model == TokenizerModel::kSpmBpe || model == TokenizerModel::kUnigram) scores.push_back(score);
  }
  std::string_view Text(uint32_t token) const {
    const uint32_t begin = token == 0 ? 0 : text_ends[token - 1];
    return std::string_view(texts).substr(begin, text_ends[token] - begin);
  }
};

}  // namespace bantam
