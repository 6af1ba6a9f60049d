// The C library through its header alone.
#include <bantam/bantam.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr const char* kModel = BANTAM_DATA "/models/stories260K.gguf";
constexpr const char* kAdapter = BANTAM_DATA "/adapters/stories260K";

bantam_error NoError() {
  bantam_error error{};
  error.size = sizeof(error);
  return error;
}

class LibraryTest : public ::testing::Test {
 protected:
  void Open(uint32_t sequences = 4, const char* draft = nullptr) {
    bantam_engine_options options{};
    options.size = sizeof(options);
    options.model = kModel;
    options.context = 256;
    options.sequences = sequences;
    options.memory_bytes = uint64_t{200} << 20;
    options.draft_model = draft;
    bantam_error error = NoError();
    ASSERT_EQ(bantam_engine_open(&options, &engine_, &error), BANTAM_OK) << error.message;
  }
  void TearDown() override { bantam_engine_close(engine_); }

  bantam_answer* Ask(const std::string& request) {
    bantam_answer* answer = nullptr;
    bantam_error error = NoError();
    EXPECT_EQ(bantam_ask(engine_, request.data(), request.size(), &answer, &error), BANTAM_OK) << error.message;
    return answer;
  }
  std::string Refused(const std::string& request) {
    bantam_answer* answer = nullptr;
    bantam_error error = NoError();
    EXPECT_NE(bantam_ask(engine_, request.data(), request.size(), &answer, &error), BANTAM_OK);
    EXPECT_EQ(answer, nullptr);
    return error.message;
  }
  struct Read {
    std::string text;
    bantam_stop stop = BANTAM_STOP_NONE;
    std::string result;
    uint32_t generated = 0;
  };
  static Read ReadAll(bantam_answer* answer) {
    Read read;
    bantam_event event{};
    event.size = sizeof(event);
    while (bantam_answer_next(answer, -1, &event, nullptr) == BANTAM_WAIT_EVENT) {
      read.text.append(event.text, event.text_bytes);
      if (event.stop == BANTAM_STOP_NONE) continue;
      read.stop = event.stop;
      read.result = event.result;
      read.generated = event.generated_tokens;
    }
    bantam_answer_free(answer);
    return read;
  }

  bantam_engine* engine_ = nullptr;
};

// Adapters come and go while the engine runs; requests name theirs.
TEST_F(LibraryTest, Adapters) {
  Open();
  bantam_error error = NoError();
  const std::string plain = R"({"prompt": "Once upon a time", "max_tokens": 20})";
  const std::string adapted = R"({"prompt": "Once upon a time", "max_tokens": 20, "adapter": "odd"})";
  EXPECT_NE(Refused(adapted).find("adapter odd: none is loaded"), std::string::npos);
  ASSERT_EQ(bantam_engine_load_adapter(engine_, "odd", kAdapter, 1, &error), BANTAM_OK) << error.message;
  ASSERT_EQ(bantam_engine_load_adapter(engine_, "nothing", kAdapter, 0, &error), BANTAM_OK) << error.message;
  char status[4096];
  ASSERT_GT(bantam_engine_status(engine_, status, sizeof(status)), 0u);
  EXPECT_NE(std::string(status).find(R"("adapters":["nothing","odd"])"), std::string::npos) << status;
  const std::string base = ReadAll(Ask(plain)).text;
  const std::string odd = ReadAll(Ask(adapted)).text;
  EXPECT_NE(odd, base);
  EXPECT_EQ(ReadAll(Ask(R"({"prompt": "Once upon a time", "max_tokens": 20, "adapter": "nothing"})")).text, base) << "scaled by 0";
  EXPECT_EQ(ReadAll(Ask(plain)).text, base);
  bantam_answer* running = Ask(adapted);
  EXPECT_EQ(bantam_engine_unload_adapter(engine_, "odd", &error), BANTAM_OK);
  EXPECT_EQ(ReadAll(running).text, odd) << "it goes on with the adapter that it began with";
  EXPECT_NE(Refused(adapted).find("not among those that are loaded: nothing"), std::string::npos);
  EXPECT_EQ(bantam_engine_unload_adapter(engine_, "odd", &error), BANTAM_NOT_FOUND);
  EXPECT_EQ(bantam_engine_load_adapter(engine_, "odd", BANTAM_DATA, 1, &error), BANTAM_NOT_FOUND);
  EXPECT_NE(std::string(error.message).find("without adapter_config.json"), std::string::npos) << error.message;
  EXPECT_EQ(bantam_engine_load_adapter(engine_, "", kAdapter, 1, &error), BANTAM_INVALID_ARGUMENT);
  EXPECT_EQ(bantam_engine_load_adapter(engine_, nullptr, kAdapter, 1, &error), BANTAM_INVALID_ARGUMENT);
  EXPECT_EQ(bantam_engine_unload_adapter(nullptr, "odd", nullptr), BANTAM_INVALID_ARGUMENT);
}

// The greedy continuation that another implementation computed (tests/cli/run.script).
TEST_F(LibraryTest, AnswersWhatTheProgramAnswers) {
  Open();
  const Read read = ReadAll(Ask(R"({"prompt": "Once upon a time", "max_tokens": 20})"));
  EXPECT_EQ(read.text, ", there was a little girl named Lily. She loved to play outsid");
  EXPECT_EQ(read.stop, BANTAM_STOP_LENGTH);
  EXPECT_EQ(read.generated, 20u);
  EXPECT_NE(read.result.find(R"("finish_reason":"length")"), std::string::npos) << read.result;
  EXPECT_NE(read.result.find(R"("prompt_tokens":5)"), std::string::npos) << read.result;
}

// A draft model changes no answer, is within the memory that was given, and has to be one.
TEST_F(LibraryTest, DraftModel) {
  Open();
  const std::string request = R"({"prompt": "The dog", "max_tokens": 100, "temperature": 0.5, "seed": 5})";
  const std::string plain = ReadAll(Ask(request)).text;
  bantam_engine_close(engine_);
  Open(/*sequences=*/4, /*draft=*/kModel);
  EXPECT_EQ(ReadAll(Ask(request)).text, plain);
  char status[4096];
  ASSERT_GT(bantam_engine_status(engine_, status, sizeof(status)), 0u);
  EXPECT_NE(std::string(status).find(R"("draft_model":{"planned_bytes":)"), std::string::npos) << status;
  EXPECT_EQ(std::string(status).find(R"("draft_model":{"planned_bytes":0)"), std::string::npos) << status;
  bantam_engine_options options{};
  options.size = sizeof(options);
  options.model = kModel;
  options.draft_model = "/nothing/here.gguf";
  bantam_engine* engine = nullptr;
  bantam_error error = NoError();
  EXPECT_EQ(bantam_engine_open(&options, &engine, &error), BANTAM_NOT_FOUND);
  EXPECT_EQ(engine, nullptr);
}

// Targets and measured confidences, with what is refused before weights are read.
TEST_F(LibraryTest, TargetsAndCalibration) {
  std::string path = testing::TempDir() + "calibration." + std::to_string(::getpid());
  const auto write = [&](const char* text) {
    std::FILE* file = std::fopen(path.c_str(), "w");
    ASSERT_NE(file, nullptr);
    std::fputs(text, file);
    std::fclose(file);
  };
  bantam_engine_options options{};
  options.size = sizeof(options);
  options.model = kModel;
  options.context = 256;
  options.memory_bytes = uint64_t{200} << 20;
  options.calibration = path.c_str();
  options.target_token_ms = 1000;
  options.notice = [](void*, const char*) {};
  const auto refused = [&] {
    bantam_error error = NoError();
    EXPECT_EQ(bantam_engine_open(&options, &engine_, &error), BANTAM_INVALID_ARGUMENT);
    EXPECT_EQ(engine_, nullptr);
    return std::string(error.message);
  };
  write(R"({"confidence": [[0, 2]]})");
  EXPECT_NE(refused().find("confidence[0]"), std::string::npos);
  write(R"({"confidence": [[0, 0.25], [1, 0.25]]})");
  options.target_memory_percent = 5;
  EXPECT_NE(refused().find("5 % of the memory"), std::string::npos);
  options.target_memory_percent = 100;
  bantam_error error = NoError();
  ASSERT_EQ(bantam_engine_open(&options, &engine_, &error), BANTAM_OK) << error.message;
  std::remove(path.c_str());
  bantam_answer* answer = Ask(R"({"prompt": "Once upon a time", "max_tokens": 5, "confidence_threshold": 0.3})");
  const Read read = ReadAll(answer);
  EXPECT_NE(read.result.find("\"confidence\":0.25"), std::string::npos) << read.result;
  EXPECT_NE(read.result.find("\"low_confidence\":true"), std::string::npos);
  EXPECT_NE(read.result.find("\"computed_confidence\":"), std::string::npos);
}

TEST_F(LibraryTest, ManyAtOnceFromManyThreads) {
  Open();
  const std::string request = R"({"prompt": "The dog", "max_tokens": 30, "temperature": 1, "seed": 5, "n": 2})";
  const std::string expected = ReadAll(Ask(request)).result;
  std::vector<std::thread> threads;
  std::vector<std::string> results(6);
  for (size_t i = 0; i < results.size(); ++i) {
    threads.emplace_back([&, i] {
      bantam_answer* cancelled = Ask(R"({"prompt": "The cat", "max_tokens": 200})");
      results[i] = ReadAll(Ask(request)).text;
      bantam_answer_cancel(cancelled);
      bantam_answer_free(cancelled);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& result : results) EXPECT_EQ(result.size(), results[0].size()) << "of two choices, in any order";
}

TEST_F(LibraryTest, WhatIsWrongIsSaid) {
  Open();
  EXPECT_NE(Refused("{").find("request: line 1"), std::string::npos);
  EXPECT_NE(Refused(R"({"prompt": "a", "tempratur": 1})").find("the nearest is temperature"), std::string::npos);
  EXPECT_NE(Refused(R"({"messages": [{"role": "user", "content": "hi"}]})").find("no chat template"), std::string::npos);
  EXPECT_EQ(bantam_ask(nullptr, "{}", 2, nullptr, nullptr), BANTAM_INVALID_ARGUMENT);
  bantam_engine_options options{};
  options.size = sizeof(options);
  bantam_engine* engine = nullptr;
  bantam_error error = NoError();
  EXPECT_EQ(bantam_engine_open(&options, &engine, &error), BANTAM_INVALID_ARGUMENT);
  EXPECT_STREQ(error.message, "model is NULL: give the path of one");
  options.model = "/nothing/here.gguf";
  EXPECT_EQ(bantam_engine_open(&options, &engine, &error), BANTAM_NOT_FOUND);
  EXPECT_NE(std::string(error.message).find("/nothing/here.gguf"), std::string::npos);
  options.model = kModel;
  options.kv = "q4";
  EXPECT_EQ(bantam_engine_open(&options, &engine, nullptr), BANTAM_INVALID_ARGUMENT);
  options.kv = nullptr;
  options.memory_bytes = 1 << 20;
  EXPECT_EQ(bantam_engine_open(&options, &engine, &error), BANTAM_EXHAUSTED);
  options.memory_bytes = 0;
  options.progress = [](void*, const char*, uint64_t, uint64_t) { return 0; };
  EXPECT_EQ(bantam_engine_open(&options, &engine, &error), BANTAM_CANCELLED);
  EXPECT_EQ(engine, nullptr);
}

// A program that was built against a smaller struct gets no more than it has room for.
TEST_F(LibraryTest, SizesAreHeeded) {
  Open();
  struct SmallError {
    size_t size;
    bantam_code code;
    char message[12];
    char behind[8];
  } small = {offsetof(SmallError, behind), BANTAM_OK, "", "unmoved"};
  bantam_answer* answer = nullptr;
  EXPECT_NE(bantam_ask(engine_, "{}", 2, &answer, reinterpret_cast<bantam_error*>(&small)), BANTAM_OK);
  EXPECT_EQ(std::strlen(small.message), 11u);
  EXPECT_STREQ(small.behind, "unmoved");
  struct SmallEvent {
    size_t size;
    uint32_t choice;
    const char* text;
    uint64_t behind;
  } event = {offsetof(SmallEvent, behind), 9, nullptr, 77};
  answer = Ask(R"({"prompt": "a", "max_tokens": 1})");
  EXPECT_EQ(bantam_answer_next(answer, -1, reinterpret_cast<bantam_event*>(&event), nullptr), BANTAM_WAIT_EVENT);
  EXPECT_EQ(event.choice, 0u);
  EXPECT_NE(event.text, nullptr);
  EXPECT_EQ(event.behind, 77u);
  bantam_answer_free(answer);
}

TEST_F(LibraryTest, AnswersOutliveTheirEngine) {
  Open(/*sequences=*/1);
  bantam_answer* running = Ask(R"({"prompt": "Once", "max_tokens": 250, "min_tokens": 250})");
  bantam_answer* waiting = Ask(R"({"prompt": "Once", "max_tokens": 250, "n": 3})");
  bantam_engine_close(engine_);
  engine_ = nullptr;
  EXPECT_EQ(ReadAll(running).stop, BANTAM_STOP_CANCELLED);
  bantam_answer_cancel(waiting);
  EXPECT_EQ(ReadAll(waiting).stop, BANTAM_STOP_CANCELLED);
  bantam_answer_free(nullptr);
  bantam_engine_close(nullptr);
}

TEST_F(LibraryTest, PrefixesAreWarmAfterARestart) {
  const std::string path = ::testing::TempDir() + "/bantam_prefixes_" + std::to_string(::getpid());
  const std::string request =
      R"({"prompt": "Once upon a time there was a small grey cat that lived in a house by the sea", "max_tokens": 8})";
  std::string texts[2];
  for (int run = 0; run < 2; ++run) {
    bantam_engine_options options{};
    options.size = sizeof(options);
    options.model = kModel;
    options.context = 256;
    options.prefixes = path.c_str();
    ASSERT_EQ(bantam_engine_open(&options, &engine_, nullptr), BANTAM_OK);
    bantam_answer* answer = Ask(request);
    bantam_event event{};
    event.size = sizeof(event);
    while (bantam_answer_next(answer, -1, &event, nullptr) == BANTAM_WAIT_EVENT) texts[run].append(event.text, event.text_bytes);
    EXPECT_EQ(event.cached_tokens > 0, run == 1);
    bantam_answer_free(answer);
    bantam_engine_close(engine_);
    engine_ = nullptr;
  }
  EXPECT_EQ(texts[0], texts[1]);
  EXPECT_EQ(std::remove(path.c_str()), 0);
}

TEST_F(LibraryTest, TokensAndStatus) {
  Open();
  uint32_t ids[3] = {};
  size_t count = 0;
  ASSERT_EQ(bantam_tokenize(engine_, "Once upon a time", 16, /*special=*/0, ids, 3, &count, nullptr), BANTAM_OK);
  EXPECT_EQ(count, 4u) << "all are counted, as many as fit are written";
  EXPECT_NE(ids[2], 0u);
  char status[2048];
  const size_t length = bantam_engine_status(engine_, status, sizeof(status));
  EXPECT_EQ(length, std::strlen(status));
  EXPECT_NE(std::string(status).find(R"("context":256)"), std::string::npos) << status;
  EXPECT_EQ(bantam_engine_status(engine_, status, 10), 0u);
  bantam_answer* answer = Ask(R"({"prompt": "Once", "max_tokens": 5, "deadline_ms": 60000})");
  bantam_event event{};
  event.size = sizeof(event);
  bantam_wait waited = BANTAM_WAIT_TIMEOUT;
  while (waited != BANTAM_WAIT_END) waited = bantam_answer_next(answer, 0, &event, nullptr);
  bantam_answer_free(answer);
  EXPECT_STREQ(bantam_version(), "0.1.0");
}

constexpr const char* kEncoder = BANTAM_DATA "/archs/bert.gguf";

class EncoderTest : public ::testing::Test {
 protected:
  bantam_code Open(const char* model, bool scores, bantam_error* error = nullptr, bool truncate = false) {
    bantam_encoder_options options{};
    options.size = sizeof(options);
    options.model = model;
    options.scores = scores ? 1 : 0;
    options.truncate = truncate ? 1 : 0;
    options.threads = 2;
    options.memory_bytes = uint64_t{200} << 20;
    return bantam_encoder_open(&options, &encoder_, error);
  }
  void TearDown() override { bantam_encoder_close(encoder_); }

  static std::vector<bantam_text> Views(const std::vector<std::string>& texts) {
    std::vector<bantam_text> views;
    for (const std::string& text : texts) views.push_back({text.data(), text.size()});
    return views;
  }
  std::vector<float> Embed(const std::vector<std::string>& texts) {
    std::vector<float> vectors(texts.size() * bantam_encoder_width(encoder_));
    bantam_error error = NoError();
    EXPECT_EQ(bantam_embed(encoder_, Views(texts).data(), texts.size(), nullptr, vectors.data(), &error), BANTAM_OK) << error.message;
    return vectors;
  }

  bantam_encoder* encoder_ = nullptr;
};

TEST_F(EncoderTest, VectorsDoNotDependOnTheirNeighbours) {
  for (const char* model : {kEncoder, kModel}) {  // an encoder and a decoder
    ASSERT_EQ(Open(model, /*scores=*/false), BANTAM_OK) << model;
    const size_t width = bantam_encoder_width(encoder_);
    const std::vector<float> together = Embed({"the pump leaks", "hot water", "water"});
    ASSERT_EQ(together.size(), 3 * width);
    double squares = 0;
    for (size_t i = 0; i < width; ++i) squares += static_cast<double>(together[i]) * static_cast<double>(together[i]);
    EXPECT_NEAR(squares, 1, 1e-6) << "of unit length";
    EXPECT_EQ(Embed({"hot water"}), std::vector<float>(together.begin() + static_cast<std::ptrdiff_t>(width),
                                                       together.begin() + static_cast<std::ptrdiff_t>(2 * width)))
        << model;
    EXPECT_EQ(bantam_encoder_label(encoder_, 0), nullptr);
    // Calls of several threads wait for their turn.
    std::vector<std::vector<float>> seen(4);
    std::vector<std::thread> threads;
    for (auto& vectors : seen) threads.emplace_back([&] { vectors = Embed({"the pump leaks", "hot water", "water"}); });
    for (std::thread& thread : threads) thread.join();
    for (const auto& vectors : seen) EXPECT_EQ(vectors, together) << model;
    bantam_encoder_close(encoder_);
    encoder_ = nullptr;
  }
}

TEST_F(EncoderTest, ClassesAndRankings) {
  bantam_error error = NoError();
  ASSERT_EQ(Open(kEncoder, /*scores=*/true, &error), BANTAM_OK) << error.message;
  ASSERT_EQ(bantam_encoder_width(encoder_), 1u);
  EXPECT_STREQ(bantam_encoder_label(encoder_, 0), "score");
  EXPECT_EQ(bantam_encoder_label(encoder_, 1), nullptr);
  const std::vector<std::string> documents = {"the pump", "hot water", "a seal"};
  const std::string query = "what leaks?";
  const bantam_text asked = {query.data(), query.size()};
  std::vector<float> ranks(3);
  ASSERT_EQ(bantam_rerank(encoder_, &asked, Views(documents).data(), 3, ranks.data(), &error), BANTAM_OK) << error.message;
  EXPECT_NE(ranks[0], ranks[1]);
  // Of one class without more to say, a pair's class is its rank.
  std::vector<float> scores(3);
  const std::vector<std::string> firsts(3, query);
  ASSERT_EQ(bantam_classify(encoder_, Views(firsts).data(), Views(documents).data(), 3, scores.data(), &error), BANTAM_OK) << error.message;
  EXPECT_EQ(scores, ranks);
  std::vector<float> single(1);
  ASSERT_EQ(bantam_classify(encoder_, &asked, nullptr, 1, single.data(), &error), BANTAM_OK) << error.message;
  EXPECT_NE(single[0], scores[0]);
  EXPECT_EQ(bantam_embed(encoder_, &asked, 1, nullptr, single.data(), &error), BANTAM_UNSUPPORTED);
}

TEST_F(EncoderTest, WhatIsRefused) {
  bantam_error error = NoError();
  EXPECT_EQ(Open(nullptr, false, &error), BANTAM_INVALID_ARGUMENT);
  EXPECT_EQ(Open("/nowhere", false, &error), BANTAM_NOT_FOUND);
  EXPECT_EQ(encoder_, nullptr);
  EXPECT_EQ(Open(BANTAM_DATA "/archs/nomic-bert.gguf", true, &error), BANTAM_UNSUPPORTED);
  EXPECT_NE(std::string(error.message).find("no classifier"), std::string::npos) << error.message;
  EXPECT_EQ(Open(kModel, true, &error), BANTAM_UNSUPPORTED) << "its vocabulary cannot be asked as Qwen3-Reranker is";
  ASSERT_EQ(Open(kEncoder, false, &error), BANTAM_OK);
  float vector[64];
  std::string words;
  for (int i = 0; i < 200; ++i) words += "water ";
  const bantam_text text = {words.data(), words.size()};
  EXPECT_EQ(bantam_embed(encoder_, &text, 1, nullptr, vector, &error), BANTAM_EXHAUSTED);
  EXPECT_NE(std::string(error.message).find("text 0: 202 tokens"), std::string::npos) << error.message;
  EXPECT_EQ(bantam_embed(encoder_, &text, 1, "query", vector, &error), BANTAM_INVALID_ARGUMENT) << "it names no prompts";
  EXPECT_EQ(bantam_embed(encoder_, nullptr, 1, nullptr, vector, &error), BANTAM_INVALID_ARGUMENT);
  const bantam_text nothing = {nullptr, 5};
  EXPECT_EQ(bantam_embed(encoder_, &nothing, 1, nullptr, vector, &error), BANTAM_INVALID_ARGUMENT);
  EXPECT_EQ(bantam_embed(encoder_, nullptr, 0, nullptr, nullptr, &error), BANTAM_OK) << "nothing is nothing";
  EXPECT_EQ(bantam_classify(encoder_, &text, nullptr, 1, vector, &error), BANTAM_UNSUPPORTED);
  EXPECT_EQ(bantam_encoder_width(nullptr), 0u);
  bantam_encoder_cancel(nullptr);
  bantam_encoder_close(nullptr);
  bantam_encoder_close(encoder_);
  encoder_ = nullptr;
  ASSERT_EQ(Open(kEncoder, false, &error, /*truncate=*/true), BANTAM_OK);
  EXPECT_EQ(bantam_embed(encoder_, &text, 1, nullptr, vector, &error), BANTAM_OK);
  // An engine is not for encoders.
  bantam_engine_options options{};
  options.size = sizeof(options);
  options.model = kEncoder;
  bantam_engine* engine = nullptr;
  EXPECT_EQ(bantam_engine_open(&options, &engine, &error), BANTAM_UNSUPPORTED);
  EXPECT_NE(std::string(error.message).find("bantam_encoder_open"), std::string::npos) << error.message;
}

// What was cancelled ends; the next call computes again.
TEST_F(EncoderTest, Cancelled) {
  ASSERT_EQ(Open(kEncoder, /*scores=*/false), BANTAM_OK);
  const std::vector<std::string> texts(2000, "the pump leaks and the water is hot");
  std::vector<float> vectors(texts.size() * bantam_encoder_width(encoder_));
  bantam_code code = BANTAM_OK;
  std::thread caller([&] { code = bantam_embed(encoder_, Views(texts).data(), texts.size(), nullptr, vectors.data(), nullptr); });
  // Whenever it comes, before, while or after: the call ends, as cancelled or whole.
  bantam_encoder_cancel(encoder_);
  caller.join();
  EXPECT_TRUE(code == BANTAM_OK || code == BANTAM_CANCELLED) << code;
  EXPECT_EQ(Embed({"hot water"}).size(), bantam_encoder_width(encoder_));
}

}  // namespace
