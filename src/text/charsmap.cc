#include "text/charsmap.h"

#include <fmt/format.h>

#include "base/bytes.h"
#include "text/utf8.h"

namespace bantam {
namespace {

// Fields of a unit (Yata, "Darts-clone", double-array units).
bool HasLeaf(uint32_t unit) { return (unit >> 8 & 1) != 0; }
uint32_t Value(uint32_t unit) { return unit & 0x7fffffffu; }
uint32_t Label(uint32_t unit) { return unit & 0x800000ffu; }
uint32_t Offset(uint32_t unit) { return unit >> 10 << ((unit & 0x200u) >> 6); }

}  // namespace

Result<Charsmap> Charsmap::Parse(std::string_view blob) {
  Charsmap map;
  const uint32_t size = blob.size() < 4 ? 0 : LoadUnaligned<uint32_t>(blob.data());
  if (blob.size() < 4 || size > blob.size() - 4 || size % 4 != 0) {
    return Error(Code::kCorrupt, fmt::format("the map of characters has {} bytes and says that its trie takes {} of them; "
                                             "convert the model again",
                                             blob.size(), size));
  }
  map.units_.resize(size / 4);
  for (size_t i = 0; i < map.units_.size(); ++i) map.units_[i] = LoadUnaligned<uint32_t>(blob.data() + 4 + 4 * i);
  map.texts_ = blob.substr(4 + size);
  // Every replacement ends within the texts.
  map.texts_ += '\0';
  return map;
}

size_t Charsmap::Match(std::string_view text, size_t* replacement) const {
  if (units_.empty()) return 0;
  size_t longest = 0;
  uint32_t at = Offset(units_[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    at ^= byte;
    if (at >= units_.size() || Label(units_[at]) != byte) break;
    const bool leaf = HasLeaf(units_[at]);
    at ^= Offset(units_[at]);
    if (at >= units_.size()) break;
    if (leaf && Value(units_[at]) < texts_.size()) {
      longest = i + 1;
      *replacement = Value(units_[at]);
    }
  }
  return longest;
}

std::string Charsmap::Apply(std::string_view text, size_t size_max) const {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size() && out.size() <= size_max;) at = Step(text, at, &out);
  return out;
}

size_t Charsmap::Step(std::string_view text, size_t at, std::string* out) const {
  size_t replacement = 0;
  if (const size_t size = Match(text.substr(at), &replacement); size > 0) {
    *out += texts_.c_str() + replacement;
    return at + size;
  }
  const Utf8Character character = DecodeUtf8(text, at);
  AppendUtf8(character.code, out);
  return at + character.size;
}

}  // namespace bantam
