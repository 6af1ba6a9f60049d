// Normalizer: the steps that a vocabulary wants done to text before it is cut up.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/added_tokens.h"
#include "text/charsmap.h"
#include "text/matcher.h"
#include "text/tokenizer_spec.h"

namespace bantam {

// Where a stretch of text lies: whether the whole text begins with it, and ends with it. Else an added token stands there.
struct TextPlace {
  bool first = true;
  bool last = true;
};

// Unicode's full lower case, whatever stands around a character.
std::string Lowercase(std::string_view text);

class Normalizer {
 public:
  // Corrupt or Unsupported for a step that cannot run.
  static Result<Normalizer> Make(std::span<const NormalizerStep> steps);

  bool empty() const { return steps_.empty(); }

  // Exhausted when the result grows past every measure (a hostile vocabulary) or a pattern takes too long. kCharsmap leaves the tokens
  // of `keep` as they are written (null: none).
  Status Apply(TextPlace place, const AddedTokens* keep, MatchWork* work, std::string* text) const;

  uint64_t bytes() const;

 private:
  struct Prepared {
    NormalizerStep step;
    std::unique_ptr<const Charsmap> map;
    std::unique_ptr<const Matcher> matcher;
  };
  struct Limits {
    size_t size_max;
    MatchWork* work;
  };
  static Status ApplyOne(const Prepared& prepared, TextPlace place, const AddedTokens* keep, Limits limits, std::string* text);

  std::vector<Prepared> steps_;
};

}  // namespace bantam
