#include "fleet/hub.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "testing/http_server.h"

namespace bantam {
namespace {

using ::testing::AllOf;
using testing::Answer;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::HttpServer;
using ::testing::Not;
using testing::ServerConnection;
using testing::ServerRequest;
using ::testing::UnorderedElementsAre;

std::vector<HubFile> Listing(std::initializer_list<const char*> paths) {
  std::vector<HubFile> files;
  for (const char* path : paths) files.push_back({path, 1000, std::nullopt});
  return files;
}

std::vector<std::string> Paths(const HubChoice& choice) {
  std::vector<std::string> paths;
  for (const HubFile& file : choice.files) paths.push_back(file.path);
  return paths;
}

HubReference Repository(std::string file = "") { return {"me/model", "main", std::move(file)}; }

TEST(HubReference, Parts) {
  const auto plain = ParseHubReference("owner/repo-1.5_x");
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->repository, "owner/repo-1.5_x");
  EXPECT_EQ(plain->revision, "main");
  const auto full = ParseHubReference("o/r@refs/pr/1:sub/x.gguf");
  ASSERT_TRUE(full.ok());
  EXPECT_EQ(full->revision, "refs/pr/1");
  EXPECT_EQ(full->file, "sub/x.gguf");
  for (const char* bad :
       {"", "o", "o/", "/r", "o/r/s", "o/r:", "o/r@", "o/r@..", "../r", "o/..", "o/r:../x", "o/r:/x", "o /r", "o/r?x", "o/r@a b\n"}) {
    EXPECT_FALSE(ParseHubReference(bad).ok()) << bad;
  }
}

TEST(HubListing, Fields) {
  const auto files = ParseHubListing(
      R"([{"type":"directory","path":"a","size":0,"oid":"x"},{"type":"file","path":"config.json","size":5,"oid":"x"},
          {"type":"file","path":"m.gguf","size":130,"oid":"x","lfs":{
           "oid":"9ee11adf737960ff06123d5c4fba24d12c5b05ba460a7afa88950fbf2b61add0","size":1234567890123,"pointerSize":135}}])");
  ASSERT_TRUE(files.ok()) << files.error().message();
  ASSERT_EQ(files->size(), 2u);
  EXPECT_EQ((*files)[0].size_bytes, 5u);
  EXPECT_FALSE((*files)[0].digest.has_value());
  EXPECT_EQ((*files)[1].size_bytes, 1234567890123u);
  EXPECT_EQ(HexOf(*(*files)[1].digest), "9ee11adf737960ff06123d5c4fba24d12c5b05ba460a7afa88950fbf2b61add0");
  const auto longer = ParseHubListing(fmt::format(R"([{{"type":"file","path":"{}","size":1}}])", std::string(1025, 'x')));
  ASSERT_TRUE(longer.ok());
  EXPECT_TRUE(longer->empty());
  for (const char* bad :
       {"{}", "[", R"([{"type":"file","size":1}])", R"([{"type":"file","path":"x"}])", R"([{"type":"file","path":"x","size":-1}])",
        R"([{"type":"file","path":"x","size":1,"lfs":{"size":2,"oid":"12"}}])"}) {
    EXPECT_FALSE(ParseHubListing(bad).ok()) << bad;
  }
}

TEST(HubChoice, OneGguf) {
  const auto only = ChooseHubFiles(Repository(), Listing({"README.md", "sub/m.Q4_0.gguf", "mmproj-m.gguf"}));
  ASSERT_TRUE(only.ok()) << only.error().message();
  EXPECT_EQ(only->name, "m.Q4_0.gguf");
  EXPECT_FALSE(only->folder);
  EXPECT_THAT(Paths(*only), ElementsAre("sub/m.Q4_0.gguf"));
}

TEST(HubChoice, SeveralGgufs) {
  const auto listing = Listing({"m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-Q8_0.gguf"});
  const auto none = ChooseHubFiles(Repository(), listing);
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code(), Code::kInvalidArgument);
  EXPECT_THAT(none.error().message(), AllOf(HasSubstr("m-Q4_K_S.gguf (1000 bytes)"), HasSubstr("hf:me/model:m-Q4_K_M.gguf")));
  EXPECT_THAT(Paths(ChooseHubFiles(Repository("q4_k_m"), listing).value()), ElementsAre("m-Q4_K_M.gguf"));
  EXPECT_THAT(Paths(ChooseHubFiles(Repository("m-Q8_0.gguf"), listing).value()), ElementsAre("m-Q8_0.gguf"));
  EXPECT_THAT(ChooseHubFiles(Repository("Q4"), listing).error().message(), HasSubstr("several files match Q4"));
  EXPECT_THAT(ChooseHubFiles(Repository("Q5"), listing).error().message(), HasSubstr("m-Q8_0.gguf"));
}

TEST(HubChoice, Shards) {
  // In any order, and in folders of their own.
  const auto listing = Listing({"Q8/m-Q8_0-00002-of-00002.gguf", "m-Q4_0.gguf", "Q8/m-Q8_0-00001-of-00002.gguf",
                                "m-Q6_K-00001-of-00003.gguf", "m-Q6_K-00003-of-00003.gguf", "m-F16-00001-of-00001.gguf"});
  for (const char* name : {"q8_0", "Q8/m-Q8_0-00001-of-00002.gguf", "m-Q8_0.gguf"}) {
    const auto parts = ChooseHubFiles(Repository(name), listing);
    ASSERT_TRUE(parts.ok()) << parts.error().message();
    EXPECT_EQ(parts->name, "m-Q8_0");
    EXPECT_TRUE(parts->folder);
    EXPECT_EQ(parts->within, "Q8/");
    EXPECT_THAT(Paths(*parts), ElementsAre("Q8/m-Q8_0-00001-of-00002.gguf", "Q8/m-Q8_0-00002-of-00002.gguf"));
  }
  EXPECT_FALSE(ChooseHubFiles(Repository("F16"), listing)->folder);
  const auto choices = ChooseHubFiles(Repository(), listing);
  ASSERT_FALSE(choices.ok());
  EXPECT_THAT(choices.error().message(), AllOf(HasSubstr("m-Q8_0-00001-of-00002.gguf (2 files, 2000 bytes), m-Q4_0.gguf (1000 bytes)"),
                                               Not(HasSubstr("00002-of-00002"))));
  EXPECT_THAT(ChooseHubFiles(Repository("Q6_K"), listing).error().message(), HasSubstr("m-Q6_K-00002-of-00003.gguf is missing"));
  const auto second = ChooseHubFiles(Repository("Q8/m-Q8_0-00002-of-00002.gguf"), listing);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(second.error().message(), HasSubstr("part 2 of 2 of a model; name the first, Q8/m-Q8_0-00001-of-00002.gguf"));
  EXPECT_EQ(ChooseHubFiles(Repository(), Listing({"m-00001-of-02000.gguf"})).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(
      ChooseHubFiles(Repository(), Listing({"m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "m-00002-of-00002.gguf"})).error().code(),
      Code::kCorrupt);
  // The only one there is, even without its first part; and one that has the name of the whole for itself.
  EXPECT_THAT(ChooseHubFiles(Repository(), Listing({"m-00002-of-00002.gguf"})).error().message(),
              HasSubstr("m-00001-of-00002.gguf is missing"));
  EXPECT_FALSE(ChooseHubFiles(Repository("m.gguf"), Listing({"m.gguf", "m-00001-of-00002.gguf", "m-00002-of-00002.gguf"}))->folder);
}

TEST(HubChoice, Folder) {
  const auto one = ChooseHubFiles(Repository(), Listing({"README.md", "config.json", "model.safetensors", "tokenizer.json",
                                                         "onnx/model.onnx", "pytorch_model.bin", "extra.safetensors", "sub/config.json"}));
  ASSERT_TRUE(one.ok()) << one.error().message();
  EXPECT_TRUE(one->folder);
  EXPECT_EQ(one->name, "model");
  EXPECT_THAT(Paths(*one), UnorderedElementsAre("config.json", "model.safetensors", "tokenizer.json"));
  const auto sharded =
      ChooseHubFiles(Repository(), Listing({"config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                                            "model.safetensors.index.json", "consolidated.safetensors", "chat_template.jinja"}));
  ASSERT_TRUE(sharded.ok());
  EXPECT_THAT(Paths(*sharded), UnorderedElementsAre("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                                                    "model.safetensors.index.json", "chat_template.jinja"));
  EXPECT_EQ(ChooseHubFiles(Repository(), Listing({"config.json", "pytorch_model.bin"})).error().code(), Code::kNotFound);
  EXPECT_EQ(ChooseHubFiles(Repository("config.json"), Listing({"config.json"})).error().code(), Code::kUnsupported);
}

struct Plan {
  MonotonicClock clock;
  std::unique_ptr<HttpTransport> transport = MakeHttpTransport({}, clock);

  Result<PullPlan> Make(const std::string& endpoint, std::string token = "") {
    return PlanHub(*transport, ParseHubReference("me/my.model@refs/pr/1").value(), {endpoint, std::move(token)}, {});
  }
};

TEST(Hub, PagesAndToken) {
  HttpServer server([](const ServerRequest& request, ServerConnection& connection) {
    if (request.target.find("cursor") == std::string::npos) {
      return void(
          connection.Send(Answer(R"([{"type":"file","path":"config.json","size":5}])",
                                 "Link: </hub/api/models/me/my.model/tree/refs%2Fpr%2F1?recursive=true&cursor=2>; rel=\"next\"\r\n")));
    }
    connection.Send(Answer(R"([{"type":"file","path":"model.safetensors","size":7}])"));
  });
  const auto plan = Plan().Make(server.Url("/hub/"), "hf_secret");
  ASSERT_TRUE(plan.ok()) << plan.error().message();
  EXPECT_EQ(plan->name, "my.model");
  ASSERT_EQ(plan->files.size(), 2u);
  EXPECT_EQ(plan->files[1].pieces[0].url, server.Url("/hub/me/my.model/resolve/refs%2Fpr%2F1/model.safetensors"));
  const auto requests = server.requests();
  ASSERT_EQ(requests.size(), 3u);
  EXPECT_EQ(requests[0].target, "/hub/api/models/me/my.model/revision/refs%2Fpr%2F1");
  EXPECT_EQ(requests[1].target, "/hub/api/models/me/my.model/tree/refs%2Fpr%2F1?recursive=true");
  for (const ServerRequest& request : requests) EXPECT_EQ(request.Field("Authorization"), "Bearer hf_secret");
}

TEST(Hub, TheTokenStays) {
  // Not to other servers, not over http to other machines, and never into a message.
  HttpServer other([](const ServerRequest&, ServerConnection& connection) { connection.Send(Answer("[]")); });
  HttpServer server([&](const ServerRequest&, ServerConnection& connection) {
    connection.Send(Answer("[]", fmt::format("Link: <{}>; rel=\"next\"\r\n", other.Url("/"))));
  });
  const auto elsewhere = Plan().Make(server.Url(""), "hf_secret");
  ASSERT_FALSE(elsewhere.ok());
  EXPECT_THAT(elsewhere.error().message(), AllOf(HasSubstr("goes on at another server"), Not(HasSubstr("hf_secret"))));
  EXPECT_TRUE(other.requests().empty());
  const auto plain = Plan().Make("http://192.0.2.1", "hf_secret");
  ASSERT_FALSE(plain.ok());
  EXPECT_THAT(plain.error().message(), AllOf(HasSubstr("HF_TOKEN"), Not(HasSubstr("hf_secret"))));
  const auto broken = Plan().Make(server.Url(""), "hf_secret\r\nX: y");
  ASSERT_FALSE(broken.ok());
  EXPECT_THAT(broken.error().message(), AllOf(HasSubstr("HF_TOKEN"), Not(HasSubstr("hf_secret"))));
}

// A branch may move between two files of a model; a commit does not.
TEST(Hub, FilesAreOfOneCommit) {
  const std::string commit(40, 'c');
  HttpServer server([&](const ServerRequest& request, ServerConnection& connection) {
    if (request.target.find("/revision/") != std::string::npos) {
      return void(connection.Send(Answer(fmt::format(R"({{"id": "me/my.model", "sha": "{}"}})", commit))));
    }
    connection.Send(Answer(R"([{"type":"file","path":"m.gguf","size":7}])"));
  });
  const auto plan = Plan().Make(server.Url(""));
  ASSERT_TRUE(plan.ok()) << plan.error().message();
  EXPECT_EQ(plan->files.at(0).pieces.at(0).url, server.Url(fmt::format("/me/my.model/resolve/{}/m.gguf", commit)));
  EXPECT_EQ(server.requests().at(1).target, fmt::format("/api/models/me/my.model/tree/{}?recursive=true", commit));
}

TEST(Hub, SaysWhatMayBeWrongWithoutAToken) {
  HttpServer server([](const ServerRequest&, ServerConnection& connection) { connection.Send(Answer("", "", "401 Unauthorized")); });
  EXPECT_THAT(Plan().Make(server.Url("")).error().message(), AllOf(HasSubstr("check the name"), HasSubstr("HF_TOKEN")));
  EXPECT_THAT(Plan().Make(server.Url(""), "hf_x").error().message(), Not(HasSubstr("check the name")));
}

TEST(Hub, EndlessPages) {
  HttpServer server(
      [](const ServerRequest&, ServerConnection& connection) { connection.Send(Answer("[]", "Link: </x>; rel=\"next\"\r\n")); });
  const auto plan = Plan().Make(server.Url(""));
  ASSERT_FALSE(plan.ok());
  EXPECT_EQ(plan.error().code(), Code::kExhausted);
}

}  // namespace
}  // namespace bantam
