#include "base/closest.h"

#include <algorithm>
#include <utility>

namespace bantam {
namespace {

constexpr size_t kLengthMax = 64;  // of what is compared: names are short, and what someone wrote may not be

size_t Distance(std::string_view a, std::string_view b) {
  // Rows of the table of distances between beginnings: this, the one before, and the one before that.
  std::vector<size_t> row(b.size() + 1);
  std::vector<size_t> before(b.size() + 1);
  std::vector<size_t> older(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    std::swap(older, before);
    std::swap(before, row);
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({before[j] + 1, row[j - 1] + 1, before[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], older[j - 2] + 1);
    }
  }
  return row[b.size()];
}

}  // namespace

std::vector<std::string_view> Closest(std::string_view wanted, std::span<const std::string_view> names, size_t count) {
  std::vector<std::pair<size_t, std::string_view>> by_distance;
  for (const std::string_view name : names)
    by_distance.emplace_back(Distance(wanted.substr(0, kLengthMax), name.substr(0, kLengthMax)), name);
  std::stable_sort(by_distance.begin(), by_distance.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string_view> closest;
  for (const auto& [distance, name] : by_distance) {
    if (closest.size() < count) closest.push_back(name);
  }
  return closest;
}

}  // namespace bantam
