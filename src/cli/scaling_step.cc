#include "cli/scaling_step.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "cli/terminal.h"
#include "compress/awq.h"
#include "compress/key_scales.h"
#include "compress/smooth.h"
#include "model/arch/registry.h"
#include "model/lowering.h"
#include "security/sha256.h"

namespace bantam {
namespace {

using Divisors = std::map<std::string, std::vector<float>, std::less<>>;

Divisors DivisorsOf(const ModelScales& scales) {
  Divisors divisors;
  for (const auto& [name, of] : scales) {
    if (!of.column_factors.empty()) divisors[name] = of.column_factors;
  }
  return divisors;
}

std::string DigestOf(const ModelScales& scales) {
  Sha256 hash;
  for (const auto& [name, of] : scales) {
    hash.Update(std::as_bytes(std::span(name)));
    for (const auto* values : {&of.row_divisors, &of.column_factors}) hash.Update(std::as_bytes(std::span(*values)));
  }
  return HexOf(hash.Finish());
}

class ScaledMaker {
 public:
  explicit ScaledMaker(const ScalingPlaces& places)
      : files_(places.files),
        disk_(places.disk),
        places_(places.places),
        arguments_(places.arguments),
        reader_(places.reader),
        pool_(places.pool) {}

  Result<ScalingStep> Run(const QuantizeOptions& options, const ScalingOptions& wanted) {
    BANTAM_TRY(FindScales(options, wanted));
    if (scales_.empty()) {
      BANTAM_ASSIGN(step_.report, Make(options, places_.made, keys_));
    } else {
      BANTAM_TRY(MakeBoth(options, wanted));
    }
    if (wanted.static_activations) BANTAM_TRY(TellSteps());
    return std::move(step_);
  }

 private:
  Status FindScales(const QuantizeOptions& options, const ScalingOptions& wanted) {
    BANTAM_ASSIGN(const Config config, ReadConfig(places_.file));
    BANTAM_ASSIGN(const Program program, Lower(config, places_.file.directory));
    if (wanted.even_keys) BANTAM_TRY(FindKeyScales(program));
    if (wanted.static_activations) {
      BANTAM_ASSIGN(ranges_, reader_.calibration->MeasureRanges());
    }
    switch (wanted.scaling) {
      case Scaling::kAbsent:
        return Ok();
      case Scaling::kSmooth: {
        BANTAM_ASSIGN(scales_, SmoothModel(places_.file, program, ranges_, wanted.smooth_alpha));
        step_.json["smooth"] = {{"alpha", wanted.smooth_alpha}};
        step_.text += fmt::format("  smoothed with alpha {}", wanted.smooth_alpha);
        return Ok();
      }
      case Scaling::kAwq: {
        BANTAM_ASSIGN(const QuantizeReport plan, PlanQuantize(places_.file, options));
        const AwqSetup setup = {places_.file,         program,          plan,  *options.importance,
                                *reader_.calibration, *options.kernels, pool_, options.gram_bytes_max};
        BANTAM_ASSIGN(const AwqReport found, SearchAwq(setup, reader_.progress));
        scales_ = found.scales;
        step_.json["awq"] = {{"points", found.points}, {"looked_at", found.looked_at}, {"predicted_error", found.error}};
        step_.text += fmt::format("  AWQ: {} of {} places scaled, predicted error of outputs x {:.3f}{}", found.points, found.looked_at,
                                  found.error, found.points == 0 ? "\n" : "");
        return Ok();
      }
    }
    return Ok();
  }

  Status FindKeyScales(const Program& program) {
    BANTAM_ASSIGN(EvenedKeys evened, EvenKeys(places_.file, program));
    keys_ = std::move(evened.scales);
    step_.json["even_keys"] = {{"layers", evened.layers}, {"looked_at", evened.looked_at}, {"predicted_error", evened.error}};
    step_.text += fmt::format("  keys: {} of {} layers scaled, predicted squared error of scores in few bits x {:.3f}\n", evened.layers,
                              evened.looked_at, evened.error);
    return Ok();
  }

  // Scales of activations and those of keys.
  ModelScales AllScales() const {
    ModelScales all = keys_;
    AddScales(scales_, &all);
    return all;
  }

  Result<QuantizeReport> Make(const QuantizeOptions& options, const std::string& path, const ModelScales& scales) {
    if (scales.empty()) return QuantizeModel(files_, disk_, places_.file, path, options, pool_, reader_.progress);
    BANTAM_ASSIGN(ModelFile scaled, ScaleModel(places_.file, scales));
    Importance importance;
    QuantizeOptions with = options;
    if (options.importance != nullptr) {
      importance = ScaleImportance(*options.importance, scales);
      with.importance = &importance;
    }
    with.identity += fmt::format("\nscaled {}", DigestOf(scales));
    if (reader_.calibration) reader_.calibration->Divide(DivisorsOf(scales));
    Result<QuantizeReport> made = QuantizeModel(files_, disk_, scaled, path, with, pool_, reader_.progress);
    if (reader_.calibration) reader_.calibration->Divide({});
    if (made.ok()) made->source_bytes = TensorBytes(places_.file);
    return made;
  }

  Status MakeBoth(const QuantizeOptions& options, const ScalingOptions& wanted) {
    if (!arguments_.compare) {
      step_.text += "; not compared\n";
      BANTAM_ASSIGN(step_.report, Make(options, places_.made, AllScales()));
      return Ok();
    }
    const std::string scaled_path = places_.made + ".scaled.gguf";
    const std::string plain_path = places_.made + ".plain.gguf";
    for (const std::string& path : {scaled_path, plain_path}) {
      if (!files_.Exists(path)) continue;
      return Error(Code::kInvalidArgument,
                   fmt::format("{}: it exists, and is where one of two models to compare would be made; move or remove it", path));
    }
    const Status made = ChooseOf(scaled_path, plain_path, options, wanted);
    // The one that was not chosen, or both where it failed, is of use to nobody.
    for (const std::string& path : {scaled_path, plain_path}) {
      if (const Status removed = disk_.RemoveTree(path); made.ok() && !removed.ok()) return removed;
    }
    return made;
  }

  Status ChooseOf(const std::string& scaled_path, const std::string& plain_path, const QuantizeOptions& options,
                  const ScalingOptions& wanted) {
    BANTAM_ASSIGN(QuantizeReport scaled, Make(options, scaled_path, AllScales()));
    BANTAM_ASSIGN(QuantizeReport plain, Make(options, plain_path, keys_));
    const bool fixed = wanted.static_activations;
    BANTAM_ASSIGN(const Measured plain_cost, Measure(plain_path, fixed ? StepsOf(ranges_, {}) : StaticSteps()));
    BANTAM_ASSIGN(const Measured scaled_cost, Measure(scaled_path, fixed ? StepsOf(ranges_, scales_) : StaticSteps()));
    const double without = plain_cost.divergence;
    const double with = scaled_cost.divergence;
    // Not smaller, or no number.
    const bool undone = !(with < without);
    Json& told = step_.json[wanted.scaling == Scaling::kAwq ? "awq" : "smooth"];
    const auto number = [](double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); };
    told["kl_divergence"] = number(with);
    told["kl_divergence_without"] = number(without);
    told["undone"] = undone;
    step_.text += fmt::format("; mean KL divergence {}{:.5f}, without {:.5f}: {}\n", fixed ? "with fixed steps " : "", with, without,
                              undone ? "undone" : "kept");
    BANTAM_TRY(disk_.Rename(undone ? plain_path : scaled_path, places_.made));
    step_.report = std::move(undone ? plain : scaled);
    if (undone) scales_.clear();
    return Ok();
  }

  struct Measured {
    double divergence = 0;
    size_t rounded_products = 0;
  };
  Result<Measured> Measure(const std::string& path, const StaticSteps& steps) {
    BANTAM_ASSIGN(WindowModel candidate, LoadRoundedModel(files_, path, arguments_.run, steps));
    const auto pair = MeasurePair(*reader_.model, candidate, reader_.text, arguments_.windows);
    if (Interrupted()) return Error(Code::kCancelled, "the comparison was interrupted");
    // Logits that are no numbers are worse than any others.
    const bool no_numbers = !pair.ok() && pair.error().code() == Code::kCorrupt;
    if (!pair.ok() && !no_numbers) return pair.error();
    const double divergence = no_numbers ? std::numeric_limits<double>::infinity() : pair->comparison.divergence.value;
    return Measured{divergence, candidate.rounded_products};
  }

  // The steps of the model that stays, and what they cost it.
  Status TellSteps() {
    const StaticSteps steps = StepsOf(ranges_, scales_);
    Json list = Json::object();
    for (const auto& [name, step] : steps) list[name] = step;
    step_.json["static_activations"] = {{"bits", 8}, {"steps", list}};
    if (!arguments_.compare) return Ok();
    BANTAM_ASSIGN(const Measured measured, Measure(places_.made, steps));
    step_.json["static_activations"]["rounded_products"] = measured.rounded_products;
    if (measured.rounded_products == 0) {
      step_.text += fmt::format(
          "  steps for the activations of {} products; kernels here round none for these weights, so what they cost is "
          "not known\n",
          steps.size());
      return Ok();
    }
    step_.json["static_activations"]["kl_divergence"] = measured.divergence;
    step_.text += fmt::format("  activations in 8 bits by fixed steps ({} of {} products): mean KL divergence {:.5f}\n",
                              measured.rounded_products, steps.size(), measured.divergence);
    return Ok();
  }

  FileSystem& files_;
  Disk& disk_;
  CompressPlaces& places_;
  const CompressArguments& arguments_;
  CompressReader& reader_;
  ThreadPool& pool_;
  Calibrator::Ranges ranges_;
  ModelScales scales_;  // of activations
  ModelScales keys_;
  ScalingStep step_;
};

}  // namespace

Result<ScalingStep> QuantizeWithScaling(const ScalingPlaces& places, const QuantizeOptions& options, const ScalingOptions& scaling) {
  return ScaledMaker(places).Run(options, scaling);
}

}  // namespace bantam
