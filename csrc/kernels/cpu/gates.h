// Gates of a row as bits, and in how many units two rows differ.
//
// Bit j % 64 of word j / 64 is set where unit j is open. Two rows differ in as many units as their
// exclusive or has ones. Right rows come side by side in panels, so that a vector holds one word of
// several rows: no sum across lanes, and no waste for rows of few words.
#pragma once

#include <cstdint>

#include "unit_rows.h"

namespace tfc::cpu {

constexpr int64_t kWordUnits = 64;
// Left rows come in blocks of up to that many; memory behind the last row is read up to a whole block.
constexpr int64_t kMostBlockRows = 8;
// More units than that would not fit the cells of a tile, nor make exact quotients.
constexpr int64_t kMostUnits = int64_t{1} << 28;

// Rows first ... last - 1 of `data`, `stride` elements apart, to out[rows, words]. A value is open where
// it is greater than 0, also where the processor is set to take denormal numbers for 0.
using PackGatesFunction = void (*)(const void* data, int64_t stride, int64_t width, int64_t first,
                                   int64_t last, uint64_t* out);

// Adds to tile[i * stride + j] the units in which left row i and right row j differ.
//   left   [rows, words]
//   right  [panels, words, kPanelStep]: row j is column j % kPanelStep of panel j / kPanelStep
//   tile   written up to whole blocks of rows and whole panels
using AddDifferingFunction = void (*)(const uint64_t* left, const uint64_t* right, int64_t words,
                                      int64_t rows, int64_t panels, int32_t* tile, int64_t stride);

// Agreement of one row with `count` others. `cells` holds the units in which they differ, int32, and gets
// the exact fraction, rounded once, float; 0 / 0 is NaN.
//   hamming   units in the same state / units
//   jaccard   units open in both / units open in either; `open` in the row, open_others[count]
// Whole numbers up to 2^24 are exact as float. Others are divided as double and rounded again, which does
// no harm below 2^29: no such fraction is so near to the middle between two floats without being there.
using HammingFunction = void (*)(void* cells, int64_t count, int32_t units);
using JaccardFunction = void (*)(void* cells, int64_t count, int32_t units, int32_t open,
                                 const int32_t* open_others);

struct GateKernels {
  PackGatesFunction pack[4];  // by Scalar
  AddDifferingFunction add_differing;
  HammingFunction hamming;
  JaccardFunction jaccard;
};

}  // namespace tfc::cpu
