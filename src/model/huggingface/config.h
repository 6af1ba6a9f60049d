// config.json of a Hugging Face folder. Families give one thing several names; a value of null counts as none.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace bantam {

class HfConfig {
 public:
  // Members of text_config, where there is one, stand in front of those around it. Corrupt for what is no JSON object, or has a member
  // twice.
  static Result<HfConfig> Parse(std::string_view text);

  // What the publisher's code takes for members that are not there at all; one that is null stays so.
  Status AddDefaults(std::string_view json);

  using Names = std::initializer_list<const char*>;
  // The first of these members that is there. Corrupt for another kind of value; counts are at most 2^31.
  Result<std::optional<uint32_t>> Count(Names names) const { return CountOf(root_, names); }
  Result<uint32_t> RequireCount(Names names) const;
  Result<std::optional<double>> Number(Names names) const { return NumberOf(root_, names); }
  // Which of these members is there, or the first of them.
  const char* NameOf(Names names) const;
  Result<std::optional<bool>> Flag(Names names) const;
  Result<std::optional<std::string>> Text(Names names) const;
  // Members of an object within.
  static Result<std::optional<uint32_t>> CountOf(const Json& object, Names names);
  static Result<std::optional<double>> NumberOf(const Json& object, Names names);

  // rope_scaling, or rope_parameters, which newer files have for it and which may be one per kind of layer; null where there is neither.
  const Json& RopeScaling() const;

  // Null where there is none.
  const Json& Member(const char* name) const { return JsonMember(root_, name); }
  // The same of objects within: names joined by '.'.
  const Json& At(std::string_view path) const;

 private:
  explicit HfConfig(Json root) : root_(std::move(root)) {}
  Json root_;
};

// Unsupported, with what to do instead.
Error NotRun(std::string_view what);

// layer_types, which has to say of each layer that it is of one of two kinds: 1 for `marked`, 0 for `other`. Corrupt where it does not have
// one for each layer, Unsupported for other kinds.
Result<std::vector<uint32_t>> ReadLayerKinds(const HfConfig& config, std::string_view marked, std::string_view other);

}  // namespace bantam
