#include "fleet/npm.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "testing/download_tools.h"
#include "testing/http_server.h"

namespace bantam {
namespace {

using testing::Answer;
using testing::Folder;
using testing::HttpServer;
using testing::ServerConnection;
using testing::ServerRequest;

TEST(NpmPackage, Parts) {
  const auto plain = ParseNpmPackage("model-part1@0.1.0");
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->name, "model-part1");
  EXPECT_EQ(plain->version, "0.1.0");
  const auto scoped = ParseNpmPackage("@me/model@1.0.0-rc.1+x");
  ASSERT_TRUE(scoped.ok());
  EXPECT_EQ(scoped->scope, "@me");
  EXPECT_EQ(scoped->version, "1.0.0-rc.1+x");
  for (const char* bad : {"", "model", "model@", "@1.0", "@/m@1", "a/b@1", "m@../1", "m@1/2", "m@1?x", "../m@1", "@me/@1", "m m@1"}) {
    EXPECT_FALSE(ParseNpmPackage(bad).ok()) << bad;
  }
}

TEST(NpmRegistry, FromConfigurations) {
  EXPECT_EQ(RegistryOf("a=b\nregistry = https://r.test/ \r\n", ""), "https://r.test/");
  EXPECT_EQ(RegistryOf("; registry=x\n@me:registry=https://me.test\nregistry=\"https://r.test\"", ""), "https://r.test");
  EXPECT_EQ(RegistryOf("@me:registry=https://me.test\nregistry=https://r.test", "@me"), "https://me.test");
  EXPECT_EQ(RegistryOf("registry=one\nregistry=two", ""), "two");
  EXPECT_EQ(RegistryOf("", ""), "");
  Folder folder;
  folder.Write("npmrc", "@me:registry=https://me.test/x\nregistry=https://file.test\n");
  const auto files = MakeFileSystem();
  const NpmSettings settings = {"https://env.test", {folder / "absent", folder / "npmrc"}};
  EXPECT_EQ(UrlText(FindRegistry(*files, settings, "").value()), "https://env.test/");
  EXPECT_EQ(UrlText(FindRegistry(*files, settings, "@me").value()), "https://me.test/x");
  EXPECT_EQ(UrlText(FindRegistry(*files, settings, "@you").value()), "https://env.test/");
  EXPECT_EQ(UrlText(FindRegistry(*files, {"", settings.npmrcs}, "").value()), "https://file.test/");
  const auto none = FindRegistry(*files, {}, "");
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code(), Code::kNotFound);
}

TEST(NpmArchive, IsWhereTheRegistrySays) {
  std::string answer = R"({"dist": {"tarball": "https://files.test/m.tgz"}})";
  HttpServer server([&](const ServerRequest&, ServerConnection& connection) { connection.Send(Answer(answer)); });
  const MonotonicClock clock;
  const auto transport = MakeHttpTransport({}, clock);
  const Url registry = ParseUrl(server.Url("/npm")).value();
  const auto archive = FindArchive(*transport, registry, ParseNpmPackage("@me/model@1.0.0").value(), {}, /*plain_allowed=*/false);
  ASSERT_TRUE(archive.ok()) << archive.error().message();
  EXPECT_EQ(UrlText(*archive), "https://files.test/m.tgz");
  EXPECT_EQ(server.requests().at(0).target, "/npm/@me%2Fmodel/1.0.0");
  for (const char* bad : {"{", "{}", R"({"dist": {"tarball": 3}})", R"({"dist": {"tarball": "file:///etc/passwd"}})", "[]"}) {
    answer = bad;
    EXPECT_FALSE(FindArchive(*transport, registry, ParseNpmPackage("model@1.0.0").value(), {}, /*plain_allowed=*/false).ok()) << bad;
  }
}

// Through a proxy, so that the name needs not exist.
TEST(NpmArchive, PlainNeedsLeave) {
  HttpServer proxy([&](const ServerRequest&, ServerConnection& connection) {
    connection.Send(Answer(R"({"dist": {"tarball": "http://files.test/m.tgz"}})"));
  });
  const MonotonicClock clock;
  HttpOptions options;
  options.proxy.http = proxy.Url("");
  const auto transport = MakeHttpTransport(options, clock);
  const Url registry = ParseUrl("http://registry.test/").value();
  const NpmPackage package = ParseNpmPackage("model@1.0.0").value();
  EXPECT_FALSE(FindArchive(*transport, registry, package, {}, /*plain_allowed=*/false).ok());
  EXPECT_TRUE(proxy.requests().empty());
  EXPECT_TRUE(FindArchive(*transport, registry, package, {}, /*plain_allowed=*/true).ok());
}

}  // namespace
}  // namespace bantam
