// bantam pack, verify and unpack: packages (docs/formats/package.md).
#include "model/pack.h"

#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/memory_budget.h"
#include "cli/load.h"
#include "cli/model_folder.h"
#include "cli/out_file.h"
#include "cli/package_text.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "model/open.h"
#include "model/vocabulary.h"

namespace bantam {
namespace {

struct PackArguments {
  std::string source;
  std::string out;
  std::string licence;
  bool source_vocabulary = true;
  bool fast_start = false;
  bool force = false;
  int threads = 0;
  bool json = false;
};

struct VerifyArguments {
  std::string model;
  int threads = 0;
  bool json = false;
};

struct UnpackArguments {
  std::string model;
  std::string out;
  bool force = false;
};

Result<PackOptions> OptionsOf(WatchedFiles& files, const ModelFile& file, const PackArguments& arguments) {
  PackOptions options;
  options.tool_version = BANTAM_VERSION;
  options.source_vocabulary = arguments.source_vocabulary;
  options.fast_start = arguments.fast_start;
  options.watched = &files;
  BANTAM_ASSIGN(options.sources, DigestSources(files, file, MakeProgressLine()));
  if (arguments.licence.empty()) {
    BANTAM_ASSIGN(options.licence, FindLicence(files, file));
  } else {
    BANTAM_ASSIGN(options.licence, files.ReadText(arguments.licence, kLicenceBytesMax));
  }
  return options;
}

Result<std::string> Pack(FileSystem& files, const PackArguments& arguments) {
  BANTAM_ASSIGN(const std::string path, FindModel(files, arguments.source));
  WatchedFiles watched(files);
  BANTAM_ASSIGN(ModelFile file, OpenModel(watched, path));
  if (IsPackage(files, path)) {
    return Error(Code::kInvalidArgument, fmt::format("{}: a package already; pack the model that it was made of", path));
  }
  BANTAM_TRY(CheckOut(files, path, file.further_paths, arguments.out, arguments.force));
  BANTAM_ASSIGN(const PackOptions options, OptionsOf(watched, file, arguments));
  BANTAM_ASSIGN(const auto pool, MakePool(files, arguments.threads));
  BANTAM_ASSIGN(const PackReport report, PackModel(files, file, arguments.out, options, *pool, MakeProgressLine()));
  EndProgressLine();
  for (const std::string& name : report.spelled_otherwise) {
    Note(fmt::format("[{}: kept as blocks, for its panels would not give back every bit]\n", Printable(name)));
  }
  if (!report.without_tokenizer.empty()) Note(fmt::format("[without a tokenizer: {}]\n", Printable(report.without_tokenizer)));
  if (options.licence.empty()) Note("[no licence was found; --licence FILE adds one]\n");
  if (arguments.json) {
    Json json = PackageJson(report.manifest);
    json["path"] = arguments.out;
    json["tensors"] = report.tensors;
    json["tensors_in_panels"] = report.tensors_in_panels;
    return DumpJson(json, /*indent=*/2) + "\n";
  }
  return fmt::format("{}: {}, {} tensors, {} of them ready for the kernels\ndigest {}\n", Printable(arguments.out),
                     FormatBytes(report.manifest.file_bytes), report.tensors, report.tensors_in_panels, HexOf(report.manifest.digest));
}

Result<std::string> Verify(FileSystem& files, const VerifyArguments& arguments) {
  BANTAM_ASSIGN(const std::string path, FindModel(files, arguments.model));
  if (!IsPackage(files, path)) {
    return Error(Code::kUnsupported, fmt::format("{}: not a Bantam package, and so without digests to check; bantam pack makes one", path));
  }
  BANTAM_ASSIGN(const auto pool, MakePool(files, arguments.threads));
  BANTAM_ASSIGN(const PackageManifest manifest, VerifyPackage(files, path, *pool, MakeProgressLine()));
  // Digests that fit say what the packer wrote, not that it was right.
  BANTAM_ASSIGN(const ModelFile file, OpenPackage(files, path, {.source_vocabulary = true}));
  if (!file.tokenizer.empty()) {
    BANTAM_ASSIGN(const Tokenizer tokenizer, ReadVocabulary(file));
  }
  EndProgressLine();
  if (arguments.json) return DumpJson(PackageJson(manifest), /*indent=*/2) + "\n";
  return fmt::format("{}: whole\n{}", Printable(path), PackageText(manifest));
}

Result<std::string> Unpack(FileSystem& files, const UnpackArguments& arguments) {
  BANTAM_ASSIGN(const std::string path, FindModel(files, arguments.model));
  BANTAM_TRY(CheckOut(files, path, /*further=*/{}, arguments.out, arguments.force));
  BANTAM_TRY(UnpackModel(files, path, arguments.out, MakeProgressLine()));
  EndProgressLine();
  return fmt::format("{}\n", Printable(arguments.out));
}

// Ctrl-C is looked at between pieces, so that nothing half written stays behind.
template <typename Arguments>
Action Act(std::shared_ptr<Arguments> arguments, Result<std::string> (*work)(FileSystem&, const Arguments&)) {
  return [=](FileSystem& files) {
    DeferInterrupts();
    const Result<std::string> text = work(files, *arguments);
    EndProgressLine();
    return text.ok() ? PrintResult(*text) : Fail(text.error());
  };
}

}  // namespace

void AddPackVerb(CLI::App& app, Action* action) {
  auto arguments = std::make_shared<PackArguments>();
  CLI::App* verb = app.add_subcommand("pack", "one file of a model, ready for the kernels and checked as it is read");
  verb->add_option("MODEL", arguments->source, "a .gguf file, a Hugging Face folder, or a name in the model folder")->required();
  verb->add_option("OUT", arguments->out, "the package, such as model.bantam")->required();
  verb->add_option("--licence", arguments->licence, "the licence's text (default: that of the folder, or its name in the file)");
  verb->add_flag("!--without-source-vocabulary", arguments->source_vocabulary,
                 "leave away what only unpack needs: a smaller package, which unpack refuses");
  verb->add_flag(
      "--fast-start", arguments->fast_start,
      "weights of IQ1, IQ2, IQ3, TQ and Q1_0 also as kernels read them: a file two to three times as large, and no packing at each "
      "start");
  verb->add_option("-t,--threads", arguments->threads, "threads (default, and 0: the usable physical cores)")->check(WholeNumber());
  verb->add_flag("-f,--force", arguments->force, "replace OUT where it is there already");
  verb->add_flag("--json", arguments->json, "print JSON");
  verb->footer("Example: bantam pack model.gguf model.bantam");
  verb->callback([=] { *action = Act(arguments, Pack); });
}

void AddVerifyVerb(CLI::App& app, Action* action) {
  auto arguments = std::make_shared<VerifyArguments>();
  CLI::App* verb = app.add_subcommand("verify", "check every byte of a package against its manifest");
  verb->add_option("MODEL", arguments->model, "a .bantam file, or a name in the model folder")->required();
  verb->add_option("-t,--threads", arguments->threads, "threads (default, and 0: the usable physical cores)")->check(WholeNumber());
  verb->add_flag("--json", arguments->json, "print JSON");
  verb->footer("Example: bantam verify model.bantam");
  verb->callback([=] { *action = Act(arguments, Verify); });
}

void AddUnpackVerb(CLI::App& app, Action* action) {
  auto arguments = std::make_shared<UnpackArguments>();
  CLI::App* verb = app.add_subcommand("unpack", "a package as a GGUF file, tensors to the last bit");
  verb->add_option("MODEL", arguments->model, "a .bantam file, or a name in the model folder")->required();
  verb->add_option("OUT", arguments->out, "the GGUF file")->required();
  verb->add_flag("-f,--force", arguments->force, "replace OUT where it is there already");
  verb->footer("Example: bantam unpack model.bantam model.gguf");
  verb->callback([=] { *action = Act(arguments, Unpack); });
}

}  // namespace bantam
