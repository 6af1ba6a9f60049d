// TextService: a TextEncoder for many: requests for vectors, classes and rankings wait for a thread of its own.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/json.h"
#include "base/result.h"
#include "engine/text_encoder.h"
#include "engine/text_request.h"
#include "serve/work_queue.h"

namespace bantam {

class TextService {
 public:
  // Requests that wait, at most.
  static constexpr size_t kWaitingMax = 64;

  // The encoder and the context outlive it.
  static Result<std::unique_ptr<TextService>> Make(TextEncoder& encoder, const TextRequestContext& context);

  // What ReadTextRequest reads, computed by the service's thread, which then calls `done` with the members of the answer (TextAnswer).
  // False: as many wait as may. `gone` is asked between steps.
  struct Answer {
    std::string members;  // without braces
    size_t tokens = 0;
  };
  struct Asked {
    Json body;
    VectorList form = VectorList::kObjects;
    std::function<bool()> gone;
    std::function<void(const Result<Answer>&)> done;
  };
  bool Ask(Asked asked);
  const TextRequestContext& context() const { return context_; }

 private:
  TextService(TextEncoder& encoder, const TextRequestContext& context) : encoder_(encoder), context_(context) {}
  Result<Answer> Compute(const Asked& asked);

  TextEncoder& encoder_;
  const TextRequestContext& context_;
  std::unique_ptr<WorkQueue> queue_;
};

}  // namespace bantam
