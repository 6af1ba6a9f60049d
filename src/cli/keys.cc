// bantam keys: who may ask bantam serve. The file has only hashes of the keys.
#include "serve/keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/disk.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace bantam {
namespace {

struct Options {
  std::string file;
  std::string name;
  std::string role = "use";
  std::string priority = "high";
  KeyLimits limits;
};

Result<std::vector<ApiKey>> OpenKeys(FileSystem& files, const std::string& path) {
  if (!files.Exists(path)) return std::vector<ApiKey>();
  BANTAM_ASSIGN(const std::string text, files.ReadText(path, kKeyFileBytesMax));
  return ReadKeys(text).With(path);
}

// Beside the file first, so that nobody reads half of it; for its owner's eyes.
Status Save(const std::string& path, const std::vector<ApiKey>& keys) {
  const std::unique_ptr<Disk> disk = MakeDisk();
  const std::string part = path + ".part";
  BANTAM_TRY(disk->RemoveTree(part));
  BANTAM_ASSIGN(const std::unique_ptr<PartFile> file, disk->OpenPrivatePart(part));
  const std::string text = WriteKeys(keys);
  BANTAM_TRY(file->Append(std::as_bytes(std::span(text))));
  BANTAM_TRY(file->Sync());
  return disk->Rename(part, path);
}

auto Find(std::vector<ApiKey>& keys, const std::string& name) {
  return std::find_if(keys.begin(), keys.end(), [&](const ApiKey& key) { return key.name == name; });
}

Status Add(FileSystem& files, const Options& options) {
  BANTAM_ASSIGN(std::vector<ApiKey> keys, OpenKeys(files, options.file));
  if (Find(keys, options.name) != keys.end()) {
    return Error(Code::kInvalidArgument, fmt::format("{}: there is a key {} already; remove it first", options.file, options.name));
  }
  const auto role = RoleFromName(options.role);
  const auto priority = PriorityFromName(options.priority);
  if (!role || *role == Role::kAnybody) {
    return Error(Code::kInvalidArgument, fmt::format("--role {}: expected use, operate or admin", options.role));
  }
  if (!priority) return Error(Code::kInvalidArgument, fmt::format("--priority {}: expected high, normal, low or batch", options.priority));
  BANTAM_ASSIGN(const std::string secret, MakeSecret());
  ApiKey key = {.name = options.name, .role = *role, .digest = DigestOfSecret(secret), .limits = options.limits};
  key.limits.priority = *priority;
  keys.push_back(std::move(key));
  // What cannot be read again is not written.
  BANTAM_TRY(ReadKeys(WriteKeys(keys)));
  BANTAM_TRY(Save(options.file, keys));
  Note("the key, which is shown only now:\n");
  return Print(secret + "\n") ? Ok() : Status(OutputLost());
}

Status Remove(FileSystem& files, const Options& options) {
  BANTAM_ASSIGN(std::vector<ApiKey> keys, OpenKeys(files, options.file));
  const auto found = Find(keys, options.name);
  if (found == keys.end()) return Error(Code::kNotFound, fmt::format("{}: there is no key {}", options.file, options.name));
  keys.erase(found);
  return Save(options.file, keys);
}

std::string Limits(const KeyLimits& limits) {
  std::string text = fmt::format("priority {}", PriorityName(limits.priority));
  const auto add = [&](uint64_t value, std::string_view unit) {
    if (value > 0) text += fmt::format(", {} {}", value, unit);
  };
  add(limits.requests_per_minute, "requests a minute");
  add(limits.tokens_per_minute, "tokens a minute");
  add(limits.tokens_per_day, "tokens a day");
  add(limits.concurrent, "at once");
  if (!limits.models.empty()) text += fmt::format(", models {}", fmt::join(limits.models, " "));
  return text;
}

Status List(FileSystem& files, const Options& options) {
  BANTAM_ASSIGN(const std::string text, files.ReadText(options.file, kKeyFileBytesMax));
  BANTAM_ASSIGN(const std::vector<ApiKey> keys, ReadKeys(text).With(options.file));
  std::string lines;
  for (const ApiKey& key : keys) {
    lines +=
        fmt::format("{}: {}, {}, {}...\n", Printable(key.name), RoleName(key.role), Limits(key.limits), HexOf(key.digest).substr(0, 8));
  }
  return Print(lines) ? Ok() : Status(OutputLost());
}

Status Run(FileSystem& files, const Options& options, const std::string& what) {
  if (what == "list") return List(files, options);
  if (options.name.empty()) return Error(Code::kInvalidArgument, fmt::format("bantam keys {}: expected the name of a key", what));
  return what == "add" ? Add(files, options) : Remove(files, options);
}

}  // namespace

void AddKeysVerb(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  auto what = std::make_shared<std::string>();
  CLI::App* verb = app.add_subcommand("keys", "make, list and remove the keys that bantam serve demands");
  verb->add_option("ACTION", *what, "add, list or remove")->required()->check(CLI::IsMember({"add", "list", "remove"}));
  verb->add_option("FILE", options->file, "the file of keys, which has only their hashes")->required();
  verb->add_option("NAME", options->name, "of the key that is added or removed");
  verb->add_option("--role", options->role, "what it may: use (ask models), operate (read metrics too) or admin")->capture_default_str();
  verb->add_option("--priority", options->priority, "the highest that it may ask for: high, normal, low or batch")->capture_default_str();
  verb->add_option("--requests-per-minute", options->limits.requests_per_minute, "0: any")->capture_default_str();
  verb->add_option("--tokens-per-minute", options->limits.tokens_per_minute, "of prompts and answers; 0: any")->capture_default_str();
  verb->add_option("--tokens-per-day", options->limits.tokens_per_day, "0: any")->capture_default_str();
  verb->add_option("--concurrent", options->limits.concurrent, "requests at once; 0: any")->capture_default_str();
  verb->add_option("--models", options->limits.models, "models that it may use (default: all); may be given again")
      ->allow_extra_args(false);
  verb->footer("Example: bantam keys add keys.json kiosk --role use --requests-per-minute 60");
  verb->callback([options, what, action] {
    *action = [options, what](FileSystem& files) {
      const Status done = Run(files, *options, *what);
      return done.ok() ? 0 : Fail(done.error());
    };
  });
}

}  // namespace bantam
