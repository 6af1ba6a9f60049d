#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <memory>
#include <new>

#include "cli/terminal.h"
#include "cli/verbs.h"

namespace {

// CLI11 reports what is wrong with a command line by exceptions; they end here.
int Main(int argc, char** argv) {
  bantam::InstallSignalHandlers();
  CLI::App app("Small language models on small machines.", "bantam");
  app.set_version_flag("--version", std::string("bantam ") + BANTAM_VERSION);
  app.require_subcommand(0, 1);
  app.footer(
      "bantam VERB --help explains each verb.\n"
      "Exit codes: 0 success, 2 usage, 3 bad input file, 4 not enough memory, 5 unavailable, 130 interrupted.");
  bantam::Action action;
  bantam::AddRunVerb(app, &action);
  bantam::AddInspectVerb(app, &action);
  bantam::AddTokenizeVerb(app, &action);
  bantam::AddLogitsVerb(app, &action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);  // --help, --version
  } catch (const CLI::ParseError& error) {
    bantam::Note(fmt::format("bantam: {}; see bantam --help\n", error.what()));
    return 2;
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
