// Requests to a server of this machine, one connection each, and what came back.
#pragma once

#include <charconv>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/ascii.h"
#include "base/json.h"
#include "testing/client_socket.h"

namespace bantam::testing {

struct HttpAnswer {
  int status = 0;
  std::map<std::string, std::string> fields = {};  // names in lower case
  std::string body = {};
  bool whole = false;  // as long as it said, or with a last chunk

  Json json() const {
    const Result<Json> parsed = ParseJson(body);
    return parsed.ok() ? *parsed : Json(nullptr);
  }
  // The data of events, or lines.
  std::vector<std::string> Lines(std::string_view prefix) const {
    std::vector<std::string> lines;
    for (size_t at = 0; at < body.size();) {
      const size_t end = std::min(body.find('\n', at), body.size());
      const std::string_view line = std::string_view(body).substr(at, end - at);
      if (!line.empty() && line.starts_with(prefix)) lines.emplace_back(line.substr(prefix.size()));
      at = end + 1;
    }
    return lines;
  }
};

inline std::string HttpRequestText(std::string_view method, std::string_view target, std::string_view body, std::string_view fields = "") {
  return std::string(method) + " " + std::string(target) + " HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n" + std::string(fields) +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + std::string(body);
}

inline HttpAnswer ParseAnswer(const std::string& bytes) {
  HttpAnswer answer;
  const size_t head = bytes.find("\r\n\r\n");
  if (head == std::string::npos || bytes.size() < 12) return answer;
  std::from_chars(bytes.data() + 9, bytes.data() + 12, answer.status);
  for (size_t at = bytes.find("\r\n") + 2; at < head;) {
    const size_t end = bytes.find("\r\n", at);
    const size_t colon = bytes.find(':', at);
    answer.fields[LowerAscii(bytes.substr(at, colon - at))] = bytes.substr(colon + 2, end - colon - 2);
    at = end + 2;
  }
  std::string_view rest = std::string_view(bytes).substr(head + 4);
  if (!answer.fields.contains("transfer-encoding")) {
    answer.body = rest;
    answer.whole = answer.fields["content-length"] == std::to_string(rest.size());
    return answer;
  }
  while (true) {
    size_t size = 0;
    const size_t line = rest.find("\r\n");
    if (line == std::string_view::npos) return answer;
    std::from_chars(rest.data(), rest.data() + line, size, 16);
    rest.remove_prefix(line + 2);
    if (size == 0) {
      answer.whole = rest == "\r\n";
      return answer;
    }
    answer.body += rest.substr(0, size);
    rest.remove_prefix(std::min(rest.size(), size + 2));
  }
}

inline HttpAnswer Ask(int port, std::string_view method, std::string_view target, std::string_view body = "",
                      std::string_view fields = "") {
  ClientSocket client(port);
  client.Send(HttpRequestText(method, target, body, fields));
  return ParseAnswer(client.ReceiveAll());
}

}  // namespace bantam::testing
