// The scanner: a regular expression of runs of character classes, run by backtracking over its few instructions. Which
// alternatives can begin with a byte is known beforehand, so most of them are never tried.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>

#include "text/matcher.h"
#include "text/regex_parser.h"
#include "text/utf8.h"

namespace bantam {
namespace {

struct Instruction {
  enum class Op : uint8_t { kRun, kAhead, kNotAhead, kLineEnd, kSplit, kJump, kMatch };
  Op op = Op::kMatch;
  bool possessive = false;
  uint32_t chars = 0;  // of kRun, kAhead, kNotAhead: number of the class
  uint32_t least = 0;
  uint32_t most = 0;
  uint32_t target = 0;  // of kJump, and of kSplit when what follows fails
};

constexpr size_t kAlternativesMax = 32;  // bits of a mask
constexpr size_t kInstructionsMax = 4096;
constexpr size_t kNonAscii = 128;  // place in the table of first bytes

class Scanner final : public Matcher {
 public:
  Status Build(const RegexAlternatives& alternatives) {
    if (alternatives.size() > kAlternativesMax) return Error(Code::kUnsupported, "a pattern of more than 32 alternatives");
    for (size_t i = 0; i < alternatives.size(); ++i) {
      starts_.push_back(static_cast<uint32_t>(program_.size()));
      AddSequence(alternatives[i]);
      program_.push_back({});
      if (program_.size() > kInstructionsMax) return Error(Code::kUnsupported, "a pattern of thousands of parts");
      First first;
      first.Of(alternatives[i]);
      if (first.nullable) return Error(Code::kUnsupported, "a pattern that matches nothing at all");
      for (size_t byte = 0; byte < kNonAscii; ++byte) {
        if (first.ascii[byte]) first_[byte] |= uint32_t{1} << i;
      }
      first_[kNonAscii] |= uint32_t{1} << i;
    }
    return Ok();
  }

  bool Find(std::string_view text, size_t from, MatchWork* work, TextSpan* match) const override {
    for (size_t at = from; at < text.size();) {
      const auto byte = static_cast<unsigned char>(text[at]);
      for (uint32_t mask = first_[std::min<size_t>(byte, kNonAscii)]; mask != 0; mask &= mask - 1) {
        const uint32_t start = starts_[static_cast<size_t>(__builtin_ctz(mask))];
        if (HasFailed(start, text, at, *work)) continue;
        const size_t end = Run(start, text, at, work);
        if (end == kNoMatch) NoteFailure(start, text, at, work);
        if (end == kNoMatch || end == at) continue;
        *match = {at, end};
        return !work->exhausted;
      }
      ++work->steps;
      at += byte < 0x80 ? 1 : DecodeUtf8(text, at).size;
    }
    return false;
  }

  uint64_t bytes() const override {
    return sizeof(*this) + program_.capacity() * sizeof(Instruction) + classes_.capacity() * sizeof(CharClass);
  }

 private:
  static constexpr size_t kNoMatch = std::numeric_limits<size_t>::max();

  // What a sequence can begin with.
  struct First {
    std::array<bool, kNonAscii> ascii = {};
    bool nullable = true;

    void Of(const RegexSequence& sequence) {
      nullable = true;
      for (const RegexItem& item : sequence) {
        if (!nullable) return;
        if (item.kind == RegexItem::Kind::kRun) {
          for (size_t byte = 0; byte < kNonAscii; ++byte)
            ascii[byte] = ascii[byte] || item.chars.HasAscii(static_cast<unsigned char>(byte));
          nullable = item.least == 0;
        } else if (item.kind == RegexItem::Kind::kGroup) {
          bool any_nullable = item.least == 0;
          for (const RegexSequence& alternative : item.alternatives) {
            First inner;
            inner.Of(alternative);
            for (size_t byte = 0; byte < kNonAscii; ++byte) ascii[byte] = ascii[byte] || inner.ascii[byte];
            any_nullable = any_nullable || inner.nullable;
          }
          nullable = any_nullable;
        }
      }
    }
  };

  uint32_t ClassNumber(const CharClass& chars) {
    const auto known = std::find(classes_.begin(), classes_.end(), chars);
    if (known != classes_.end()) return static_cast<uint32_t>(known - classes_.begin());
    classes_.push_back(chars);
    return static_cast<uint32_t>(classes_.size() - 1);
  }

  void AddSequence(const RegexSequence& sequence) {
    for (const RegexItem& item : sequence) {
      switch (item.kind) {
        case RegexItem::Kind::kRun:
          program_.push_back({Instruction::Op::kRun, item.possessive, ClassNumber(item.chars), item.least, item.most, 0});
          break;
        case RegexItem::Kind::kAhead:
          program_.push_back({Instruction::Op::kAhead, false, ClassNumber(item.chars), 0, 0, 0});
          break;
        case RegexItem::Kind::kNotAhead:
          program_.push_back({Instruction::Op::kNotAhead, false, ClassNumber(item.chars), 0, 0, 0});
          break;
        case RegexItem::Kind::kLineEnd:
          program_.push_back({Instruction::Op::kLineEnd, false, 0, 0, 0, 0});
          break;
        case RegexItem::Kind::kGroup:
          AddGroup(item);
          break;
      }
    }
  }

  void AddGroup(const RegexItem& item) {
    std::vector<size_t> to_end;
    const auto here = [&] { return static_cast<uint32_t>(program_.size()); };
    const size_t n = item.alternatives.size();
    for (size_t i = 0; i < n; ++i) {
      const bool last = i + 1 == n && item.least != 0;
      const size_t split = program_.size();
      if (!last) program_.push_back({Instruction::Op::kSplit, false, 0, 0, 0, 0});
      AddSequence(item.alternatives[i]);
      if (i + 1 < n) {
        to_end.push_back(program_.size());
        program_.push_back({Instruction::Op::kJump, false, 0, 0, 0, 0});
      }
      if (!last) program_[split].target = here();
    }
    for (const size_t jump : to_end) program_[jump].target = here();
  }

  bool HasFailed(uint32_t start, std::string_view text, size_t at, const MatchWork& work) const {
    const MatchWork::FailedRun& failed = work.failed;
    const char* place = text.data() + at;
    return failed.matcher == this && failed.start == start && failed.text_end == text.data() + text.size() && place >= failed.begin &&
           place < failed.end;
  }

  // Worth it only for runs that are longer than a few characters; the run is known to match at least there.
  void NoteFailure(uint32_t start, std::string_view text, size_t at, MatchWork* work) const {
    const Instruction& run = program_[start];
    constexpr size_t kShortRun = 8;
    if (run.op != Instruction::Op::kRun || run.most != RegexItem::kUnbounded || work->first_run_end < at + kShortRun) return;
    work->failed = {this, start, text.data() + at, text.data() + work->first_run_end, text.data() + text.size()};
  }

  // The character of the class at `at`: its size, or 0.
  size_t SizeOf(const CharClass& chars, std::string_view text, size_t at) const {
    if (at >= text.size()) return 0;
    const auto byte = static_cast<unsigned char>(text[at]);
    if (byte < 0x80) return chars.HasAscii(byte) ? 1 : 0;
    const Utf8Character character = DecodeUtf8(text, at);
    return chars.Has(character.code) ? character.size : 0;
  }

  // One alternative at `begin`: where its match ends, or kNoMatch.
  size_t Run(uint32_t start, std::string_view text, size_t begin, MatchWork* work) const {
    uint32_t instruction = start;
    work->choices.clear();
    work->first_run_end = begin;
    size_t at = begin;
    for (;;) {
      const Instruction& now = program_[instruction];
      bool ok = true;
      switch (now.op) {
        case Instruction::Op::kRun:
          ok = Repeat(instruction, text, &at, work);
          if (instruction == start) work->first_run_end = at;
          break;
        case Instruction::Op::kAhead:
          ok = SizeOf(classes_[now.chars], text, at) != 0;
          break;
        case Instruction::Op::kNotAhead:
          ok = SizeOf(classes_[now.chars], text, at) == 0;
          break;
        case Instruction::Op::kLineEnd:
          ok = at == text.size() || text[at] == '\n';
          break;
        case Instruction::Op::kSplit:
          work->choices.push_back({now.target, 0, at, at});
          break;
        case Instruction::Op::kJump:
          instruction = now.target;
          continue;
        case Instruction::Op::kMatch:
          return at;
      }
      ++instruction;
      if (!ok && !TakeBack(text, work, &instruction, &at)) return kNoMatch;
    }
  }

  bool Repeat(uint32_t instruction, std::string_view text, size_t* at, MatchWork* work) const {
    const Instruction& run = program_[instruction];
    const CharClass& chars = classes_[run.chars];
    size_t least = *at;
    size_t end = *at;
    uint32_t count = 0;
    for (; count < run.most; ++count) {
      if (count == run.least) least = end;
      const size_t size = SizeOf(chars, text, end);
      if (size == 0) break;
      end += size;
    }
    work->steps += count + 1;
    if (count < run.least) return false;
    if (count == run.least) least = end;
    *at = end;
    // A run that the whole match ends with never has to give back.
    if (end > least && !run.possessive && program_[instruction + 1].op != Instruction::Op::kMatch) {
      work->choices.push_back({instruction + 1, 1, end, least});
    }
    return true;
  }

  // Goes on at the last choice; false when there is none left.
  bool TakeBack(std::string_view text, MatchWork* work, uint32_t* instruction, size_t* at) const {
    if (++work->steps > work->steps_max) work->exhausted = true;
    if (work->choices.empty() || work->exhausted) return false;
    MatchWork::Choice& choice = work->choices.back();
    if (choice.repeat != 0) {
      do {
        --choice.at;
      } while (choice.at > choice.least && (static_cast<unsigned char>(text[choice.at]) & 0xc0u) == 0x80u);
    }
    *instruction = choice.instruction;
    *at = choice.at;
    if (choice.repeat == 0 || choice.at <= choice.least) work->choices.pop_back();
    return true;
  }

  std::vector<Instruction> program_;
  std::vector<CharClass> classes_;
  std::vector<uint32_t> starts_;                    // of each alternative in the program
  std::array<uint32_t, kNonAscii + 1> first_ = {};  // by first byte: alternatives that can begin with it
};

}  // namespace

std::string_view Matcher::Prepare(std::string_view text, std::string*) const { return text; }

Result<std::unique_ptr<const Matcher>> CompileScanner(std::string_view regex) {
  if (regex.size() > kPatternBytesMax) {
    return Error(Code::kUnsupported, fmt::format("a pattern of {} bytes, expected at most {}", regex.size(), kPatternBytesMax));
  }
  BANTAM_ASSIGN(const RegexAlternatives alternatives, ParseRegex(regex));
  auto scanner = std::make_unique<Scanner>();
  BANTAM_TRY(scanner->Build(alternatives));
  return std::unique_ptr<const Matcher>(std::move(scanner));
}

namespace {

// Whether the expression has a construct that means something else in the library's syntax than in Ruby's, which models are made with.
bool MeansSomethingElse(std::string_view regex) {
  for (const std::string_view construct : {"&&", "(?m", "(?x", "(?-"}) {
    if (regex.find(construct) != std::string_view::npos) return true;
  }
  bool in_class = false;
  for (size_t at = 0; at < regex.size(); ++at) {
    const char c = regex[at];
    if (c == '\\') {
      if (++at == regex.size()) return true;
      if (std::string_view("hHGKXR").find(regex[at]) != std::string_view::npos) return true;
      // The braces of a property or a code are no repetition.
      const bool braces = std::string_view("pPxu").find(regex[at]) != std::string_view::npos && regex.substr(at + 1).starts_with('{');
      if (braces) at = std::min(regex.find('}', at), regex.size());
    } else if (in_class) {
      if (c == '[') return true;  // a set within a set
      in_class = c != ']';
    } else if (c == '[') {
      in_class = true;
    } else if (c == '{') {
      // {,n} counts from nothing in Ruby, and {n}+ repeats a repetition, where the library sees texts and possession.
      const size_t end = regex.find('}', at);
      if (regex.substr(at + 1).starts_with(',') || (end != std::string_view::npos && regex.substr(end + 1).starts_with('+'))) return true;
    }
  }
  return false;
}

}  // namespace

Result<std::unique_ptr<const Matcher>> CompileMatcher(std::string_view regex) {
  auto scanner = CompileScanner(regex);
  if (scanner.ok() || scanner.error().code() != Code::kUnsupported) return scanner;
  if (MeansSomethingElse(regex)) {
    return Error(Code::kUnsupported, fmt::format("pre-tokenizer pattern {}: this build cannot run it as it is meant", regex));
  }
  return CompilePcre2(regex);
}

}  // namespace bantam
