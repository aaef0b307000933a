// Unit rows u = x / |x| in memory, to be multiplied: what matrices, histograms and spreads of cosines begin
// with.
#pragma once

#include "launchers.h"

namespace tfc::cuda {

// unit row = (x * pre) * scale, `pre` a power of two. scale = 0: the row is all zero; NaN: not finite.
struct alignas(16) UnitScale {
  double pre;
  double scale;
};

enum class UnitForm : int {
  kFloat,      // rounded once
  kDouble,     // likewise
  kPowerOfTwo  // bfloat16 and float16 rows times a power of two, which is exact where it matters to a cosine
};

struct UnitRows {
  Scalar scalar;     // of the rows
  const void* rows;  // [n, width], rows `stride` elements apart
  int64_t stride;
  int64_t n, width;
  const int64_t* order;  // row at each position; null: rows as they lie
  UnitForm form;         // double rows: kDouble
  // out: [padded_rows, pitch], 16-byte aligned, zeros where there is no row or column, and for rows that are
  // zero or not finite. pitch: a multiple of 8. Null: not wanted.
  void* out;
  int64_t padded_rows, pitch;
  double* factors;  // out: [padded_rows] what is left of the scales (see kPowerOfTwo; else 1); for a row that
                    // is zero 0, for one that is not finite NaN; by position. Null: not wanted.
  UnitScale* scales;  // out: [n] by position; null: not wanted
};

cudaError_t unit_rows(const UnitRows& rows, cudaStream_t stream);

}  // namespace tfc::cuda
