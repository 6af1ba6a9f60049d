#include "fleet/hub.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

#include "base/ascii.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/json.h"
#include "base/memory_budget.h"
#include "fleet/path_name.h"
#include "formats/gguf_parts.h"

namespace bantam {
namespace {

// What of a Hugging Face folder Bantam reads, besides its weights.
constexpr std::string_view kFolderFiles[] = {"config.json",
                                             "generation_config.json",
                                             "tokenizer.json",
                                             "tokenizer_config.json",
                                             "tokenizer.model",
                                             "chat_template.jinja",
                                             "quantize_config.json",
                                             "quant_config.json",
                                             "modules.json",
                                             "1_Pooling/config.json",
                                             "sentence_bert_config.json",
                                             "config_sentence_transformers.json",
                                             "special_tokens_map.json"};

bool IsGguf(const HubFile& file) { return LowerAscii(file.path).ends_with(".gguf"); }

std::string_view BaseName(std::string_view path) { return path.substr(path.rfind('/') + 1); }

// "model-00001-of-00004.safetensors"
bool IsShard(std::string_view path) {
  const std::string_view stem = path.substr(0, path.rfind('.'));
  constexpr size_t kOfBytes = 9;  // "-of-00004"
  if (stem.size() < kOfBytes) return false;
  const std::string_view end = stem.substr(stem.size() - kOfBytes);
  return end.starts_with("-of-") && std::all_of(end.begin() + 4, end.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// A model to choose: one GGUF file, or all parts of one.
struct GgufModel {
  std::string path;   // by which it is named: the first part's
  std::string whole;  // and without the numbers of a part
  uint32_t count = 1;
  uint64_t size_bytes = 0;
  std::vector<HubFile> files;
};

// A projector of pictures is no model by itself.
bool IsProjector(const GgufModel& model) { return LowerAscii(model.path).find("mmproj") != std::string::npos; }

// Parts lie anywhere in a listing. What is no first part and has none to belong to is listed too, to be named in an error.
std::vector<GgufModel> GgufModels(std::span<const HubFile> listing) {
  std::vector<GgufModel> models;
  std::map<std::string, size_t> places;  // of models in parts
  for (const HubFile& file : listing) {
    if (!IsGguf(file)) continue;
    const auto part = ParseGgufPartName(file.path);
    const bool alone = !part.has_value() || part->count == 1;
    const std::string path = alone ? file.path : GgufPartPath(part->stem, 1, part->count);
    const auto [place, is_new] = alone ? std::pair(places.end(), true) : places.try_emplace(path, models.size());
    if (is_new) models.push_back({path, alone ? path : fmt::format("{}.gguf", part->stem), alone ? 1 : part->count, 0, {}});
    GgufModel& model = alone || is_new ? models.back() : models[place->second];
    if (!CheckedAdd(model.size_bytes, file.size_bytes, &model.size_bytes)) model.size_bytes = UINT64_MAX;
    model.files.push_back(file);
  }
  return models;
}

std::string Choices(std::span<const GgufModel> models) {
  constexpr size_t kShown = 40;
  std::string text;
  for (const GgufModel& model : models.first(std::min(models.size(), kShown))) {
    const std::string count = model.count == 1 ? "" : fmt::format("{} files, ", model.count);
    text += fmt::format("{}{} ({}{})", text.empty() ? "" : ", ", model.path, count, FormatBytes(model.size_bytes));
  }
  if (models.size() > kShown) text += fmt::format(", and {} more", models.size() - kShown);
  return text;
}

bool IsRepositoryPart(std::string_view text) {
  constexpr size_t kBytesMax = 96;  // the Hub's own limit
  const auto allowed = [](char c) { return IsAlphanumericAscii(c) || c == '-' || c == '_' || c == '.'; };
  return !text.empty() && text.size() <= kBytesMax && text[0] != '.' && std::all_of(text.begin(), text.end(), allowed);
}

Result<HubChoice> OneModel(const HubReference& reference, GgufModel model) {
  if (model.count == 1) return HubChoice{std::string(BaseName(model.path)), /*folder=*/false, std::move(model.files)};
  BANTAM_ASSIGN(const std::vector<std::string> parts, GgufPartPaths(model.path).With(fmt::format("hf:{}", reference.repository)));
  std::sort(model.files.begin(), model.files.end(), [](const HubFile& a, const HubFile& b) { return a.path < b.path; });
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i < model.files.size() && model.files[i].path == parts[i]) continue;
    return Error(Code::kNotFound, fmt::format("hf:{}: {} is missing, one of the {} parts of {}; choose another model, or ask its owner",
                                              reference.repository, parts[i], model.count, model.whole));
  }
  if (model.files.size() > parts.size()) {
    return Error(Code::kCorrupt, fmt::format("hf:{}: {} is listed twice; is this the Hub?", reference.repository, model.files.back().path));
  }
  const std::string_view stem = ParseGgufPartName(model.path)->stem;
  HubChoice choice{std::string(BaseName(stem)), /*folder=*/true, std::move(model.files)};
  choice.within = stem.substr(0, stem.size() - choice.name.size());
  return choice;
}

// The folder: weights of the repository's top, and what else belongs to them. Empty when there is none.
std::vector<HubFile> FolderFiles(std::span<const HubFile> listing) {
  std::vector<HubFile> weights;
  std::vector<HubFile> others;
  bool has_config = false;
  bool has_index = false;
  for (const HubFile& file : listing) {
    if (file.path == "model.safetensors.index.json") {
      has_index = true;
      others.push_back(file);
    }
    if (std::find(std::begin(kFolderFiles), std::end(kFolderFiles), file.path) != std::end(kFolderFiles)) others.push_back(file);
    has_config = has_config || file.path == "config.json";
    if (file.path.find('/') == std::string::npos && file.path.ends_with(".safetensors")) weights.push_back(file);
  }
  // As they are opened: by the index, or model.safetensors, or the only one.
  if (has_index) {
    std::erase_if(weights, [](const HubFile& file) { return !IsShard(file.path) || !file.path.starts_with("model-"); });
  } else if (weights.size() > 1) {
    std::erase_if(weights, [](const HubFile& file) { return file.path != "model.safetensors"; });
  }
  if (!has_config || weights.empty()) return {};
  others.insert(others.end(), weights.begin(), weights.end());
  return others;
}

Result<HubChoice> Chosen(const HubReference& reference, std::span<const GgufModel> candidates, std::span<const HubFile> listing) {
  const std::string where = fmt::format("hf:{}", reference.repository);
  std::vector<GgufModel> matching;
  const std::string wanted = LowerAscii(reference.file);
  for (const GgufModel& model : candidates) {
    const bool matches =
        LowerAscii(model.path).find(wanted) != std::string::npos || LowerAscii(model.whole).find(wanted) != std::string::npos;
    if (matches) matching.push_back(model);
  }
  if (matching.size() == 1) return OneModel(reference, std::move(matching[0]));
  if (matching.size() > 1) {
    return Error(Code::kInvalidArgument, fmt::format("{}: several files match {}; name one: {}", where, reference.file, Choices(matching)));
  }
  const auto named = std::find_if(listing.begin(), listing.end(), [&](const HubFile& file) { return file.path == reference.file; });
  if (named != listing.end() && IsGguf(*named)) {
    const auto part = ParseGgufPartName(named->path);
    CHECK(part.has_value());
    return Error(Code::kInvalidArgument, fmt::format("{}: {} is part {} of {} of a model; name the first, {}", where, reference.file,
                                                     part->number, part->count, GgufPartPath(part->stem, 1, part->count)));
  }
  if (named != listing.end()) {
    return Error(Code::kUnsupported, fmt::format("{}: {} is no GGUF file; for a Hugging Face folder name the repository alone: {}", where,
                                                 reference.file, where));
  }
  return Error(Code::kNotFound, fmt::format("{}: no GGUF file there matches {}; it has {}", where, reference.file,
                                            candidates.empty() ? "none" : Choices(candidates)));
}

struct Page {
  std::vector<HubFile> files;
  std::optional<Url> next;
};

Result<Page> FetchPage(HttpTransport& transport, const HttpRequest& request, const HttpLimits& limits) {
  BANTAM_ASSIGN(const std::unique_ptr<HttpReply> reply, Fetch(transport, request, limits));
  BANTAM_ASSIGN(const std::string text, ReadBody(*reply, kHubListingBytesMax));
  Page page;
  BANTAM_ASSIGN(page.files, ParseHubListing(text).With(ShownUrl(request.url)));
  const auto next = NextLink(reply->Field("Link").value_or(""));
  if (!next.has_value()) return page;
  BANTAM_ASSIGN(page.next, ResolveUrl(request.url, *next).With(ShownUrl(request.url)));
  if (!page.next->SameOrigin(request.url)) {
    return Error(Code::kDenied, fmt::format("{}: the listing goes on at another server, {}", ShownUrl(request.url), ShownUrl(*page.next)));
  }
  return page;
}

Result<std::vector<HubFile>> FetchListing(HttpTransport& transport, HttpRequest request, const HttpLimits& limits) {
  std::vector<HubFile> listing;
  for (size_t pages = 0; pages < kHubPagesMax; ++pages) {
    BANTAM_ASSIGN(Page page, FetchPage(transport, request, limits));
    listing.insert(listing.end(), std::make_move_iterator(page.files.begin()), std::make_move_iterator(page.files.end()));
    if (listing.size() > kHubFilesMax) break;
    if (!page.next.has_value()) return listing;
    request.url = *page.next;
  }
  return Error(Code::kExhausted, fmt::format("{}: more than {} pages or {} files; name a smaller repository", ShownUrl(request.url),
                                             kHubPagesMax, kHubFilesMax));
}

// The commit that a revision such as "main" is at the moment; the revision itself where the server has no answer to that.
Result<std::string> FindCommit(HttpTransport& transport, const HttpRequest& request, const HttpLimits& limits,
                               const std::string& revision) {
  constexpr size_t kAnswerBytesMax = size_t{8} << 20;
  constexpr size_t kCommitBytes = 40;
  const auto is_commit = [](std::string_view text) {
    return text.size() == kCommitBytes && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
  };
  if (is_commit(revision)) return revision;
  const Result<std::unique_ptr<HttpReply>> reply = Fetch(transport, request, limits);
  const Result<std::string> text = reply.ok() ? ReadBody(**reply, kAnswerBytesMax) : Result<std::string>(reply.error());
  if (!text.ok()) {
    const bool passes = text.error().code() == Code::kUnavailable || text.error().code() == Code::kCancelled;
    return passes ? Result<std::string>(text.error()) : Result<std::string>(revision);
  }
  const Result<Json> about = ParseJson(*text);
  const std::string commit = about.ok() ? JsonText(*about, "sha").value_or("") : "";
  return is_commit(commit) ? commit : revision;
}

// The Hub says 401 of what does not exist too.
Error WithNameHint(const Error& error, const HubSettings& settings) {
  if (error.code() != Code::kDenied || !settings.token.empty()) return error;
  return Error(Code::kDenied, fmt::format("{}; check the name: the Hub says the same of one that does not exist. Private and gated "
                                          "repositories need HF_TOKEN",
                                          error.message()));
}

}  // namespace

Result<HubReference> ParseHubReference(std::string_view text) {
  HubReference reference;
  const Error bad(Code::kInvalidArgument, fmt::format("hf:{}: expected hf:OWNER/REPO, with @REVISION and :FILE after it where wanted",
                                                      text.substr(0, kPathBytesMax)));
  const size_t colon = text.find(':');
  std::string_view head = text.substr(0, colon);
  if (colon != std::string_view::npos) {
    reference.file = text.substr(colon + 1);
    if (reference.file.empty()) return bad;
    BANTAM_TRY(CheckPathName(reference.file));
  }
  const size_t at = head.find('@');
  if (at != std::string_view::npos) {
    reference.revision = head.substr(at + 1);
    BANTAM_TRY(CheckPathName(reference.revision));
    head = head.substr(0, at);
  }
  const size_t slash = head.find('/');
  if (slash == std::string_view::npos || !IsRepositoryPart(head.substr(0, slash)) || !IsRepositoryPart(head.substr(slash + 1))) return bad;
  reference.repository = head;
  return reference;
}

Result<std::vector<HubFile>> ParseHubListing(std::string_view text) {
  BANTAM_ASSIGN(const Json list, ParseJson(text));
  if (!list.is_array()) return Error(Code::kCorrupt, "expected a list of files; is this the Hub?");
  std::vector<HubFile> files;
  for (const Json& one : list) {
    if (JsonText(one, "type") != "file") continue;
    HubFile file;
    file.path = JsonText(one, "path").value_or("");
    const Json& lfs = JsonMember(one, "lfs");
    const Json& size = JsonMember(lfs.is_object() ? lfs : one, "size");
    if (file.path.empty() || !size.is_number_unsigned()) {
      return Error(Code::kCorrupt, fmt::format("{}: expected a file with path and size", ShortJson(one)));
    }
    file.size_bytes = size.get<uint64_t>();
    if (lfs.is_object()) {
      file.digest = DigestFromHex(JsonText(lfs, "oid").value_or(""));
      if (!file.digest.has_value()) return Error(Code::kCorrupt, fmt::format("{}: expected lfs.oid with 64 digits", ShortJson(one)));
    }
    if (file.path.size() <= kPathBytesMax) files.push_back(std::move(file));
  }
  return files;
}

Result<HubChoice> ChooseHubFiles(const HubReference& reference, std::span<const HubFile> listing) {
  const std::string where = fmt::format("hf:{}", reference.repository);
  std::vector<GgufModel> candidates = GgufModels(listing);
  for (GgufModel& model : candidates) {
    if (model.path == reference.file) return OneModel(reference, std::move(model));
  }
  std::erase_if(candidates, IsProjector);
  if (!reference.file.empty()) return Chosen(reference, candidates, listing);
  if (candidates.size() == 1) return OneModel(reference, std::move(candidates[0]));
  if (candidates.size() > 1) {
    return Error(Code::kInvalidArgument, fmt::format("{}: it has several GGUF files; name one, as in {}:{}. It has {}", where, where,
                                                     BaseName(candidates[0].path), Choices(candidates)));
  }
  HubChoice choice{reference.repository.substr(reference.repository.find('/') + 1), /*folder=*/true, FolderFiles(listing)};
  if (choice.files.empty()) {
    return Error(Code::kNotFound,
                 fmt::format("{}: neither a GGUF file nor config.json with safetensors is there; Bantam runs those", where));
  }
  return choice;
}

Result<PullPlan> PlanHub(HttpTransport& transport, const HubReference& reference, const HubSettings& settings, const HttpLimits& limits) {
  HttpRequest request;
  BANTAM_ASSIGN(const Url endpoint, ParseUrl(settings.endpoint).With("HF_ENDPOINT"));
  const std::string base = endpoint.target.ends_with('/') ? endpoint.target.substr(0, endpoint.target.size() - 1) : endpoint.target;
  const auto encoded = [](std::string_view revision) {
    // A revision such as refs/pr/1 is one name in the path.
    std::string text = EncodePath(revision);
    for (size_t slash = text.find('/'); slash != std::string::npos; slash = text.find('/', slash)) text.replace(slash, 1, "%2F");
    return text;
  };
  request.url = endpoint;
  request.plain_allowed = settings.plain_allowed;
  if (!settings.token.empty()) {
    if (!endpoint.secure && !IsLoopback(endpoint.host)) {
      return Error(Code::kDenied,
                   "HF_ENDPOINT: http without TLS, where anybody on the way could read HF_TOKEN; use https, or unset HF_TOKEN");
    }
    if (!std::all_of(settings.token.begin(), settings.token.end(), [](char c) { return c > 0x20 && c < 0x7f; })) {
      return Error(Code::kInvalidArgument, "HF_TOKEN: a blank or a control character in it; set it to the token alone");
    }
    request.authorization = fmt::format("Bearer {}", settings.token);
  }
  const std::string where = fmt::format("hf:{}", reference.repository);
  const std::string about = fmt::format("{}/api/models/{}", base, reference.repository);
  request.url.target = fmt::format("{}/revision/{}", about, encoded(reference.revision));
  BANTAM_ASSIGN(const std::string revision, FindCommit(transport, request, limits, reference.revision).With(where));
  request.url.target = fmt::format("{}/tree/{}?recursive=true", about, encoded(revision));
  const Result<std::vector<HubFile>> listing = FetchListing(transport, request, limits).With(where);
  if (!listing.ok()) return WithNameHint(listing.error(), settings);
  BANTAM_ASSIGN(HubChoice choice, ChooseHubFiles(reference, *listing));
  PullPlan plan;
  plan.name = choice.name;
  plan.folder = choice.folder;
  plan.authorization = request.authorization;
  for (HubFile& file : choice.files) {
    Url url = endpoint;
    url.target = fmt::format("{}/{}/resolve/{}/{}", base, reference.repository, encoded(revision), EncodePath(file.path));
    std::string path = choice.folder ? file.path.substr(choice.within.size()) : choice.name;
    plan.files.push_back({std::move(path), {{UrlText(url), /*member=*/"", file.size_bytes}}, file.size_bytes, file.digest});
  }
  return plan;
}

}  // namespace bantam
