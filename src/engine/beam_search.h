// Beam search: which of many beginnings of an answer go on. Pure functions; the engine computes the beginnings (engine_beams.cc).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace bantam {

// A beginning and a token that may follow it.
struct BeamCandidate {
  size_t beam = 0;
  uint32_t token = 0;
  float logprob = 0;  // of the token
  double sum = 0;     // of the logarithms of the probabilities of all of the answer's tokens, with this one
  bool ends = false;  // the token ends the answer's turn
};

struct BeamSelection {
  std::vector<BeamCandidate> running;  // likeliest first, at most `width`
  std::vector<BeamCandidate> ended;    // those among the `width` likeliest of all that end here
};

// As transformers has it (generation/utils.py): an end counts only if it is among the `width` likeliest, and takes no running one's place.
// Of equal sums the one of the earlier beam goes first, then the lower token. Of each beam `width` candidates that go on are enough, so
// with e tokens that end a turn the (1 + e) * width likeliest are.
BeamSelection SelectBeams(std::vector<BeamCandidate> candidates, size_t width);

// sum / tokens^length_penalty: 0 prefers short answers, 1 is the mean, above prefers long ones. Nothing yet scores 0.
double BeamScore(double sum, size_t tokens, float length_penalty);

}  // namespace bantam
