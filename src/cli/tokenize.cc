// bantam tokenize: text to ids and back.
#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "cli/ids.h"
#include "cli/load.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "cli/vocabulary_file.h"
#include "text/utf8.h"

namespace bantam {
namespace {

struct Options {
  std::string model;
  std::string text;
  bool has_text = false;
  std::string file;
  bool json = false;
  bool bos = false;
  bool special = false;
  bool decode = false;
};

Result<std::string> ReadInput(FileSystem& files, const Options& options) {
  if (options.has_text && !options.file.empty()) {
    return Error(Code::kInvalidArgument, "TEXT and --file were both given; give one");
  }
  if (!options.file.empty()) return files.ReadText(options.file, kInputBytesMax);
  if (options.has_text) return options.text;
  if (StdinIsTerminal()) Note("[reading standard input; Ctrl-D ends it]\n");
  return ReadStdin(kInputBytesMax);
}

Json TokenList(const Tokenizer& tokenizer, const std::vector<uint32_t>& ids) {
  Json tokens = Json::array();
  for (const uint32_t id : ids) tokens.push_back({{"id", id}, {"text", ReplaceInvalidUtf8(tokenizer.Name(id))}});
  return tokens;
}

Result<std::string> Decode(const Tokenizer& tokenizer, const Options& options, const std::string& input) {
  const std::string_view source = options.file.empty() ? std::string_view("the ids to decode") : std::string_view(options.file);
  BANTAM_ASSIGN(const auto ids, ParseIds(input, source, options.has_text ? Code::kInvalidArgument : Code::kCorrupt));
  BANTAM_TRY(CheckIds(ids, source, tokenizer.size()));
  std::string text = tokenizer.Decode(ids, options.special);
  if (!options.json) return text;
  return DumpJson(Json{{"text", text}, {"tokens", TokenList(tokenizer, ids)}}, /*indent=*/-1) + "\n";
}

Result<std::string> Encode(const Tokenizer& tokenizer, const Options& options, const std::string& input) {
  BANTAM_ASSIGN(std::vector<uint32_t> ids, tokenizer.Encode(input, options.special));
  if (options.bos) {
    if (!tokenizer.spec().bos) return Error(Code::kUnsupported, "--bos: this vocabulary has no beginning-of-sequence token; leave it out");
    ids.insert(ids.begin(), *tokenizer.spec().bos);
  }
  if (!options.json) return fmt::format("{}\n", fmt::join(ids, " "));
  return DumpJson(Json{{"ids", ids}, {"tokens", TokenList(tokenizer, ids)}}, /*indent=*/-1) + "\n";
}

Result<std::string> Tokenize(FileSystem& files, const Options& options) {
  BANTAM_ASSIGN(const Tokenizer tokenizer, OpenVocabulary(files, options.model));
  BANTAM_ASSIGN(const std::string input, ReadInput(files, options));
  return options.decode ? Decode(tokenizer, options, input) : Encode(tokenizer, options, input);
}

}  // namespace

void AddTokenizeVerb(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("tokenize", "text to token ids on one line, and back");
  verb->add_option("MODEL", options->model,
                   "a .gguf file (a vocabulary is enough), a name in the model folder, a tokenizer.json, or a SentencePiece "
                   ".model file")
      ->required();
  CLI::Option* text = verb->add_option("TEXT", options->text, "the text, or with --decode the ids; from standard input if absent");
  verb->add_option("--file", options->file, "read the text from this file");
  verb->add_flag("--json", options->json, "print JSON: ids and the vocabulary's text of each (U+2581 marks a space)");
  verb->add_flag("--bos", options->bos, "put the beginning-of-sequence token in front");
  verb->add_flag("--special", options->special, "names of special tokens in the text mean those tokens");
  verb->add_flag("--decode", options->decode, "turn ids into text, byte for byte");
  verb->footer("Example: bantam tokenize model.gguf \"Hello world\"");
  verb->callback([=] {
    options->has_text = text->count() > 0;
    *action = [=](FileSystem& files) {
      const Result<std::string> output = Tokenize(files, *options);
      if (!output.ok()) return Fail(output.error());
      return PrintResult(*output);
    };
  });
}

}  // namespace bantam
