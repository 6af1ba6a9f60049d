// What clients may send to the gateway. The first byte says to which part: bytes of connections, however they are cut; bodies of the APIs;
// files of keys. Whatever it is, it is the client's fault, never the server's.
#include <algorithm>
#include <cstdint>
#include <ctime>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "net/server_message.h"
#include "serve/access.h"
#include "serve/api_error.h"
#include "serve/chat_request.h"
#include "serve/dialects.h"
#include "serve/gateway.h"
#include "serve/keys.h"
#include "serve/responses_request.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace {

using namespace bantam;

struct Read {
  std::vector<ServerRequest> requests = {};
  RequestReader::State state = RequestReader::State::kNothing;  // in the end
};

Read ReadPieces(std::string_view bytes, size_t step) {
  const RequestLimits limits = {.header_bytes_max = 1024, .body_bytes_max = 4096};
  RequestReader reader(limits);
  Read read;
  for (size_t at = 0; at < bytes.size(); at += step) {
    reader.Push(bytes.substr(at, step));
    while (reader.state() == RequestReader::State::kWhole) {
      CHECK(reader.body_bytes() <= limits.body_bytes_max);
      read.requests.push_back(reader.Take());
    }
  }
  read.state = reader.state();
  return read;
}

void Connection(std::string_view bytes) {
  const Read whole = ReadPieces(bytes, std::max<size_t>(bytes.size(), 1));
  for (const size_t step : {size_t{1}, size_t{13}}) {
    const Read pieces = ReadPieces(bytes, step);
    CHECK(pieces.requests.size() == whole.requests.size());
    // What is refused in one piece may still wait for its end in several, but is never passed over.
    const auto refused = [](const Read& read) { return read.state == RequestReader::State::kRefused; };
    const bool one_only = refused(pieces) != refused(whole);
    CHECK(!one_only || (pieces.state != RequestReader::State::kNothing && whole.state != RequestReader::State::kNothing));
    for (size_t i = 0; i < pieces.requests.size(); ++i) {
      CHECK(pieces.requests[i].method == whole.requests[i].method && pieces.requests[i].path == whole.requests[i].path);
      CHECK(pieces.requests[i].body == whole.requests[i].body);
    }
  }
  for (const ServerRequest& request : whole.requests) {
    (void)FindRoute(request.method, request.path);
    (void)DecodePercent(request.path);
    (void)HostAllowed(request.Field("Host").value_or(""), {});
    (void)OriginAllowed(request.Field("Origin").value_or(""), request.Field("Host").value_or(""), {});
    const ServerResponse echo = {.fields = {{"x", request.path}}};
    const std::string head = ResponseHead(echo, BodyFraming::kLength, /*body_bytes=*/0, /*keep_alive=*/true);
    CHECK(std::count(head.begin(), head.end(), '\n') == 5);
  }
}

// A model of bytes, whose template shows all that a request has.
const ServedModel& Model() {
  static const Tokenizer tokenizer = [] {
    TokenizerSpec spec;
    spec.model = TokenizerModel::kBpe;
    spec.byte_level = true;
    for (int byte = 0; byte < 256; ++byte) spec.Add(std::string(1, static_cast<char>(byte)), TokenType::kNormal, 0);
    spec.Add("<s>", TokenType::kControl, 0);
    return Tokenizer::Make(std::move(spec), /*hash_seed=*/1).value();
  }();
  constexpr char kTemplate[] =
      "{{ tools | tojson }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ m.reasoning_content }}"
      "{% for c in m.tool_calls or [] %}{{ c.function.name + (c.function.arguments | tojson) }}{% endfor %}{% endfor %}<s>";
  static const ChatTemplate chat_template = ChatTemplate::Make(kTemplate, {}).value();
  static const ServedModel model = [] {
    ServedModel made;
    made.name = "fuzz";
    made.tokenizer = &tokenizer;
    made.chat_template = &chat_template;
    made.tool_template = &chat_template;
    made.context = 1 << 16;
    return made;
  }();
  return model;
}

void CheckClientsFault(const Error& error) {
  const int status = ApiErrorOf(error).status;
  CHECK(status >= 400 && status < 500);
}

void Body(uint8_t kind, std::string_view text) {
  const Result<Json> parsed = ParseJsonOfUniqueNames(text);
  if (!parsed.ok()) return CheckClientsFault(parsed.error());
  if (!parsed->is_object()) return;
  Result<Json> body = kind == 2   ? AnthropicToOpenAi(*parsed, AnthropicUse::kAnswer)
                      : kind == 3 ? OllamaChatToOpenAi(*parsed)
                      : kind >= 4 ? OllamaPromptToOpenAi(*parsed, /*raw=*/kind == 5)
                                  : *parsed;
  if (!body.ok()) return CheckClientsFault(body.error());
  const ChatContext context = {Model(), std::tm{}};
  const bool prompt = kind == 1 || kind == 5;
  const Result<ChatPlan> plan =
      prompt ? ReadCompletionRequest(std::move(body).value(), context) : ReadChatRequest(std::move(body).value(), context);
  if (!plan.ok()) return CheckClientsFault(plan.error());
  CHECK(plan->request.choices >= 1 && plan->request.choices <= kChoicesMax);
}

// Items that were read once are read again as they are, for that is how they are kept.
void Response(std::string_view text) {
  const Result<Json> body = ParseJsonOfUniqueNames(text);
  if (!body.ok() || !body->is_object()) return;
  const Result<Json> items = ReadResponseInput(*body);
  if (!items.ok()) return CheckClientsFault(items.error());
  CHECK(*ReadResponseInput({{"input", *items}}) == *items);
  Result<Json> into = ResponsesToOpenAi(*body, *items);
  if (!into.ok()) return CheckClientsFault(into.error());
  (void)DumpJson(EchoResponseRequest(*body), /*indent=*/-1);
  const Result<ChatPlan> plan = ReadChatRequest(std::move(into).value(), {Model(), std::tm{}});
  if (!plan.ok()) CheckClientsFault(NameResponseMembers(plan.error()));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const uint8_t part = data[0] % 16;
  if (part < 6) {
    Body(part, text);
  } else if (part == 6) {
    Connection(text);
  } else if (part > 7) {
    Response(text);
  } else {
    const auto keys = ReadKeys(text);
    if (keys.ok()) CHECK(ReadKeys(WriteKeys(*keys)).ok());
  }
  return 0;
}
