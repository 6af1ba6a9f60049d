#include "cli/package_text.h"

#include <fmt/format.h>

#include "base/memory_budget.h"

namespace bantam {

std::string PackageText(const PackageManifest& manifest) {
  std::string text = fmt::format("  digest {}\n", HexOf(manifest.digest));
  for (const PackageSection& section : manifest.sections) {
    text += fmt::format("  {:<18} {:>14} bytes  {:>9}  {:<8}  {}\n", SectionName(section.kind), section.size_bytes,
                        FormatBytes(section.size_bytes), section.critical ? "critical" : "", HexOf(section.root).substr(0, 16));
  }
  return text;
}

Json PackageJson(const PackageManifest& manifest) {
  Json sections = Json::array();
  for (const PackageSection& section : manifest.sections) {
    sections.push_back({{"kind", section.kind},
                        {"name", SectionName(section.kind)},
                        {"critical", section.critical},
                        {"offset", section.offset_bytes},
                        {"bytes", section.size_bytes},
                        {"root", HexOf(section.root)}});
  }
  return {{"digest", HexOf(manifest.digest)}, {"bytes", manifest.file_bytes}, {"sections", sections}};
}

}  // namespace bantam
