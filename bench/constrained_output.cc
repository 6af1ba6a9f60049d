// constrained_output VOCABULARY: what ./dev conformance schemas asks. A line of the input is {"schema", "outputs", "instances", "seed"};
// the answer is a line: whether the schema is accepted or why not, random outputs of it, which of the instances can be written, how long
// masks took.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdio>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "model/open.h"
#include "model/vocabulary.h"
#include "text/structured/json_schema.h"
#include "text/structured/token_constraint.h"

namespace {

using namespace bantam;
using Clock = std::chrono::steady_clock;

constexpr size_t kFreeTokens = 120;  // after so many the shortest way to the end is looked for
constexpr size_t kTokensMax = 30000;
constexpr size_t kSearchStepsMax = 100'000;

double MicrosSince(Clock::time_point begin) { return std::chrono::duration<double, std::micro>(Clock::now() - begin).count(); }

struct Timing {
  std::vector<double> masks_us;
};

// Bytes to the end of the text, bounds of counts aside: what finishes an answer soonest.
class Finisher {
 public:
  explicit Finisher(const Grammar& grammar) : grammar_(grammar), states_(grammar.states.size(), kFar) {
    for (const ByteAutomaton& terminal : grammar.terminals) terminals_.push_back(TerminalCosts(terminal));
    for (bool changed = true; changed;) {
      changed = false;
      for (uint32_t i = 0; i < states_.size(); ++i) {
        const uint64_t cost = StateCost(grammar.states[i]);
        changed = changed || cost < states_[i];
        states_[i] = std::min(states_[i], cost);
      }
    }
  }

  uint64_t CostOf(const GrammarPosition& position) const {
    if (position.may_end) return 0;
    std::vector<uint64_t> frames(position.frames.size(), kUnknown);
    uint64_t best = kFar;
    for (const GrammarPlace& place : position.places) {
      const Grammar::State& state = grammar_.states[place.state];
      const uint64_t rest = state.op == Grammar::Op::kLiteral ? state.b - place.position : terminals_[state.a][place.position];
      best = std::min(best, rest + states_[state.next] + FrameCost(position, place.node, &frames));
    }
    return best;
  }

 private:
  static constexpr uint64_t kFar = 1ULL << 40;
  static constexpr uint64_t kUnknown = UINT64_MAX;

  static std::vector<uint64_t> TerminalCosts(const ByteAutomaton& terminal) {
    std::vector<uint64_t> costs(terminal.size(), kFar);
    for (bool changed = true; changed;) {
      changed = false;
      for (uint32_t state = terminal.size(); state-- > 0;) {
        uint64_t cost = terminal.Accepts(state) ? 0 : kFar;
        for (uint32_t c = 0; c < terminal.classes; ++c) {
          const uint32_t to = terminal.next[size_t{state} * terminal.classes + c];
          if (to != kNoState) cost = std::min(cost, costs[to] + 1);
        }
        changed = changed || cost < costs[state];
        costs[state] = cost;
      }
    }
    return costs;
  }
  uint64_t StateCost(const Grammar::State& state) const {
    uint64_t cost = kFar;
    switch (state.op) {
      case Grammar::Op::kLiteral:
        return state.b + states_[state.next];
      case Grammar::Op::kTerminal:
        return terminals_[state.a][0] + states_[state.next];
      case Grammar::Op::kCall:
        return states_[grammar_.rules[state.a].start] + states_[state.next];
      case Grammar::Op::kSplit:
        for (uint32_t t = 0; t < state.b; ++t) cost = std::min(cost, states_[grammar_.targets[state.a + t]]);
        return cost;
      case Grammar::Op::kCount:
      case Grammar::Op::kGuard:
      case Grammar::Op::kNeed:
        return states_[state.next];
      case Grammar::Op::kEnd:
        return 0;
    }
    return cost;
  }
  uint64_t FrameCost(const GrammarPosition& position, uint32_t node, std::vector<uint64_t>* frames) const {
    if (node == 0) return 0;
    if ((*frames)[node] != kUnknown) return (*frames)[node];
    (*frames)[node] = kFar;
    uint64_t best = kFar;
    for (uint32_t at = position.frames[node].link; at != kNoState; at = position.returns[at].next) {
      best = std::min(best, states_[position.returns[at].state] + FrameCost(position, position.returns[at].node, frames));
    }
    return (*frames)[node] = best;
  }

  const Grammar& grammar_;
  std::vector<std::vector<uint64_t>> terminals_;
  std::vector<uint64_t> states_;
};

// A model that knows nothing: any allowed token may be next, with a liking for what ends things.
class RandomModel {
 public:
  RandomModel(std::shared_ptr<TokenMasks> masks, uint64_t seed)
      : masks_(std::move(masks)), finisher_(masks_->grammar()), rng_(seed), bits_(masks_->vocabulary().words()) {}

  // The text, or nothing when it did not end.
  std::optional<std::string> Write(Timing* timing) {
    TokenConstraint constraint(masks_);
    std::string text;
    for (size_t i = 0; i < kTokensMax; ++i) {
      const auto begin = Clock::now();
      const Status masked = constraint.Mask(bits_);
      double micros = MicrosSince(begin);
      if (!masked.ok()) {
        std::cerr << masked.error().message() << " after " << text << '\n';
        return std::nullopt;
      }
      const uint32_t id = i >= kFreeTokens ? Finish(constraint) : Choose();
      if (id == kNoState) return std::nullopt;
      if (masks_->vocabulary().IsEnd(id)) {
        timing->masks_us.push_back(micros);
        return text;
      }
      text += masks_->vocabulary().TextOf(id);
      const auto accept = Clock::now();
      const Status status = constraint.Accept(id);
      micros += MicrosSince(accept);
      timing->masks_us.push_back(micros);
      if (!status.ok()) {
        std::cerr << "allowed, but " << status.error().message() << " in " << text << '\n';
        return std::nullopt;
      }
    }
    return std::nullopt;
  }

 private:
  void ListAllowed() {
    allowed_.clear();
    for (size_t word = 0; word < bits_.size(); ++word) {
      for (uint32_t bits = bits_[word]; bits != 0; bits &= bits - 1) {
        allowed_.push_back(static_cast<uint32_t>(32 * word) + static_cast<uint32_t>(std::countr_zero(bits)));
      }
    }
  }

  uint32_t Choose() {
    ListAllowed();
    if (allowed_.empty()) return kNoState;
    if (rng_.Uniform() < 0.4) {
      for (const uint32_t id : allowed_) {
        const std::string& text = masks_->vocabulary().TextOf(id);
        if (masks_->vocabulary().IsEnd(id) || (text.size() == 1 && kClosers.find(text[0]) != std::string_view::npos)) return id;
      }
    }
    return allowed_[rng_.Next() % allowed_.size()];
  }

  // Of the tokens of one byte, the one with the shortest way to the end.
  uint32_t Finish(const TokenConstraint& constraint) {
    ListAllowed();
    uint32_t best = kNoState;
    uint64_t least = UINT64_MAX;
    for (const uint32_t id : allowed_) {
      if (masks_->vocabulary().IsEnd(id)) return id;
      if (masks_->vocabulary().TextOf(id).size() != 1) continue;
      TokenConstraint next(constraint);
      if (!next.Accept(id).ok()) continue;
      const uint64_t cost = finisher_.CostOf(next.position());
      if (cost >= least) continue;
      least = cost;
      best = id;
    }
    return best;
  }

  static constexpr std::string_view kClosers = "\"}]";
  std::shared_ptr<TokenMasks> masks_;
  Finisher finisher_;
  Rng rng_;
  std::vector<uint32_t> bits_;
  std::vector<uint32_t> allowed_;
};

// Whether a value can be written, its members in any order.
class Search {
 public:
  using Then = std::function<bool(const TokenConstraint&)>;

  bool Reaches(const Json& value, const TokenConstraint& start) {
    steps_ = 0;
    return Write(value, start, [](const TokenConstraint& at) { return at.MayEnd(); });
  }

 private:
  bool Text(const std::string& text, const TokenConstraint& at, const Then& then) {
    TokenConstraint next(at);
    return ++steps_ < kSearchStepsMax && next.AcceptText(text).ok() && then(next);
  }
  bool Write(const Json& value, const TokenConstraint& at, const Then& then) {
    if (!value.is_structured()) return Text(value.dump(), at, then);
    return Text(value.is_array() ? "[" : "{", at, [&](const TokenConstraint& inside) {
      if (value.is_array()) return Items(value, 0, inside, then);
      std::vector<std::string> names;
      for (const auto& [name, member] : value.items()) names.push_back(name);
      return Members(value, names, /*first=*/true, inside, then);
    });
  }
  bool Items(const Json& list, size_t index, const TokenConstraint& at, const Then& then) {
    if (index == list.size()) return Text("]", at, then);
    return Text(index > 0 ? "," : "", at, [&](const TokenConstraint& before) {
      return Write(list[index], before, [&](const TokenConstraint& after) { return Items(list, index + 1, after, then); });
    });
  }
  bool Members(const Json& object, const std::vector<std::string>& left, bool first, const TokenConstraint& at, const Then& then) {
    if (left.empty()) return Text("}", at, then);
    for (size_t i = 0; i < left.size(); ++i) {
      std::vector<std::string> others = left;
      others.erase(others.begin() + static_cast<std::ptrdiff_t>(i));
      const bool found = Text(fmt::format("{}{}:", first ? "" : ",", Json(left[i]).dump()), at, [&](const TokenConstraint& before) {
        return Write(object[left[i]], before,
                     [&](const TokenConstraint& after) { return Members(object, others, /*first=*/false, after, then); });
      });
      if (found) return true;
    }
    return false;
  }

  size_t steps_ = 0;
};

std::shared_ptr<const TokenVocabulary> Vocabulary(const char* path) {
  const auto files = MakeFileSystem();
  auto file = OpenModel(*files, path);
  if (!file.ok()) {
    std::cerr << file.error().message() << '\n';
    return nullptr;
  }
  const auto tokenizer = ReadVocabulary(*file);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.error().message() << '\n';
    return nullptr;
  }
  std::vector<std::string> texts(tokenizer->size());
  std::vector<uint32_t> ends;
  for (uint32_t id = 0; id < texts.size(); ++id) {
    std::string raw;
    tokenizer->AppendRaw(id, /*special=*/false, &raw);
    texts[id] = tokenizer->Unmark(raw);
    if (tokenizer->EndsTurn(id)) ends.push_back(id);
  }
  if (ends.empty()) ends.push_back(static_cast<uint32_t>(texts.size()) - 1);
  auto vocabulary = TokenVocabulary::Make(std::move(texts), std::move(ends));
  if (!vocabulary.ok()) {
    std::cerr << vocabulary.error().message() << '\n';
    return nullptr;
  }
  return *vocabulary;
}

Json Answer(const Json& question, const std::shared_ptr<const TokenVocabulary>& vocabulary) {
  Json answer;
  if (question.contains("name")) answer["name"] = question["name"];
  const auto begin = Clock::now();
  JsonSchemaOptions options;
  options.spacing = question.value("compact", false) ? JsonSpacing::kCompact : JsonSpacing::kOptional;
  const auto grammar = CompileJsonSchema(question["schema"].dump(), options);
  answer["compile_ms"] = MicrosSince(begin) / 1000;
  answer["accepted"] = grammar.ok();
  if (!grammar.ok()) {
    answer["reason"] = grammar.error().message();
    return answer;
  }
  answer["bytes"] = (*grammar)->bytes();
  const auto masks = TokenMasks::Make(*grammar, vocabulary);
  RandomModel model(masks, question.value("seed", uint64_t{1}));
  Timing timing;
  Json outputs = Json::array();
  for (uint64_t i = 0; i < question.value("outputs", uint64_t{0}); ++i) {
    const auto text = model.Write(&timing);
    outputs.push_back(text.has_value() ? Json(*text) : Json(nullptr));
  }
  answer["outputs"] = std::move(outputs);
  if (!timing.masks_us.empty()) {
    std::sort(timing.masks_us.begin(), timing.masks_us.end());
    const auto at = [&](double share) {
      return timing.masks_us[static_cast<size_t>(share * static_cast<double>(timing.masks_us.size() - 1))];
    };
    answer["tokens"] = timing.masks_us.size();
    answer["p50_us"] = at(0.5);
    answer["p99_us"] = at(0.99);
    answer["max_us"] = at(1);
  }
  Search search;
  Json reached = Json::array();
  for (const Json& instance : question.value("instances", Json::array()))
    reached.push_back(search.Reaches(instance, TokenConstraint(masks)));
  answer["reached"] = std::move(reached);
  return answer;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "constrained_output VOCABULARY < questions\n";
    return 2;
  }
  const auto vocabulary = Vocabulary(argv[1]);
  if (vocabulary == nullptr) return 1;
  for (std::string line; std::getline(std::cin, line);) {
    const auto question = ParseJson(line);
    if (!question.ok()) {
      std::cerr << question.error().message() << '\n';
      return 1;
    }
    std::cout << DumpJson(Answer(*question, vocabulary), /*indent=*/-1) << std::endl;
  }
  return 0;
}
