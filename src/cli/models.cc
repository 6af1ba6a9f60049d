// bantam list and bantam rm: the model folder.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/memory_budget.h"
#include "cli/model_folder.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "fleet/store.h"
#include "model/open.h"

namespace bantam {
namespace {

struct ListOptions {
  bool json = false;
};

// One line of the list: what a header tells.
struct Row {
  std::string name;
  uint64_t size_bytes = 0;
  std::string architecture;
  uint64_t weights = 0;
  std::string format;  // the one that holds most of the weights
  std::string problem;
};

Row Describe(FileSystem& files, const StoredModel& model) {
  Row row = {model.name, model.size_bytes, "", 0, "", ""};
  if (model.unfinished) return row;
  const Result<ModelFile> file = OpenModel(files, fmt::format("{}/{}", ModelFolder(), model.name));
  if (!file.ok()) {
    row.problem = file.error().message();
    return row;
  }
  const auto architecture = file->metadata.Text("general.architecture");
  if (architecture.ok()) row.architecture = architecture->value_or("");
  std::vector<uint64_t> weights(kDTypes);
  for (const TensorInfo& tensor : file->directory.tensors()) {
    row.weights += tensor.elements();
    weights[static_cast<size_t>(tensor.dtype)] += tensor.elements();
  }
  const size_t most = static_cast<size_t>(std::max_element(weights.begin(), weights.end()) - weights.begin());
  if (row.weights > 0) row.format = Info(static_cast<DType>(most)).name;
  return row;
}

// "1.1 B", "260 K".
std::string ShortCount(uint64_t n) {
  if (n >= 1'000'000'000) return fmt::format("{:.1f} B", static_cast<double>(n) * 1e-9);
  if (n >= 1'000'000) return fmt::format("{:.1f} M", static_cast<double>(n) * 1e-6);
  return fmt::format("{:.0f} K", static_cast<double>(n) * 1e-3);
}

std::string Line(const Row& row, const StoredModel& model) {
  const std::string start = fmt::format("{:<44} {:>10} ", Printable(row.name), FormatBytes(row.size_bytes));
  if (model.unfinished) return start + "unfinished: pull it again to go on, or rm it\n";
  if (!row.problem.empty()) return start + fmt::format("cannot be read: {}\n", Printable(row.problem));
  return start + fmt::format("{:>8} weights  {:<10} {}{}\n", ShortCount(row.weights), row.format, Printable(row.architecture),
                             model.folder ? ", folder" : "");
}

int List(FileSystem& files, const ListOptions& options) {
  std::string text;
  Json rows = Json::array();
  const auto models = ListStore(files, *MakeDisk(), ModelFolder());
  if (!models.ok()) return Fail(models.error());
  for (const StoredModel& model : *models) {
    const Row row = Describe(files, model);
    text += Line(row, model);
    rows.push_back({{"name", row.name},
                    {"bytes", row.size_bytes},
                    {"weights", row.weights},
                    {"format", row.format},
                    {"architecture", row.architecture},
                    {"folder", model.folder},
                    {"unfinished", model.unfinished},
                    {"problem", row.problem.empty() ? Json() : Json(row.problem)}});
  }
  if (rows.empty() && !options.json) {
    Note(fmt::format("no models in {}; bantam pull {} fetches the demo model\n", ModelFolder(), kDemoName));
  }
  return PrintResult(options.json ? DumpJson(rows, /*indent=*/2) + "\n" : text);
}

// What is in the model folder; nothing outside it is ever removed, and nothing at all where one of the names is unknown.
int RemoveAll(FileSystem& files, const std::vector<std::string>& names) {
  const std::unique_ptr<Disk> disk = MakeDisk();
  std::vector<StoredModel> models;
  int code = 0;
  for (const std::string& name : names) {
    Result<StoredModel> model = FindStored(files, *disk, ModelFolder(), name);
    if (!model.ok()) {
      const int unknown = Fail(model.error());
      if (code == 0) code = unknown;
      continue;
    }
    const bool twice = std::any_of(models.begin(), models.end(), [&](const StoredModel& other) { return other.name == model->name; });
    if (!twice) models.push_back(std::move(*model));
  }
  for (size_t i = 0; code == 0 && i < models.size(); ++i) {
    const StoredModel& model = models[i];
    const Status removed = RemoveStored(*disk, ModelFolder(), model);
    if (!removed.ok()) return Fail(removed.error());
    code = PrintResult(fmt::format("removed {} ({})\n", Printable(model.name), FormatBytes(model.size_bytes)));
  }
  return code;
}

}  // namespace

void AddListVerb(CLI::App& app, Action* action) {
  auto options = std::make_shared<ListOptions>();
  CLI::App* verb = app.add_subcommand("list", "models in the model folder");
  verb->add_flag("--json", options->json, "print JSON");
  verb->footer("Example: bantam list");
  verb->callback([=] { *action = [=](FileSystem& files) { return List(files, *options); }; });
}

void AddRmVerb(CLI::App& app, Action* action) {
  auto names = std::make_shared<std::vector<std::string>>();
  CLI::App* verb = app.add_subcommand("rm", "remove models from the model folder");
  verb->add_option("NAME", *names, "names as bantam list shows them, with or without .gguf or .bantam")->required();
  verb->footer("Example: bantam rm tinyllama-1.1b-chat-iq2_xxs");
  verb->callback([=] { *action = [=](FileSystem& files) { return RemoveAll(files, *names); }; });
}

}  // namespace bantam
