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

}  // namespace bantam
