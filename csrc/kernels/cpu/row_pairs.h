// Cosines of pairs of rows: row i of one tensor with row i of another, in one pass over both.
//
// Squares and products are formed and added in double, where the product of two floats is exact, so
// that rows of any size have their cosine: there is no epsilon.
#pragma once

#include <cstdint>

namespace tfc::cpu {

struct RowPairs {
  const void* left;   // [n, width], rows `left_stride` elements apart
  const void* right;  // [n, width]
  int64_t left_stride, right_stride;
  int64_t width;
};

enum class PairState : uint8_t {
  kMeasured,
  kZero,       // a row is all zero, both are finite
  kNonfinite,  // a row holds a NaN or Inf
};

// Pairs first ... last - 1 -> cosines[i] in [-1, 1], NaN where the pair has none; states[i].
using PairCosinesFunction = void (*)(const RowPairs&, int64_t first, int64_t last, double* cosines,
                                     PairState* states);

}  // namespace tfc::cpu
