// bantam run: a chat in the terminal, or one answer.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "cli/load.h"
#include "cli/model_folder.h"
#include "cli/sampling.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "engine/chat.h"
#include "engine/machine.h"
#include "model/arch/registry.h"
#include "model/open.h"
#include "model/vocabulary.h"
#include "text/chat_template.h"
#include "text/stop_strings.h"

namespace bantam {
namespace {

// Tokens of the context that are kept free for an answer when older messages have to go.
constexpr size_t kAnswerReserveMax = 512;

constexpr std::string_view kHelp =
    "  /help    this list\n"
    "  /reset   forget the conversation\n"
    "  /stats   speed, memory and the state of the context\n"
    "  /quit    leave, as does Ctrl-D\n"
    "  Ctrl-C   stop the answer\n"
    "A line that begins with a space is a message, even if a / follows.\n";

struct Options {
  std::string model;
  std::string prompt;
  std::string system;
  bool has_model = false;
  bool has_prompt = false;
  std::vector<std::string> stops;
  std::string adapter;  // --lora, empty: none
  bool raw = false;
  size_t tokens_max = 0;  // -n, 0: until the turn ends
  SamplingOptions sampling;
  RunOptions run;
};

struct Totals {
  size_t prompt_tokens = 0;
  int64_t prompt_ns = 0;
  size_t generated_tokens = 0;
  size_t decode_steps = 0;
  int64_t decode_ns = 0;
  uint64_t kv_read_bytes = 0;
};

double PerSecond(double count, int64_t ns) { return ns > 0 ? count / (static_cast<double>(ns) * 1e-9) : 0; }

class Runner {
 public:
  Runner(const Options& options, const SamplerOptions& sampler, Tokenizer tokenizer, std::optional<ChatTemplate> chat_template,
         Loaded loaded)
      : options_(options),
        tokenizer_(std::move(tokenizer)),
        template_(std::move(chat_template)),
        loaded_(std::move(loaded)),
        sampler_(sampler, loaded_.session->vocabulary()) {
    if (!options.system.empty()) messages_.push_back({"system", options.system});
  }

  // One answer to the prompt; the exit code.
  int Once(const std::string& prompt);
  // Reads lines until the end of input.
  int Chat();

 private:
  Result<std::vector<uint32_t>> TokenizeMessages(std::span<const ChatMessage> messages) const;
  Result<std::vector<uint32_t>> TokenizeRaw(const std::string& prompt) const;
  // Refuses text that cannot fit the context before memory is spent on tokenising it.
  Status CheckSize(size_t bytes) const;
  // Brings the session to exactly these tokens, keeping what it shares with them.
  Status Read(const std::vector<uint32_t>& tokens);
  Result<GenerateResult> Answer();
  // Adds a user message, answers it; errors leave the conversation as it was.
  Status Exchange(const std::string& text);
  void Command(std::string_view line);
  std::string Stats();

  const Options& options_;
  const Tokenizer tokenizer_;
  const std::optional<ChatTemplate> template_;
  Loaded loaded_;
  Sampler sampler_;
  MonotonicClock clock_;
  std::vector<ChatMessage> messages_;
  Totals totals_;
  bool output_lost_ = false;
};

Status Runner::CheckSize(size_t bytes) const {
  const size_t context = loaded_.session->context();
  if (bytes / tokenizer_.longest_token() <= context) return Ok();
  return Error(Code::kExhausted,
               fmt::format("a text of {} bytes cannot fit the context of {} tokens; shorten it or raise --context", bytes, context));
}

Result<std::vector<uint32_t>> Runner::TokenizeMessages(std::span<const ChatMessage> messages) const {
  BANTAM_ASSIGN(const auto pieces, template_->Render(messages, LocalTime()));
  BANTAM_ASSIGN(auto tokens, tokenizer_.Encode(pieces));
  return tokenizer_.WithPrefix(std::move(tokens));
}

Result<std::vector<uint32_t>> Runner::TokenizeRaw(const std::string& prompt) const {
  BANTAM_TRY(CheckSize(prompt.size()));
  BANTAM_ASSIGN(auto tokens, tokenizer_.Encode(prompt, /*special=*/false));
  tokens = tokenizer_.WithPrefix(std::move(tokens));
  if (tokens.empty()) return Error(Code::kInvalidArgument, "the prompt is empty; give some text");
  return tokens;
}

Status Runner::Read(const std::vector<uint32_t>& tokens) {
  Session& session = *loaded_.session;
  // The last token is read again even if it is there already: its logits are wanted.
  const size_t shared = session.Truncate(std::min(CommonPrefix(session.tokens(), tokens), tokens.size() - 1));
  const int64_t begin = clock_.NowNs();
  const Status read = session.Append(std::span(tokens).subspan(shared), MakeProgressLine());
  EndProgressLine();
  totals_.prompt_tokens += session.tokens().size() - shared;
  totals_.prompt_ns += clock_.NowNs() - begin;
  return read;
}

Result<GenerateResult> Runner::Answer() {
  GenerateOptions options;
  options.tokens_max = options_.tokens_max == 0 ? loaded_.session->context() : options_.tokens_max;
  options.stops = options_.stops;
  options.cancelled = [this] { return Interrupted() || output_lost_; };
  const bool to_terminal = StdoutIsTerminal();
  options.on_text = [this, to_terminal](std::string_view text) {
    if (!Print(to_terminal ? Printable(text) : std::string(text))) output_lost_ = true;
  };
  Result<GenerateResult> result = Generate(*loaded_.session, sampler_, tokenizer_, clock_, options);
  if (!Print("\n")) output_lost_ = true;
  if (!result.ok()) return result;
  totals_.generated_tokens += result->tokens;
  totals_.decode_steps += result->decode_steps;
  totals_.decode_ns += result->decode_ns;
  totals_.kv_read_bytes += result->kv_read_bytes;
  if (result->reason == StopReason::kContextFull) Note("[the context is full: the answer ends here; raise --context]\n");
  return result;
}

Status Runner::Exchange(const std::string& text) {
  const size_t context = loaded_.session->context();
  const size_t wanted_tokens = options_.tokens_max == 0 ? kAnswerReserveMax : options_.tokens_max;
  const size_t reserve = std::min({kAnswerReserveMax, context / 4, wanted_tokens});
  BANTAM_TRY(CheckSize(text.size()));
  std::vector<ChatMessage> wanted = messages_;
  wanted.push_back({"user", text});
  BANTAM_ASSIGN(TrimmedChat chat, TrimChat(std::move(wanted), context - reserve,
                                           [this](std::span<const ChatMessage> messages) { return TokenizeMessages(messages); }));
  if (chat.dropped > 0) Note(fmt::format("[the context is full: the oldest {} messages were dropped]\n", chat.dropped));
  BANTAM_TRY(Read(chat.tokens));
  BANTAM_ASSIGN(const GenerateResult answer, Answer());
  messages_ = std::move(chat.messages);
  messages_.push_back({"assistant", answer.text});
  return Ok();
}

int Runner::Once(const std::string& prompt) {
  Status done = Ok();
  if (options_.raw) {
    Result<std::vector<uint32_t>> tokens = TokenizeRaw(prompt);
    done = tokens.ok() ? Read(*tokens) : Status(tokens.error());
    if (done.ok()) {
      Result<GenerateResult> answer = Answer();
      if (!answer.ok()) done = answer.error();
    }
  } else {
    done = Exchange(prompt);
  }
  if (!done.ok()) return Fail(done.error());
  if (output_lost_) return Fail(OutputLost());
  Note(Stats());
  return Interrupted() ? ExitStatus(Code::kCancelled) : 0;
}

void Runner::Command(std::string_view line) {
  if (line == "/help") {
    Note(kHelp);
  } else if (line == "/reset") {
    messages_.clear();
    if (!options_.system.empty()) messages_.push_back({"system", options_.system});
    loaded_.session->Truncate(0);
    sampler_.Reset();
    Note("[the conversation is forgotten]\n");
  } else if (line == "/stats") {
    Note(Stats());
  } else {
    Note(fmt::format("[{} is no command; these are:]\n{}", Printable(line), kHelp));
  }
}

int Runner::Chat() {
  Note(fmt::format("{} on {} thread{}, kernels {}, context {}. /help lists the commands, Ctrl-D leaves.\n",
                   loaded_.model->config.architecture, loaded_.plan.options.threads, loaded_.plan.options.threads == 1 ? "" : "s",
                   loaded_.model->kernels->name, loaded_.session->context()));
  while (!output_lost_ && !Terminated()) {
    ClearInterrupt();
    const InputLine line = ReadLine("> ");
    if (line.kind == InputLine::Kind::kEnd) break;
    if (line.kind == InputLine::Kind::kInterrupted) {
      Note("\n[Ctrl-D leaves]\n");
      continue;
    }
    if (line.text.find_first_not_of(" \t\r") == std::string::npos) continue;
    if (line.text[0] == '/') {
      const std::string_view command = std::string_view(line.text).substr(0, line.text.find_last_not_of(" \t\r") + 1);
      if (command == "/quit") break;
      Command(command);
      continue;
    }
    const Status done = Exchange(line.text);
    if (!done.ok() && done.error().code() == Code::kCancelled) {
      Note("[stopped before the answer began]\n");
    } else if (!done.ok()) {
      Fail(done.error());
    }
  }
  if (output_lost_) return Fail(OutputLost());
  Note("\n" + Stats());
  return Terminated() ? ExitStatus(Code::kCancelled) : 0;
}

std::string Runner::Stats() {
  const double bandwidth = MeasureReadBandwidth(loaded_.model->weights.bytes(), *loaded_.model->kernels, *loaded_.pool, clock_);
  const double read_bytes = static_cast<double>(DecodeReadBytes(loaded_.model->program) * totals_.decode_steps + totals_.kv_read_bytes);
  const double read_rate = PerSecond(read_bytes, totals_.decode_ns);
  std::string text = fmt::format("prompt {} tokens, {:.1f} tokens/s; decode {} tokens, {:.1f} tokens/s", totals_.prompt_tokens,
                                 PerSecond(static_cast<double>(totals_.prompt_tokens), totals_.prompt_ns), totals_.generated_tokens,
                                 PerSecond(static_cast<double>(totals_.decode_steps), totals_.decode_ns));
  if (totals_.decode_steps > 0 && bandwidth > 0) {
    text += fmt::format(", {:.1f} GB/s read, {:.0f} % of the {:.1f} GB/s measured here", read_rate * 1e-9, 100 * read_rate / bandwidth,
                        bandwidth * 1e-9);
  }
  text += fmt::format("\ncontext {} of {} tokens; peak memory {} of {} planned", loaded_.session->tokens().size(),
                      loaded_.session->context(), FormatBytes(PeakResidentBytes()), FormatBytes(loaded_.plan.total_bytes()));
  if (!loaded_.session->tokens().empty()) {
    text += fmt::format("; logits {:016x}", Fingerprint(std::as_bytes(loaded_.session->logits())));
  }
  return text + "\n";
}

// What the plan decided for the user, and what the user may regret.
void NoteChanges(const Prepared& prepared, const RunOptions& asked) {
  const PlanOptions& plan = prepared.plan.options;
  const size_t context_max = prepared.outline.program.context_max;
  if (prepared.rows_for_memory)
    Note(
        "[memory is short: weights stay as in the file, and decoding is several times slower; with --weights panels the context is smaller "
        "instead]\n");
  if (asked.kv.empty() && plan.kv_type != KvType::kF16) Note("[memory is short: keys and values are kept in 8 bits]\n");
  if (asked.context == 0 && plan.context < std::min(context_max, kContextDefault)) {
    Note(fmt::format("[memory is short: the context is {} tokens]\n", plan.context));
  }
  NoteContext(prepared);
  if (plan.threads > prepared.processors) {
    Note(fmt::format("[{} threads on {} processors wait for one another; -t {} is faster]\n", plan.threads, prepared.processors,
                     prepared.processors));
  }
}

// The prompt of a single answer. Standard input is read only after the plan: what cannot fit the context is not kept.
Result<std::string> ReadPrompt(const Options& options, const Tokenizer& tokenizer, const MemoryPlan& plan) {
  std::string prompt = options.prompt;
  if (!options.has_prompt) {
    if (StdinIsTerminal()) Note("[reading the prompt from standard input; Ctrl-D ends it]\n");
    BANTAM_ASSIGN(prompt, ReadStdin(plan.options.context * tokenizer.longest_token()));
    while (prompt.ends_with('\n') || prompt.ends_with('\r')) prompt.pop_back();
  }
  if (prompt.empty()) return Error(Code::kInvalidArgument, "no prompt: give one with -p or on standard input");
  return prompt;
}

Result<int> Run(FileSystem& files, const Options& options) {
  BANTAM_TRY(CheckSamplerOptions(options.sampling.sampler));
  if (options.raw && !options.system.empty()) {
    return Error(Code::kInvalidArgument, "--system and --raw were both given; plain text has no system message, leave one out");
  }
  BANTAM_ASSIGN(const std::string path, options.has_model ? FindModel(files, options.model) : FindDemoModel(files));
  BANTAM_ASSIGN(ModelFile file, OpenModel(files, path));
  // Of a model that this build cannot run, the architecture is the first thing to say.
  BANTAM_ASSIGN(const Config config, ReadConfig(file));
  BANTAM_TRY(CheckGoesOn(config).With(path));
  BANTAM_ASSIGN(Tokenizer tokenizer, ReadVocabulary(file));
  BANTAM_ASSIGN(const SamplerOptions sampler, FinishSamplerOptions(options.sampling, tokenizer));
  if (const auto stops = StopStrings::Make(options.stops); !stops.ok()) return Error(stops.error()).With("--stop");
  std::optional<ChatTemplate> chat_template;
  if (!options.raw) {
    // before the weights are read: its absence is known at once
    BANTAM_ASSIGN(chat_template, ReadChatTemplate(file, /*tools=*/false));
  }
  PrepareRequest request = {&tokenizer, /*text_bytes=*/0, options.run, StepShape{}};
  request.kv_check = true;
  if (!options.adapter.empty()) {
    BANTAM_ASSIGN(AdapterOption adapter, ParseAdapterOption(options.adapter, /*named=*/false));
    request.adapters.push_back(std::move(adapter));
  }
  DeferInterrupts();
  BANTAM_ASSIGN(Prepared prepared, Prepare(files, std::move(file), request));
  BANTAM_TRY(CheckVocabulary(tokenizer, prepared, path));
  NoteChanges(prepared, options.run);
  const bool chat = !options.has_prompt && !options.raw && StdinIsTerminal() && StdoutIsTerminal();
  std::string prompt;
  if (!chat) {
    BANTAM_ASSIGN(prompt, ReadPrompt(options, tokenizer, prepared.plan));
  }
  BANTAM_ASSIGN(Loaded loaded, Load(files, std::move(prepared)));
  EndProgressLine();
  Runner runner(options, sampler, std::move(tokenizer), std::move(chat_template), std::move(loaded));
  return chat ? runner.Chat() : runner.Once(prompt);
}

}  // namespace

void AddRunVerb(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("run", "chat with a model, or answer one prompt");
  CLI::Option* model = verb->add_option("MODEL", options->model,
                                        "a .gguf file, a Hugging Face folder, or a name in the model folder (default: the demo model)");
  CLI::Option* prompt = verb->add_option("-p,--prompt", options->prompt, "answer this and end (default: a chat, or standard input)");
  verb->add_option("-n,--tokens", options->tokens_max, "most tokens of an answer; 0: until it ends")->check(WholeNumber());
  verb->add_option("--system", options->system, "system message");
  verb->add_option("--stop", options->stops, "end the answer in front of this text; may be given again")->allow_extra_args(false);
  verb->add_flag("--raw", options->raw, "complete the prompt as it is, without the chat template");
  verb->add_option("--lora", options->adapter, "an adapter: a PEFT folder or a GGUF file, and :SCALE to multiply it with");
  AddSamplingOptions(*verb, &options->sampling);
  AddRunOptions(*verb, &options->run);
  AddKvCheckOption(*verb, &options->run);
  verb->footer("Examples: bantam run\n          bantam run model.gguf -p \"What is a gateway?\" --memory 1G");
  verb->callback([=] {
    options->has_model = model->count() > 0;
    options->has_prompt = prompt->count() > 0;
    *action = [=](FileSystem& files) {
      const Result<int> code = Run(files, *options);
      EndProgressLine();
      return code.ok() ? *code : Fail(code.error());
    };
  });
}

}  // namespace bantam
