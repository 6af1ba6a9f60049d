#include "text/pre_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "text/byte_level.h"

namespace bantam {
namespace {

constexpr size_t kStepsMax = 32;
constexpr size_t kMarkBytesMax = 16;

}  // namespace

Result<PreTokenizer> PreTokenizer::Make(std::span<const SplitStep> steps) {
  PreTokenizer splitter;
  if (steps.size() > kStepsMax) {
    return Error(Code::kUnsupported, fmt::format("the pre-tokenizer has {} steps, expected at most {}", steps.size(), kStepsMax));
  }
  for (const SplitStep& step : steps) {
    Prepared prepared = {step, nullptr};
    if (step.kind == SplitStep::Kind::kPattern) {
      BANTAM_ASSIGN(prepared.matcher, CompileMatcher(step.pattern));
    } else if (step.kind == SplitStep::Kind::kMetaspace &&
               (step.mark.empty() || step.mark.size() > kMarkBytesMax || step.mark.find(' ') != std::string::npos)) {
      return Error(Code::kCorrupt,
                   fmt::format("the pre-tokenizer writes spaces with {} bytes, expected 1 to {} and no space; convert the model again",
                               step.mark.size(), kMarkBytesMax));
    }
    splitter.steps_.push_back(std::move(prepared));
  }
  return splitter;
}

Status PreTokenizer::Split(std::string_view text, bool first, MatchWork* work, WordSink* sink) const {
  work->failed = {};
  Walk(0, text, first, work, sink);
  if (!work->exhausted) return Ok();
  return Error(Code::kExhausted, "the vocabulary's pre-tokenizer takes too long on this text; shorten it or convert the model again");
}

void PreTokenizer::Walk(size_t index, std::string_view text, bool first, MatchWork* work, WordSink* sink) const {
  if (text.empty() || work->exhausted) return;
  if (index == steps_.size()) {
    sink->Word(text);
    return;
  }
  const SplitStep& step = steps_[index].step;
  // Steps that write the text anew make it longer, each again: their work counts like that of patterns, and is bounded with it.
  if (step.kind != SplitStep::Kind::kPattern) {
    work->steps += text.size();
    work->exhausted = work->steps > work->steps_max;
    if (work->exhausted) return;
  }
  switch (step.kind) {
    case SplitStep::Kind::kPattern:
      if (step.behavior == SplitStep::Behavior::kIsolated || step.behavior == SplitStep::Behavior::kRemoved) {
        WalkPattern(index, text, first, work, sink);
      } else {
        WalkMerged(index, text, first, work, sink);
      }
      return;
    case SplitStep::Kind::kPrefixSpace: {
      std::string spaced(text.front() == ' ' ? 0 : 1, ' ');
      spaced += text;
      work->failed = {};  // of another buffer
      Walk(index + 1, spaced, first, work, sink);
      return;
    }
    case SplitStep::Kind::kByteLevel:
      work->failed = {};
      Walk(index + 1, ToByteLevel(text), first, work, sink);
      return;
    case SplitStep::Kind::kMetaspace:
      WalkMetaspace(index, text, first, work, sink);
      return;
  }
}

void PreTokenizer::WalkPattern(size_t index, std::string_view text, bool first, MatchWork* work, WordSink* sink) const {
  const SplitStep& step = steps_[index].step;
  const bool keep_all = step.behavior == SplitStep::Behavior::kIsolated;
  const bool keep_matches = keep_all || step.invert;
  const bool keep_gaps = keep_all || !step.invert;
  const Matcher& matcher = *steps_[index].matcher;
  std::string copy;
  const std::string_view searched = matcher.Prepare(text, &copy);
  size_t at = 0;
  for (TextSpan match = {}; matcher.Find(searched, at, work, &match); at = match.end) {
    if (keep_gaps && match.begin > at) Walk(index + 1, text.substr(at, match.begin - at), first && at == 0, work, sink);
    if (keep_matches) Walk(index + 1, text.substr(match.begin, match.end - match.begin), first && match.begin == 0, work, sink);
  }
  if (keep_gaps && at < text.size()) Walk(index + 1, text.substr(at), first && at == 0, work, sink);
}

void PreTokenizer::WalkMerged(size_t index, std::string_view text, bool first, MatchWork* work, WordSink* sink) const {
  struct Part {
    size_t begin;
    size_t end;
    bool match;
  };
  const SplitStep& step = steps_[index].step;
  const Matcher& matcher = *steps_[index].matcher;
  std::string copy;
  const std::string_view searched = matcher.Prepare(text, &copy);
  std::vector<Part> parts;
  // Merges a part with the one in front of it, or puts it behind.
  const auto add = [&](Part part) {
    const bool joins = !parts.empty() && (step.behavior == SplitStep::Behavior::kContiguous           ? parts.back().match == part.match
                                          : step.behavior == SplitStep::Behavior::kMergedWithPrevious ? part.match && !parts.back().match
                                                                                                      : parts.back().match && !part.match);
    if (!joins) {
      parts.push_back(part);
      return;
    }
    parts.back().end = part.end;
    // What was merged with a match counts as one, so that the next match stands alone.
    parts.back().match = step.behavior == SplitStep::Behavior::kMergedWithNext ? part.match : parts.back().match || part.match;
  };
  size_t at = 0;
  for (TextSpan match = {}; matcher.Find(searched, at, work, &match); at = match.end) {
    if (match.begin > at) add({at, match.begin, step.invert});
    add({match.begin, match.end, !step.invert});
  }
  if (at < text.size()) add({at, text.size(), step.invert});
  for (const Part& part : parts) Walk(index + 1, text.substr(part.begin, part.end - part.begin), first && part.begin == 0, work, sink);
}

void PreTokenizer::WalkMetaspace(size_t index, std::string_view text, bool first, MatchWork* work, WordSink* sink) const {
  const SplitStep& step = steps_[index].step;
  std::string marked;
  marked.reserve(text.size() + text.size() / 2);
  for (const char c : text) {
    if (c == ' ') {
      marked += step.mark;
    } else {
      marked += c;
    }
  }
  const bool prefix = step.prefix == SplitStep::Prefix::kAlways || (step.prefix == SplitStep::Prefix::kFirst && first);
  if (prefix && !marked.starts_with(step.mark)) marked.insert(0, step.mark);
  const std::string_view view = marked;
  work->failed = {};
  for (size_t at = 0; at < view.size();) {
    const size_t end = step.split ? std::min(view.find(step.mark, at + 1), view.size()) : view.size();
    Walk(index + 1, view.substr(at, end - at), first && at == 0, work, sink);
    at = end;
  }
}

uint64_t PreTokenizer::bytes() const {
  uint64_t total = steps_.capacity() * sizeof(Prepared);
  for (const Prepared& prepared : steps_) {
    if (prepared.matcher) total += prepared.matcher->bytes();
  }
  return total;
}

}  // namespace bantam
