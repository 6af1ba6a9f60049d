// The verbs. Each adds its options to the command line; its action returns the exit code.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "base/file.h"

namespace bantam {

// Set by the verb that the command line names.
using Action = std::function<int(FileSystem&)>;

void AddRunVerb(CLI::App& app, Action* action);
void AddInspectVerb(CLI::App& app, Action* action);
void AddTokenizeVerb(CLI::App& app, Action* action);
void AddLogitsVerb(CLI::App& app, Action* action);

}  // namespace bantam
