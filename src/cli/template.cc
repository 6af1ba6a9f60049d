// bantam template: the prompt that a model's chat template makes of messages.
#include <fmt/format.h>

#include <memory>
#include <string>

#include "base/clock.h"
#include "base/json.h"
#include "cli/load.h"
#include "cli/model_folder.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "model/open.h"
#include "model/vocabulary.h"
#include "text/jinja.h"
#include "text/output_parser.h"

namespace bantam {
namespace {

struct Options {
  std::string model;
  std::string messages;
  std::string file;
  std::string context;
  std::string now;
  std::string answer;
};

Status CheckOptions(const Options& options) {
  const bool of_model = !options.model.empty() && !options.messages.empty();
  const bool of_file = !options.file.empty() && !options.context.empty();
  const bool parses = !options.model.empty() && !options.answer.empty();
  if ((of_model || parses) && options.file.empty() && options.context.empty()) return Ok();
  if (of_file && options.model.empty() && options.messages.empty()) return Ok();
  return Error(Code::kInvalidArgument,
               "expected MODEL --messages FILE, MODEL --parse FILE, or --file TEMPLATE --context FILE; see bantam template --help");
}

// A file, or standard input for "-".
Result<Json> ReadJson(FileSystem& files, const std::string& path) {
  const bool piped = path == "-";
  const std::string name = piped ? "standard input" : path;
  BANTAM_ASSIGN(const std::string text, piped ? ReadStdin(kInputBytesMax) : files.ReadText(path, kInputBytesMax));
  return ParseJson(text).With(name);
}

// The messages of --messages, as an object.
Result<Json> ReadRequest(FileSystem& files, const Options& options) {
  BANTAM_ASSIGN(Json request, ReadJson(files, options.messages));
  if (request.is_array()) request = Json{{"messages", std::move(request)}};
  if (!request.is_object() || !request.contains("messages") || !request["messages"].is_array()) {
    return Error(Code::kCorrupt, fmt::format("{}: expected a list of messages, or an object with \"messages\"", options.messages));
  }
  for (size_t i = 0; i < request["messages"].size(); ++i) {
    const Json& message = request["messages"][i];
    if (JsonText(message, "role")) continue;
    return Error(Code::kCorrupt, fmt::format("{}: message {} is {}, expected an object with a \"role\", such as \"user\"", options.messages,
                                             i + 1, ShortJson(message)));
  }
  return request;
}

Result<std::string> RenderModel(const ModelFile& file, const Json& request, const std::tm& now) {
  const Json& tools = JsonMember(request, "tools");
  BANTAM_ASSIGN(const ChatTemplate chat_template, ReadChatTemplate(file, tools.is_array() && !tools.empty()));
  BANTAM_ASSIGN(const auto pieces, chat_template.RenderRequest(request, now).With(file.path));
  std::string prompt;
  for (const PromptPiece& piece : pieces) prompt += piece.text;
  return prompt;
}

// What a client gets of an answer: content, reasoning and calls of tools. The messages that it answers, where they are given, tell
// which tools there are and whether the template began to think already.
Result<std::string> ParseAnswer(FileSystem& files, const ModelFile& file, const Options& options, const std::tm& now) {
  BANTAM_ASSIGN(const Tokenizer tokenizer, ReadVocabulary(file));
  Json request;
  std::string prompt;
  if (!options.messages.empty()) {
    BANTAM_ASSIGN(request, ReadRequest(files, options));
    BANTAM_ASSIGN(prompt, RenderModel(file, request, now));
  }
  BANTAM_ASSIGN(const std::string answer,
                options.answer == "-" ? ReadStdin(kInputBytesMax) : files.ReadText(options.answer, kInputBytesMax));
  BANTAM_ASSIGN(const auto source, ReadTemplateSource(file));
  OutputParser parser(OutputDialect::Detect(source, tokenizer), {prompt, JsonMember(request, "tools")});
  Output output = parser.Push(answer);
  Output rest = parser.Finish();
  output.tool_calls.insert(output.tool_calls.end(), rest.tool_calls.begin(), rest.tool_calls.end());
  Json calls = Json::array();
  for (const ToolCall& call : output.tool_calls) {
    calls.push_back({{"id", call.id}, {"name", call.name}, {"arguments", ParseJson(call.arguments).value()}});
  }
  const Json json = {{"content", output.content + rest.content}, {"reasoning", output.reasoning + rest.reasoning}, {"tool_calls", calls}};
  return DumpJson(json, /*indent=*/2) + "\n";
}

Result<std::string> RenderFile(FileSystem& files, const Options& options, const std::tm& now) {
  BANTAM_ASSIGN(const std::string source, files.ReadText(options.file, kInputBytesMax));
  BANTAM_ASSIGN(const jinja::Template parsed, jinja::Template::Parse(source).With(options.file));
  BANTAM_ASSIGN(const Json json, ReadJson(files, options.context));
  if (!json.is_object()) return Error(Code::kCorrupt, fmt::format("{}: expected a JSON object", options.context));
  const jinja::Value context = jinja::FromJson(json);
  jinja::RenderOptions render;
  render.now = now;
  BANTAM_ASSIGN(const jinja::Text text, parsed.Render(*context.dict(), render).With(options.file));
  return text.bytes();
}

Result<std::string> Render(FileSystem& files, const Options& options) {
  BANTAM_TRY(CheckOptions(options));
  std::tm now = LocalTime();
  if (!options.now.empty()) {
    BANTAM_ASSIGN(now, ParseLocalTime(options.now).With("--now"));
  }
  if (!options.file.empty()) return RenderFile(files, options, now);
  BANTAM_ASSIGN(const std::string path, FindModel(files, options.model));
  BANTAM_ASSIGN(const ModelFile file, OpenModel(files, path));
  if (!options.answer.empty()) return ParseAnswer(files, file, options, now);
  BANTAM_ASSIGN(const Json request, ReadRequest(files, options));
  return RenderModel(file, request, now);
}

}  // namespace

void AddTemplateVerb(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("template", "print the prompt that a chat template makes of messages");
  verb->add_option("MODEL", options->model, "a .gguf file (a vocabulary is enough), a Hugging Face folder, or a name in the model folder");
  verb->add_option("--messages", options->messages,
                   "a JSON file: a list of messages, or an object with \"messages\", \"tools\" and what else the template looks at; - is "
                   "standard input");
  verb->add_option("--file", options->file, "render this template instead of a model's");
  verb->add_option("--context", options->context, "a JSON file: the object whose members the template of --file sees; - is standard input");
  verb->add_option("--now", options->now, "the local time that the template sees, such as 2026-11-20T09:30:00 (default: now)");
  verb->add_option("--parse", options->answer,
                   "a file with a model's answer: print its content, reasoning and calls of tools as JSON instead; - is standard input");
  verb->footer("Example: bantam template model.gguf --messages chat.json");
  verb->callback([=] {
    *action = [=](FileSystem& files) {
      const Result<std::string> prompt = Render(files, *options);
      if (!prompt.ok()) return Fail(prompt.error());
      return PrintResult(StdoutIsTerminal() ? Printable(*prompt) : *prompt);
    };
  });
}

}  // namespace bantam
