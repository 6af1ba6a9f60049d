/* Bantam as a library: one language model that answers many requests at once, inside a memory limit; or one that makes vectors of texts,
 * classifies and ranks them.
 *
 * Handles are opaque. A struct begins with its size, which the caller sets to sizeof: the library reads and writes no more than that, so
 * programs that were built against an older header go on working. Members that are zero have their defaults. All texts are UTF-8. Functions
 * may be called from any thread; of one answer by one thread at a time. Nothing is printed and nothing is sent over a network. */
#ifndef BANTAM_BANTAM_H
#define BANTAM_BANTAM_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define BANTAM_API __attribute__((visibility("default")))
#else
#define BANTAM_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* "0.1.0" */
BANTAM_API const char* bantam_version(void);

typedef enum bantam_code {
  BANTAM_OK = 0,
  BANTAM_INVALID_ARGUMENT = 1, /* the caller asked for something that makes no sense */
  BANTAM_NOT_FOUND = 2,        /* a file or name does not exist */
  BANTAM_CORRUPT = 3,          /* a file contradicts its format */
  BANTAM_UNSUPPORTED = 4,      /* well formed, but outside what this library does */
  BANTAM_EXHAUSTED = 5,        /* memory, context or another limit: the same request never fits */
  BANTAM_DENIED = 6,           /* permission */
  BANTAM_UNAVAILABLE = 7,      /* not now: the queue is full, or the first token would come too late */
  BANTAM_CANCELLED = 8,
  BANTAM_INTERNAL = 9 /* a defect of the library */
} bantam_code;

typedef struct bantam_error {
  size_t size;
  bantam_code code;
  char message[1024]; /* names the input, what was expected, and what helps; ends with 0 */
} bantam_error;

typedef struct bantam_engine bantam_engine;
typedef struct bantam_answer bantam_answer;

typedef struct bantam_engine_options {
  size_t size;
  const char* model;     /* a GGUF file, a package or a Hugging Face folder */
  uint64_t memory_bytes; /* hard limit of what the engine plans: weights, keys and values, activations, requests; 0: what is available */
  uint32_t context;      /* tokens of one request and its answer; 0: the model's, at most 4096 */
  uint32_t threads;      /* 0: the usable physical cores */
  uint32_t sequences;    /* answers that are computed at once, if memory allows; 0: 8 */
  const char* kv;        /* keys and values: "f32", "f16", "q8", "q8-q4", "q8-rotate", "q8-q4-rotate"; NULL: f16, or q8 if memory is short */
  uint32_t requests_max; /* that wait or run; 0: 256 */
  uint32_t first_token_ms_max; /* requests whose first token would come later are refused; 0: none are */
  /* Called now and then while weights are read, on the calling thread; 0 stops. May be NULL. */
  int (*progress)(void* user, const char* step, uint64_t done, uint64_t total);
  void* user;
  /* A file where prefixes of prompts are kept from one run to the next: read at the start, written when the engine is closed. NULL:
   * nowhere. It holds ids of tokens and what was computed of them, so it belongs where only the service may read and write. */
  const char* prefixes;
  uint64_t adapter_bytes; /* kept free for adapters that are loaded later; 0: they get what is left of memory_bytes */
  /* A smaller model of the same vocabulary, within memory_bytes too: it guesses what answers go on with where that makes them faster, and
   * changes none. NULL: none. */
  const char* draft_model;
  /* A file of measured confidences (docs/library.md): what "confidence" then says. NULL: it is given as it is computed. */
  const char* calibration;
  /* Targets of the adaptive mode; 0: none. While one is missed, the engine runs fewer answers at once, without drafts, and shorter ones; when
   * all are met with room to spare, it goes back step by step. */
  float target_token_ms;       /* from one token of an answer to the next, for 95 of 100 */
  float target_watts;          /* of what the machine measures (counters of the processor, sensors of the board, the battery) */
  float target_memory_percent; /* of the machine's memory or the control group's, in use */
  /* Told what the engine changed by itself, and why: within bantam_engine_open (of prefixes that are warm), later on the engine's thread. Must
   * not call into the engine. May be NULL. */
  void (*notice)(void* user, const char* change);
  /* Not 0: requests that come while memory is short, and do not say "kv" themselves, keep keys and values in 8 bits, in half the memory. What
   * they answer may differ from what they would have answered otherwise; the "kv" of a result's usage says which it was. */
  int narrow_kv;
  /* So many layers are asked first by requests that say "exit_confidence" (docs/library.md); 0: there is no early exit. */
  uint32_t exit_layer;
} bantam_engine_options;

/* Opens a model and starts the engine's thread. `error` may be NULL, here and everywhere. On failure *engine is NULL. */
BANTAM_API bantam_code bantam_engine_open(const bantam_engine_options* options, bantam_engine** engine, bantam_error* error);

/* Cancels what runs. Answers stay valid: they end as cancelled. NULL is nothing. */
BANTAM_API void bantam_engine_close(bantam_engine* engine);

/* Loads an adapter (a PEFT folder or a GGUF file) beside the model, for requests that name it ("adapter"); `scale` multiplies what it adds,
 * 1 changes nothing. One that comes under a name that is there takes its place. Waits for reading, and for the step that runs. Requests go
 * on with the adapter that they began with. Errors name the tensor; BANTAM_EXHAUSTED when memory_bytes leaves no room. */
BANTAM_API bantam_code bantam_engine_load_adapter(bantam_engine* engine, const char* name, const char* path, float scale,
                                                  bantam_error* error);

/* No request finds it any more; its memory is free when the last one that uses it ends. BANTAM_NOT_FOUND says which there are. */
BANTAM_API bantam_code bantam_engine_unload_adapter(bantam_engine* engine, const char* name, bantam_error* error);

/* The state of the engine as a JSON object: memory planned, requests, tokens computed, kept and generated. At most `capacity` bytes are
 * written, the last of them 0; returns the length without it, or 0 when `capacity` is too small for it all. */
BANTAM_API size_t bantam_engine_status(bantam_engine* engine, char* json, size_t capacity);

/* The ids of a text, without what the vocabulary puts round a prompt. Names of control tokens mean those tokens only with `special`. At
 * most `capacity` ids are written; *count is how many there are. */
BANTAM_API bantam_code bantam_tokenize(bantam_engine* engine, const char* text, size_t text_bytes, int special, uint32_t* ids,
                                       size_t capacity, size_t* count, bantam_error* error);

/* Asks for an answer. `request` is a JSON object: "messages" or "prompt", and max_tokens, temperature, seed, stop, n, logprobs, priority,
 * deadline_ms and so on, as OpenAI's chat completions have them (docs/library.md lists all). Does not wait. Errors: BANTAM_UNAVAILABLE with
 * the predicted time to a first token, BANTAM_EXHAUSTED, BANTAM_INVALID_ARGUMENT naming the member. */
BANTAM_API bantam_code bantam_ask(bantam_engine* engine, const char* request, size_t request_bytes, bantam_answer** answer,
                                  bantam_error* error);

typedef enum bantam_stop {
  BANTAM_STOP_NONE = 0, /* it goes on */
  BANTAM_STOP_END_OF_TURN = 1,
  BANTAM_STOP_LENGTH = 2,
  BANTAM_STOP_CONTEXT_FULL = 3,
  BANTAM_STOP_CANCELLED = 4,
  BANTAM_STOP_STRING = 5,
  BANTAM_STOP_DEADLINE = 6,
  BANTAM_STOP_ERROR = 7 /* `error` tells */
} bantam_stop;

/* What is new of one choice. Texts are the answer's, and valid until the next call with it. */
typedef struct bantam_event {
  size_t size;
  uint32_t choice;
  const char* text; /* whole characters; ends with 0 */
  size_t text_bytes;
  uint32_t tokens;    /* that were generated with it */
  bantam_stop stop;   /* not NONE: the last event of this choice, and what follows is valid */
  const char* result; /* the choice as a JSON object: all of its text, finish_reason, usage, and what was asked for */
  size_t result_bytes;
  uint32_t prompt_tokens;
  uint32_t cached_tokens; /* of them, taken from a prefix that was kept */
  uint32_t generated_tokens;
  float confidence; /* 0 to 1; -1 where it was not asked for */
} bantam_event;

typedef enum bantam_wait { BANTAM_WAIT_EVENT = 0, BANTAM_WAIT_TIMEOUT = 1, BANTAM_WAIT_END = 2 } bantam_wait;

/* Waits for the next event, at most `timeout_ms` (negative: for ever). END: every choice has ended. `error` is written with
 * BANTAM_STOP_ERROR. */
BANTAM_API bantam_wait bantam_answer_next(bantam_answer* answer, int64_t timeout_ms, bantam_event* event, bantam_error* error);

/* It ends as cancelled, within a step. May be called from any thread. */
BANTAM_API void bantam_answer_cancel(bantam_answer* answer);

/* Cancels it if it has not ended. NULL is nothing. */
BANTAM_API void bantam_answer_free(bantam_answer* answer);

/* A model that reads whole texts: for vectors of them, or for classes and rankings. */
typedef struct bantam_encoder bantam_encoder;

typedef struct bantam_encoder_options {
  size_t size;
  const char* model;     /* a GGUF file, a package or a Hugging Face folder: an encoder, or a decoder such as Qwen3-Embedding */
  uint64_t memory_bytes; /* hard limit of what is planned: weights, keys and values, activations; 0: what is available */
  uint32_t context;      /* tokens of one text; 0: the model's, at most 4096 */
  uint32_t threads;      /* 0: the usable physical cores */
  int scores;            /* 0: it makes vectors (bantam_embed); else classes and rankings (bantam_classify, bantam_rerank) */
  int truncate;          /* 0: a text that is too long is an error; else its end is left away */
  /* Called now and then while weights are read, on the calling thread; 0 stops. May be NULL. */
  int (*progress)(void* user, const char* step, uint64_t done, uint64_t total);
  void* user;
} bantam_encoder_options;

/* On failure *encoder is NULL. BANTAM_UNSUPPORTED where the model has no scores and some are wanted. */
BANTAM_API bantam_code bantam_encoder_open(const bantam_encoder_options* options, bantam_encoder** encoder, bantam_error* error);

/* No function may be in it any more. NULL is nothing. */
BANTAM_API void bantam_encoder_close(bantam_encoder* encoder);

/* How many numbers a vector has, or with `scores` how many classes there are. */
BANTAM_API size_t bantam_encoder_width(const bantam_encoder* encoder);

/* The label of a class, from 0 on; the encoder's. NULL past the last one, and where vectors are made. */
BANTAM_API const char* bantam_encoder_label(const bantam_encoder* encoder, size_t number);

/* Calls that are in the encoder end with BANTAM_CANCELLED, within a step. May be called from any thread. */
BANTAM_API void bantam_encoder_cancel(bantam_encoder* encoder);

typedef struct bantam_text {
  const char* text;
  size_t text_bytes;
} bantam_text;

/* Writes the vector of each text to `vectors`, [count, bantam_encoder_width] floats, of unit length unless the model says otherwise.
 * `prompt` names what the model wants in front of texts of one use ("query"); NULL: its default, mostly nothing. These three functions wait
 * for the result; calls of other threads take turns, some thousand tokens each. On failure what was written means nothing.
 */
BANTAM_API bantam_code bantam_embed(bantam_encoder* encoder, const bantam_text* texts, size_t count, const char* prompt, float* vectors,
                                    bantam_error* error);

/* Writes the probability of each class of each text, [count, bantam_encoder_width] floats; of a regression the score. With `seconds`, one
 * for each text, pairs are classified: a premise and a hypothesis. NULL: single texts. */
BANTAM_API bantam_code bantam_classify(bantam_encoder* encoder, const bantam_text* texts, const bantam_text* seconds, size_t count,
                                       float* probabilities, bantam_error* error);

/* Writes how well each document answers the query, [count] floats: the more, the better. */
BANTAM_API bantam_code bantam_rerank(bantam_encoder* encoder, const bantam_text* query, const bantam_text* documents, size_t count,
                                     float* scores, bantam_error* error);

#ifdef __cplusplus
}
#endif

#endif
