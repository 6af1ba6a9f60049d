// Patterns that scanners cannot run. JIT off: what a model file brings is not turned into machine code.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <memory>

#include "text/matcher.h"
#include "text/utf8.h"

namespace bantam {
namespace {

// Calls of the library's match function for one match; pre-tokenizers need tens.
constexpr uint32_t kMatchLimit = 4'000'000;
constexpr uint32_t kFirstLimit = 100;
constexpr uint32_t kHeapLimitKib = 16 * 1024;

struct Free {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

class Pcre2Matcher final : public Matcher {
 public:
  explicit Pcre2Matcher(std::unique_ptr<pcre2_code, Free> code) : code_(std::move(code)) {}

  // Malformed bytes are replaced by a control character each, so that the library need not look for them again and again.
  std::string_view Prepare(std::string_view text, std::string* copy) const override {
    size_t at = 0;
    while (at < text.size() && !DecodeUtf8(text, at).malformed()) at += DecodeUtf8(text, at).size;
    if (at == text.size()) return text;
    *copy = text;
    for (; at < text.size(); at += DecodeUtf8(text, at).size) {
      if (DecodeUtf8(text, at).malformed()) (*copy)[at] = '\x1a';
    }
    return *copy;
  }

  // The library does not say how long a match took; so it is asked with a small limit first, and each limit it needs is paid for.
  bool Find(std::string_view text, size_t from, MatchWork* work, TextSpan* match) const override {
    const std::unique_ptr<pcre2_match_data, Free> data(pcre2_match_data_create(/*ovecsize=*/1, /*gcontext=*/nullptr));
    const std::unique_ptr<pcre2_match_context, Free> context(pcre2_match_context_create(/*gcontext=*/nullptr));
    work->exhausted = work->exhausted || data == nullptr || context == nullptr;
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    for (uint32_t limit = kFirstLimit; !work->exhausted && limit <= kMatchLimit; limit *= 8) {
      pcre2_set_match_limit(context.get(), limit);
      pcre2_set_heap_limit(context.get(), kHeapLimitKib);
      const int found =
          pcre2_match(code_.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, data.get(), context.get());
      work->steps += limit / kFirstLimit;
      if (work->steps > work->steps_max) break;
      if (found == PCRE2_ERROR_MATCHLIMIT) continue;
      if (found == PCRE2_ERROR_NOMATCH) return false;
      if (found < 0) break;
      const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(data.get());
      *match = {ends[0], ends[1]};
      // \K could put a match's begin behind its end or before the search's start.
      return match->begin >= from && match->end > match->begin;
    }
    work->exhausted = true;
    return false;
  }

  uint64_t bytes() const override {
    size_t size = 0;
    pcre2_pattern_info(code_.get(), PCRE2_INFO_SIZE, &size);
    return sizeof(*this) + size;
  }

 private:
  std::unique_ptr<pcre2_code, Free> code_;
};

}  // namespace

Result<std::unique_ptr<const Matcher>> CompilePcre2(std::string_view regex) {
  if (regex.size() > kPatternBytesMax) {
    return Error(Code::kUnsupported, fmt::format("a pre-tokenizer pattern of {} bytes, expected at most {}; convert the model again",
                                                 regex.size(), kPatternBytesMax));
  }
  int problem = 0;
  PCRE2_SIZE place = 0;
  std::unique_ptr<pcre2_code, Free> code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(regex.data()), regex.size(),
                                                       PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_MULTILINE, &problem, &place,
                                                       /*ccontext=*/nullptr));
  if (code == nullptr) {
    unsigned char message[256] = {};
    pcre2_get_error_message(problem, message, sizeof(message));
    return Error(Code::kUnsupported, fmt::format("pre-tokenizer pattern {}: byte {}: {}; this build cannot run it", regex, place,
                                                 reinterpret_cast<const char*>(message)));
  }
  // A match of nothing would be a cut between two characters, which parts have no room for.
  uint32_t empty = 0;
  pcre2_pattern_info(code.get(), PCRE2_INFO_MATCHEMPTY, &empty);
  if (empty != 0) {
    return Error(Code::kUnsupported, fmt::format("pre-tokenizer pattern {}: can match nothing at all; this build cannot run it", regex));
  }
  return std::unique_ptr<const Matcher>(std::make_unique<Pcre2Matcher>(std::move(code)));
}

}  // namespace bantam
