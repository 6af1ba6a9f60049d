#include "base/system_limits.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "testing/paths.h"

namespace bantam {
namespace {

class SystemLimitsTest : public ::testing::Test {
 protected:
  void Put(const std::string& path, const std::string& text) {
    const std::filesystem::path whole = folder_.Path(path);
    std::filesystem::create_directories(whole.parent_path());
    std::ofstream(whole) << text;
  }
  SystemLimits Read(int processors) {
    std::vector<int> affinity(static_cast<size_t>(processors));
    for (int i = 0; i < processors; ++i) affinity[static_cast<size_t>(i)] = i;
    return ReadSystemLimits(*files_, folder_.Path(""), affinity);
  }

  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
};

constexpr char kMeminfo[] = "MemTotal:  8000000 kB\nMemFree: 1000 kB\nMemAvailable:    6000000 kB\n";

TEST_F(SystemLimitsTest, PlainMachine) {
  Put("proc/meminfo", kMeminfo);
  const SystemLimits limits = Read(4);
  EXPECT_EQ(limits.memory_available_bytes, uint64_t{6000000} * 1024);
  EXPECT_EQ(limits.processors, 4);
}

TEST_F(SystemLimitsTest, SiblingsAreOneCore) {
  for (const char* cpu : {"0", "4"}) Put(std::string("sys/devices/system/cpu/cpu") + cpu + "/topology/thread_siblings_list", "0,4\n");
  for (const char* cpu : {"1", "5"}) Put(std::string("sys/devices/system/cpu/cpu") + cpu + "/topology/thread_siblings_list", "1,5\n");
  EXPECT_EQ(ReadSystemLimits(*files_, folder_.Path(""), {0, 1, 4, 5}).cores, 2);
  EXPECT_EQ(ReadSystemLimits(*files_, folder_.Path(""), {0, 1, 4, 5}).processors, 4);
  EXPECT_EQ(ReadSystemLimits(*files_, folder_.Path(""), {1, 5}).cores, 1);
  EXPECT_EQ(ReadSystemLimits(*files_, folder_.Path(""), {0, 1, 7}).cores, 3) << "a processor without the file counts for itself";
  Put("proc/self/cgroup", "0::/\n");
  Put("sys/fs/cgroup/cpu.max", "100000 100000\n");
  EXPECT_EQ(ReadSystemLimits(*files_, folder_.Path(""), {0, 1, 4, 5}).cores, 1) << "never more than the quota";
}

TEST_F(SystemLimitsTest, CoresOfTwoSpeeds) {
  EXPECT_FALSE(Read(4).uneven_cores);
  for (const char* cpu : {"0", "1"}) Put(std::string("sys/devices/system/cpu/cpu") + cpu + "/cpu_capacity", "1024\n");
  EXPECT_FALSE(Read(4).uneven_cores) << "of others nothing is known";
  Put("sys/devices/system/cpu/cpu2/cpu_capacity", "446\n");
  EXPECT_TRUE(Read(4).uneven_cores);
  EXPECT_FALSE(Read(2).uneven_cores) << "only those of the mask count";
  Put("sys/devices/cpu_core/cpus", "0-1\n");
  EXPECT_FALSE(Read(2).uneven_cores);
  Put("sys/devices/cpu_atom/cpus", "2-3\n");
  EXPECT_TRUE(Read(2).uneven_cores);
}

TEST_F(SystemLimitsTest, NameOfTheProcessor) {
  EXPECT_EQ(ProcessorName(*files_, folder_.Path("")), "unknown");
  Put("proc/cpuinfo", "processor\t: 0\nmodel name\t: AMD EPYC 9654\ncpu MHz\t: 1\n");
  EXPECT_EQ(ProcessorName(*files_, folder_.Path("")), "AMD EPYC 9654");
  Put("proc/cpuinfo", "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n");
  EXPECT_EQ(ProcessorName(*files_, folder_.Path("")), "ARM implementer 0x41, part 0xd08");
  Put("proc/cpuinfo", "model name\t:");
  EXPECT_EQ(ProcessorName(*files_, folder_.Path("")), "unknown");
}

TEST_F(SystemLimitsTest, UnifiedGroupAndItsParents) {
  Put("proc/meminfo", kMeminfo);
  Put("proc/self/cgroup", "0::/outer/inner\n");
  Put("sys/fs/cgroup/outer/memory.max", "1000000\n");
  Put("sys/fs/cgroup/outer/memory.current", "400000\n");
  Put("sys/fs/cgroup/outer/memory.stat", "anon 5\ninactive_file 100000\n");
  Put("sys/fs/cgroup/outer/inner/memory.max", "max\n");
  Put("sys/fs/cgroup/outer/inner/cpu.max", "max 100000\n");
  Put("sys/fs/cgroup/outer/cpu.max", "250000 100000\n");
  const SystemLimits limits = Read(4);
  EXPECT_EQ(limits.memory_available_bytes, 700000u) << "limit less what is held, of which the file cache can go";
  EXPECT_EQ(limits.processors, 2) << "2.5 processors run two threads without throttling";
}

TEST_F(SystemLimitsTest, LegacyGroups) {
  Put("proc/meminfo", kMeminfo);
  Put("proc/self/cgroup", "5:cpu,cpuacct:/box\n4:memory:/box\n");
  Put("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "2000000\n");
  Put("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "2500000\n");
  Put("sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "50000\n");
  Put("sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000\n");
  const SystemLimits limits = Read(8);
  EXPECT_EQ(limits.memory_available_bytes, 0u);
  EXPECT_EQ(limits.processors, 1) << "half a processor is still one thread";
}

TEST_F(SystemLimitsTest, MemoryPressureOfMachineAndGroups) {
  Put("proc/meminfo", kMeminfo);
  Put("proc/pressure/memory", "some avg10=12.50 avg60=0.00 avg300=0.00 total=0\nfull avg10=3.25 avg60=0.00 avg300=0.00 total=0\n");
  MemoryPressure pressure = ReadMemoryPressure(*files_, folder_.Path(""));
  EXPECT_EQ(pressure.left_bytes, uint64_t{6000000} * 1024);
  EXPECT_EQ(pressure.limit_bytes, uint64_t{8000000} * 1024);
  EXPECT_DOUBLE_EQ(pressure.some, 0.125);
  EXPECT_DOUBLE_EQ(pressure.full, 0.0325);
  Put("proc/self/cgroup", "0::/a/b\n");
  Put("sys/fs/cgroup/a/memory.max", "1000000000\n");
  Put("sys/fs/cgroup/a/memory.current", "900000000\n");
  Put("sys/fs/cgroup/a/b/memory.pressure", "some avg10=80.00 avg60=1.00\nfull avg10=nonsense\n");
  pressure = ReadMemoryPressure(*files_, folder_.Path(""));
  EXPECT_EQ(pressure.left_bytes, 100000000u);
  EXPECT_EQ(pressure.limit_bytes, 1000000000u);
  EXPECT_DOUBLE_EQ(pressure.some, 0.8);
  EXPECT_DOUBLE_EQ(pressure.full, 0.0325);
  Put("proc/self/cgroup", "4:memory:/c\n");
  Put("sys/fs/cgroup/memory/c/memory.limit_in_bytes", "500000000\n");
  Put("sys/fs/cgroup/memory/c/memory.usage_in_bytes", "450000000\n");
  EXPECT_EQ(ReadMemoryPressure(*files_, folder_.Path("")).left_bytes, 50000000u);
  EXPECT_EQ(ReadMemoryPressure(*files_, folder_.Path("")).limit_bytes, 500000000u);
}

TEST_F(SystemLimitsTest, NoQuotaAndNonsense) {
  Put("proc/meminfo", kMeminfo);
  Put("proc/self/cgroup", "garbage\n0::/\n7:cpu:/b\n");
  Put("sys/fs/cgroup/cpu/b/cpu.cfs_quota_us", "-1\n");
  Put("sys/fs/cgroup/cpu/b/cpu.cfs_period_us", "100000\n");
  Put("sys/fs/cgroup/cpu.max", "x y\n");
  EXPECT_EQ(Read(3).processors, 3);
}

TEST_F(SystemLimitsTest, WithoutAnyOfTheFilesThereIsNoLimit) {
  const SystemLimits limits = Read(2);
  EXPECT_GT(limits.memory_available_bytes, uint64_t{1} << 60);
  EXPECT_EQ(limits.processors, 2);
}

TEST(SystemLimits, OfThisMachine) {
  EXPECT_GE(AffinityProcessors().size(), 1u);
  EXPECT_GT(PeakResidentBytes(), uint64_t{1} << 20);
}

}  // namespace
}  // namespace bantam
