// What belongs to no API of others: health, metrics, tokens.
#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "engine/json_members.h"
#include "serve/dialects.h"
#include "serve/gateway.h"
#include "serve/openapi.h"
#include "serve/routes.h"

namespace bantam {
namespace {

void Live(Gateway&, const std::shared_ptr<Call>& call) { call->RespondJson({{"status", "ok"}}); }

void Ready(Gateway& gateway, const std::shared_ptr<Call>& call) {
  const auto why = gateway.NotReady();
  if (!why) return call->RespondJson({{"status", "ok"}});
  call->Respond({.status = 503,
                 .fields = {{"Content-Type", "application/json"}},
                 .body = DumpJson({{"status", "not ready"}, {"reason", *why}}, /*indent=*/-1)});
}

void ShowMetrics(Gateway& gateway, const std::shared_ptr<Call>& call) {
  call->Respond({.fields = {{"Content-Type", "text/plain; version=0.0.4; charset=utf-8"}}, .body = gateway.MetricsPage()});
}

void ShowOpenApi(Gateway& gateway, const std::shared_ptr<Call>& call) {
  call->Respond({.fields = {{"Content-Type", "application/json"}}, .body = OpenApiDocument(gateway.options().version)});
}

// Of one call: more is cut by whoever asks.
constexpr size_t kTextBytesMax = 256 << 10;
constexpr size_t kTokensMax = 64 << 10;

Result<Json> TokensOf(const Gateway& gateway, Call& call) {
  BANTAM_ASSIGN(const Json body, gateway.ReadBody(call));
  BANTAM_TRY(CheckMembers(body, {"model", "content", "prompt", "add_special", "with_pieces"}));
  const ServedModel& model = *call.model;
  const char* member = JsonMember(body, "prompt").is_null() ? "content" : "prompt";
  BANTAM_ASSIGN(const std::string text, ReadText(member, JsonMember(body, member)));
  if (text.size() > kTextBytesMax) {
    return Error(Code::kExhausted, fmt::format("{}: {} bytes; expected at most {}", member, text.size(), kTextBytesMax));
  }
  bool add_special = false;
  bool with_pieces = false;
  for (const auto& [name, flag] : {std::pair("add_special", &add_special), {"with_pieces", &with_pieces}}) {
    if (const Json& value = JsonMember(body, name); !value.is_null()) {
      BANTAM_ASSIGN(*flag, ReadFlag(name, value));
    }
  }
  BANTAM_ASSIGN(std::vector<uint32_t> tokens, model.tokenizer->Encode(text, /*special=*/true));
  if (add_special) tokens = model.tokenizer->WithPrefix(std::move(tokens));
  Json list = Json::array();
  for (const uint32_t token : tokens) {
    with_pieces ? list.push_back({{"id", token}, {"piece", model.tokenizer->Name(token)}}) : list.push_back(token);
  }
  return Json{{"tokens", std::move(list)}, {"count", tokens.size()}, {"max_model_len", model.context}};
}

Result<Json> TextOf(const Gateway& gateway, Call& call) {
  BANTAM_ASSIGN(const Json body, gateway.ReadBody(call));
  BANTAM_TRY(CheckMembers(body, {"model", "tokens"}));
  const ServedModel& model = *call.model;
  const Json& list = JsonMember(body, "tokens");
  if (!list.is_array() || list.size() > kTokensMax)
    return WrongMember("tokens", list, fmt::format("a list of at most {} token ids", kTokensMax));
  std::vector<uint32_t> tokens;
  for (const Json& id : list) {
    BANTAM_ASSIGN(const uint64_t token, ReadWhole("tokens", id, 0, model.tokenizer->size() - 1));
    tokens.push_back(static_cast<uint32_t>(token));
  }
  const std::string text = model.tokenizer->Decode(tokens, /*special=*/true);
  return Json{{"content", text}, {"prompt", text}};
}

template <Result<Json> (*Compute)(const Gateway&, Call&)>
void RespondWith(Gateway& gateway, const std::shared_ptr<Call>& call) {
  const Result<Json> json = Compute(gateway, *call);
  if (!json.ok()) return call->Fail(json.error());
  call->RespondJson(*json);
}

}  // namespace

std::span<const Route> ServiceRoutes() {
  using enum RouteWork;
  static const Route kRoutes[] = {
      {"GET", "/health", Role::kAnybody, kQuick, kOpenAiDialect, Ready},
      {"GET", "/health/live", Role::kAnybody, kQuick, kOpenAiDialect, Live},
      {"GET", "/health/ready", Role::kAnybody, kQuick, kOpenAiDialect, Ready},
      {"GET", "/metrics", Role::kOperate, kQuick, kOpenAiDialect, ShowMetrics},
      {"GET", "/openapi.json", Role::kAnybody, kQuick, kOpenAiDialect, ShowOpenApi},
      {"POST", "/tokenize", Role::kUse, kReads, kOpenAiDialect, RespondWith<TokensOf>},
      {"POST", "/detokenize", Role::kUse, kReads, kOpenAiDialect, RespondWith<TextOf>},
  };
  return kRoutes;
}

}  // namespace bantam
