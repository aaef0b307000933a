// Gradient of a function of unit rows u = x / |x| with respect to the rows x.
//
// With w the gradient with respect to u,
//   dx = (w - u (u.w)) / |x|
// is formed in double, for rows of any size, and rounded once to the type of the rows.
#pragma once

#include "launchers.h"

namespace tfc::cuda {

struct UnitRowGradient {
  Scalar scalar;     // of the rows
  const void* rows;  // [n, width], rows `stride` elements apart
  int64_t stride;
  int64_t n, width;
  const int64_t* order;     // row at each position; null: rows as they lie
  const void* weights;      // w of position i is row label[i], or row i; rows `weights_stride` elements apart
  int64_t weights_stride;   // 0: the same w for all
  bool weights_are_double;  // else float
  const int32_t* label;     // may be null
  void* out;                // out: [n, width], of the type of the rows; written where the rows lie
};

// Rows that are zero or not finite get zeros.
cudaError_t unit_row_gradient(const UnitRowGradient& gradient, cudaStream_t stream);

}  // namespace tfc::cuda
