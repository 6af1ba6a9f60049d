// A hostile package: as it comes, and with digests that fit, so that what is behind them is reached: lists, vocabulary, panels, two tokens.
#include <cstring>
#include <string>

#include "base/bytes.h"
#include "formats/package.h"
#include "formats/package_layout.h"
#include "run_model.h"
#include "security/merkle.h"

namespace bantam {
namespace {

// Leaves and roots of the sections that lie within the file, and the digest.
void Seal(std::string* file) {
  constexpr size_t kCountAt = 24;
  constexpr size_t kOffsetAt = 8;
  constexpr size_t kSizeAt = 16;
  constexpr size_t kRootAt = 32;
  if (file->size() < kPackageHeaderBytes) return;
  const uint64_t length = file->size();
  std::memcpy(file->data() + kSizeAt, &length, sizeof(length));
  const auto count = LoadUnaligned<uint32_t>(file->data() + kCountAt);
  const uint64_t table_end = kPackageHeaderBytes + uint64_t{count} * kPackageEntryBytes;
  if (count > kPackageSectionsMax || table_end > file->size()) return;
  uint64_t leaves_at = table_end;
  for (uint32_t i = 0; i < count; ++i) {
    char* entry = file->data() + kPackageHeaderBytes + i * kPackageEntryBytes;
    const auto offset = LoadUnaligned<uint64_t>(entry + kOffsetAt);
    const auto size = LoadUnaligned<uint64_t>(entry + kSizeAt);
    if (size == 0 || size > length || offset > length - size) break;
    ChunkHasher hasher(kPackageChunkBytes);
    hasher.Update(std::as_bytes(std::span(*file)).subspan(offset, size));
    const std::vector<Digest> leaves = hasher.Finish();
    const Digest root = MerkleRoot(leaves);
    std::memcpy(entry + kRootAt, root.data(), root.size());
    const uint64_t bytes = leaves.size() * kDigestBytes;
    if (bytes > length - leaves_at) break;
    std::memcpy(file->data() + leaves_at, leaves.data(), bytes);
    leaves_at += bytes;
  }
  const std::string covered = file->substr(0, kPackageDigestAt) + file->substr(kPackageHeaderBytes, table_end - kPackageHeaderBytes);
  const Digest digest = Sha256Of(std::as_bytes(std::span(covered)));
  std::memcpy(file->data() + kPackageDigestAt, digest.data(), digest.size());
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
  std::string bytes(reinterpret_cast<const char*>(data), size);
  bantam::Run(bytes);
  bantam::Seal(&bytes);
  bantam::Run(bytes);
  return 0;
}
