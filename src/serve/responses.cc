// OpenAI's Responses API: answers that are kept, and gone on with.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <string>
#include <utility>

#include "base/clock.h"
#include "engine/json_members.h"
#include "serve/gateway.h"
#include "serve/responses_request.h"
#include "serve/responses_writer.h"
#include "serve/routes.h"

namespace bantam {
namespace {

std::string OwnerOf(const Call& call) { return call.key == nullptr ? "" : call.key->name; }

// What was kept parses, for this program wrote it.
Json Kept(const std::string& text) {
  Result<Json> json = ParseJson(text);
  return json.ok() ? std::move(json).value() : Json(nullptr);
}

// Input and output of a kept answer: what the next one goes on from.
Result<Json> ItemsBefore(Gateway& gateway, const Call& call, const Json& body) {
  const Json& previous = JsonMember(body, "previous_response_id");
  if (previous.is_null()) return Json::array();
  BANTAM_ASSIGN(const std::string id, ReadText("previous_response_id", previous));
  const auto kept = gateway.responses().Get(OwnerOf(call), id);
  if (!kept) {
    return WrongMember("previous_response_id", previous,
                       "the id of an answer that is kept: one of this key's, with \"store\", that is neither old nor deleted");
  }
  Json items = Kept(kept->items);
  const Json response = Kept(kept->response);
  for (const Json& item : JsonMember(response, "output")) items.push_back(item);
  return items;
}

struct Asked {
  AnswerRequest request;
  Json body;
  Json items;
};
Result<Asked> ReadAsked(Gateway& gateway, Call& call) {
  Asked asked;
  BANTAM_ASSIGN(asked.body, gateway.ReadBody(call));
  const Json& body = asked.body;
  Gateway::AddHeaderMembers(call.request(), &asked.body);
  BANTAM_ASSIGN(asked.request.model, Gateway::AnsweringModelOf(call));
  if (const Json& stream = JsonMember(body, "stream"); !stream.is_null()) {
    BANTAM_ASSIGN(asked.request.stream, ReadFlag("stream", stream));
  }
  BANTAM_ASSIGN(Json input, ReadResponseInput(body));
  BANTAM_ASSIGN(asked.items, ItemsBefore(gateway, call, body));
  for (Json& item : input) asked.items.push_back(std::move(item));
  BANTAM_ASSIGN(Json into, ResponsesToOpenAi(body, asked.items));
  Result<ChatPlan> plan = ReadChatRequest(std::move(into), {*asked.request.model, LocalTime()});
  if (!plan.ok()) return NameResponseMembers(plan.error());
  asked.request.plan = std::move(plan).value();
  return asked;
}

Result<AnswerRequest> ReadRequest(Gateway& gateway, Call& call) {
  BANTAM_ASSIGN(Asked asked, ReadAsked(gateway, call));
  bool store = true;
  if (const Json& wanted = JsonMember(asked.body, "store"); !wanted.is_null()) {
    BANTAM_ASSIGN(store, ReadFlag("store", wanted));
  }
  const Request& request = asked.request.plan.request;
  Json echo = EchoResponseRequest(asked.body);
  for (const auto& [name, value] : {std::pair("temperature", request.sampler.temperature), {"top_p", request.sampler.top_p}}) {
    const Json& given = JsonMember(asked.body, name);
    echo[name] = given.is_null() ? Json(value) : given;
  }
  const bool kept = store && gateway.responses().keeps();
  asked.request.writer = std::make_unique<ResponsesWriter>(ResponsesWriterSetup{.model = asked.request.model,
                                                                                .echo = std::move(echo),
                                                                                .logprobs = request.token_details,
                                                                                .store = kept ? &gateway.responses() : nullptr,
                                                                                .owner = OwnerOf(call),
                                                                                .items = kept ? std::move(asked.items) : Json()});
  return std::move(asked.request);
}

void Respond(Gateway& gateway, const std::shared_ptr<Call>& call) {
  Result<AnswerRequest> asked = ReadRequest(gateway, *call);
  if (!asked.ok()) return call->Fail(asked.error());
  gateway.Ask(call, std::move(asked).value());
}

void CountTokens(Gateway& gateway, const std::shared_ptr<Call>& call) {
  const Result<Asked> asked = ReadAsked(gateway, *call);
  if (!asked.ok()) return call->Fail(asked.error());
  call->RespondJson({{"object", "response.input_tokens"}, {"input_tokens", asked->request.plan.request.tokens.size()}});
}

// ---- What is kept ----

void FailUnknown(const std::shared_ptr<Call>& call) {
  call->Fail({.status = 404,
              .code = "response_not_found",
              .message = fmt::format("there is no answer {} here: none was kept under this id and key, or it was deleted, or made room for "
                                     "newer ones",
                                     call->rest.substr(0, 100)),
              .param = "response_id"});
}

void Show(Gateway& gateway, const std::shared_ptr<Call>& call) {
  const auto query = call->request().query;
  if (query.find("stream=true") != std::string::npos) {
    return call->Fail(Error(Code::kUnsupported, "stream: a kept answer is told at once; leave it out"));
  }
  const auto kept = gateway.responses().Get(OwnerOf(*call), call->rest);
  if (!kept) return FailUnknown(call);
  call->Respond({.fields = {{"Content-Type", "application/json"}}, .body = kept->response});
}

void Delete(Gateway& gateway, const std::shared_ptr<Call>& call) {
  if (!gateway.responses().Remove(OwnerOf(*call), call->rest)) return FailUnknown(call);
  call->RespondJson({{"id", call->rest}, {"object", "response"}, {"deleted", true}});
}

// Which of a list is told: "limit", "order" and "after" of the query.
struct Page {
  uint64_t limit = 20;
  bool ascending = false;
  std::string after = {};
};
Result<Page> ReadPage(std::string_view query) {
  constexpr uint64_t kLimitMax = 100;
  Page page;
  while (!query.empty()) {
    const std::string_view pair = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(query.size(), pair.size() + 1));
    const size_t equals = std::min(pair.find('='), pair.size());
    const std::string_view name = pair.substr(0, equals);
    const std::string value = DecodePercent(pair.substr(std::min(pair.size(), equals + 1))).value_or("");
    if (name == "after") page.after = value;
    if (name == "order") {
      if (value != "asc" && value != "desc") return WrongMember("order", value, "\"asc\" or \"desc\"");
      page.ascending = value == "asc";
    }
    if (name == "limit") {
      const auto read = std::from_chars(value.data(), value.data() + value.size(), page.limit);
      const bool whole = read.ec == std::errc() && read.ptr == value.data() + value.size();
      if (!whole || page.limit < 1 || page.limit > kLimitMax) {
        return WrongMember("limit", value, fmt::format("a whole number from 1 to {}", kLimitMax));
      }
    }
  }
  return page;
}

void ListInput(Gateway& gateway, const std::shared_ptr<Call>& call) {
  const auto kept = gateway.responses().Get(OwnerOf(*call), call->rest);
  if (!kept) return FailUnknown(call);
  const Result<Page> page = ReadPage(call->request().query);
  if (!page.ok()) return call->Fail(page.error());
  Json items = Kept(kept->items);
  if (!page->ascending) std::reverse(items.begin(), items.end());
  auto from = items.begin();
  if (!page->after.empty()) {
    from = std::find_if(items.begin(), items.end(), [&](const Json& item) { return JsonText(item, "id") == page->after; });
    if (from == items.end()) return call->Fail(WrongMember("after", page->after, "the id of an item of this answer"));
    ++from;
  }
  Json data = Json::array();
  for (; from != items.end() && data.size() < page->limit; ++from) data.push_back(std::move(*from));
  Json list = {{"object", "list"}};
  list["first_id"] = data.empty() ? Json(nullptr) : data.front()["id"];
  list["last_id"] = data.empty() ? Json(nullptr) : data.back()["id"];
  list["has_more"] = from != items.end();
  list["data"] = std::move(data);
  call->RespondJson(list);
}

}  // namespace

std::span<const Route> ResponsesRoutes() {
  using enum RouteWork;
  static const Route kRoutes[] = {
      {"POST", "/v1/responses", Role::kUse, kReads, kOpenAiDialect, Respond},
      {"POST", "/v1/responses/input_tokens", Role::kUse, kReads, kOpenAiDialect, CountTokens},
      {"GET", "/v1/responses/*/input_items", Role::kUse, kReads, kOpenAiDialect, ListInput},
      {"GET", "/v1/responses/*", Role::kUse, kQuick, kOpenAiDialect, Show},
      {"DELETE", "/v1/responses/*", Role::kUse, kQuick, kOpenAiDialect, Delete},
  };
  return kRoutes;
}

}  // namespace bantam
