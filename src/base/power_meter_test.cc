#include "base/power_meter.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "testing/paths.h"

namespace bantam {
namespace {

class PowerMeterTest : public ::testing::Test {
 protected:
  void Put(const std::string& path, const std::string& text) {
    const std::filesystem::path whole = folder_.Path("sys/class/" + path);
    std::filesystem::create_directories(whole.parent_path());
    std::ofstream(whole) << text;
  }
  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  PowerMeter meter_{*files_, folder_.Path("")};
};

constexpr int64_t kSecond = 1'000'000'000;

TEST_F(PowerMeterTest, NothingMeasures) {
  EXPECT_FALSE(meter_.Read(0));
  EXPECT_EQ(meter_.Check().error().code(), Code::kUnsupported);
}

TEST_F(PowerMeterTest, CountersAreMeansOfTheTimeBetween) {
  Put("powercap/intel-rapl:0/name", "package-0\n");
  Put("powercap/intel-rapl:1/name", "package-1\n");
  Put("powercap/intel-rapl:0/energy_uj", "1000000\n");
  Put("powercap/intel-rapl:0/max_energy_range_uj", "100000000\n");
  Put("powercap/intel-rapl:1/energy_uj", "99000000\n");
  Put("powercap/intel-rapl:1/max_energy_range_uj", "100000000\n");
  Put("hwmon/hwmon0/power1_input", "9000000\n");
  EXPECT_FALSE(meter_.Read(kSecond)) << "one look says nothing";
  Put("powercap/intel-rapl:0/energy_uj", "11000000\n");
  Put("powercap/intel-rapl:1/energy_uj", "3000000\n");  // started over
  EXPECT_DOUBLE_EQ(meter_.Read(3 * kSecond).value_or(0), (10.0 + 4.0) / 2);
  EXPECT_FALSE(meter_.Read(3 * kSecond)) << "no time has passed";
}

// What the platform's counter says has the packages in it.
TEST_F(PowerMeterTest, ThePlatformIsMoreThanItsParts) {
  for (const char* zone : {"0", "1", "2"}) Put(std::string("powercap/intel-rapl:") + zone + "/energy_uj", "0\n");
  Put("powercap/intel-rapl:0/name", "package-0\n");
  Put("powercap/intel-rapl:1/name", "dram\n");
  Put("powercap/intel-rapl:2/name", "psys\n");
  EXPECT_TRUE(meter_.Check().ok()) << "one look tells that there are counters";
  Put("powercap/intel-rapl:0/energy_uj", "5000000\n");
  Put("powercap/intel-rapl:1/energy_uj", "1000000\n");
  Put("powercap/intel-rapl:2/energy_uj", "9000000\n");
  EXPECT_DOUBLE_EQ(meter_.Read(kSecond).value_or(0), 9.0);
}

TEST_F(PowerMeterTest, SensorsAddUp) {
  Put("hwmon/hwmon0/name", "amdgpu\n");
  Put("hwmon/hwmon0/power1_input", "70000000\n");
  Put("hwmon/hwmon1/power1_input", "2500000\n");
  Put("hwmon/hwmon3/power1_average", "1500000\n");
  Put("hwmon/hwmon3/power1_input", "9\n");
  EXPECT_DOUBLE_EQ(meter_.Read(0).value_or(0), 4.0);
}

TEST_F(PowerMeterTest, BatteriesCountWhileTheyEmpty) {
  Put("power_supply/BAT0/power_now", "7000000\n");
  Put("power_supply/BAT0/status", "Charging\n");
  EXPECT_FALSE(meter_.Read(0));
  EXPECT_TRUE(meter_.Check().ok()) << "it measures when it empties";
  Put("power_supply/BAT0/status", "Discharging\n");
  EXPECT_DOUBLE_EQ(meter_.Read(0).value_or(0), 7.0);
  Put("power_supply/BAT0/power_now", "garbage\n");
  EXPECT_FALSE(meter_.Read(0));
}

}  // namespace
}  // namespace bantam
