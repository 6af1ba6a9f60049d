// Matcher: finds the matches of a pre-tokenizer's regular expression, one after another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace bantam {

// Longest expression that is taken, in bytes.
inline constexpr size_t kPatternBytesMax = 16 * 1024;

struct TextSpan {
  size_t begin;
  size_t end;
};

// What matching needs besides the text: memory that is used again, and a count of the work that bounds it.
struct MatchWork {
  struct Choice {
    uint32_t instruction;
    uint32_t repeat;  // not 0: the end of a run that may give back characters, down to `least`
    size_t at;
    size_t least;
  };
  std::vector<Choice> choices;
  uint64_t steps = 0;  // characters looked at and choices taken back
  uint64_t steps_max = UINT64_MAX;
  // An alternative that begins with a run and failed fails wherever the same run is entered later: without this, patterns
  // such as \s*[\r\n]+ would look at the same spaces again and again. Of the last failure; to be cleared for each new text, since it
  // knows texts by their addresses.
  struct FailedRun {
    const void* matcher = nullptr;
    uint32_t start = 0;  // instruction
    const char* begin = nullptr;
    const char* end = nullptr;
    const char* text_end = nullptr;
  };
  FailedRun failed;
  size_t first_run_end = 0;  // of the alternative tried last, where its first run ended
  bool exhausted = false;    // steps_max, or the limit of a library, was reached: nothing after that is to be used
};

class Matcher {
 public:
  virtual ~Matcher() = default;

  // `text` as Find wants it: itself, or a copy of the same length in `copy`.
  virtual std::string_view Prepare(std::string_view text, std::string* copy) const;

  // The leftmost match of at least one byte that begins at `from` or behind it. False when there is none, or when the work
  // is exhausted.
  virtual bool Find(std::string_view text, size_t from, MatchWork* work, TextSpan* match) const = 0;

  // Memory held.
  virtual uint64_t bytes() const = 0;
};

// The expression as scanners over our own tables where they can run it, else in PCRE2. Syntax and meaning are those of the
// tokenizers library (Oniguruma with Ruby's syntax). Unsupported for what this build cannot run: malformed expressions, such that can match
// nothing at all, and constructs that mean something else to PCRE2.
Result<std::unique_ptr<const Matcher>> CompileMatcher(std::string_view regex);

// The two kinds, apart for tests that hold one against the other.
Result<std::unique_ptr<const Matcher>> CompileScanner(std::string_view regex);
Result<std::unique_ptr<const Matcher>> CompilePcre2(std::string_view regex);

}  // namespace bantam
