#include "serve/dialects.h"

#include <algorithm>
#include <vector>

#include "engine/json_members.h"

namespace bantam {

Status TakeMembers(const Json& body, std::span<const MemberName> known, Json* into) {
  for (const auto& [name, value] : body.items()) {
    const std::string& wanted = name;
    const auto member = std::find_if(known.begin(), known.end(), [&](const MemberName& one) { return one.theirs == wanted; });
    if (member == known.end()) {
      std::vector<std::string_view> names;
      for (const MemberName& one : known) names.push_back(one.theirs);
      return UnknownMember(name, names);
    }
    if (member->ours != nullptr && !value.is_null()) (*into)[member->ours] = value;
  }
  return Ok();
}

Status CheckMembers(const Json& body, std::span<const std::string_view> known) {
  for (const auto& [name, value] : body.items()) {
    if (std::find(known.begin(), known.end(), name) == known.end()) return UnknownMember(name, known);
  }
  return Ok();
}

Status CheckMembers(const Json& body, std::initializer_list<std::string_view> known) {
  return CheckMembers(body, std::span(known.begin(), known.size()));
}

}  // namespace bantam
