// The verbs. Each adds its options to the command line; its action returns the exit code.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string_view>

#include "base/file.h"

namespace bantam {

// Set by the verb that the command line names.
using Action = std::function<int(FileSystem&)>;

void AddRunVerb(CLI::App& app, Action* action);
void AddBatchVerb(CLI::App& app, Action* action);
void AddServeVerb(CLI::App& app, Action* action);
void AddKeysVerb(CLI::App& app, Action* action);
void AddInspectVerb(CLI::App& app, Action* action);
void AddTokenizeVerb(CLI::App& app, Action* action);
void AddTemplateVerb(CLI::App& app, Action* action);
void AddLogitsVerb(CLI::App& app, Action* action);
void AddPerplexityVerb(CLI::App& app, Action* action);
void AddEmbedVerb(CLI::App& app, Action* action);
void AddRerankVerb(CLI::App& app, Action* action);
void AddClassifyVerb(CLI::App& app, Action* action);
void AddBenchVerb(CLI::App& app, Action* action);
void AddTuneVerb(CLI::App& app, Action* action);
void AddDoctorVerb(CLI::App& app, Action* action);
void AddPackVerb(CLI::App& app, Action* action);
void AddVerifyVerb(CLI::App& app, Action* action);
void AddUnpackVerb(CLI::App& app, Action* action);
void AddQuantizeVerb(CLI::App& app, Action* action);
void AddCompareVerb(CLI::App& app, Action* action);
void AddEvalVerb(CLI::App& app, Action* action);
void AddPruneVerb(CLI::App& app, Action* action);
void AddLowRankVerb(CLI::App& app, Action* action);
void AddPullVerb(CLI::App& app, Action* action);
void AddListVerb(CLI::App& app, Action* action);
void AddRmVerb(CLI::App& app, Action* action);
void AddManVerb(CLI::App& app, Action* action);
void AddCompletionVerb(CLI::App& app, Action* action);

inline constexpr std::string_view kExitCodes = "0 success, 2 usage, 3 bad input file, 4 not enough memory, 5 unavailable, 130 interrupted.";

}  // namespace bantam
