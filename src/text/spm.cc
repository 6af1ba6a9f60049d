#include "text/spm.h"

#include <algorithm>
#include <queue>

#include "base/check.h"
#include "text/utf8.h"

namespace bantam {
namespace {

// 32 bits: a text's memory is counted against small limits.
struct Part {
  uint32_t begin;
  uint32_t size;  // 0 once it has been joined to its left neighbour
  int32_t previous;
  int32_t next;
};

struct Pair {
  float score;
  int32_t left;
  int32_t right;
  uint32_t size;

  bool operator<(const Pair& other) const { return score != other.score ? score < other.score : left > other.left; }
};

}  // namespace

void MergeSpm(std::string_view text, const std::function<std::optional<SpmPiece>(std::string_view)>& find,
              const std::function<void(std::string_view, std::optional<uint32_t>)>& emit) {
  CHECK(text.size() < size_t{1} << 31);
  std::vector<Part> parts;
  for (size_t at = 0; at < text.size();) {
    const size_t size = std::min(Utf8LengthFromLead(static_cast<unsigned char>(text[at])), text.size() - at);
    const auto index = static_cast<int32_t>(parts.size());
    parts.push_back({static_cast<uint32_t>(at), static_cast<uint32_t>(size), index - 1, index + 1});
    at += size;
  }
  if (parts.empty()) return;
  parts.back().next = -1;

  const auto at = [&](int32_t i) -> Part& { return parts[static_cast<size_t>(i)]; };
  std::priority_queue<Pair> queue;
  const auto propose = [&](int32_t left, int32_t right) {
    if (left < 0 || right < 0) return;
    const uint32_t size = at(left).size + at(right).size;
    if (const auto piece = find(text.substr(at(left).begin, size))) queue.push({piece->score, left, right, size});
  };
  for (int32_t i = 1; i < static_cast<int32_t>(parts.size()); ++i) propose(i - 1, i);

  while (!queue.empty()) {
    const Pair pair = queue.top();
    queue.pop();
    Part& left = at(pair.left);
    Part& right = at(pair.right);
    // A pair is stale when either side was joined to something else since.
    if (left.size == 0 || right.size == 0 || left.size + right.size != pair.size) continue;
    left.size += right.size;
    right.size = 0;
    left.next = right.next;
    if (right.next >= 0) at(right.next).previous = pair.left;
    propose(left.previous, pair.left);
    propose(pair.left, left.next);
  }
  for (int32_t i = 0; i >= 0; i = at(i).next) {
    const std::string_view part = text.substr(at(i).begin, at(i).size);
    const auto piece = find(part);
    emit(part, piece ? std::optional(piece->token) : std::nullopt);
  }
}

}  // namespace bantam
