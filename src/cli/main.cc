#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "base/closest.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace {

std::string VerbNames(const CLI::App& app) {
  std::string names;
  for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; })) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", verb->get_name());
  }
  return names;
}

// What was probably meant by an argument that is no verb, or by an option that a verb does not have.
std::string Meant(std::string_view wanted, const std::vector<std::string>& names) {
  const std::vector<std::string_view> views(names.begin(), names.end());
  const auto closest = bantam::Closest(wanted, views, /*count=*/1);
  // Of misspellings the first letter is mostly right; without it, the closest is a guess.
  const auto first = [](std::string_view name) { return name.substr(std::min(name.find_first_not_of('-'), name.size()), 1); };
  return closest.empty() || first(closest[0]) != first(wanted) ? "" : fmt::format("; did you mean {}?", closest[0]);
}

std::string WhatIsWrong(const CLI::App& app, const CLI::ParseError& error, const std::string& first) {
  const auto verbs = app.get_subcommands();  // those on this command line
  std::vector<std::string> names;
  if (verbs.empty() && !first.empty()) {
    for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; })) names.push_back(verb->get_name());
    names.insert(names.end(), {"--help", "--version"});
    return fmt::format("{}: expected a verb: {}{}", first, VerbNames(app), Meant(first, names));
  }
  const std::string message = error.what();
  const size_t option = message.rfind(" --");
  if (verbs.empty() || option == std::string::npos || error.get_exit_code() != static_cast<int>(CLI::ExitCodes::ExtrasError))
    return message;
  for (const CLI::Option* known : verbs.front()->get_options()) {
    for (const std::string& name : known->get_lnames()) names.push_back("--" + name);
  }
  return message + Meant(std::string_view(message).substr(option + 1), names);
}

// CLI11 reports what is wrong with a command line by exceptions; they end here.
int Main(int argc, char** argv) {
  bantam::OpenStandardStreams();
  bantam::InstallSignalHandlers();
  CLI::App app("Small language models on small machines.", "bantam");
  app.set_version_flag("--version", std::string("bantam ") + BANTAM_VERSION);
  app.require_subcommand(0, 1);
  app.footer(fmt::format("bantam VERB --help explains each verb.\nExit codes: {}", bantam::kExitCodes));
  bantam::Action action;
  for (const auto add :
       {bantam::AddRunVerb,      bantam::AddBatchVerb,      bantam::AddServeVerb,   bantam::AddKeysVerb,       bantam::AddInspectVerb,
        bantam::AddTokenizeVerb, bantam::AddTemplateVerb,   bantam::AddLogitsVerb,  bantam::AddPerplexityVerb, bantam::AddEmbedVerb,
        bantam::AddRerankVerb,   bantam::AddClassifyVerb,   bantam::AddBenchVerb,   bantam::AddTuneVerb,       bantam::AddDoctorVerb,
        bantam::AddPackVerb,     bantam::AddVerifyVerb,     bantam::AddUnpackVerb,  bantam::AddQuantizeVerb,   bantam::AddCompareVerb,
        bantam::AddEvalVerb,     bantam::AddPruneVerb,      bantam::AddLowRankVerb, bantam::AddPullVerb,       bantam::AddListVerb,
        bantam::AddRmVerb,       bantam::AddCompletionVerb, bantam::AddManVerb}) {
    add(app, &action);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);  // --help, --version
  } catch (const CLI::ParseError& error) {
    const auto verbs = app.get_subcommands();  // those on this command line
    const std::string help = verbs.empty() ? "bantam --help" : fmt::format("bantam {} --help", verbs.front()->get_name());
    if (verbs.empty() && argc == 2 && std::string_view(argv[1]) == "help") return bantam::PrintResult(app.help());
    const std::string message = WhatIsWrong(app, error, argc > 1 ? argv[1] : "");
    return bantam::Fail(bantam::Error(bantam::Code::kInvalidArgument, fmt::format("{}; see {}", message, help)));
  }
  if (!action) {
    bantam::Note(app.help());
    return 2;
  }
  const std::unique_ptr<bantam::FileSystem> files = bantam::MakeFileSystem();
  return action(*files);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Main(argc, argv);
  } catch (const std::bad_alloc&) {
    bantam::Note("bantam: memory ran out; close other programs or choose a smaller model\n");
    return 4;
  } catch (const std::exception& error) {
    bantam::Note(fmt::format("bantam: internal error: {}; please report it\n", error.what()));
    return 5;
  }
}
