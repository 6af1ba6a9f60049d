#include "engine/beam_search.h"

#include <gtest/gtest.h>

namespace bantam {
namespace {

std::vector<uint32_t> Tokens(const std::vector<BeamCandidate>& candidates) {
  std::vector<uint32_t> tokens;
  for (const BeamCandidate& candidate : candidates) tokens.push_back(candidate.token);
  return tokens;
}

TEST(BeamSearch, LikeliestGoOnAndEndsTakeNoPlace) {
  const BeamSelection selection = SelectBeams({{0, 1, -1, -4, false},
                                               {0, 2, -1, -1, true},  // the likeliest ends
                                               {1, 3, -1, -2, false},
                                               {1, 4, -1, -3, false},
                                               {0, 5, -1, -5, true},  // behind the width: it does not count
                                               {1, 6, -1, -6, false}},
                                              3);
  EXPECT_EQ(Tokens(selection.running), (std::vector<uint32_t>{3, 4, 1}));
  EXPECT_EQ(Tokens(selection.ended), std::vector<uint32_t>{2});
}

TEST(BeamSearch, EqualSumsHaveAnOrder) {
  const BeamSelection selection = SelectBeams({{1, 3, -1, -2, false}, {0, 9, -1, -2, false}, {0, 7, -1, -2, false}}, 2);
  EXPECT_EQ(Tokens(selection.running), (std::vector<uint32_t>{7, 9}));
}

TEST(BeamSearch, FewCandidatesAreAll) {
  EXPECT_TRUE(SelectBeams({}, 4).running.empty());
  const BeamSelection selection = SelectBeams({{0, 1, -1, -1, true}}, 4);
  EXPECT_TRUE(selection.running.empty());
  EXPECT_EQ(selection.ended.size(), 1u);
}

TEST(BeamSearch, ScoresFavourLengthByThePenalty) {
  EXPECT_EQ(BeamScore(0, 0, 1), 0);
  EXPECT_EQ(BeamScore(-6, 3, 0), -6);
  EXPECT_EQ(BeamScore(-6, 3, 1), -2);
  EXPECT_GT(BeamScore(-8, 4, 2), BeamScore(-6, 3, 2)) << "of one mean the longer one";
  EXPECT_LT(BeamScore(-8, 4, 0), BeamScore(-6, 3, 0));
}

}  // namespace
}  // namespace bantam
