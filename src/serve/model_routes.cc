// What administers models while they serve: GET /admin/models, POST /admin/models/ACTION.
#include <fmt/format.h>

#include <array>
#include <memory>
#include <string>
#include <utility>

#include "engine/json_members.h"
#include "serve/dialects.h"
#include "serve/gateway.h"
#include "serve/routes.h"

namespace bantam {
namespace {

Json ViewJson(const CatalogView& view) {
  Json json = {
      {"name", view.name}, {"aliases", view.aliases}, {"state", ModelStateName(view.state)}, {"path", view.path}, {"pinned", view.pinned}};
  if (!view.previous.empty()) json["previous"] = view.previous;
  if (!view.error.empty()) json["error"] = view.error;
  if (view.model != nullptr) {
    json["context"] = view.model->context;
    json["planned_bytes"] = view.model->facts.planned_bytes;
    json["weights"] = view.model->facts.weights;
    json["loaded_at"] = UtcText(view.model->loaded_s);
  }
  json["changes"] = {{"loads", view.counters.loads},
                     {"unloads", view.counters.unloads},
                     {"swaps", view.counters.swaps},
                     {"failures", view.counters.failures}};
  return json;
}

void ListModels(Gateway& gateway, const std::shared_ptr<Call>& call) {
  Json list = Json::array();
  for (const CatalogView& view : gateway.models().Views()) list.push_back(ViewJson(view));
  call->RespondJson({{"models", std::move(list)}});
}

Result<CatalogChange> ReadChange(const Call& call, CatalogAction action) {
  BANTAM_ASSIGN(const Json body, Gateway::ReadObject(call));
  constexpr std::array<std::string_view, 3> kMembers = {"model", "path", "aliases"};
  const bool loads = action == CatalogAction::kLoad;
  const size_t taken = loads ? 3 : action == CatalogAction::kSwap ? 2 : 1;
  const std::span<const std::string_view> members = std::span(kMembers).first(taken);
  BANTAM_TRY(CheckMembers(body, members));
  CatalogChange change = {.action = action};
  BANTAM_ASSIGN(change.name, ReadText("model", JsonMember(body, "model")));
  if (change.name.empty() || change.name.size() > kModelNameBytesMax) {
    return WrongMember("model", JsonMember(body, "model"), fmt::format("a name of 1 to {} bytes", kModelNameBytesMax));
  }
  if (const Json& path = JsonMember(body, "path"); !path.is_null()) {
    BANTAM_ASSIGN(change.path, ReadText("path", path));
  }
  const Json& aliases = JsonMember(body, "aliases");
  constexpr size_t kAliasesMax = 16;
  if (!aliases.is_null() && (!aliases.is_array() || aliases.size() > kAliasesMax)) {
    return WrongMember("aliases", aliases, fmt::format("a list of at most {} names", kAliasesMax));
  }
  for (const Json& alias : aliases) {
    BANTAM_ASSIGN(change.aliases.emplace_back(), ReadText("aliases", alias));
  }
  return change;
}

template <CatalogAction kAction>
void ChangeModel(Gateway& gateway, const std::shared_ptr<Call>& call) {
  Result<CatalogChange> change = ReadChange(*call, kAction);
  if (!change.ok()) return call->Fail(change.error());
  call->exchange->DropBody();
  const std::string name = change->name;
  gateway.models().Change(std::move(change).value(), [&gateway, call, name](const Status& done) {
    if (call->gone) return call->EndGone();
    if (!done.ok()) return call->Fail(ModelChangeFailed(done.error()));
    const auto known = gateway.models().NameOf(name);
    for (const CatalogView& view : gateway.models().Views()) {
      if (known.ok() && view.name == *known) return call->RespondJson(ViewJson(view));
    }
    call->RespondJson(Json::object());
  });
}

}  // namespace

std::span<const Route> ModelRoutes() {
  using enum RouteWork;
  using enum CatalogAction;
  static const Route kRoutes[] = {
      {"GET", "/admin/models", Role::kOperate, kQuick, kOpenAiDialect, ListModels},
      {"POST", "/admin/models/load", Role::kAdmin, kReads, kOpenAiDialect, ChangeModel<kLoad>},
      {"POST", "/admin/models/unload", Role::kAdmin, kReads, kOpenAiDialect, ChangeModel<kUnload>},
      {"POST", "/admin/models/swap", Role::kAdmin, kReads, kOpenAiDialect, ChangeModel<kSwap>},
      {"POST", "/admin/models/rollback", Role::kAdmin, kReads, kOpenAiDialect, ChangeModel<kRollback>},
      {"POST", "/admin/models/pin", Role::kAdmin, kReads, kOpenAiDialect, ChangeModel<kPin>},
      {"POST", "/admin/models/unpin", Role::kAdmin, kReads, kOpenAiDialect, ChangeModel<kUnpin>},
  };
  return kRoutes;
}

}  // namespace bantam
