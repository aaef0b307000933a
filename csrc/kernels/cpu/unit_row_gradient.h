// Gradient of a function of unit rows u = x / |x| with respect to the rows x.
//
// With w the gradient with respect to u,
//   dx = (w - u (u.w)) / |x|
// is formed in double, row by row, for rows of any size: one of 1e-30 has a gradient near 1e30.
#pragma once

#include <cstdint>

namespace tfc::cpu {

struct UnitRowGradient {
  const void* data;  // [n, width], rows `stride` elements apart
  int64_t stride;
  int64_t width;
  const int64_t* order;  // row at each position; null: rows as they lie
  const void* weights;   // w of position i is row label[i], or row i; rows `weights_stride` apart
  int64_t weights_stride;
  const int64_t* label;  // may be null
  void* out;             // out: [n, width]; double for double rows, else float
};

// Positions first ... last - 1. Rows that are zero or not finite get zeros.
using UnitRowGradientFunction = void (*)(const UnitRowGradient&, int64_t first, int64_t last);

}  // namespace tfc::cpu
