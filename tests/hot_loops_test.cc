// What the compiler made of the products: every hot loop holds the instructions that its set is named for, and how many instructions it
// takes for a multiply-add, which is what can be said of a processor that is not here. Reads the disassembly of the kernels.
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace bantam {
namespace {

// How a set's object multiplies bytes: by instructions that begin so, with an operand that begins so, and how many at once.
struct Claim {
  std::string_view object;
  std::vector<std::string_view> mnemonics;
  std::string_view operand;
  double multiplies;
};
const Claim kClaims[] = {
    {"avx512.cc.o", {"vpdpbusd"}, "%zmm", 64}, {"avx_vnni.cc.o", {"{vex} vpdpbusd"}, "%ymm", 32},
    {"avx2.cc.o", {"vpmaddubsw"}, "%ymm", 32}, {"neon.cc.o", {"smull", "smlal"}, "v", 8},
    {"neon_dot.cc.o", {"sdot"}, "v", 16},      {"neon_i8mm.cc.o", {"smmla"}, "v", 32},
};

struct Instruction {
  uint64_t address;
  std::string text;     // mnemonic and operands
  uint64_t target = 0;  // of a jump within the function
};

struct Function {
  std::string object;
  std::string name;
  std::vector<Instruction> code;
};

bool IsJump(std::string_view text) {
  // x86: j..; ARM: b, b.eq, cbz, cbnz, tbz, tbnz.
  return text.starts_with("j") || text.starts_with("b\t") || text.starts_with("b.") || text.starts_with("cb") || text.starts_with("tb");
}

// "jb     3c0 <...>", "cbnz\tx0, 3c0 <...>": the number in front of the name.
uint64_t TargetOf(const std::string& text) {
  const size_t name = text.find(" <");
  if (name == std::string::npos) return 0;
  const size_t begin = text.find_last_of(" \t", name - 1) + 1;
  uint64_t target = 0;
  std::sscanf(text.c_str() + begin, "%lx", &target);
  return target;
}

std::vector<Function> Disassemble() {
  std::vector<Function> functions;
  FILE* pipe = ::popen(BANTAM_OBJDUMP " -d -C --no-show-raw-insn " BANTAM_KERNELS_ARCHIVE, "r");
  if (pipe == nullptr) return functions;
  std::string object;
  std::array<char, 4096> buffer{};
  while (std::fgets(buffer.data(), buffer.size(), pipe) != nullptr) {
    std::string line = buffer.data();
    line.resize(line.find_last_not_of(" \n") + 1);
    if (const size_t at = line.find(":     file format"); at != std::string::npos) {
      object = line.substr(0, at);
    } else if (line.ends_with(">:")) {
      functions.push_back({object, line.substr(line.find('<') + 1), {}});
    } else if (const size_t colon = line.find(":\t"); colon != std::string::npos && !functions.empty()) {
      Instruction instruction = {0, line.substr(colon + 2), 0};
      std::sscanf(line.c_str(), "%lx", &instruction.address);
      if (IsJump(instruction.text)) instruction.target = TargetOf(instruction.text);
      functions.back().code.push_back(std::move(instruction));
    }
  }
  EXPECT_EQ(::pclose(pipe), 0) << "objdump is part of binutils";
  return functions;
}

bool Claims(const Claim& claim, const std::string& text) {
  for (const std::string_view mnemonic : claim.mnemonics) {
    if (text.starts_with(mnemonic) && text.find(claim.operand) != std::string::npos) return true;
  }
  return false;
}

// "MultiplyCodes<Vnni, Expand4<8>, 1, false>" of its full name.
std::string ShortName(std::string name) {
  constexpr std::string_view kScope = "bantam::kernels::(anonymous namespace)::";
  for (size_t at = 0; (at = name.find(kScope)) != std::string::npos;) name.erase(at, kScope.size());
  const size_t begin = name.find("MultiplyCodes");
  return name.substr(begin, name.find(">(") + 1 - begin);
}

struct Loop {
  size_t instructions = 0;
  size_t claimed = 0;
};

// Of the loops without a loop inside, that which holds most of the claimed instructions.
Loop HotLoop(const Function& function, const Claim& claim) {
  Loop hot;
  std::map<uint64_t, size_t> index;
  for (size_t i = 0; i < function.code.size(); ++i) index[function.code[i].address] = i;
  size_t last_begin = 0;  // where the loop that ended last begins
  for (size_t i = 0; i < function.code.size(); ++i) {
    const auto begin = index.find(function.code[i].target);
    if (function.code[i].target == 0 || begin == index.end() || begin->second > i) continue;
    if (last_begin > begin->second) continue;  // a loop lies inside
    last_begin = begin->second;
    Loop loop;
    for (size_t k = begin->second; k <= i; ++k) {
      ++loop.instructions;
      loop.claimed += Claims(claim, function.code[k].text);
    }
    if (loop.claimed > hot.claimed) hot = loop;
  }
  return hot;
}

TEST(HotLoops, HoldWhatTheSetIsNamedFor) {
  std::map<std::string, int> found;
  for (const Function& function : Disassemble()) {
    for (const Claim& claim : kClaims) {
      if (function.object != claim.object || function.name.find("MultiplyCodes<") == std::string::npos) continue;
      if (function.code.size() < 4) continue;  // a jump to a function of the same code
      const Loop loop = HotLoop(function, claim);
      // Half a block with four columns at the least.
      EXPECT_GE(loop.claimed, 16u) << function.object << " " << function.name;
      if (loop.claimed == 0) continue;
      ++found[function.object];
      const double multiplies = static_cast<double>(loop.claimed) * claim.multiplies;
      std::printf("%-14s %-45s %4zu instructions, %5.0f multiply-adds: %.4f\n", function.object.c_str(), ShortName(function.name).c_str(),
                  loop.instructions, multiplies, static_cast<double>(loop.instructions) / multiplies);
    }
  }
  EXPECT_EQ(found.size(), 3u) << "every vector set of this architecture";
}

}  // namespace
}  // namespace bantam
