#include "serve/model_probe.h"

#include <fmt/format.h>

#include <optional>
#include <utility>

#include "base/clock.h"
#include "engine/engine_thread.h"
#include "serve/chat_request.h"

namespace bantam {
namespace {

constexpr size_t kShownBytes = 200;

Result<std::string> AnswerTo(const ServedModel& model, const std::string& prompt, size_t tokens_max) {
  Json body = {{"max_tokens", tokens_max}, {"temperature", 0}};
  const bool chat = model.chat_template != nullptr;
  if (chat) body["messages"] = Json::array({{{"role", "user"}, {"content", prompt}}});
  if (!chat) body["prompt"] = prompt;
  const ChatContext context = {model, LocalTime()};
  BANTAM_ASSIGN(ChatPlan plan, chat ? ReadChatRequest(std::move(body), context) : ReadCompletionRequest(std::move(body), context));
  BANTAM_ASSIGN(const EngineThread::Ticket ticket, model.engine->Submit(std::move(plan.request)));
  std::string text;
  while (std::optional<Event> event = ticket.answer->Next()) {
    text += event->text;
    if (event->finish && event->finish->error) return *event->finish->error;
  }
  return text;
}

}  // namespace

Status ProbeModel(const ServedModel& model, std::span<const ModelProbe> probes) {
  if (!model.Answers()) return Ok();
  BANTAM_TRY(AnswerTo(model, "Hello", /*tokens_max=*/1));
  for (const ModelProbe& probe : probes) {
    BANTAM_ASSIGN(const std::string text, AnswerTo(model, probe.prompt, probe.tokens_max));
    if (text.find(probe.expect) != std::string::npos) continue;
    return Error(Code::kUnavailable, fmt::format("the check \"{}\": expected \"{}\" in the answer, which is \"{}\"",
                                                 probe.prompt.substr(0, kShownBytes), probe.expect, text.substr(0, kShownBytes)));
  }
  return Ok();
}

}  // namespace bantam
