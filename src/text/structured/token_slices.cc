#include "text/structured/token_slices.h"

namespace bantam {
namespace {

std::array<CodeRanges, kCharacterSlices> MakeSlices() {
  CodeRanges word('0', '9');
  word.Add('A', 'Z');
  word.Add('a', 'z');
  CodeRanges spaced = word;
  spaced.Add(' ', ' ');
  CodeRanges not_foreign(0, 0xa0);
  for (const char32_t code : {0x1680, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000, 0xfeff}) not_foreign.Add(code, code);
  not_foreign.Add(0x2000, 0x200a);
  CodeRanges marked(0, 0x1f);
  marked.Add('"', '"');
  marked.Add('\\', '\\');
  return {word, spaced, not_foreign.Complement(), marked.Complement()};
}

}  // namespace

const CodeRanges& CharactersOf(TokenSlice slice) {
  static const std::array<CodeRanges, kCharacterSlices> slices = MakeSlices();
  return slices[static_cast<size_t>(slice)];
}

}  // namespace bantam
