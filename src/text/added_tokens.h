// AddedTokens: control, user-defined and unknown tokens, which are found by their whole text before anything else happens.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer_spec.h"

namespace bantam {

class AddedTokens {
 public:
  struct Entry {
    std::string text;  // not empty
    AddedToken rules;
    bool control = false;  // is found in trusted text only
  };
  struct Hit {
    size_t begin;
    size_t end;
    AddedToken rules;
  };

  explicit AddedTokens(std::vector<Entry> entries);

  bool empty() const { return entries_.empty(); }

  // The first hit at `from` or behind it, of several there the longest.
  bool Find(std::string_view text, size_t from, bool trusted, Hit* hit) const;

  uint64_t bytes() const;

 private:
  // The longest that `text` goes on with at `at`.
  const Entry* Match(std::string_view text, size_t at, bool trusted) const;
  bool MayStart(std::string_view text, size_t at) const;

  std::vector<Entry> entries_;    // sorted by text
  std::vector<uint64_t> starts_;  // 2^16 bits: the pairs of bytes that some entry begins with
};

}  // namespace bantam
