// A hostile package: as it comes, and with digests that fit, so that what is behind them is reached: lists, vocabulary, panels, two tokens.
#include <algorithm>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "formats/package.h"
#include "formats/package_layout.h"
#include "run_model.h"
#include "security/merkle.h"

namespace bantam {
namespace {

// The sections that lie within the file, laid out again under a manifest that fits them: whatever was inserted or lost.
std::string Seal(const std::string& file) {
  constexpr size_t kCountAt = 24;
  constexpr size_t kFlagsAt = 4;
  constexpr size_t kOffsetAt = 8;
  constexpr size_t kSizeAt = 16;
  PackageManifest manifest;
  std::vector<std::string> sections;
  std::string leaves;
  const uint32_t count = file.size() < kPackageHeaderBytes ? 0 : LoadUnaligned<uint32_t>(file.data() + kCountAt);
  for (uint32_t i = 0; i < std::min(count, kPackageSectionsMax); ++i) {
    const size_t at = kPackageHeaderBytes + i * kPackageEntryBytes;
    if (at + kPackageEntryBytes > file.size()) break;
    PackageSection section;
    section.kind = LoadUnaligned<uint32_t>(file.data() + at);
    section.critical = (LoadUnaligned<uint32_t>(file.data() + at + kFlagsAt) & 1) != 0;
    const auto offset = LoadUnaligned<uint64_t>(file.data() + at + kOffsetAt);
    section.size_bytes = LoadUnaligned<uint64_t>(file.data() + at + kSizeAt);
    if (offset >= file.size()) break;
    section.size_bytes = std::clamp<uint64_t>(section.size_bytes, 1, file.size() - offset);
    sections.push_back(file.substr(offset, section.size_bytes));
    if (section.kind != static_cast<uint32_t>(SectionKind::kSignatures)) {
      ChunkHasher hasher(kPackageChunkBytes);
      hasher.Update(std::as_bytes(std::span(sections.back())));
      const std::vector<Digest> own = hasher.Finish();
      section.root = MerkleRoot(own);
      leaves += AsText(std::as_bytes(std::span(own)));
    }
    manifest.sections.push_back(section);
  }
  if (sections.empty()) return file;
  std::string sealed = EncodeManifest(&manifest) + leaves;
  for (size_t i = 0; i < sections.size(); ++i) {
    sealed.resize(manifest.sections[i].offset_bytes);
    sealed += sections[i];
  }
  return sealed;
}

void Run(std::string_view bytes) {
  MemoryFiles files(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  auto file = OpenPackage(files, "input.bantam", {.source_vocabulary = bytes.size() % 2 == 0});
  (void)ReadPackageTexts(files, "input.bantam").ok();
  if (file.ok()) RunModel(*file, bytes.size());
}

}  // namespace
}  // namespace bantam

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  bantam::Run(bytes);
  bantam::Run(bantam::Seal(bytes));
  return 0;
}
