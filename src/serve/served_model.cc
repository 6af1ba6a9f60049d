#include "serve/served_model.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/closest.h"

namespace bantam {

bool ServedModel::HasName(std::string_view wanted) const {
  return wanted == name || std::find(aliases.begin(), aliases.end(), wanted) != aliases.end();
}

Result<std::shared_ptr<const ServedModel>> FindServedModel(const ServedModels& models, std::string_view name) {
  std::vector<std::string_view> names;
  for (const auto& model : models) {
    if (name.empty() || model->HasName(name)) return model;
    names.push_back(model->name);
  }
  constexpr size_t kListedMax = 20;
  return Error(Code::kNotFound, fmt::format("there is no model \"{}\" here; there are: {}", name.substr(0, 200),
                                            fmt::join(Closest(name.substr(0, 200), names, kListedMax), ", ")));
}

}  // namespace bantam
