#include "net/server_message.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/beast/http.hpp>
#include <utility>

#include "base/ascii.h"

namespace bantam {
namespace {

namespace beast = boost::beast;
namespace http = boost::beast::http;

// Of chunk extensions and trailers, which mean nothing here, in one piece.
constexpr size_t kChunkHeaderBytesMax = 8 << 10;

bool IsHexDigit(char c) { return (c >= '0' && c <= '9') || (LowerAscii(c) >= 'a' && LowerAscii(c) <= 'f'); }
int HexValue(char c) { return c <= '9' ? c - '0' : LowerAscii(c) - 'a' + 10; }

// What a failure of the parser is to the client.
RequestReader::Refusal RefusalOf(const boost::system::error_code& error, const RequestLimits& limits) {
  if (error == http::error::header_limit) return {431, fmt::format("a header of more than {} bytes", limits.header_bytes_max)};
  if (error == http::error::body_limit || error == http::error::buffer_overflow) {
    return {413, fmt::format("a body of more than {} bytes", limits.body_bytes_max)};
  }
  if (error == http::error::bad_version) return {505, "HTTP/1.1 or HTTP/1.0 is expected"};
  return {400, fmt::format("not HTTP: {}", error.message())};
}

}  // namespace

std::optional<std::string> ServerRequest::Field(std::string_view name) const {
  for (const HttpField& field : fields) {
    if (EqualsIgnoringCase(field.name, name)) return field.value;
  }
  return std::nullopt;
}

std::string_view StatusReason(int status) {
  const beast::string_view reason = http::obsolete_reason(http::int_to_status(static_cast<unsigned>(status)));
  return {reason.data(), reason.size()};
}

std::string ResponseHead(const ServerResponse& response, BodyFraming framing, size_t body_bytes, bool keep_alive) {
  std::string head = fmt::format("HTTP/1.1 {} {}\r\n", response.status, StatusReason(response.status));
  for (const HttpField& field : response.fields) {
    // A line feed in a value would begin a field of somebody else's choice.
    std::string value = field.value;
    std::replace_if(
        value.begin(), value.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, ' ');
    head += fmt::format("{}: {}\r\n", field.name, value);
  }
  if (framing == BodyFraming::kLength) head += fmt::format("Content-Length: {}\r\n", body_bytes);
  if (framing == BodyFraming::kChunks) head += "Transfer-Encoding: chunked\r\n";
  head += keep_alive ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n";
  return head;
}

std::string Chunk(std::string_view bytes) { return fmt::format("{:x}\r\n{}\r\n", bytes.size(), bytes); }

std::optional<std::string> DecodePercent(std::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    if (i + 2 >= text.size() || !IsHexDigit(text[i + 1]) || !IsHexDigit(text[i + 2])) return std::nullopt;
    decoded += static_cast<char>(HexValue(text[i + 1]) * 16 + HexValue(text[i + 2]));
    i += 2;
  }
  return decoded;
}

struct RequestReader::Parser {
  http::request_parser<http::string_body> message;
};

RequestReader::RequestReader(const RequestLimits& limits) : limits_(limits) {}
RequestReader::~RequestReader() = default;

void RequestReader::Refuse(int status, std::string why) {
  state_ = State::kRefused;
  refusal_ = {status, std::move(why)};
  held_ = {};
  parser_.reset();
}

void RequestReader::Forget() { Refuse(400, ""); }

size_t RequestReader::body_bytes() const {
  if (state_ != State::kBody && state_ != State::kWhole) return 0;
  return parser_->message.get().body().size();
}

bool RequestReader::TakeExpectation() { return std::exchange(expects_, false) && state_ == State::kBody; }

void RequestReader::Push(std::string_view bytes) {
  if (state_ == State::kRefused) return;
  held_ += bytes;
  Advance();
}

void RequestReader::TakeHeader() {
  state_ = State::kBody;
  const auto& message = parser_->message.get();
  const auto hosts = message.equal_range(http::field::host);
  const auto host_count = std::distance(hosts.first, hosts.second);
  if (host_count > 1 || (message.version() == 11 && host_count == 0)) return Refuse(400, "expected one Host field");
  // Without chunks nobody knows where such a body ends.
  if (message.find(http::field::transfer_encoding) != message.end() && (!message.chunked() || message.version() != 11)) {
    return Refuse(501, "a transfer encoding that is not known here; send chunks, or Content-Length");
  }
  const beast::string_view expect = message[http::field::expect];
  expects_ = EqualsIgnoringCase({expect.data(), expect.size()}, "100-continue") && message.version() == 11;
}

void RequestReader::Advance() {
  while (state_ != State::kWhole && state_ != State::kRefused && !held_.empty()) {
    if (parser_ == nullptr) {
      // An empty line in front of a request is passed over (RFC 9112, section 2.2).
      const size_t first = held_.find_first_not_of("\r\n");
      held_.erase(0, first);
      if (held_.empty()) return;
      parser_ = std::make_unique<Parser>();
      // The parser's own limit is one of each line.
      parser_->message.header_limit(static_cast<uint32_t>(limits_.header_bytes_max));
      parser_->message.body_limit(limits_.body_bytes_max);
      parser_->message.eager(false);
      header_bytes_ = 0;
      state_ = State::kHeader;
    }
    boost::system::error_code error;
    const size_t used = parser_->message.put(boost::asio::buffer(held_), error);
    held_.erase(0, used);
    if (!error && used == 0) return Refuse(400, "not HTTP");
    if (error && error != http::error::need_more) {
      const Refusal refusal = RefusalOf(error, limits_);
      return Refuse(refusal.status, refusal.why);
    }
    if (state_ == State::kHeader) {
      header_bytes_ += used;
      const bool done = parser_->message.is_header_done();
      if (header_bytes_ + (done ? 0 : held_.size()) > limits_.header_bytes_max) {
        return Refuse(431, fmt::format("a header of more than {} bytes", limits_.header_bytes_max));
      }
      if (done) TakeHeader();
    } else if (error && held_.size() > kChunkHeaderBytesMax) {
      return Refuse(400, "the header of a chunk does not end");
    }
    if (state_ == State::kBody && parser_->message.is_done()) state_ = State::kWhole;
    if (error) return;
  }
}

ServerRequest RequestReader::Take() {
  auto message = parser_->message.release();
  ServerRequest request;
  const auto text = [](beast::string_view view) { return std::string(view.data(), view.size()); };
  request.method = text(message.method_string());
  std::string target = text(message.target());
  // The form that proxies get: scheme, host and target.
  if (const size_t scheme = target.find("://"); scheme != std::string::npos && target[0] != '/') {
    const size_t slash = target.find('/', scheme + 3);
    target = slash == std::string::npos ? "/" : target.substr(slash);
  }
  const size_t question = std::min(target.find('?'), target.size());
  request.path = target.substr(0, question);
  if (question < target.size()) request.query = target.substr(question + 1);
  for (const auto& field : message) request.fields.push_back({text(field.name_string()), text(field.value())});
  request.keep_alive = message.keep_alive();
  request.takes_chunks = message.version() == 11;
  request.body = std::move(message.body());
  parser_.reset();
  expects_ = false;
  state_ = State::kNothing;
  Advance();
  return request;
}

}  // namespace bantam
