// Bantam packages: one file with all that running a model takes, checked part by part as it is read (docs/formats/package.md).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/progress.h"
#include "base/result.h"
#include "base/threads.h"
#include "formats/model_file.h"
#include "security/sha256.h"

namespace bantam {

enum class SectionKind : uint32_t {
  kConfig = 1,
  kTemplates = 2,
  kTokenizer = 3,
  kTensors = 4,
  kWeights = 5,
  kSourceVocabulary = 6,
  kHints = 7,
  kProvenance = 8,
  kLicence = 9,
  kSignatures = 16,
  kEncryption = 17,
  kPolicy = 18,
};
// "weights"; of numbers that are not in the list the number.
std::string SectionName(uint32_t kind);

struct PackageSection {
  uint32_t kind = 0;  // SectionKind, or one that is not known here
  bool critical = false;
  uint64_t offset_bytes = 0;
  uint64_t size_bytes = 0;
  Digest root = {};
};

struct PackageManifest {
  uint64_t file_bytes = 0;
  Digest digest = {};  // names the package
  std::vector<PackageSection> sections;
};

struct PackageOptions {
  // With the pairs of the vocabulary as the source had it, where the package has them: for whoever makes another file of it.
  bool source_vocabulary = false;
};

// Whether the file begins as a package does. False where it cannot be read.
bool IsPackage(FileSystem& files, const std::string& path);

// Errors: those of FileSystem::Map; Unsupported (not a package, newer, or encrypted), Corrupt (which section and what is wrong with it).
Result<ModelFile> OpenPackage(FileSystem& files, const std::string& path, const PackageOptions& options = {});

// The manifest, and sections that are texts for people and tools: hints, provenance and licence, empty where absent.
struct PackageTexts {
  PackageManifest manifest;
  std::string hints;
  std::string provenance;
  std::string licence;
};
Result<PackageTexts> ReadPackageTexts(FileSystem& files, const std::string& path);

// Every byte of the file but those of signatures: all chunks of all sections, and the zeros in between. Errors as above; Cancelled
// (progress).
Result<PackageManifest> VerifyPackage(FileSystem& files, const std::string& path, ThreadPool& pool, const Progress& progress);

}  // namespace bantam
