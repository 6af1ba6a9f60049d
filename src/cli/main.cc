#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <memory>
#include <new>
#include <string>

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
       {bantam::AddRunVerb, bantam::AddInspectVerb, bantam::AddTokenizeVerb, bantam::AddTemplateVerb, bantam::AddLogitsVerb,
        bantam::AddPerplexityVerb, bantam::AddEmbedVerb, bantam::AddRerankVerb, bantam::AddBenchVerb, bantam::AddTuneVerb,
        bantam::AddDoctorVerb, bantam::AddPackVerb, bantam::AddVerifyVerb, bantam::AddUnpackVerb, bantam::AddPullVerb, bantam::AddListVerb,
        bantam::AddRmVerb, bantam::AddCompletionVerb, bantam::AddManVerb}) {
    add(app, &action);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);  // --help, --version
  } catch (const CLI::ParseError& error) {
    const auto verbs = app.get_subcommands();  // those on this command line
    const std::string help = verbs.empty() ? "bantam --help" : fmt::format("bantam {} --help", verbs.front()->get_name());
    std::string message = error.what();
    if (verbs.empty() && argc > 1) message = fmt::format("{}: expected a verb: {}", argv[1], VerbNames(app));
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
