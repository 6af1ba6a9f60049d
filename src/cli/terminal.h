// The program's side of the terminal: output, progress, lines of input, signals.
#pragma once

#include <string>
#include <string_view>

#include "base/progress.h"
#include "base/result.h"

namespace bantam {

// Opens what is closed of standard input, output and error: or the next file that is opened would take its place. Reading finds the end,
// writing the output fails.
void OpenStandardStreams();

// Installs the handlers: SIGINT, SIGTERM and SIGHUP (unless whoever started it wants it ignored) end the program with exit code 130
// (until DeferInterrupts), SIGBUS (a
// mapped file shrank) ends it with exit code 3 and a message, SIGPIPE is ignored so that a closed pipe is a write error.
void InstallSignalHandlers();

// From here on SIGINT only sets a flag: for verbs that look at it between steps and have something to finish.
void DeferInterrupts();

// Whether Ctrl-C was pressed since the last call to ClearInterrupt, or the program was asked to end.
bool Interrupted();
// Whether SIGTERM or SIGHUP came: not only the step but the program is to end.
bool Terminated();
void ClearInterrupt();
// From here on SIGHUP asks to read the configuration again, and ends nothing; after DeferInterrupts.
void DeferHangups();
// Whether it came since the last call.
bool TakeHangup();
// How many of all these came so far.
int InterruptCount();
// Waits until an interrupt or a hangup came, or so long; below 0: however long it takes.
void AwaitInterrupt(int timeout_ms);

bool StdinIsTerminal();
bool StdoutIsTerminal();

// Writes to stdout at once. False when the reader is gone.
bool Print(std::string_view text);
// Writes a verb's whole result to stdout. The exit code: not 0, with a message, when it cannot be written.
int PrintResult(std::string_view text);
// Why Print failed.
Error OutputLost();
// Writes to stderr.
void Note(std::string_view text);

// "bantam: MESSAGE" on stderr; returns the exit code of the error.
int Fail(const Error& error);

// `text` with everything removed that could steer a terminal: control characters but line feeds and tabs, invalid UTF-8.
// Metadata and answers come from files that nobody vouches for.
std::string Printable(std::string_view text);

// A progress line on stderr that overwrites itself; silent when stderr is no terminal. Stops the step on Ctrl-C.
Progress MakeProgressLine();
// Removes the progress line.
void EndProgressLine();

struct InputLine {
  enum class Kind { kLine, kEnd, kInterrupted } kind;
  std::string text;
};
// One line of stdin without its end. Interrupted when Ctrl-C came first. Longer lines than kLineMax are cut.
inline constexpr size_t kLineMax = 1 << 20;
InputLine ReadLine(std::string_view prompt);

// All of stdin. Exhausted past `size_max`.
Result<std::string> ReadStdin(size_t size_max);

}  // namespace bantam
