// From a model file of any format to a Bantam package (docs/formats/package.md), and back to GGUF.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/progress.h"
#include "base/result.h"
#include "base/threads.h"
#include "base/watched_files.h"
#include "formats/model_file.h"
#include "formats/package.h"

namespace bantam {

// A file that a model was read from, as provenance names it.
struct SourceFile {
  std::string name;  // without its folder
  uint64_t size_bytes = 0;
  Digest digest = {};
};

// The model's files, or those of its folder that may matter: weights, JSON, vocabulary, template, licence. Errors: those of
// FileSystem; Cancelled. It reads them once more: for digests of what is packed, `files` are those that the model was opened through.
Result<std::vector<SourceFile>> DigestSources(FileSystem& files, const ModelFile& file, const Progress& progress);

// Of a licence that is packed.
inline constexpr uint64_t kLicenceBytesMax = uint64_t{1} << 20;

// The licence text that lies in a model's folder, or what the file says its licence is; empty where neither does. Errors: those of
// FileSystem.
Result<std::string> FindLicence(FileSystem& files, const ModelFile& file);

struct PackOptions {
  std::string tool_version;
  std::vector<SourceFile> sources = {};
  std::string licence = {};       // empty: no such section
  bool source_vocabulary = true;  // kept for unpack
  // Beside blocks of IQ1, IQ2, IQ3, TQ and Q1_0 their panels too, which are made at each start otherwise.
  bool fast_start = false;
  std::string report = {};  // what was done to the model, as JSON; empty: nothing
  // What model and digests were read through: no package is made of files that changed meanwhile.
  const WatchedFiles* watched = nullptr;
};

struct PackReport {
  PackageManifest manifest;
  size_t tensors = 0;
  size_t tensors_in_panels = 0;
  // Tensors that products read but whose panels do not give back every bit: they stay as they are.
  std::vector<std::string> spelled_otherwise;
  std::string without_tokenizer;  // why there is none, where the file has a vocabulary that this build does not know
};

// Errors: those of OutlineModel and of the vocabulary (what cannot be run is not packed), InvalidArgument (no weights), those of
// FileSystem::Create and writing; Unavailable (a watched file that changed); Cancelled.
Result<PackReport> PackModel(FileSystem& files, ModelFile& file, const std::string& out, const PackOptions& options, ThreadPool& pool,
                             const Progress& progress);

// A package as the GGUF file that it was made of, or would have been: pairs in their order, tensors to the last bit. NotFound where the
// package was made without the source's vocabulary; InvalidArgument where that is larger than a GGUF header may be.
Status UnpackModel(FileSystem& files, const std::string& path, const std::string& out, const Progress& progress);

}  // namespace bantam
