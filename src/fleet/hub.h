// Models of the Hugging Face Hub: what a repository has, and which of its files make a model that Bantam runs.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "fleet/plan.h"
#include "net/http.h"

namespace bantam {

inline constexpr size_t kHubListingBytesMax = size_t{8} << 20;  // of a page
inline constexpr size_t kHubPagesMax = 100;
inline constexpr size_t kHubFilesMax = 50'000;

struct HubSettings {
  std::string endpoint;  // HF_ENDPOINT
  std::string token;     // HF_TOKEN, empty: none. A secret: sent to the endpoint only, and only over TLS or to this machine.
  bool plain_allowed = false;
};

// OWNER/REPO[@REVISION][:FILE]
struct HubReference {
  std::string repository;
  std::string revision = "main";
  std::string file;  // a path, or a part of one such as Q4_K_M; empty: none
};
Result<HubReference> ParseHubReference(std::string_view text);

struct HubFile {
  std::string path;
  uint64_t size_bytes = 0;
  std::optional<Digest> digest;  // of files in large-file storage; the Hub has none for others
};

// One page of a listing, its folders left away and what has a longer path than kPathBytesMax. Corrupt names the member.
Result<std::vector<HubFile>> ParseHubListing(std::string_view text);

// Which files to fetch and what the model is called. InvalidArgument lists the choices where there are several, with their sizes; NotFound.
struct HubChoice {
  std::string name;
  bool folder = false;
  std::vector<HubFile> files;
  std::string within = {};  // the repository's folder that the model's files lie in, with '/' at its end
};
Result<HubChoice> ChooseHubFiles(const HubReference& reference, std::span<const HubFile> listing);

// Of one commit, where the server tells which one the revision is.
Result<PullPlan> PlanHub(HttpTransport& transport, const HubReference& reference, const HubSettings& settings, const HttpLimits& limits);

}  // namespace bantam
