// bantam low-rank: a model whose matrices are products of two smaller ones, and what that cost (docs/compression.md).
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <string>

#include "base/json.h"
#include "base/watched_files.h"
#include "cli/compressing.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "compress/low_rank_model.h"

namespace bantam {
namespace {

struct Arguments : CompressArguments {
  std::string keep;
  std::string loss;
};

// "2.5%" or "2.5", as a part of 1.
Result<double> ReadPart(std::string_view text, std::string_view option, std::string_view what) {
  double percent = 0;
  const std::string_view digits = text.ends_with('%') ? text.substr(0, text.size() - 1) : text;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), percent);
  if (error == std::errc() && end == digits.data() + digits.size() && percent > 0 && percent < 100) return percent / 100;
  return Error(Code::kInvalidArgument, fmt::format("{} {}: expected a percentage above 0 and below 100 {}", option, text, what));
}

Result<LowRankOptions> ReadOptions(const Arguments& arguments) {
  if (arguments.keep.empty() == arguments.loss.empty()) {
    return Error(Code::kInvalidArgument, "expected one of --keep and --loss, such as --keep 90%");
  }
  if (arguments.calibrate.empty()) {
    return Error(Code::kInvalidArgument, "--calibrate: expected a text like those that the model will read: what goes is chosen by it");
  }
  LowRankOptions options;
  if (!arguments.keep.empty()) {
    BANTAM_ASSIGN(options.keep, ReadPart(arguments.keep, "--keep", "that stays"));
  } else {
    BANTAM_ASSIGN(options.loss_max, ReadPart(arguments.loss, "--loss", "that each matrix may lose"));
  }
  return options;
}

struct Sums {
  size_t changed = 0;
  size_t kept = 0;  // weights
  size_t all = 0;
  size_t rank_min = SIZE_MAX;
  size_t rank_max = 0;
  double loss_max = 0;
};
Sums SumsOf(const std::vector<LowRankMatrix>& matrices) {
  Sums sums;
  for (const LowRankMatrix& matrix : matrices) {
    const size_t whole = matrix.rows * matrix.columns;
    sums.all += whole;
    sums.kept += matrix.rank == 0 ? whole : matrix.rank * (matrix.rows + matrix.columns);
    if (matrix.rank == 0) continue;
    ++sums.changed;
    sums.rank_min = std::min(sums.rank_min, matrix.rank);
    sums.rank_max = std::max(sums.rank_max, matrix.rank);
    sums.loss_max = std::max(sums.loss_max, matrix.loss);
  }
  return sums;
}

Json MatricesJson(const std::vector<LowRankMatrix>& matrices) {
  Json list = Json::array();
  for (const LowRankMatrix& matrix : matrices) {
    Json json = {{"name", matrix.name}, {"rows", matrix.rows}, {"columns", matrix.columns}};
    json["rank"] = matrix.rank == 0 ? Json(nullptr) : Json(matrix.rank);
    json["loss"] = matrix.loss;
    list.push_back(std::move(json));
  }
  return list;
}

std::string MadeText(const Arguments& arguments, const Sums& sums, const std::vector<LowRankMatrix>& matrices,
                     const QuantizeReport& report) {
  std::string text =
      fmt::format("{}: {} of {} matrices in layers are products of two, weights of {} instead of {}\n", Printable(arguments.out),
                  sums.changed, matrices.size(), FormatBytes(report.bytes), FormatBytes(report.source_bytes));
  text +=
      fmt::format("  {:.1f} % of the weights in layers are kept, ranks {} to {}; a matrix loses {:.2f} % of what it gives at most\n",
                  100 * static_cast<double>(sums.kept) / static_cast<double>(sums.all), sums.rank_min, sums.rank_max, 100 * sums.loss_max);
  if (report.resumed_bytes > 0) text += fmt::format("  {} were there from an earlier call\n", FormatBytes(report.resumed_bytes));
  return text + "  only Bantam reads such files\n";
}

Result<std::string> LowRank(FileSystem& files, const Arguments& arguments) {
  BANTAM_ASSIGN(LowRankOptions options, ReadOptions(arguments));
  WatchedFiles watched(files);
  BANTAM_ASSIGN(CompressPlaces places, OpenCompressPlaces(files, watched, arguments, /*inputs=*/{}));
  const auto disk = MakeDisk();
  BANTAM_TRY(CheckRoomFor(*disk, places, TensorBytes(places.file)));
  CompressReader reader;
  BANTAM_TRY(LoadSource(files, places, arguments, &reader));
  BANTAM_TRY(ReserveWork(LowRankWork(places.file, *reader.calibration), &reader));
  BANTAM_TRY(MeasureSource(files, arguments, &reader));
  BANTAM_ASSIGN(Json described, DescribeInputs(watched, places.file, arguments, reader.progress));
  described["low_rank"] = {{"keep", arguments.keep}, {"loss", arguments.loss}};
  ThreadPool& pool = *reader.model->loaded.pool;
  options.calibrator = &*reader.calibration;
  BANTAM_ASSIGN(options.kernels, ChooseKernels("auto"));
  options.pool = &pool;
  options.gram_bytes_max = ReserveGrams(&reader, options.gram_bytes_max);
  options.progress = reader.progress;
  BANTAM_ASSIGN(LowRankModel made, MakeLowRank(places.file, options));
  BANTAM_ASSIGN(const QuantizeReport report,
                WriteMade({files, *disk, places, watched}, {made.file, made.formats, made.selection, described}, pool, reader.progress));
  const Sums sums = SumsOf(made.matrices);
  Json json = {{"version", 1},
               {"path", arguments.out},
               {"matrices", MatricesJson(made.matrices)},
               {"kept", static_cast<double>(sums.kept) / static_cast<double>(sums.all)},
               {"weights_bytes", report.bytes},
               {"source_weights_bytes", report.source_bytes},
               {"resumed_bytes", report.resumed_bytes},
               {"inputs", described}};
  std::vector<std::pair<std::string, double>> losses;
  for (const LowRankMatrix& matrix : made.matrices) losses.emplace_back(matrix.name, matrix.loss);
  reader.charts.push_back(ChartOfTensors("Matrices: predicted squared error of what each gives, by layer", losses));
  BANTAM_ASSIGN(const std::string cost, FinishCompression(files, places, arguments, &reader, pool, &json));
  if (arguments.json) return DumpJson(json, /*indent=*/2) + "\n";
  return MadeText(arguments, sums, made.matrices, report) + cost + SpeedText(json, /*never_pays=*/"");
}

}  // namespace

void AddLowRankVerb(CLI::App& app, Action* action) {
  auto arguments = std::make_shared<Arguments>();
  arguments->importance = false;
  arguments->draws_errors = true;
  CLI::App* verb = app.add_subcommand("low-rank", "a model whose matrices are products of two smaller ones, and what that cost");
  AddCompressOptions(*verb, arguments.get(), "a text like those that the model will read: what goes is what does least on it");
  verb->add_option("--keep", arguments->keep, "percentage of the weights in layers that stays; each matrix keeps what loses least");
  verb->add_option("--loss", arguments->loss, "instead: what each matrix may lose, as a percentage of what it gives");
  verb->footer("Example: bantam low-rank model.gguf smaller.gguf --keep 90% --calibrate text.txt --text other.txt");
  verb->callback([=] { *action = [=](FileSystem& files) { return RunCompression([&] { return LowRank(files, *arguments); }); }; });
}

}  // namespace bantam
