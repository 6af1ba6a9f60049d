// The style guide as a test: layers, banned calls, sizes, dead files, and what kernel files may contain.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

const fs::path kRoot = BANTAM_ROOT;

std::string ReadAll(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

struct Source {
  fs::path path;
  std::string name;  // relative to the root
  std::vector<std::string> lines;
  bool is_test;
};

std::vector<Source> Sources(const std::vector<std::string>& folders) {
  std::vector<Source> sources;
  for (const std::string& folder : folders) {
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / folder)) {
      const std::string extension = entry.path().extension();
      if (extension != ".cc" && extension != ".h") continue;
      const std::string name = fs::relative(entry.path(), kRoot);
      const bool is_test = name.starts_with("tests/") || name.ends_with("_test.cc");
      sources.push_back({entry.path(), name, Lines(ReadAll(entry.path())), is_test});
    }
  }
  return sources;
}

// A line without its comment and string literals.
std::string Code(const std::string& line) {
  static const std::regex strings(R"("([^"\\]|\\.)*"|'([^'\\]|\\.)')");
  const std::string bare = std::regex_replace(line, strings, "\"\"");
  return bare.substr(0, bare.find("//"));
}

// layers.txt: LEVEL MODULE per line.
std::map<std::string, int> Layers() {
  std::map<std::string, int> layers;
  for (const std::string& line : Lines(ReadAll(kRoot / "layers.txt"))) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream words(line);
    int level = 0;
    std::string module;
    words >> level >> module;
    layers[module] = level;
  }
  return layers;
}

std::vector<std::string> Includes(const Source& source) {
  static const std::regex include("^\\s*#\\s*include\\s+\"([^\"]+)\"");
  std::vector<std::string> includes;
  std::smatch match;
  for (const std::string& line : source.lines) {
    if (std::regex_search(line, match, include)) includes.push_back(match[1]);
  }
  return includes;
}

TEST(Tidy, ModulesIncludeOnlyLowerLevels) {
  const auto layers = Layers();
  for (const auto& entry : fs::directory_iterator(kRoot / "src")) {
    if (entry.is_directory()) {
      EXPECT_TRUE(layers.contains(entry.path().filename())) << entry.path() << " is not in layers.txt";
    }
  }
  for (const auto& [module, level] : layers) EXPECT_TRUE(fs::is_directory(kRoot / "src" / module)) << "layers.txt names " << module;
  for (const Source& source : Sources({"src"})) {
    const std::string module = source.name.substr(4, source.name.find('/', 4) - 4);
    for (const std::string& include : Includes(source)) {
      const std::string other = include.substr(0, include.find('/'));
      if (other == module) continue;
      if (source.is_test && other == "testing") continue;
      ASSERT_TRUE(layers.contains(other)) << source.name << " includes " << include;
      // A test may build what it tests with modules from above.
      if (!source.is_test) {
        EXPECT_LT(layers.at(other), layers.at(module)) << source.name << " includes " << include;
      }
    }
  }
}

TEST(Tidy, BannedCalls) {
  static const std::regex banned(
      R"(\b(atoi|atol|atoll|atof|strto[a-z]+|sto(i|l|ll|ul|ull|f|d|ld)|assert|rand|srand|sprintf|strcpy|strcat|gets)\s*\()");
  static const std::regex exceptions(R"(\b(throw|try|catch)\b)");
  static const std::regex output(R"(\b(std::cout|std::cerr|printf\s*\(|puts\s*\())");
  for (const Source& source : Sources({"src", "bench", "fuzz"})) {
    if (source.is_test) continue;
    for (size_t i = 0; i < source.lines.size(); ++i) {
      const std::string code = Code(source.lines[i]);
      const std::string where = fmt::format("{}:{}: {}", source.name, i + 1, source.lines[i]);
      EXPECT_FALSE(std::regex_search(code, banned)) << where;
      // Exceptions of third-party code end in the outermost frames, of the program, the C library and its thread, and in the adapter whose
      // library has no other way.
      static const std::set<std::string> frames = {
          "src/cli/main.cc",           "src/engine/engine_thread.cc",      "src/library/boundary.h",
          "src/net/http_server.cc",    "src/serve/model_catalog.cc",       "src/serve/work_queue.cc",
          "src/net/http_transport.cc", "src/serve/grpc_listener.cc",       "src/serve/grpc_server.cc",
          "src/serve/grpc_stream.cc",  "src/serve/model_catalog_upkeep.cc"};
      if (!frames.contains(source.name)) {
        EXPECT_FALSE(std::regex_search(code, exceptions)) << where;
      }
      // Only the program talks to a person; check.cc says why it dies.
      if (source.name.starts_with("src/") && !source.name.starts_with("src/cli/") && source.name != "src/base/check.cc") {
        EXPECT_FALSE(std::regex_search(code, output)) << where;
      }
    }
  }
}

// The wall clock jumps: it is for what is shown or kept, and nothing is measured with it.
TEST(Tidy, WallClock) {
  static const std::regex wall(
      R"(\b(system_clock|high_resolution_clock|(GPR_)?CLOCK_REALTIME\w*|gettimeofday)\b|\btime\s*\(\s*(nullptr|NULL|0|&))");
  // What asks for it, and what for: dates in templates, seeds where there is no randomness, when a package was checked, how long a
  // server did not run, and times that
  // clients and logs are told.
  static const std::set<std::string> shown = {"src/base/clock.cc",   "src/base/rng.cc",     "src/cli/hosting.cc",
                                              "src/cli/load.cc",     "src/cli/serve.cc",    "src/serve/gateway.cc",
                                              "src/serve/ollama.cc", "src/serve/openai.cc", "src/serve/responses_writer.cc"};
  for (const Source& source : Sources({"src", "bench", "fuzz"})) {
    if (source.is_test || shown.contains(source.name)) continue;
    for (size_t i = 0; i < source.lines.size(); ++i) {
      EXPECT_FALSE(std::regex_search(Code(source.lines[i]), wall)) << source.name << ":" << i + 1 << ": " << source.lines[i];
    }
  }
}

TEST(Tidy, Sizes) {
  for (const Source& source : Sources({"src", "bench", "fuzz", "tests"})) {
    const bool kernel = source.name.starts_with("src/kernels/");
    if (!source.is_test && !kernel) {
      EXPECT_LE(source.lines.size(), 800u) << source.name;
    }
    // A function runs from the line in column 0 (members of classes: 2) on which its declaration starts, to the next "}" in
    // that column; the "{" may stand some lines below where the parameters wrap.
    static const std::regex not_function(R"(^\s*(namespace|class|struct|enum|union|extern|template|using|#|//|public|private|)"
                                         R"(return|if|for|while|switch|else|do|[A-Z_]+\()\b|=)");
    for (const std::string& indent : {std::string(), std::string("  ")}) {
      size_t declared = 0;
      size_t begin = 0;
      for (size_t i = 0; i < source.lines.size(); ++i) {
        const std::string& line = source.lines[i];
        const bool at_indent = line.size() > indent.size() && line.starts_with(indent) && line[indent.size()] != ' ';
        if (at_indent && begin == 0) {
          const bool other = line[indent.size()] == '}' || std::regex_search(line.substr(0, line.find('(')), not_function);
          declared = other ? 0 : i + 1;
        }
        if (begin == 0 && declared != 0 && line.ends_with("{") && (!at_indent || line.find('(') != std::string::npos)) begin = declared;
        if (begin == 0 && line.ends_with(";")) declared = 0;
        if (line == indent + "}" && begin != 0) {
          if (!source.is_test && !kernel) {
            EXPECT_LE(i + 2 - begin, 70u) << source.name << ":" << begin;
          }
          begin = 0;
          declared = 0;
        }
      }
    }
  }
}

TEST(Tidy, LinesAndFileNames) {
  static const std::regex name(R"(^[a-z0-9_]+\.(cc|h)$)");
  for (const Source& source : Sources({"src", "bench", "fuzz", "tests"})) {
    EXPECT_TRUE(std::regex_match(source.path.filename().string(), name)) << source.name;
    for (size_t i = 0; i < source.lines.size(); ++i) {
      const std::string& line = source.lines[i];
      EXPECT_LE(line.size(), 140u) << source.name << ":" << i + 1;
      EXPECT_EQ(line.find('\t'), std::string::npos) << source.name << ":" << i + 1;
      EXPECT_FALSE(line.ends_with(' ')) << source.name << ":" << i + 1;
    }
    if (source.name.ends_with(".h")) {
      EXPECT_NE(std::find(source.lines.begin(), source.lines.end(), "#pragma once"), source.lines.end()) << source.name;
    }
  }
}

// Every source is compiled, every header included, every test listed.
TEST(Tidy, NoDeadFiles) {
  std::string lists;
  for (const char* list : {"src/CMakeLists.txt", "tests/CMakeLists.txt", "bench/CMakeLists.txt", "fuzz/CMakeLists.txt"}) {
    lists += ReadAll(kRoot / list);
  }
  std::set<std::string> included;
  const auto sources = Sources({"src", "bench", "fuzz", "tests"});
  for (const Source& source : sources) {
    for (const std::string& include : Includes(source)) included.insert(include);
  }
  for (const Source& source : sources) {
    const std::string inner = source.name.substr(source.name.find('/') + 1);
    if (source.name.ends_with(".cc")) {
      EXPECT_NE(lists.find(inner), std::string::npos) << source.name << " is in no CMakeLists.txt";
    } else {
      EXPECT_TRUE(included.contains(inner)) << source.name << " is included nowhere";
    }
  }
}

TEST(Tidy, KernelFilesAreClosed) {
  static const std::regex include(R"(^\s*#\s*include\s+(\S+))");
  const std::set<std::string> allowed = {"<cstddef>", "<cstdint>", "<immintrin.h>", "<arm_neon.h>"};
  for (const Source& source : Sources({"src/kernels"})) {
    // The reference is portable code; the vector sets are what may not leak.
    const bool vector_set =
        source.name.find("/avx") != std::string::npos || source.name.find("/neon") != std::string::npos || source.name.ends_with("_impl.h");
    if (!vector_set && source.name != "src/kernels/kernel_types.h") continue;
    std::smatch match;
    for (const std::string& line : source.lines) {
      if (!std::regex_search(line, match, include)) continue;
      const std::string file = match[1];
      EXPECT_TRUE(allowed.contains(file) || file.starts_with("\"kernels/")) << source.name << " includes " << file;
    }
  }
}

// A weak symbol of a file built for a wide instruction set could be the copy that the linker keeps for everybody.
TEST(Tidy, KernelObjectsExportNoWeakSymbols) {
  FILE* pipe = ::popen("nm --defined-only --demangle " BANTAM_KERNELS_ARCHIVE, "r");
  ASSERT_NE(pipe, nullptr);
  std::string member;
  std::map<std::string, int> strong;
  std::array<char, 4096> line{};
  while (std::fgets(line.data(), line.size(), pipe) != nullptr) {
    std::string text = line.data();
    text.resize(text.find_last_not_of('\n') + 1);
    if (text.ends_with(".o:")) member = text;
    const bool vector_set = member.starts_with("avx") || member.starts_with("neon");
    if (!vector_set || text.size() < 20 || text[16] != ' ') continue;
    const char kind = text[17];
    EXPECT_TRUE(kind != 'W' && kind != 'V' && kind != 'u') << member << " " << text;
    if (kind == 'D' || kind == 'R' || kind == 'T' || kind == 'B') ++strong[member];
  }
  EXPECT_EQ(::pclose(pipe), 0) << "nm is part of binutils";
#if defined(__x86_64__)
  EXPECT_EQ(strong.size(), 4u);
#endif
  for (const auto& [object, count] : strong) EXPECT_EQ(count, 1) << object << " exports its table and nothing else";
}

TEST(Tidy, ChangelogHasUnreleasedOnTop) {
  for (const std::string& line : Lines(ReadAll(kRoot / "CHANGELOG.md"))) {
    if (!line.starts_with("## ")) continue;
    EXPECT_EQ(line, "## Unreleased");
    return;
  }
  FAIL() << "CHANGELOG.md has no section";
}

}  // namespace
