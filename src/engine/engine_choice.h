// What an engine knows of its requests: for its own files.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/engine.h"

namespace bantam {

// What has so many tokens in common with others is worth a wait for them, and KV of their type.
inline constexpr size_t kWorthwhile = 64;

enum class DraftSource : uint8_t {
  kForced,  // a constraint leaves nothing else
  kText,    // LookUpDraft
  kModel
};

// One answer. Its tokens are known before they are computed: the prompt, what was generated, and of that all but the newest has KV while it
// decodes. Where KV was taken away, all of it is computed again, to the same bits.
struct Engine::Choice {
  Live* live = nullptr;
  size_t index = 0;
  std::vector<uint32_t> known;
  KvSequence kv;
  std::unique_ptr<Generation> generation;
  bool resident = false;  // holds KV, or a place for it
  std::vector<uint32_t> draft;
  DraftSource draft_source = DraftSource::kText;
  size_t refused = 0;       // the draft's next token was none that a constraint allows: wrong before it was tried
  DraftLength text_drafts;  // how often they were right, and those of the draft model
  DraftLength model_drafts;
  std::unique_ptr<DraftModel::Sequence> guesses;  // what the draft model has read; null: nothing
  // Early exit: what the first layers made of the newest tokens with KV, which the others have not read. [tokens][width]
  std::vector<float> skipped = {};
  // One of beam search: a beginning of the answer. All of a request go on together: one whose logits came waits for the others, and has
  // nothing to compute then.
  struct Beam {
    double sum = 0;                       // BeamCandidate::sum
    bool ready = false;                   // `next` may follow
    std::vector<TokenLogprob> next = {};  // likeliest first
    std::vector<TokenLogprob> top = {};   // TokenInfo::top of whichever follows
    Event held = {};                      // what the answer is so far
  };
  std::optional<Beam> beam = {};
  int64_t waiting_since_ns = 0;
  int64_t token_ns = -1;  // when its newest token came

  bool decoding() const { return generation->tokens() > 0 && kv.length() + 1 == known.size(); }
  size_t pending() const { return beam && beam->ready ? 0 : known.size() - kv.length() + draft.size(); }
  bool ended() const { return generation->ended(); }
  // All logits of its prompt are wanted.
  bool describes_prompt() const;
};

struct Engine::Live {
  RequestId id = 0;
  Request request;
  std::shared_ptr<const Adapter> adapter;  // whatever has its name meanwhile
  Digest root{};
  MemoryBudget::Reservation held;
  int64_t arrival_ns = 0;
  int64_t first_step_ns = -1;
  int64_t first_token_ns = -1;
  bool narrow = false;    // its KV is of 8 bits
  bool followed = false;  // others wait for what their prompts have in common with this one's
  size_t cached_tokens = 0;
  size_t drafted_tokens = 0;
  size_t accepted_tokens = 0;
  size_t exited_tokens = 0;
  std::vector<TokenInfo> prompt;                 // with Request::prompt_details, as far as it was computed
  std::vector<std::unique_ptr<Choice>> choices;  // the first alone until its prompt is computed; of beam search those that run
  // ---- Beam search ----
  std::vector<Event> hypotheses;  // answers that ended, the best first, at most Request::beams
  std::optional<Error> failed;
  bool finished = false;  // all was said

  size_t residents() const {
    return static_cast<size_t>(std::count_if(choices.begin(), choices.end(), [](const auto& choice) { return choice->resident; }));
  }
  bool ended() const {
    if (request.beams > 0) return finished;
    return choices[0]->ended() && std::all_of(choices.begin(), choices.end(), [](const auto& choice) { return choice->ended(); });
  }
};

inline bool Engine::Choice::describes_prompt() const {
  return live->request.prompt_details && live->prompt.size() < live->request.tokens.size();
}

}  // namespace bantam
