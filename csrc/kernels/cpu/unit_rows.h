// Unit rows u = x / |x|, one by one, for what the two passes of passes.h do not give: matrices,
// histograms and spreads of cosines.
//
// Norms are formed in double, of rows of any size: there is no epsilon. Unit rows come out in float or
// double, rounded once.
#pragma once

#include <cstdint>

namespace tfc::cpu {

// unit row = (x * pre) * scale. `pre` is a power of two: 1 for float and half rows and for double ones of
// moderate size; for bfloat16 rows that which leaves 1 <= scale < 2.
struct UnitScale {
  double pre;
  double scale;  // 0: the row is all zero; NaN: it holds a NaN or Inf
};

struct UnitRows {
  const void* data;  // [n, width], rows `stride` elements apart
  int64_t stride;
  int64_t width;
  const UnitScale* scales;  // [n]; null: 1, rows as they are
  const int64_t* order;     // row at each position; null: rows as they lie
  // The mean of the class of each position is taken away: rows u - m. Null: it is not.
  const double* means;  // [classes, width], rows `means_stride` apart
  int64_t means_stride;
  const int64_t* label;  // class of each position
};

// Rows first ... last - 1, as they lie -> out[first ... last - 1].
using UnitScalesFunction = void (*)(const UnitRows&, int64_t first, int64_t last, UnitScale* out);

// Both write the rows of positions first ... last - 1. Zero and non-finite rows come out as zeros.
//
// unit_rows: one row after the other, `out_stride` elements apart; what a row leaves of that is zero.
// unit_columns: the same transposed, out[j * out_stride + i] = entry j of row i, with both counts
// rounded up to kPanelStep and zeros there.
template <typename Out>
using PackFunction = void (*)(const UnitRows&, int64_t first, int64_t last, Out* out, int64_t out_stride);

// bfloat16 rows to be multiplied as they are: x * pre, at most 1, which is exact but for entries below
// 2^-126: products take those for zero, and to a cosine they are. Rows and zeros as above, and
//   rows     `out_stride` is a multiple of kPairStep
//   columns  out[(j / 2 * out_stride + i) * 2 + j % 2] = entry j of row i, entries up to a multiple of
//            kPairStep
using PackPairsFunction = PackFunction<uint16_t>;

// scales[row] of the rows at positions first ... last - 1, whose own `scales` it may be; and
// sum[j] += entry j of each of these unit rows, one after the other.
using ScaleAndSumFunction = void (*)(const UnitRows&, int64_t first, int64_t last, UnitScale* scales,
                                     double* sum);

// Of rows u - m, by position.
struct RowMeasures {
  const double* direction;  // [width]
  double* squares;          // out: squared lengths
  double* along;            // out: products with `direction`
};

// Measures the rows of positions first ... last - 1; with `out` it does what unit_rows does, too.
template <typename Out>
using CentredRowsFunction = void (*)(const UnitRows&, const RowMeasures&, int64_t first, int64_t last,
                                     Out* out, int64_t out_stride);

constexpr int64_t kPanelStep = 16;
constexpr int64_t kPairStep = 2 * kPanelStep;

}  // namespace tfc::cpu
