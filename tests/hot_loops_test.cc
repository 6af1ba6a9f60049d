// What the compiler made of the products: every hot loop holds the instructions that its set is named for, and how many instructions it
// takes for a multiply-add, which is what can be said of a processor that is not here. Reads the disassembly of the kernels.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace bantam {
namespace {

// How a set's object multiplies: by instructions that begin so, with an operand that begins so, and how many at once.
struct Claim {
  std::vector<std::string_view> mnemonics;
  std::string_view operand;
  double multiplies;
};
struct SetClaims {
  std::string_view object;
  Claim tiles;    // bytes, of tiles
  Claim columns;  // bytes, of single columns
  Claim floats;
};
const Claim kZmmFloats = {{"vfmadd"}, "%zmm", 16};
const Claim kZmmBf16 = {{"vdpbf16ps"}, "%zmm", 32};
const Claim kYmmFloats = {{"vfmadd"}, "%ymm", 8};
const Claim kNeonFloats = {{"fmla"}, "v", 4};
const Claim kNeonDot = {{"sdot"}, "v", 16};
const SetClaims kSets[] = {
    {"avx512.cc.o", {{"vpdpbusd"}, "%zmm", 64}, {{"vpdpbusd"}, "%zmm", 64}, kZmmFloats},
    {"avx512_bf16.cc.o", {}, {}, kZmmBf16},
    {"avx_vnni.cc.o", {{"{vex} vpdpbusd"}, "%ymm", 32}, {{"{vex} vpdpbusd"}, "%ymm", 32}, kYmmFloats},
    {"avx2.cc.o", {{"vpmaddubsw"}, "%ymm", 32}, {{"vpmaddubsw"}, "%ymm", 32}, kYmmFloats},
    {"neon.cc.o", {{"smull", "smlal"}, "v", 8}, {{"smull", "smlal"}, "v", 8}, kNeonFloats},
    {"neon_dot.cc.o", kNeonDot, kNeonDot, kNeonFloats},
    {"neon_i8mm.cc.o", {{"smmla"}, "v", 32}, kNeonDot, kNeonFloats},
};

// The hot functions, by a part of their names, and what the hottest loop of each holds at the least.
struct HotFunction {
  std::string_view name;
  Claim SetClaims::*claim;
  size_t least;
};
constexpr HotFunction kHot[] = {
    {"MultiplyCodes<", &SetClaims::tiles, 16},  // half a block with four columns
    {"BlockProduct<", &SetClaims::columns, 4},  // half a block, some rows of it, with a column
    {"SuperProduct<", &SetClaims::columns, 4},  //
    {"Fp4Product<", &SetClaims::columns, 4},    //
    {"FloatProduct<", &SetClaims::floats, 2},   // two columns of weights with a column
    {"Bf16Product<", &SetClaims::floats, 2},    // two pairs
    {"AttendChunk<", &SetClaims::floats, 1},    // a token's values
    {"Attend<", &SetClaims::floats, 1},         // where chunks became part of it
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
std::string ShortName(std::string name, std::string_view part) {
  constexpr std::string_view kScope = "bantam::kernels::(anonymous namespace)::";
  for (size_t at = 0; (at = name.find(kScope)) != std::string::npos;) name.erase(at, kScope.size());
  const size_t begin = name.find(part);
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
  std::map<std::string, std::set<std::string_view>> found;
  for (const Function& function : Disassemble()) {
    for (const SetClaims& set : kSets) {
      if (function.object != set.object) continue;
      const auto hot = std::find_if(std::begin(kHot), std::end(kHot), [&](const HotFunction& h) {
        return function.name.find("::" + std::string(h.name)) != std::string::npos;
      });
      // A function of a few instructions jumps to one of the same code.
      if (hot == std::end(kHot) || function.code.size() < 4) continue;
      const Claim& claim = set.*hot->claim;
      const Loop loop = HotLoop(function, claim);
      EXPECT_GE(loop.claimed, hot->least) << function.object << " " << function.name;
      if (loop.claimed == 0) continue;
      found[function.object].insert(hot->name.substr(0, 6));
      const double multiplies = static_cast<double>(loop.claimed) * claim.multiplies;
      std::printf("%-14s %-55s %4zu instructions, %5.0f multiply-adds: %.4f\n", function.object.c_str(),
                  ShortName(function.name, hot->name).c_str(), loop.instructions, multiplies,
                  static_cast<double>(loop.instructions) / multiplies);
    }
  }
#if defined(__x86_64__)
  EXPECT_EQ(found["avx512_bf16.cc.o"], std::set<std::string_view>{"Bf16Pr"});
  found.erase("avx512_bf16.cc.o");  // has nothing else of its own
#endif
  EXPECT_EQ(found.size(), 3u) << "every vector set of this architecture";
  // Products of tiles, of blocks, of groups with sub-scales, of floats, and attention; small ones may be part of their callers.
  for (const auto& [object, kinds] : found) EXPECT_GE(kinds.size(), 5u) << object;
}

}  // namespace
}  // namespace bantam
