// bantam man and bantam completion: written from the very definitions of verbs and options that parse the command line.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "cli/terminal.h"
#include "cli/verbs.h"

namespace bantam {
namespace {

struct OptionInfo {
  std::vector<std::string> flags;  // "-p", "--prompt"; empty: positional
  std::string value;               // what it takes; empty: nothing
  std::string help;
  bool required = false;
  bool many = false;  // may be given several times
};

struct VerbInfo {
  std::string name;
  std::string help;
  std::string examples;
  std::vector<OptionInfo> options;
};

OptionInfo Describe(const CLI::Option& option) {
  OptionInfo info;
  for (const std::string& name : option.get_snames()) info.flags.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) info.flags.push_back("--" + name);
  const bool is_flag = option.get_expected_max() == 0;
  if (!is_flag) info.value = option.get_positional() ? option.get_name(/*positional=*/true) : option.get_type_name();
  info.help = option.get_description();
  info.required = option.get_required();
  info.many = option.get_positional() && option.get_items_expected_max() > 1;
  const std::string standard = option.get_default_str();
  if (!is_flag && !standard.empty()) info.help += fmt::format(" (default: {})", standard);
  return info;
}

std::vector<VerbInfo> DescribeAll(const CLI::App& app) {
  std::vector<VerbInfo> verbs;
  for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; })) {
    VerbInfo info = {verb->get_name(), verb->get_description(), verb->get_footer(), {}};
    for (const CLI::Option* option : verb->get_options([](const CLI::Option*) { return true; })) info.options.push_back(Describe(*option));
    verbs.push_back(std::move(info));
  }
  return verbs;
}

// ---- The manual page ----

std::string Troff(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else if (c == '\n') {
      out += "\n.br\n";
    } else {
      out += c;
    }
  }
  // A line that begins with a point or a quote would be a request.
  return out.starts_with('.') || out.starts_with('\'') ? "\\&" + out : out;
}

std::string ManPage(const CLI::App& app) {
  const std::vector<VerbInfo> verbs = DescribeAll(app);
  std::string page = fmt::format(".TH BANTAM 1 \"\" \"bantam {}\" \"User Commands\"\n", BANTAM_VERSION);
  page += fmt::format(".SH NAME\nbantam \\- {}\n.SH SYNOPSIS\n", Troff("small language models on small machines"));
  for (const VerbInfo& verb : verbs) {
    page += fmt::format("\\fBbantam {}\\fR [\\fIoptions\\fR]", Troff(verb.name));
    for (const OptionInfo& option : verb.options) {
      if (option.flags.empty()) {
        const std::string value = fmt::format("\\fI{}\\fR{}", Troff(option.value), option.many ? "..." : "");
        page += option.required ? " " + value : " [" + value + "]";
      } else if (option.required) {
        page += fmt::format(" \\fB{}\\fR \\fI{}\\fR", Troff(option.flags[0]), Troff(option.value));
      }
    }
    page += "\n.br\n";
  }
  page += ".SH DESCRIPTION\n" +
          Troff(
              "Runs small language models inside a memory limit that is planned before anything is loaded. Models are .gguf files or "
              "Hugging Face "
              "folders, named by path or by their name in the model folder.") +
          "\n.SH VERBS\n";
  for (const VerbInfo& verb : verbs) {
    page += fmt::format(".SS {}\n{}\n", Troff(verb.name), Troff(verb.help));
    for (const OptionInfo& option : verb.options) {
      std::string names;
      for (const std::string& flag : option.flags) names += fmt::format("{}\\fB{}\\fR", names.empty() ? "" : ", ", Troff(flag));
      if (!option.value.empty()) names += fmt::format("{}\\fI{}\\fR", names.empty() ? "" : " ", Troff(option.value));
      page += fmt::format(".TP\n{}\n{}\n", names, Troff(option.help));
    }
    page += fmt::format(".PP\n.nf\n{}\n.fi\n", Troff(verb.examples));
  }
  page += ".SH EXIT STATUS\n" + Troff(std::string(kExitCodes)) + "\n";
  page += ".SH FILES\n.TP\n" + Troff("${XDG_CACHE_HOME:-~/.cache}/bantam/models") + "\n" + Troff("the model folder") + "\n";
  return page;
}

// ---- Completion ----

// One shell word in single quotes.
std::string Quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c == '\n' ? ' ' : c);
  return out + "'";
}

std::string Words(const std::vector<std::string>& words) { return fmt::format("{}", fmt::join(words, " ")); }

std::string BashCompletion(const std::vector<VerbInfo>& verbs) {
  std::vector<std::string> names;
  std::string cases;
  for (const VerbInfo& verb : verbs) {
    names.push_back(verb.name);
    std::vector<std::string> flags;
    for (const OptionInfo& option : verb.options) flags.insert(flags.end(), option.flags.begin(), option.flags.end());
    cases += fmt::format("    {}) flags='{}' ;;\n", verb.name, Words(flags));
  }
  return fmt::format(R"(# bash completion of bantam: source it, or put it into /usr/share/bash-completion/completions/bantam
_bantam() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} flags= model
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    mapfile -t COMPREPLY < <(compgen -W '{} --help --version' -- "$word")
    return
  fi
  case ${{COMP_WORDS[1]}} in
{}  esac
  if [[ $word == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$word")
    return
  fi
  if [ "${{COMP_WORDS[1]}}" = completion ]; then
    mapfile -t COMPREPLY < <(compgen -W 'bash zsh fish' -- "$word")
    return
  fi
  # Names of files are compared, never expanded.
  for model in "${{XDG_CACHE_HOME:-$HOME/.cache}}"/bantam/models/*.gguf; do
    model=${{model##*/}}
    [[ $model == "$word"* && $model != '*.gguf' ]] && COMPREPLY+=("$model")
  done
  case ${{COMP_WORDS[1]}} in
    rm) ;;
    *) mapfile -t -O "${{#COMPREPLY[@]}}" COMPREPLY < <(compgen -f -- "$word") ;;
  esac
}}
complete -o filenames -F _bantam bantam
)",
                     Words(names), cases);
}

std::string ZshCompletion(const std::vector<VerbInfo>& verbs) {
  const auto plain = [](std::string text) {
    for (const char c : {'[', ']', ':'}) std::replace(text.begin(), text.end(), c, ' ');
    return text;
  };
  std::string names;
  std::string cases;
  for (const VerbInfo& verb : verbs) {
    names += fmt::format("    {}\n", Quoted(verb.name + ":" + plain(verb.help)));
    cases += fmt::format("    {})\n      _arguments", verb.name);
    for (const OptionInfo& option : verb.options) {
      for (const std::string& flag : option.flags) {
        const std::string argument = option.value.empty() ? "" : fmt::format(":{}:_files", plain(option.value));
        cases += fmt::format(" \\\n        {}", Quoted(fmt::format("*{}[{}]{}", flag, plain(option.help), argument)));
      }
    }
    const char* rest = verb.name == "completion" ? "*:shell:(bash zsh fish)"
                       : verb.name == "rm"       ? "*:model:_bantam_models"
                                                 : "*:model:_bantam_files";
    cases += fmt::format(" \\\n        {}\n      ;;\n", Quoted(rest));
  }
  return fmt::format(R"(#compdef bantam
# zsh completion of bantam: put it as _bantam into a folder of $fpath
_bantam_models() {{
  local -a models
  models=("${{XDG_CACHE_HOME:-$HOME/.cache}}"/bantam/models/*.gguf(N:t))
  compadd -a models
}}
_bantam_files() {{
  _bantam_models
  _files
}}
_bantam() {{
  local -a verbs
  verbs=(
{}  )
  if (( CURRENT == 2 )); then
    _describe verb verbs
    return
  fi
  local verb=$words[2]
  shift words
  (( CURRENT-- ))
  case $verb in
{}  esac
}}
_bantam "$@"
)",
                     names, cases);
}

std::string FishCompletion(const std::vector<VerbInfo>& verbs) {
  std::string text =
      "# fish completion of bantam: put it as bantam.fish into ~/.config/fish/completions\n"
      "function __bantam_models\n"
      "  set -l folder $XDG_CACHE_HOME\n"
      "  test -n \"$folder\"; or set folder $HOME/.cache\n"
      "  for model in $folder/bantam/models/*.gguf\n"
      "    basename -- $model\n"
      "  end\n"
      "end\n";
  // Fish knows only backslash and quote as special between single quotes.
  const auto quoted = [](const std::string& word) {
    std::string out = "'";
    for (const char c : word) {
      if (c == '\'' || c == '\\') out += '\\';
      out += c == '\n' ? ' ' : c;
    }
    return out + "'";
  };
  for (const VerbInfo& verb : verbs) {
    text += fmt::format("complete -c bantam -n __fish_use_subcommand -f -a {} -d {}\n", verb.name, quoted(verb.help));
    const std::string seen = fmt::format("complete -c bantam -n '__fish_seen_subcommand_from {}'", verb.name);
    if (verb.name == "completion") {
      text += seen + " -f -a 'bash zsh fish'\n";
    } else {
      text += fmt::format("{}{} -a '(__bantam_models)'\n", seen, verb.name == "rm" ? " -f" : "");
    }
    for (const OptionInfo& option : verb.options) {
      if (option.flags.empty()) continue;
      std::string names;
      for (const std::string& flag : option.flags) {
        names += flag.starts_with("--") ? fmt::format(" -l {}", flag.substr(2)) : fmt::format(" -s {}", flag.substr(1));
      }
      text += fmt::format("{}{}{} -d {}\n", seen, names, option.value.empty() ? "" : " -r", quoted(option.help));
    }
  }
  return text;
}

int PrintCompletion(const CLI::App& app, const std::string& shell) {
  const std::vector<VerbInfo> verbs = DescribeAll(app);
  if (shell == "bash") return PrintResult(BashCompletion(verbs));
  if (shell == "zsh") return PrintResult(ZshCompletion(verbs));
  if (shell == "fish") return PrintResult(FishCompletion(verbs));
  return Fail(Error(Code::kInvalidArgument, fmt::format("{}: expected bash, zsh or fish", shell)));
}

}  // namespace

void AddManVerb(CLI::App& app, Action* action) {
  CLI::App* verb = app.add_subcommand("man", "print the manual page");
  verb->footer("Example: bantam man > bantam.1");
  verb->callback([&app, action] { *action = [&app](FileSystem&) { return PrintResult(ManPage(app)); }; });
}

void AddCompletionVerb(CLI::App& app, Action* action) {
  auto shell = std::make_shared<std::string>();
  CLI::App* verb = app.add_subcommand("completion", "print a shell's completion of verbs, options and models");
  verb->add_option("SHELL", *shell, "bash, zsh or fish")->required();
  verb->footer("Example: source <(bantam completion bash)");
  verb->callback([=, &app] { *action = [=, &app](FileSystem&) { return PrintCompletion(app, *shell); }; });
}

}  // namespace bantam
