// What the readers of vocabulary formats share: they fill a TokenizerSpec from texts.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "text/tokenizer_spec.h"

namespace bantam {

// Appends a token as the vocabulary writes it; in byte-level vocabularies normal ones become their bytes. Corrupt when all texts
// together are larger than any vocabulary.
Status AddToken(std::string_view text, TokenType type, double score, TokenizerSpec* spec);

// Sets spec->merges from pairs of texts as the vocabulary writes them, by rank. A pair whose parts or whole are no tokens can
// never be joined and is left out. `continuation` is what a symbol inside a word begins with, which joining drops.
void SetMerges(const std::vector<std::pair<std::string_view, std::string_view>>& merges, std::string_view continuation,
               TokenizerSpec* spec);

struct BertOptions {
  bool clean = true;
  bool ideographs = true;
  bool strip_accents = true;
  bool lowercase = true;
};
// The BERT normalizer's and pre-tokenizer's steps, and how WordPiece reads.
void AddBertNormalizer(const BertOptions& options, TokenizerSpec* spec);
void AddBertSplits(TokenizerSpec* spec);
void SetWordPieceDecoding(bool tidy, TokenizerSpec* spec);

// Byte fallback is possible where every byte has a token like <0x0A>: types them so. `required`: even if some are missing.
void FindByteTokens(bool required, TokenizerSpec* spec);

// Fills spec->end_of_turn: eos, and the control tokens by which chat models are known to end their turn.
void FindTurnEnds(TokenizerSpec* spec);

}  // namespace bantam
