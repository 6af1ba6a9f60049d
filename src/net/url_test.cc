#include "net/url.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "net/proxy.h"

namespace bantam {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(Url, Parts) {
  const auto url = ParseUrl("HTTPS://Example.Test:8443/a/b?c=d#e");
  ASSERT_TRUE(url.ok()) << url.error().message();
  EXPECT_TRUE(url->secure);
  EXPECT_EQ(url->host, "example.test");
  EXPECT_EQ(url->port, 8443);
  EXPECT_EQ(url->target, "/a/b?c=d");
  EXPECT_EQ(UrlText(*url), "https://example.test:8443/a/b?c=d");
  EXPECT_EQ(ShownUrl(*url), "https://example.test:8443/a/b");
  EXPECT_EQ(HostField(ParseUrl("https://h").value()), "h");
  EXPECT_EQ(HostField(ParseUrl("http://h:443/").value()), "h:443");
  EXPECT_EQ(UrlText(ParseUrl("http://[::1]:80?q").value()), "http://[::1]/?q");
}

TEST(Url, RefusesWhatIsNone) {
  for (const char* text : {"", "https://", "https:///x", "ftp://h/x", "h/x", "https://h:0/", "https://h:65536/", "https://h:8x/",
                           "https://h x/", "https://h/a b", "https://h/\r\nX: y", "https://h/\xc3\xa9", "https://[::1/", "https://[evil]/",
                           "https://[::1]x/", "https://h\\x/", "https://h%2f/"}) {
    EXPECT_FALSE(ParseUrl(text).ok()) << text;
  }
  EXPECT_FALSE(ParseUrl("https://h/" + std::string(kUrlBytesMax, 'a')).ok());
  EXPECT_FALSE(ParseUrl("https://" + std::string(254, 'a') + "/").ok());
}

// What may be a secret is in no message.
TEST(Url, SecretsStayOutOfMessages) {
  for (const char* text : {"https://user:hunter2@h/x", "https://h/a b?token=hunter2", "https://h:x/?hunter2", "ftp://hunter2@h/"}) {
    const auto url = ParseUrl(text);
    ASSERT_FALSE(url.ok()) << text;
    EXPECT_THAT(url.error().message(), Not(HasSubstr("hunter2")));
  }
  EXPECT_EQ(ShownUrl("https://a:b@c@h/x?y"), "https://h/x");
}

// The examples of RFC 3986, sections 5.4.1 and 5.4.2, with a base of https.
TEST(Url, ResolvesAsTheRfcSays) {
  const Url base = ParseUrl("https://a/b/c/d;p?q").value();
  const std::pair<const char*, const char*> cases[] = {{"g", "https://a/b/c/g"},      {"./g", "https://a/b/c/g"},
                                                       {"g/", "https://a/b/c/g/"},    {"/g", "https://a/g"},
                                                       {"//g", "https://g/"},         {"?y", "https://a/b/c/d;p?y"},
                                                       {"g?y", "https://a/b/c/g?y"},  {"g?y#s", "https://a/b/c/g?y"},
                                                       {"#s", "https://a/b/c/d;p?q"}, {"", "https://a/b/c/d;p?q"},
                                                       {";x", "https://a/b/c/;x"},    {".", "https://a/b/c/"},
                                                       {"./", "https://a/b/c/"},      {"..", "https://a/b/"},
                                                       {"../g", "https://a/b/g"},     {"../..", "https://a/"},
                                                       {"../../g", "https://a/g"},    {"../../../g", "https://a/g"},
                                                       {"/./g", "https://a/g"},       {"/../g", "https://a/g"},
                                                       {"g.", "https://a/b/c/g."},    {"..g", "https://a/b/c/..g"},
                                                       {"./../g", "https://a/b/g"},   {"g/./h", "https://a/b/c/g/h"},
                                                       {"g/../h", "https://a/b/c/h"}, {"g?y/../x", "https://a/b/c/g?y/../x"},
                                                       {"http://h/x", "http://h/x"}};
  for (const auto& [reference, expected] : cases) {
    const auto url = ResolveUrl(base, reference);
    ASSERT_TRUE(url.ok()) << reference;
    EXPECT_EQ(UrlText(*url), expected) << reference;
  }
  for (const char* bad : {"file:///etc/passwd", "javascript:x", "https://u:p@h/", "/a b", "/a\r\nb"})
    EXPECT_FALSE(ResolveUrl(base, bad).ok()) << bad;
}

TEST(Url, Loopback) {
  for (const char* host : {"localhost", "127.0.0.1", "127.1.2.3", "::1"}) EXPECT_TRUE(IsLoopback(host)) << host;
  for (const char* host : {"127.evil.test", "127.0.0.1.evil.test", "localhost.evil.test", "128.0.0.1", "10.0.0.1", "::2"}) {
    EXPECT_FALSE(IsLoopback(host)) << host;
  }
}

TEST(Url, EncodesPaths) { EXPECT_EQ(EncodePath("a b/\xc3\xa9#?%"), "a%20b/%C3%A9%23%3F%25"); }

TEST(Proxy, IsChosenByTheVariables) {
  const ProxySettings settings = {"http://secure.test:3128", "plain.test:8080", "internal.test, .corp.test,10.0.0.1"};
  const auto host = [&](const char* url) -> std::string {
    const auto proxy = ProxyFor(settings, ParseUrl(url).value());
    return !proxy.ok() ? "error" : proxy->has_value() ? HostField(**proxy) : "";
  };
  EXPECT_EQ(host("https://example.test/"), "secure.test:3128");
  EXPECT_EQ(host("http://example.test/"), "plain.test:8080");
  for (const char* direct :
       {"https://internal.test/", "https://a.internal.test/", "https://x.corp.test/", "http://10.0.0.1/", "http://localhost/"}) {
    EXPECT_EQ(host(direct), "") << direct;
  }
  EXPECT_EQ(host("https://notinternal.test/"), "secure.test:3128");
  EXPECT_FALSE(ProxyFor({"https://p.test", "", ""}, ParseUrl("https://h/").value()).ok());
  const auto secret = ProxyFor({"http://me:hunter2@p.test", "", ""}, ParseUrl("https://h/").value());
  ASSERT_FALSE(secret.ok());
  EXPECT_THAT(secret.error().message(), Not(HasSubstr("hunter2")));
  EXPECT_FALSE(ProxyFor({"http://p.test", "", "*"}, ParseUrl("https://h/").value())->has_value());
}

}  // namespace
}  // namespace bantam
