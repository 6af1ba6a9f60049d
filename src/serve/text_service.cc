#include "serve/text_service.h"

#include <utility>

namespace bantam {

Result<std::unique_ptr<TextService>> TextService::Make(TextEncoder& encoder, const TextRequestContext& context) {
  std::unique_ptr<TextService> service(new TextService(encoder, context));
  BANTAM_ASSIGN(service->queue_, WorkQueue::Make(/*threads=*/1, kWaitingMax));
  return service;
}

Result<TextService::Answer> TextService::Compute(const Asked& asked) {
  BANTAM_ASSIGN(const TextRequest request, ReadTextRequest(asked.body, context_));
  TextAnswer answer(request, context_, asked.form);
  const auto sink = [&](size_t, std::span<float> values) { return answer.Add(values); };
  BANTAM_TRY(encoder_.Encode(request.texts, sink, asked.gone));
  return Answer{answer.Finish(), request.tokens};
}

bool TextService::Ask(Asked asked) {
  // Held by the work: functions have to be copied.
  auto held = std::make_shared<Asked>(std::move(asked));
  return queue_->Add([this, held] { held->done(held->gone() ? Error(Code::kCancelled, "the client is gone") : Compute(*held)); },
                     [held] { held->done(Error(Code::kUnavailable, "memory ran out; ask again, or for less")); });
}

}  // namespace bantam
