// What a version of a model has to answer before it takes requests.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/result.h"
#include "serve/served_model.h"

namespace bantam {

struct ModelProbe {
  std::string prompt;       // what a user says; of a model without a template what is gone on with
  std::string expect = {};  // is in the answer; empty: any answer will do
  size_t tokens_max = 64;
};

// Asks for one token, so that what is made with the first request is made, then each probe in turn, without sampling. Unavailable names the
// probe that failed, and what came; other errors are those of the request. A model of vectors is asked for none.
Status ProbeModel(const ServedModel& model, std::span<const ModelProbe> probes);

}  // namespace bantam
