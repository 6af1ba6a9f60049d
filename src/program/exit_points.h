// Where a forward pass may stop early: between layers, where nothing but one buffer goes on.
#pragma once

#include <cstddef>
#include <vector>

#include "program/program.h"

namespace bantam {

// Operations [begin, end) of a program.
struct OpRange {
  size_t begin = 0;
  size_t end = 0;
};

// How a program is cut: what `stream` holds behind a layer goes to the next layer, or to the head, which makes logits of it. Angles of
// positions (`angles`, an operation each) are read on both sides of a cut, and are made again for other rows.
struct ExitPoints {
  BufferId stream = kNone;
  size_t first = 0;            // the operation with which the first layer begins
  std::vector<size_t> layers;  // [i]: the operation with which layer i + 1 begins; empty: it cannot be cut
  size_t head = 0;
  std::vector<OpRange> angles;
};

// Of a decoder, as it runs (fused or not). Not cut are programs with states of recurrent layers, several streams, inputs for each layer, or
// whole texts.
ExitPoints FindExitPoints(const Program& program);

}  // namespace bantam
