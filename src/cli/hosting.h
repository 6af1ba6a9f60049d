// A model that is served: from its name to what the gateway asks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "cli/load.h"
#include "engine/adaptive.h"
#include "serve/model_catalog.h"
#include "serve/served_model.h"

namespace bantam {

// What the configuration says of one model.
struct ModelEntry {
  std::string name;
  std::string path = {};  // or a name in the model folder
  std::vector<std::string> aliases = {};
  RunOptions run = {};
  size_t sequences = 8;            // requests that are computed at once, if memory allows
  size_t requests_max = 256;       // that wait or run
  int64_t first_token_ms_max = 0;  // the longest predicted wait; 0: any
  size_t answer_tokens = 0;        // most of an answer, where a request does not say; 0: what the context leaves
  std::vector<std::pair<std::string, std::string>> adapters = {};  // names and paths
  std::string calibration = {};
  std::string chat_template = {};  // a file with one, in place of the model's own
  std::string draft = {};        // the path of a draft model, or its name in the model folder
  std::string prefix_file = {};  // where prefixes are kept from one run to the next
  bool narrow_kv = false;        // EngineOptions::narrow_kv
  size_t exit_layer = 0;         // EngineOptions::exit_layer
  AdaptiveTargets targets = {};
  std::function<void(std::string_view change)> notice = nullptr;  // told, by the engine's thread, what it changes of itself
  CatalogEntry catalog = {};  // when it is loaded, what it is checked with; name, path and aliases are those above
};

// Loads it. The clock and the files outlive it. Errors name the model; Exhausted also where it would have less room for texts than `least`,
// if that is given.
Result<std::unique_ptr<HostedModel>> HostModel(FileSystem& files, const ModelEntry& entry, const Clock& clock,
                                               const ServedModel* least = nullptr);

// As far as can be said without loading: its file and what it says of itself.
Status CheckModelEntry(FileSystem& files, const ModelEntry& entry);

}  // namespace bantam
