/* Asks a model two things at once and prints the answers as they come.
 *
 *     cc answer.c $(pkg-config --cflags --libs bantam) -o answer
 *     ./answer MODEL "Once upon a time" "The dog"
 */
#include <bantam/bantam.h>
#include <stdio.h>
#include <string.h>

enum { kQuestions = 2 };

/* A text as a JSON string. */
static void write_json_string(FILE* out, const char* text) {
  fputc('"', out);
  for (; *text != 0; ++text) {
    const unsigned char c = (unsigned char)*text;
    if (c == '"' || c == '\\') {
      fprintf(out, "\\%c", c);
    } else if (c < 0x20) {
      fprintf(out, "\\u%04x", c);
    } else {
      fputc(c, out);
    }
  }
  fputc('"', out);
}

static int ask(bantam_engine* engine, const char* prompt, bantam_answer** answer, bantam_error* error) {
  char request[4096];
  FILE* out = fmemopen(request, sizeof request, "w");
  if (out == NULL) return 0;
  fputs("{\"max_tokens\": 24, \"prompt\": ", out);
  write_json_string(out, prompt);
  fputs("}", out);
  const long length = ftell(out);
  const int whole = fclose(out) == 0 && length > 0 && (size_t)length < sizeof request;
  return whole && bantam_ask(engine, request, (size_t)length, answer, error) == BANTAM_OK;
}

int main(int argc, char** argv) {
  bantam_error error = {.size = sizeof error, .message = "the prompt is too long for this example"};
  if (argc != 2 + kQuestions) {
    fprintf(stderr, "usage: %s MODEL PROMPT PROMPT\n", argv[0]);
    return 2;
  }
  const bantam_engine_options options = {.size = sizeof options, .model = argv[1], .memory_bytes = 1u << 30};
  bantam_engine* engine = NULL;
  if (bantam_engine_open(&options, &engine, &error) != BANTAM_OK) {
    fprintf(stderr, "%s\n", error.message);
    return 3;
  }
  bantam_answer* answers[kQuestions] = {NULL};
  int failed = 0;
  for (int i = 0; i < kQuestions && !failed; ++i) {
    failed = !ask(engine, argv[2 + i], &answers[i], &error);
    if (failed) fprintf(stderr, "%s\n", error.message);
  }
  for (int i = 0; i < kQuestions && !failed; ++i) {
    printf("%s", argv[2 + i]);
    bantam_event event = {.size = sizeof event};
    while (bantam_answer_next(answers[i], -1, &event, &error) == BANTAM_WAIT_EVENT) {
      fwrite(event.text, 1, event.text_bytes, stdout);
      fflush(stdout);
      if (event.stop == BANTAM_STOP_ERROR) fprintf(stderr, "%s\n", error.message);
    }
    printf("\n");
  }
  for (int i = 0; i < kQuestions; ++i) bantam_answer_free(answers[i]);
  bantam_engine_close(engine);
  return failed ? 1 : 0;
}
