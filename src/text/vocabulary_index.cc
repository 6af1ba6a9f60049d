#include "text/vocabulary_index.h"

#include <bit>

#include "base/bytes.h"

namespace bantam {

bool IsMergeable(TokenType type, bool added_apart) {
  return type == TokenType::kNormal || type == TokenType::kUnused || (type == TokenType::kUserDefined && !added_apart);
}

VocabularyIndex::VocabularyIndex(const TokenizerSpec& spec, uint64_t seed) : spec_(spec), seed_(seed) {
  slots_.resize(std::bit_ceil(spec.size() + spec.size() / 2 + 1));
  for (uint32_t token = 0; token < spec.size(); ++token) {
    const std::string_view text = spec.Text(token);
    if (!IsMergeable(spec.types[token], spec.added_apart) || text.empty()) continue;
    const uint64_t hash = HashOf(text);
    const auto check = static_cast<uint32_t>(hash >> 32);
    size_t at = hash & (slots_.size() - 1);
    while (slots_[at].token != 0 && (slots_[at].check != check || spec.Text(slots_[at].token - 1) != text)) {
      at = (at + 1) & (slots_.size() - 1);
    }
    slots_[at] = {token + 1, check};
  }
}

std::optional<uint32_t> VocabularyIndex::Find(std::string_view text) const { return FindHashed(text, HashOf(text)); }

void VocabularyIndex::FindAll(std::span<const std::string_view> texts, std::vector<std::optional<uint32_t>>* tokens) const {
  tokens->resize(texts.size());
  std::vector<uint64_t> hashes(texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    hashes[i] = HashOf(texts[i]);
    __builtin_prefetch(&slots_[hashes[i] & (slots_.size() - 1)]);
  }
  for (const uint64_t hash : hashes) {
    const uint32_t token = slots_[hash & (slots_.size() - 1)].token;
    if (token == 0) continue;
    __builtin_prefetch(&spec_.text_ends[token - 1]);
    __builtin_prefetch(spec_.texts.data() + spec_.text_ends[token - 1]);
  }
  for (size_t i = 0; i < texts.size(); ++i) (*tokens)[i] = FindHashed(texts[i], hashes[i]);
}

std::optional<uint32_t> VocabularyIndex::FindHashed(std::string_view text, uint64_t hash) const {
  const auto check = static_cast<uint32_t>(hash >> 32);
  for (size_t at = hash & (slots_.size() - 1); slots_[at].token != 0; at = (at + 1) & (slots_.size() - 1)) {
    if (slots_[at].check == check && spec_.Text(slots_[at].token - 1) == text) return slots_[at].token - 1;
  }
  return std::nullopt;
}

// Eight bytes at a time through a 128-bit product, from a seed that the vocabulary's author does not know: texts that
// collide for one process do not for the next.
uint64_t VocabularyIndex::HashOf(std::string_view text) const {
  __extension__ using Wide = unsigned __int128;
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15ULL;
  uint64_t hash = seed_ ^ (text.size() * kOdd);
  const auto mix = [&](uint64_t word) {
    const auto product = static_cast<Wide>(hash ^ word) * (seed_ | 1);
    hash = (static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64)) + kOdd;
  };
  for (; text.size() >= 8; text.remove_prefix(8)) mix(LoadUnaligned<uint64_t>(text.data()));
  uint64_t rest = 0;
  for (const char c : text) rest = rest << 8 | static_cast<unsigned char>(c);
  mix(rest);
  return hash ^ (hash >> 32);
}

}  // namespace bantam
