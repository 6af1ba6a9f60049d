#include "fleet/pull.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <span>
#include <utility>

#include "base/bytes.h"
#include "fleet/path_name.h"
#include "fleet/retry.h"
#include "fleet/tar_member.h"
#include "formats/gguf_parts.h"

namespace bantam {
namespace {

constexpr std::string_view kModelEndings[] = {".gguf", ".bantam"};

std::string_view ModelEnding(std::string_view name) {
  for (const std::string_view ending : kModelEndings) {
    if (name.ends_with(ending) && name.size() > ending.size()) return ending;
  }
  return {};
}

bool IsUrl(std::string_view text) { return text.starts_with("https://") || text.starts_with("http://"); }

// %20 and the like; what is no escape stays.
std::string DecodePercent(std::string_view text) {
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
  };
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && digit(text[i + 1]) >= 0 && digit(text[i + 2]) >= 0) {
      plain += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
      i += 2;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

// Whether one name stands for the parts of a model.
bool IsOfSeveral(std::string_view path) {
  const auto part = ParseGgufPartName(path);
  return part.has_value() && part->count > 1;
}

std::string LastName(std::string_view path) { return std::string(path.substr(path.rfind('/') + 1)); }

// Of a first part, the folder that the parts become; of another file its name.
std::string NameOfModel(std::string_view path) { return LastName(IsOfSeveral(path) ? ParseGgufPartName(path)->stem : path); }

Result<PullPlan> PlanUrl(std::string_view text) {
  BANTAM_ASSIGN(const Url url, ParseUrl(text));
  const size_t path_bytes = std::min(url.target.find('?'), url.target.size());
  const std::string path = url.target.substr(0, path_bytes);
  std::vector<std::string> paths = {path};
  if (IsOfSeveral(path)) {
    BANTAM_ASSIGN(paths, GgufPartPaths(path).With(ShownUrl(url)));
  }
  PullPlan plan;
  plan.folder = paths.size() > 1;
  plan.name = DecodePercent(NameOfModel(path));
  for (const std::string& one : paths) {
    Url part = url;
    part.target = one + url.target.substr(path_bytes);
    plan.files.push_back({DecodePercent(LastName(one)), {{UrlText(part), /*member=*/"", std::nullopt}}, std::nullopt, std::nullopt});
  }
  return plan;
}

Result<PullPlan> PlanLocal(Disk& disk, std::string_view reference) {
  // file:///PATH is what browsers write, blanks as %20; file://HOST/PATH is another machine.
  const bool is_url = reference.starts_with("//");
  if (is_url && !reference.starts_with("///")) {
    return Error(Code::kUnsupported, fmt::format("file:{}: a file of another machine; give file:PATH", reference));
  }
  const std::string path = is_url ? DecodePercent(reference.substr(2)) : std::string(reference);
  std::vector<std::string> paths = {path};
  if (IsOfSeveral(path)) {
    BANTAM_ASSIGN(paths, GgufPartPaths(path));
  }
  PullPlan plan;
  plan.folder = paths.size() > 1;
  plan.name = NameOfModel(path);
  for (const std::string& one : paths) {
    BANTAM_ASSIGN(const std::unique_ptr<PartFile> file, disk.OpenForReading(one));
    plan.files.push_back({LastName(one), {{fmt::format("file:{}", one), /*member=*/"", file->size()}}, file->size(), std::nullopt});
  }
  return plan;
}

Result<PullPlan> PlanEntry(const Catalogue& catalogue, std::string_view name) {
  if (name.find('/') != std::string_view::npos) {
    return Error(Code::kInvalidArgument,
                 fmt::format("{}: expected hf:OWNER/REPO for a model of the Hub, file:PATH for a file, https://..., or "
                             "a name of the catalogue",
                             name));
  }
  BANTAM_ASSIGN(const CatalogueEntry* entry, FindEntry(catalogue, name));
  PullPlan plan;
  plan.files = entry->files;
  plan.folder = entry->files.size() > 1;
  plan.name = plan.folder ? entry->name : entry->files[0].path;
  plan.licence = entry->licence;
  return plan;
}

// The user's own wishes, and the check of every name.
Status Settle(const PullRequest& request, PullPlan* plan) {
  if (!request.name.empty()) {
    const std::string_view ending = plan->folder ? std::string_view() : ModelEnding(plan->name);
    plan->name = request.name.ends_with(ending) ? request.name : fmt::format("{}{}", request.name, ending);
  }
  BANTAM_TRY(CheckModelName(plan->name));
  if (plan->folder == !ModelEnding(plan->name).empty()) {
    return Error(Code::kInvalidArgument, fmt::format("{}: expected a name that {}; give one with --name", plan->name,
                                                     plan->folder ? "does not end as a file's" : "ends in .gguf or .bantam"));
  }
  if (!plan->folder && IsOfSeveral(plan->name)) {
    return Error(Code::kInvalidArgument, fmt::format("{}: the name of a part of a model in several files, for one that is a single file; "
                                                     "give another with --name, or name the first part as it is",
                                                     plan->name));
  }
  if (!plan->folder) plan->files[0].path = plan->name;
  if (!request.sha256.empty()) {
    const std::optional<Digest> digest = DigestFromHex(request.sha256);
    if (!digest.has_value() || plan->folder) {
      return Error(Code::kInvalidArgument, "--sha256: expected 64 hexadecimal digits, for a model that is one file");
    }
    if (plan->files[0].digest.value_or(*digest) != *digest) {
      return Error(Code::kInvalidArgument, fmt::format("--sha256: the source says {}", HexOf(*plan->files[0].digest)));
    }
    plan->files[0].digest = digest;
  }
  std::vector<std::string> paths;
  for (const RemoteFile& file : plan->files) paths.push_back(file.path);
  return CheckPathNames(paths);
}

class Puller {
 public:
  Puller(const PullPlan& plan, const PullSettings& settings, const PullTools& tools)
      : plan_(plan), settings_(settings), tools_(tools), disk_(tools.download.disk), files_(tools.download.files) {
    done_.name = plan.name;
    done_.folder = plan.folder;
    done_.path = fmt::format("{}/{}", settings.folder, plan.name);
  }

  Result<Pulled> Run() {
    BANTAM_TRY(disk_.MakeFolders(settings_.folder, ""));
    const std::string lock_path = fmt::format("{}.lock", done_.path);
    BANTAM_ASSIGN(const std::unique_ptr<FileLock> lock, disk_.Lock(lock_path));
    if (lock == nullptr) {
      return Error(Code::kUnavailable, fmt::format("{}: another process is fetching it; wait for it to end, or stop it", plan_.name));
    }
    if (files_.Exists(done_.path)) {
      BANTAM_TRY(CheckPresent());
      done_.already = true;
      return done_;
    }
    // A folder grows beside its place, under the name of a part.
    const std::string root = plan_.folder ? PartPath(done_.path) : settings_.folder;
    if (plan_.folder) BANTAM_TRY(disk_.MakeFolders(settings_.folder, fmt::format("{}.part", plan_.name)));
    BANTAM_TRY(AskVersions());
    BANTAM_TRY(CheckSpace(root));
    for (size_t i = 0; i < plan_.files.size(); ++i) {
      shown_ = plan_.files.size() == 1 ? plan_.name : fmt::format("{} ({} of {})", plan_.files[i].path, i + 1, plan_.files.size());
      BANTAM_TRY(One(root, i));
    }
    if (plan_.folder) {
      for (size_t i = 0; i < plan_.files.size(); ++i) {
        if (versions_[i].has_value()) BANTAM_TRY(NamePart(fmt::format("{}/{}", root, plan_.files[i].path), tools_.download));
      }
      BANTAM_TRY(RemoveOthers(root, /*below=*/""));
      for (const RemoteFile& file : plan_.files) BANTAM_TRY(CheckParts(root, file));
      BANTAM_TRY(disk_.Rename(root, done_.path));
    }
    return done_;
  }

 private:
  static std::string PiecePath(const std::string& path, size_t piece) { return fmt::format("{}.part-{}", path, piece + 1); }

  void Add(const RemoteFile& file, const Downloaded& downloaded) {
    done_.files.push_back({file.path, downloaded.bytes, downloaded.digest, file.digest.has_value()});
    done_.bytes += downloaded.bytes;
    done_.resumed_bytes += downloaded.resumed_bytes;
  }

  // Whether what has the model's name is this model.
  Status CheckPresent() {
    const Error other(Code::kInvalidArgument,
                      fmt::format("{}: another model of that name is in {}; remove it (bantam rm {}) or give this one another with --name",
                                  plan_.name, settings_.folder, plan_.name));
    for (const RemoteFile& file : plan_.files) {
      const std::string path = plan_.folder ? fmt::format("{}/{}", done_.path, file.path) : done_.path;
      RemoteFile known = file;
      if (!known.size_bytes.has_value() && !known.digest.has_value()) {
        BANTAM_ASSIGN(const Version version, VersionOf(file));
        known.size_bytes = version.total;
      }
      BANTAM_ASSIGN(const bool same, Holds(path, known));
      if (!same) return other;
    }
    return Ok();
  }

  // What an origin says of a file before anything is read of it.
  struct Version {
    std::optional<uint64_t> total;
    std::string tag;
  };
  Result<Version> VersionOf(const RemoteFile& file) {
    if (IsJoined(file)) return Version();
    BANTAM_ASSIGN(const std::unique_ptr<Origin> origin, OriginOf(file.pieces[0]));
    BANTAM_ASSIGN(const Opened opened, Retried(tools_.download, [&] { return origin->Open(/*offset=*/0, /*tag=*/""); }));
    return Version{opened.total, opened.tag};
  }

  // Of the parts of a model that nobody vouches for: before the first is fetched, whether all are there, how long they are, and which
  // version each is, so that a later call does not add the parts of a new version to those of an old one.
  Status AskVersions() {
    versions_.resize(plan_.files.size());
    for (size_t i = 0; plan_.folder && i < plan_.files.size(); ++i) {
      const RemoteFile& file = plan_.files[i];
      if (file.digest.has_value() || IsJoined(file) || !IsOfSeveral(file.path)) continue;
      BANTAM_ASSIGN(versions_[i], VersionOf(file).With(file.path));
    }
    return Ok();
  }

  // The parts say themselves which they are: those of two models that lay at one place get no name. What this build cannot read for another
  // reason stays, for one that can.
  Status CheckParts(const std::string& root, const RemoteFile& first) {
    const auto part = ParseGgufPartName(first.path);
    if (!part.has_value() || part->number != 1 || part->count == 1) return Ok();
    const Result<ModelFile> model = OpenGgufModel(files_, fmt::format("{}/{}", root, first.path));
    if (!model.ok() && model.error().code() != Code::kCorrupt && model.error().code() != Code::kInvalidArgument) return model.error();
    if (model.ok() && model->further_paths.size() + 1 == part->count) return Ok();
    const std::string why = model.ok() ? "its metadata (split.count) say nothing of so many parts" : model.error().message();
    BANTAM_TRY(disk_.RemoveTree(root));
    return Error(Code::kCorrupt, fmt::format("{}: what came is no model in {} parts; it was deleted, try again or try another source: {}",
                                             first.path, part->count, why));
  }

  // What earlier calls left in a folder of files that are no part of this model: they were of another, or of another version.
  Status RemoveOthers(const std::string& folder, const std::string& below) {
    BANTAM_ASSIGN(const std::vector<DiskEntry> entries, disk_.Entries(folder));
    for (const DiskEntry& entry : entries) {
      const std::string inner = fmt::format("{}/{}", folder, entry.name);
      const std::string path = below + entry.name;
      const auto is_file = [&](const RemoteFile& file) { return file.path == path; };
      const auto is_within = [&](const RemoteFile& file) { return file.path.starts_with(path + "/"); };
      if (std::any_of(plan_.files.begin(), plan_.files.end(), is_within)) {
        BANTAM_TRY(RemoveOthers(inner, path + "/"));
      } else if (std::none_of(plan_.files.begin(), plan_.files.end(), is_file)) {
        BANTAM_TRY(disk_.RemoveTree(inner));
      }
    }
    return Ok();
  }

  // Whether the file at `path` is what the plan says, which is then counted as done.
  Result<bool> Holds(const std::string& path, const RemoteFile& file) {
    if (!files_.Exists(path)) return false;
    const Result<std::unique_ptr<PartFile>> open = disk_.OpenForReading(path);
    if (!open.ok() || (*open)->size() != file.size_bytes.value_or((*open)->size())) return false;
    BANTAM_ASSIGN(Downloaded found, DigestOf(path, shown_.empty() ? plan_.name : shown_, tools_.download));
    if (found.digest != file.digest.value_or(found.digest)) return false;
    found.resumed_bytes = found.bytes;
    Add(file, found);
    return true;
  }

  uint64_t BytesAt(const std::string& path) {
    if (!files_.Exists(path)) return 0;
    const Result<std::unique_ptr<PartFile>> file = disk_.OpenForReading(path);
    return file.ok() ? (*file)->size() : 0;
  }

  // Before the first byte: whether all of it fits. Files of unknown length are looked at as they begin.
  Status CheckSpace(const std::string& root) {
    uint64_t wanted = 0;
    uint64_t present = 0;
    for (size_t place = 0; place < plan_.files.size(); ++place) {
      const RemoteFile& file = plan_.files[place];
      const std::string path = fmt::format("{}/{}", root, file.path);
      const uint64_t bytes = file.size_bytes.value_or(versions_[place].has_value() ? versions_[place]->total.value_or(0) : 0);
      // Parts are joined while they still are there.
      const bool joined = IsJoined(file);
      if (!CheckedAdd(wanted, bytes, &wanted)) wanted = UINT64_MAX;
      if (joined && !CheckedAdd(wanted, bytes, &wanted)) wanted = UINT64_MAX;
      present += BytesAt(path) + BytesAt(PartPath(path));
      for (size_t i = 0; joined && i < file.pieces.size(); ++i) {
        present += BytesAt(PiecePath(path, i)) + BytesAt(PartPath(PiecePath(path, i)));
      }
    }
    return CheckModelRoom(disk_, settings_.folder, wanted - std::min(wanted, present));
  }

  static bool IsJoined(const RemoteFile& file) { return file.pieces.size() > 1 || !file.pieces[0].member.empty(); }

  Status One(const std::string& root, size_t place) {
    const RemoteFile& file = plan_.files[place];
    const std::string path = fmt::format("{}/{}", root, file.path);
    const size_t slash = file.path.rfind('/');
    if (slash != std::string::npos) BANTAM_TRY(disk_.MakeFolders(root, file.path.substr(0, slash)));
    // Of an earlier call; without a digest it may be of another version of the model.
    if (plan_.folder && file.digest.has_value()) {
      BANTAM_ASSIGN(const bool there, Holds(path, file));
      if (there) return Ok();
    }
    if (IsJoined(file)) return Join(path, file);
    BANTAM_ASSIGN(const std::unique_ptr<Origin> origin, OriginOf(file.pieces[0]));
    DownloadTarget target = {path, shown_, file.size_bytes, file.digest};
    if (versions_[place].has_value()) target.tag = versions_[place]->tag;
    if (!plan_.folder) target.accept = settings_.accept;
    BANTAM_ASSIGN(const Downloaded downloaded, Download(*origin, target, tools_.download));
    Add(file, downloaded);
    return Ok();
  }

  Result<std::unique_ptr<Origin>> OriginOf(const Piece& piece) {
    constexpr std::string_view kFile = "file:";
    constexpr std::string_view kNpm = "npm:";
    if (piece.url.starts_with(kFile)) return MakeFileOrigin(disk_, piece.url.substr(kFile.size()));
    HttpRequest request;
    request.plain_allowed = settings_.plain_allowed;
    if (piece.url.starts_with(kNpm)) {
      BANTAM_ASSIGN(const NpmPackage package, ParseNpmPackage(std::string_view(piece.url).substr(kNpm.size())));
      BANTAM_ASSIGN(const Url registry, FindRegistry(files_, settings_.npm, package.scope));
      BANTAM_ASSIGN(request.url, Retried(tools_.download, [&] {
                      return FindArchive(tools_.http, registry, package, settings_.limits, settings_.plain_allowed);
                    }));
    } else {
      BANTAM_ASSIGN(request.url, ParseUrl(piece.url));
      request.authorization = plan_.authorization;
    }
    return MakeHttpOrigin(tools_.http, std::move(request), settings_.limits);
  }

  // A file that comes in parts, or inside an archive: each part first, then all of them into one.
  Status Join(const std::string& path, const RemoteFile& file) {
    constexpr uint64_t kArchiveBytesMore = uint64_t{16} << 20;  // than what is wanted of it
    const std::string shown = std::exchange(shown_, {});
    uint64_t resumed = 0;
    for (size_t i = 0; i < file.pieces.size(); ++i) {
      const Piece& piece = file.pieces[i];
      shown_ = file.pieces.size() == 1 ? shown : fmt::format("{}, part {} of {}", shown, i + 1, file.pieces.size());
      DownloadTarget target = {PiecePath(path, i), shown_, piece.size_bytes, std::nullopt};
      if (files_.Exists(target.path)) {
        resumed += BytesAt(target.path);
        continue;
      }
      if (!piece.member.empty()) {
        target.size_bytes.reset();
        target.bytes_max = piece.size_bytes.value_or(kUnknownBytesMax - kArchiveBytesMore) + kArchiveBytesMore;
      }
      BANTAM_ASSIGN(const std::unique_ptr<Origin> origin, OriginOf(piece));
      BANTAM_ASSIGN(const Downloaded downloaded, Download(*origin, target, tools_.download));
      resumed += downloaded.resumed_bytes;
    }
    shown_ = shown;
    Result<Downloaded> joined = Assemble(path, file);
    const bool wrong = !joined.ok() && joined.error().code() != Code::kCancelled && joined.error().code() != Code::kUnavailable;
    if (joined.ok() || wrong) {
      for (size_t i = 0; i < file.pieces.size(); ++i) BANTAM_TRY(disk_.RemoveTree(PiecePath(path, i)));
    }
    if (!joined.ok()) {
      BANTAM_TRY(disk_.RemoveTree(PartPath(path)));
      return std::move(joined).error();
    }
    joined->resumed_bytes = resumed;
    Add(file, *joined);
    return Ok();
  }

  Result<Downloaded> Assemble(const std::string& path, const RemoteFile& file) {
    BANTAM_ASSIGN(std::unique_ptr<PartFile> whole, disk_.OpenPart(PartPath(path)));
    BANTAM_TRY(whole->Truncate(0));
    Sha256 hash;
    const uint64_t size = file.size_bytes.value_or(0);
    for (size_t i = 0; i < file.pieces.size(); ++i) {
      const Piece& piece = file.pieces[i];
      const uint64_t before = whole->size();
      const uint64_t size_max = piece.size_bytes.value_or(kUnknownBytesMax);
      const auto sink = [&](std::span<const std::byte> bytes) -> Status {
        if (bytes.size() > size_max - (whole->size() - before)) {
          return Error(Code::kCorrupt, fmt::format("{}: part {} has more than {} bytes", shown_, i + 1, size_max));
        }
        hash.Update(bytes);
        BANTAM_TRY(whole->Append(bytes));
        if (tools_.download.progress(fmt::format("{}: joining", shown_), whole->size(), std::max(size, whole->size()))) return Ok();
        return Error(Code::kCancelled, fmt::format("{}: interrupted", shown_));
      };
      BANTAM_TRY(Unpack(PiecePath(path, i), piece, sink));
      if (whole->size() - before != piece.size_bytes.value_or(whole->size() - before)) {
        return Error(Code::kCorrupt, fmt::format("{}: part {} has {} bytes, expected {}; it was deleted, try again", shown_, i + 1,
                                                 whole->size() - before, *piece.size_bytes));
      }
    }
    const Downloaded done = {whole->size(), /*resumed_bytes=*/0, hash.Finish()};
    if (done.digest != file.digest.value_or(done.digest)) {
      return Error(Code::kCorrupt,
                   fmt::format("{}: what came has the SHA-256 {}, expected {}; it was deleted, try again or try another source", shown_,
                               HexOf(done.digest), HexOf(*file.digest)));
    }
    BANTAM_TRY(whole->Sync());
    whole.reset();
    BANTAM_TRY(disk_.Rename(PartPath(path), path));
    return done;
  }

  // The bytes that a part adds to its file.
  Status Unpack(const std::string& path, const Piece& piece, const TarGzMember::Sink& sink) {
    BANTAM_ASSIGN(const std::unique_ptr<PartFile> file, disk_.OpenForReading(path));
    std::unique_ptr<TarGzMember> member;
    if (!piece.member.empty()) {
      member = std::make_unique<TarGzMember>(piece.member, piece.size_bytes.value_or(kUnknownBytesMax), sink);
    }
    std::vector<std::byte> buffer(size_t{256} << 10);
    for (uint64_t offset = 0;;) {
      BANTAM_ASSIGN(const size_t got, file->Read(offset, buffer));
      if (got == 0) break;
      const auto bytes = std::span<const std::byte>(buffer).first(got);
      BANTAM_TRY(member != nullptr ? member->Append(bytes) : sink(bytes));
      offset += got;
    }
    return member != nullptr ? member->Finish() : Ok();
  }

  const PullPlan& plan_;
  const PullSettings& settings_;
  const PullTools& tools_;
  Disk& disk_;
  FileSystem& files_;
  Pulled done_;
  std::vector<std::optional<Version>> versions_;  // of files that get their names together and have no digest
  std::string shown_;                             // the file that is being fetched
};

}  // namespace

Result<PullPlan> MakePlan(const PullRequest& request, const Catalogue& catalogue, const PullSettings& settings, const PullTools& tools) {
  constexpr std::string_view kHub = "hf:";
  constexpr std::string_view kFile = "file:";
  const std::string_view text = request.reference;
  const auto plan = [&]() -> Result<PullPlan> {
    if (text.starts_with(kFile)) return PlanLocal(tools.download.disk, text.substr(kFile.size()));
    if (IsUrl(text)) return PlanUrl(text);
    if (!text.starts_with(kHub)) return PlanEntry(catalogue, text);
    BANTAM_ASSIGN(const HubReference reference, ParseHubReference(text.substr(kHub.size())));
    return Retried(tools.download, [&] { return PlanHub(tools.http, reference, settings.hub, settings.limits); });
  };
  BANTAM_ASSIGN(PullPlan made, plan());
  BANTAM_TRY(Settle(request, &made));
  return made;
}

Result<Pulled> Pull(const PullPlan& plan, const PullSettings& settings, const PullTools& tools) {
  return Puller(plan, settings, tools).Run();
}

Result<std::string> ReadDocument(const std::string& place, size_t bytes_max, const PullSettings& settings, const PullTools& tools) {
  if (!IsUrl(place)) return tools.download.files.ReadText(place, bytes_max);
  HttpRequest request;
  BANTAM_ASSIGN(request.url, ParseUrl(place));
  request.plain_allowed = settings.plain_allowed;
  return Retried(tools.download, [&]() -> Result<std::string> {
    BANTAM_ASSIGN(const std::unique_ptr<HttpReply> reply, Fetch(tools.http, request, settings.limits));
    return ReadBody(*reply, bytes_max);
  });
}

}  // namespace bantam
