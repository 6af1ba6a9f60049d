#include "engine/batch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "formats/gguf.h"
#include "model/vocabulary.h"
#include "testing/memory_file.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

using testing::MemoryFile;

TEST(LineReader, LinesOfAnyCut) {
  const std::string long_line(kBatchLineBytesMax + 10, 'x');
  const std::string text = "one\n\n  \r\ntwo \n" + long_line + "\nthree\n" + long_line;
  for (const size_t at_once : {size_t{1'000'000}, size_t{70'001}}) {
    MemoryFile file(text);
    file.most_at_once_ = at_once;
    LineReader reader(file);
    std::vector<std::string> lines;
    while (auto line = reader.Next().value()) lines.push_back(line->too_long ? "(too long)" : line->text);
    EXPECT_EQ(lines, (std::vector<std::string>{"one", "two ", "(too long)", "three", "(too long)"}));
    EXPECT_EQ(reader.bytes_read(), text.size());
  }
  MemoryFile small("a\nbc");
  small.most_at_once_ = 1;
  LineReader reader(small);
  EXPECT_EQ(reader.Next().value()->text, "a");
  EXPECT_EQ(reader.Next().value()->text, "bc") << "the last line needs no end";
  EXPECT_FALSE(reader.Next().value().has_value());
}

class BatchTest : public ::testing::Test {
 protected:
  BatchTest() {
    testing::BuildTinyModel({.width = 64, .feed_forward = 64}).Write(folder_.Path("m.gguf"));
    ModelFile file = OpenGguf(*files_, folder_.Path("m.gguf")).value();
    tokenizer_ = std::make_unique<Tokenizer>(ReadVocabulary(file).value());
    constraints_ = std::make_unique<Constraints>(*tokenizer_, budget_);
    model_ = LoadModel(OutlineModel(file, *RunnableKernels().front()).value(), file, {budget_, pool_}, nullptr).value();
    for (int i = 0; i < 30; ++i) {
      const std::string prompt = "prompt " + std::string(static_cast<size_t>(i % 7), 'a');
      input_ += i == 11 ? "{\"prompt\": 5}\n"
                        : "{\"id\": \"r" + std::to_string(i) + "\", \"prompt\": \"" + prompt +
                              "\", \"max_tokens\": " + std::to_string(1 + i % 9) + ", \"temperature\": 1, \"seed\": " + std::to_string(i) +
                              ", \"n\": " + std::to_string(1 + i % 3) + "}\n";
    }
  }
  Result<BatchSummary> Run(MemoryFile& output, size_t sequences, const Progress& progress = nullptr, bool pressed = false) {
    PlanOptions options = {/*context=*/64, KvType::kF16, /*step_tokens=*/16, /*step_outputs=*/8, pool_.size()};
    options.sequences = sequences;
    plan_ = PlanMemory(model_->program, options, {});
    MemoryFile input(input_);
    const JsonRequestContext context = {.tokenizer = *tokenizer_,
                                        .chat_template = nullptr,
                                        .now = LocalTime(),
                                        .defaults = {},
                                        .constraints = constraints_.get(),
                                        .context = 64};
    return RunBatch({.input = input, .output = output, .context = context, .ahead = 6, .progress = progress}, [&](Engine::Sink sink) {
      EngineOptions engine_options;
      engine_options.admission = admission_;
      auto engine = Engine::Make({*model_, *tokenizer_, plan_, clock_, engine_options}, {budget_, pool_}, sink);
      if (pressed) (*engine)->SetPressure(Pressure::kCritical);
      return engine;
    });
  }
  // Without what depends on who came before.
  static std::vector<Json> Lines(const std::string& bytes) {
    std::vector<Json> lines;
    for (size_t at = 0; at < bytes.size();) {
      const size_t end = bytes.find('\n', at);
      Json line = ParseJson(bytes.substr(at, end - at)).value();
      if (line.contains("usage")) line["usage"].erase("cached_tokens");
      lines.push_back(std::move(line));
      at = end + 1;
    }
    return lines;
  }

  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  MemoryBudget budget_{uint64_t{1} << 30};
  std::unique_ptr<ThreadPool> threads_owner_ = ThreadPool::Make(2).value();
  ThreadPool& pool_ = *threads_owner_;
  MonotonicClock clock_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Constraints> constraints_;
  MemoryPlan plan_;
  AdmissionLimits admission_;
  std::string input_;
};

TEST_F(BatchTest, InOrderAndTheSameHoweverManyRunAtOnce) {
  MemoryFile one;
  MemoryFile many;
  EXPECT_EQ(Run(one, 1)->lines, 30u);
  const BatchSummary summary = Run(many, 4).value();
  EXPECT_EQ(summary.lines, 30u);
  EXPECT_EQ(summary.errors, 1u);
  const std::vector<Json> lines = Lines(many.bytes_);
  EXPECT_EQ(lines, Lines(one.bytes_));
  ASSERT_EQ(lines.size(), 30u);
  for (size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i]["index"], i);
    if (i == 11) {
      EXPECT_EQ(lines[i]["error"]["code"], "invalid_argument");
      continue;
    }
    EXPECT_EQ(lines[i]["id"], "r" + std::to_string(i));
    EXPECT_EQ(lines[i]["choices"].size(), 1 + i % 3);
  }
}

// Stopped, or killed within a line, or by a full disk: the same command goes on, and the whole is what one run writes.
// What there is of several answers is given; those that there are not say so.
TEST_F(BatchTest, FewerAnswersThanWereAskedFor) {
  input_ = R"({"prompt": "a", "beams": 4, "n": 4, "regex": "q", "max_tokens": 5})"
           "\n";
  MemoryFile output;
  const BatchSummary summary = Run(output, 4).value();
  EXPECT_EQ(summary.errors, 0u);
  const Json line = Lines(output.bytes_).at(0);
  ASSERT_EQ(line["choices"].size(), 4u) << line.dump();
  EXPECT_EQ(line["choices"][0]["text"], "q");
  EXPECT_EQ(line["choices"][0]["finish_reason"], "stop");
  EXPECT_FALSE(line["choices"][0].contains("error"));
  EXPECT_EQ(line["choices"][3]["finish_reason"], "error");
  EXPECT_EQ(line["choices"][3]["error"]["code"], "exhausted");
  EXPECT_GE(line["choices"][0]["score"].get<double>(), line["choices"][1]["score"].get<double>());
}

TEST_F(BatchTest, GoesOnWhereItWas) {
  MemoryFile whole;
  ASSERT_TRUE(Run(whole, 4).ok());
  const std::vector<Json> expected = Lines(whole.bytes_);
  for (const size_t cut : {size_t{1}, whole.bytes_.size() / 3, whole.bytes_.size() / 2, whole.bytes_.size() - 1}) {
    MemoryFile part(whole.bytes_.substr(0, cut));
    const BatchSummary summary = Run(part, 4).value();
    EXPECT_EQ(summary.resumed + summary.lines, 30u);
    EXPECT_EQ(Lines(part.bytes_), expected) << cut;
  }
  MemoryFile stopped;
  int looks = 0;
  const auto cancelled = Run(stopped, 4, [&](std::string_view, uint64_t, uint64_t) { return ++looks < 25; });
  EXPECT_EQ(cancelled.error().code(), Code::kCancelled);
  EXPECT_NE(cancelled.error().message().find("goes on there"), std::string::npos);
  EXPECT_GT(Lines(stopped.bytes_).size(), 0u);
  ASSERT_TRUE(Run(stopped, 4).ok());
  EXPECT_EQ(Lines(stopped.bytes_), expected);
  for (size_t full = 0; full < whole.bytes_.size(); full += 501) {
    MemoryFile disk;
    disk.full_ = full;
    EXPECT_EQ(Run(disk, 4).error().code(), Code::kExhausted);
    disk.full_ = SIZE_MAX;
    ASSERT_TRUE(Run(disk, 4).ok());
    EXPECT_EQ(Lines(disk.bytes_), expected) << full;
  }
}

TEST_F(BatchTest, AnotherFileIsNotGoneOnWith) {
  MemoryFile notes("my notes\n");
  EXPECT_EQ(Run(notes, 4).error().code(), Code::kCorrupt);
  EXPECT_EQ(notes.bytes_, "my notes\n");
  MemoryFile minified(R"({"settings": 1})");
  EXPECT_EQ(Run(minified, 4).error().code(), Code::kCorrupt) << "a file without a line's end is no line that was being written";
  EXPECT_EQ(minified.bytes_, R"({"settings": 1})");
  MemoryFile longer;
  ASSERT_TRUE(Run(longer, 4).ok());
  const std::string whole = longer.bytes_;
  const std::string input = input_;
  input_ = input_.substr(0, input_.find('\n') + 1);
  EXPECT_EQ(Run(longer, 4).error().code(), Code::kInvalidArgument) << "fewer requests than answers";
  input_ = input;
  input_[input_.find("prompt a")] = 'P';
  EXPECT_EQ(Run(longer, 4).error().code(), Code::kInvalidArgument) << "a request was changed";
  EXPECT_EQ(longer.bytes_, whole);
}

// What an engine has no room for now is asked again, and what it never has is an error of its own.
TEST_F(BatchTest, RefusedForNow) {
  admission_.requests_max = 2;
  MemoryFile few;
  EXPECT_EQ(Run(few, 4)->errors, 1u) << "the line that is wrong";
  admission_ = {};
  MemoryFile many;
  ASSERT_TRUE(Run(many, 4).ok());
  EXPECT_EQ(Lines(few.bytes_), Lines(many.bytes_));
  MemoryFile never;
  const auto ended = Run(never, 4, nullptr, /*pressed=*/true);
  EXPECT_EQ(ended.error().code(), Code::kUnavailable);
  EXPECT_NE(ended.error().message().find("short of memory"), std::string::npos) << ended.error().message();
  EXPECT_EQ(Lines(never.bytes_).size(), 0u);
}

}  // namespace
}  // namespace bantam
