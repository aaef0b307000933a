// Cosines of pairs of rows, row i of one tensor with row i of another, on the device.
#pragma once

#include "launchers.h"

namespace tfc::cuda {

struct RowPairs {
  Scalar scalar;
  const void* left;   // [n, width], rows `left_stride` elements apart
  const void* right;  // [n, width]
  int64_t left_stride, right_stride;
  int64_t rows, width;
};

// -> cosines [n] in [-1, 1], NaN where a pair has none; summary [4]: their mean; pairs measured, pairs of
// finite rows of which one is all zero, pairs with a row that is not finite. states: [n] workspace.
cudaError_t pair_cosines(const RowPairs& pairs, uint8_t* states, double* cosines, double* summary,
                         cudaStream_t stream);

}  // namespace tfc::cuda
