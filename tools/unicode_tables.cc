// Prints the tables of src/text/unicode.cc or normal_form.cc as C++, from Debian's unicode-data. Runs at build time.
//
//   unicode_tables FOLDER properties|normal_forms FILE
//
// FOLDER holds UnicodeData.txt, SpecialCasing.txt, PropList.txt, Scripts.txt and DerivedNormalizationProps.txt of one version of
// the Unicode character database (UAX #44).
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace {

constexpr uint32_t kCodePoints = 0x110000;
constexpr uint32_t kBlock = 128;
// In the order of bantam::Category.
constexpr std::string_view kCategories[] = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe",
                                            "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"};
constexpr uint8_t kUnassigned = 29;
constexpr uint8_t kWhiteSpaceBit = 32;
constexpr uint8_t kHanBit = 64;

std::FILE* out = nullptr;

struct Decomposition {
  bool compatible = false;
  std::vector<uint32_t> to;
};

struct Database {
  std::vector<uint8_t> properties = std::vector<uint8_t>(kCodePoints, kUnassigned);
  std::map<uint32_t, uint32_t> upper;
  std::map<uint32_t, uint32_t> lower;
  std::map<uint32_t, uint32_t> title;
  std::map<uint32_t, std::vector<uint32_t>> full_upper;
  std::map<uint32_t, std::vector<uint32_t>> full_lower;
  std::map<uint32_t, std::vector<uint32_t>> full_title;
  std::map<uint32_t, uint8_t> combining;
  std::map<uint32_t, Decomposition> decompositions;
  std::set<uint32_t> not_composed;
};

[[noreturn]] void Fail(const std::string& message) {
  std::fprintf(stderr, "unicode_tables: %s; install the package unicode-data\n", message.c_str());
  std::exit(1);
}

uint32_t Hex(std::string_view text) {
  uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (error != std::errc() || end != text.data() + text.size() || value >= kCodePoints) Fail("not a code point: " + std::string(text));
  return value;
}

std::string_view Trim(std::string_view text) {
  while (text.starts_with(' ')) text.remove_prefix(1);
  while (text.ends_with(' ')) text.remove_suffix(1);
  return text;
}

std::vector<uint32_t> HexList(std::string_view text) {
  std::vector<uint32_t> values;
  for (text = Trim(text); !text.empty(); text = Trim(text)) {
    const size_t end = std::min(text.find(' '), text.size());
    values.push_back(Hex(text.substr(0, end)));
    text.remove_prefix(end);
  }
  return values;
}

// The fields of each line, without comments.
std::vector<std::vector<std::string>> ReadFields(const std::string& path) {
  std::ifstream file(path);
  if (!file) Fail("cannot read " + path);
  std::vector<std::vector<std::string>> lines;
  for (std::string line; std::getline(file, line);) {
    line.resize(std::min(line.find('#'), line.size()));
    if (Trim(line).empty()) continue;
    std::vector<std::string> fields;
    std::string_view rest = line;
    for (;;) {
      const size_t end = std::min(rest.find(';'), rest.size());
      fields.emplace_back(Trim(rest.substr(0, end)));
      if (end == rest.size()) break;
      rest.remove_prefix(end + 1);
    }
    lines.push_back(std::move(fields));
  }
  return lines;
}

void ReadUnicodeData(const std::string& folder, Database* data) {
  uint32_t first = 0;
  for (const auto& fields : ReadFields(folder + "/UnicodeData.txt")) {
    if (fields.size() != 15) Fail("UnicodeData.txt: a line without 15 fields");
    const uint32_t code = Hex(fields[0]);
    const auto* category = std::find(std::begin(kCategories), std::end(kCategories), fields[2]);
    if (category == std::end(kCategories)) Fail("UnicodeData.txt: unknown category " + fields[2]);
    if (!fields[1].ends_with(", Last>")) first = code;
    for (uint32_t at = first; at <= code; ++at) data->properties[at] = static_cast<uint8_t>(category - std::begin(kCategories));
    if (fields[3] != "0") data->combining[code] = static_cast<uint8_t>(std::stoi(fields[3]));
    if (!fields[5].empty()) {
      const bool compatible = fields[5].starts_with('<');
      data->decompositions[code] = {compatible, HexList(compatible ? fields[5].substr(fields[5].find('>') + 1) : fields[5])};
    }
    if (!fields[12].empty()) data->upper[code] = Hex(fields[12]);
    if (!fields[13].empty()) data->lower[code] = Hex(fields[13]);
    if (!fields[14].empty()) data->title[code] = Hex(fields[14]);
  }
}

void ReadSpecialCasing(const std::string& folder, Database* data) {
  for (const auto& fields : ReadFields(folder + "/SpecialCasing.txt")) {
    if (fields.size() > 4 && !fields[4].empty()) continue;  // depends on a language or the neighbours
    const uint32_t code = Hex(fields[0]);
    const auto add = [&](const std::string& field, std::map<uint32_t, std::vector<uint32_t>>* map) {
      const auto to = HexList(field);
      if (to.size() > 1) (*map)[code] = to;
    };
    add(fields[1], &data->full_lower);
    add(fields[2], &data->full_title);
    add(fields[3], &data->full_upper);
  }
}

// Calls `use` for each code point of `property` in a file of ranges.
template <typename Use>
void ReadRanges(const std::string& path, std::string_view property, Use use) {
  for (const auto& fields : ReadFields(path)) {
    if (fields.size() < 2 || fields[1] != property) continue;
    const size_t dots = fields[0].find("..");
    const uint32_t first = Hex(fields[0].substr(0, dots));
    const uint32_t last = dots == std::string::npos ? first : Hex(fields[0].substr(dots + 2));
    for (uint32_t code = first; code <= last; ++code) use(code);
  }
}

template <typename List>
void PrintList(const char* type, const char* name, const List& values) {
  std::fprintf(out, "constexpr %s %s[] = {", type, name);
  size_t column = 0;
  for (const auto value : values) std::fprintf(out, "%s%u,", column++ % 24 == 0 ? "\n  " : "", static_cast<unsigned>(value));
  std::fprintf(out, "\n};\n");
}

void PrintProperties(const Database& data) {
  std::map<std::string, uint32_t> seen;  // blocks as bytes
  std::vector<uint32_t> index;
  std::vector<uint8_t> blocks;
  for (uint32_t begin = 0; begin < kCodePoints; begin += kBlock) {
    const std::string block(data.properties.begin() + begin, data.properties.begin() + begin + kBlock);
    const auto [place, added] = seen.emplace(block, static_cast<uint32_t>(seen.size()));
    if (added) blocks.insert(blocks.end(), block.begin(), block.end());
    index.push_back(place->second);
  }
  std::fprintf(out, "constexpr uint32_t kPropertyBlock = %u;\n", kBlock);
  PrintList("uint16_t", "kPropertyIndex", index);
  PrintList("uint8_t", "kPropertyBlocks", blocks);
}

void PrintPairs(const char* name, const std::map<uint32_t, uint32_t>& map) {
  std::fprintf(out, "constexpr CodePair %s[] = {\n", name);
  for (const auto& [from, to] : map) std::fprintf(out, "  {%u, %u},\n", from, to);
  std::fprintf(out, "};\n");
}

void PrintFull(const char* name, const std::map<uint32_t, std::vector<uint32_t>>& map) {
  std::fprintf(out, "constexpr FullCase %s[] = {\n", name);
  for (const auto& [from, to] : map) {
    std::fprintf(out, "  {%u, {%u, %u, %u}},\n", from, to[0], to[1], to.size() > 2 ? to[2] : 0);
  }
  std::fprintf(out, "};\n");
}

void Expand(const Database& data, uint32_t code, bool compatible, std::vector<uint32_t>* to) {
  const auto found = data.decompositions.find(code);
  if (found == data.decompositions.end() || (found->second.compatible && !compatible)) {
    to->push_back(code);
    return;
  }
  for (const uint32_t part : found->second.to) Expand(data, part, compatible, to);
}

void PrintDecompositions(const Database& data, const char* name, bool compatible) {
  std::vector<uint32_t> pool;
  std::fprintf(out, "constexpr Decomposition %s[] = {\n", name);
  for (const auto& [code, decomposition] : data.decompositions) {
    std::vector<uint32_t> to;
    Expand(data, code, compatible, &to);
    if (to.size() == 1 && to[0] == code) continue;
    std::fprintf(out, "  {%u, %zu, %zu},\n", code, pool.size(), to.size());
    pool.insert(pool.end(), to.begin(), to.end());
  }
  std::fprintf(out, "};\n");
  PrintList("uint32_t", (std::string(name) + "Pool").c_str(), pool);
}

void PrintCompositions(const Database& data) {
  std::map<std::pair<uint32_t, uint32_t>, uint32_t> pairs;
  for (const auto& [code, decomposition] : data.decompositions) {
    if (decomposition.compatible || decomposition.to.size() != 2 || data.not_composed.contains(code)) continue;
    pairs[{decomposition.to[0], decomposition.to[1]}] = code;
  }
  std::fprintf(out, "constexpr Composition kCompositions[] = {\n");
  for (const auto& [pair, code] : pairs) std::fprintf(out, "  {%u, %u, %u},\n", pair.first, pair.second, code);
  std::fprintf(out, "};\n");
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view part = argc == 4 ? argv[2] : "";
  if (part != "properties" && part != "normal_forms") Fail("expected FOLDER properties|normal_forms FILE");
  out = std::fopen(argv[3], "w");
  if (out == nullptr) Fail(std::string("cannot write ") + argv[3]);
  const std::string folder = argv[1];
  Database data;
  ReadUnicodeData(folder, &data);
  if (part == "properties") {
    ReadSpecialCasing(folder, &data);
    ReadRanges(folder + "/PropList.txt", "White_Space", [&](uint32_t code) { data.properties[code] |= kWhiteSpaceBit; });
    ReadRanges(folder + "/Scripts.txt", "Han", [&](uint32_t code) { data.properties[code] |= kHanBit; });
    PrintProperties(data);
    PrintPairs("kUpper", data.upper);
    PrintPairs("kLower", data.lower);
    PrintPairs("kTitle", data.title);
    PrintFull("kFullUpper", data.full_upper);
    PrintFull("kFullLower", data.full_lower);
    PrintFull("kFullTitle", data.full_title);
  } else {
    ReadRanges(folder + "/DerivedNormalizationProps.txt", "Full_Composition_Exclusion",
               [&](uint32_t code) { data.not_composed.insert(code); });
    PrintPairs("kCombiningClasses", {data.combining.begin(), data.combining.end()});
    PrintDecompositions(data, "kCanonical", /*compatible=*/false);
    PrintDecompositions(data, "kCompatible", /*compatible=*/true);
    PrintCompositions(data);
  }
  if (std::ferror(out) != 0 || std::fclose(out) != 0) Fail(std::string("cannot write ") + argv[3]);
  return 0;
}
