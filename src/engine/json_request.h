// Requests and answers as JSON: the members of OpenAI's chat completions and completions that an engine has an answer to.
#pragma once

#include <ctime>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "engine/constraints.h"
#include "engine/request.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace bantam {

inline constexpr size_t kMessagesMax = 4096;

struct JsonRequestContext {
  const Tokenizer& tokenizer;
  const ChatTemplate* chat_template = nullptr;  // none: messages are refused
  std::tm now{};                                // what templates see
  Request defaults = {};
  Constraints* constraints = nullptr;  // none: what asks for structured output is refused
  size_t context = 0;                  // tokens; longer prompts are refused before they are tokenised
};

// "prompt" (text, a list of ids) or "messages" (with "tools"), and max_tokens or max_completion_tokens, min_tokens, temperature, top_p,
// top_k, min_p, typical_p, seed, frequency_penalty, presence_penalty, repetition_penalty, logit_bias, stop, n, logprobs, top_logprobs,
// priority, deadline_ms, confidence_threshold, cache, echo, user, adapter, chat_template_kwargs (what else the template looks at);
// response_format (text, json_object, json_schema), grammar (GBNF) or regex. "model" and "stream" are not looked at. Null is as if a member
// were not there. With echo and logprobs the prompt's tokens have theirs too. Errors: InvalidArgument, naming the member, also of one that
// is not known; those of templates and tokenizers.
Result<Request> ReadJsonRequest(const Json& body, const JsonRequestContext& context);

// What the chat template makes of "messages", "tools" and "chat_template_kwargs"; other members are not looked at. Errors: as above.
Result<std::vector<PromptPiece>> RenderMessages(const Json& body, const JsonRequestContext& context);

// What became of one choice.
struct ChoiceResult {
  std::string text = {};
  std::vector<TokenInfo> tokens = {};  // with Request::prompt_details the prompt's in front
  std::optional<Finish> finish = {};
  void Add(Event event);
};

// "stop", "length" and so on, as OpenAI's finish_reason has it.
std::string_view FinishReasonName(StopReason reason);

// Null for the one that has no probability: a prompt's first token.
Json LogprobJson(float logprob);

// "choices" (with "text", "finish_reason", and what was asked for of "logprobs", "confidence", "low_confidence") and "usage".
Json WriteAnswer(std::span<const ChoiceResult> choices, const Tokenizer& tokenizer);

// {"message", "code"}
Json WriteError(const Error& error);

}  // namespace bantam
