// Whether keys and values of few bits cost a model more than they may: measured once, and kept beside the model as MODEL.kv.json.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/memory_budget.h"
#include "base/progress.h"
#include "base/result.h"
#include "formats/model_file.h"
#include "model/load.h"
#include "program/kv_layout.h"
#include "security/sha256.h"
#include "text/tokenizer.h"

namespace bantam {

// Above this mean Kullback-Leibler divergence (in nats) from what the model says with f16, the next better type is taken.
inline constexpr double kKvDivergenceMax = 0.01;

// What was measured so far, by type.
using KvDivergences = std::map<KvType, double>;
struct KvChecks {
  Digest model = {};                                  // DigestModel
  std::optional<Digest> files = {};                   // NameFiles, of the files that it was last seen in
  std::map<std::string, KvDivergences> by_rope = {};  // KvRopeName
};
// How positions are stretched, as they are for these figures; empty: as the model has it.
std::string KvRopeName(const RopeOverride& rope);

std::string KvChecksPath(const std::string& model_path);
// What is kept beside the model, whichever model it is of; nothing where what stands there is no such file.
std::optional<KvChecks> ReadKvChecks(FileSystem& files, const std::string& model_path);
// Figures of so many ways to stretch positions are kept; of more, those of `rope` and some others.
inline constexpr size_t kKvRopesMax = 16;
Status WriteKvChecks(FileSystem& files, const std::string& model_path, KvChecks checks, const std::string& rope);
// What is known of this model. Its weights are read only where it is not known by its files; then these are its files from now on, and that
// is written down. Errors: those of DigestModel.
struct KnownModel {
  const ModelFile& file;
  int64_t now_ns;  // since 1970
};
Result<KvChecks> FindKvChecks(FileSystem& files, const KnownModel& model, const Progress& progress);

// The best known type that does not lose more than it may, from `wanted` on; where none is known, the first that is to be measured.
struct KvChoice {
  KvType type;
  bool known;
};
KvChoice ChooseKvType(const KvDivergences& known, KvType wanted);
// What is told where another type than `wanted` is taken.
std::string KvFallbackNote(const KvDivergences& known, KvType wanted, KvType taken);

// A short text as the model reads it: at least as many tokens as are measured.
Result<std::vector<uint32_t>> KvCheckTokens(const Tokenizer& tokenizer, const Program& program);
// Models of a handful of tokens have no windows to compare.
bool CanCheckKv(const Program& program);
// Mean divergence over the second halves of up to three windows of 128 tokens; a large number where logits are none. `stop` is asked again
// and again, and told whether one window is done. Errors: those of Compare, Cancelled where it was stopped before, and of the budget.
Result<double> MeasureKvType(const Model& model, KvType type, std::span<const uint32_t> tokens, const Resources& resources,
                             const std::function<bool(bool one)>& stop);

}  // namespace bantam
