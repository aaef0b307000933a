// Unit rows u = x / |x|, one by one, for what the two passes of passes.h do not give: matrices,
// histograms and spreads of cosines.
//
// Norms are formed in double, of rows of any size: there is no epsilon. Unit rows come out in float or
// double, rounded once.
#pragma once

#include <cstdint>

namespace tfc::cpu {

struct Rows {
  const void* data;  // [n, width], rows `stride` elements apart
  int64_t stride;
  int64_t width;
};

// unit row = (x * pre) * scale. `pre` is a power of two, 1 but for very large or small double rows.
struct UnitScale {
  double pre;
  double scale;  // 0: the row is all zero; NaN: it holds a NaN or Inf
};

// Rows first ... last - 1 -> out[first ... last - 1].
using UnitScalesFunction = void (*)(const Rows&, int64_t first, int64_t last, UnitScale* out);

// Both write rows order[first ... last - 1] (order null: rows as they lie), as float or double. Zero and
// non-finite rows come out as zeros. `scales` is by row.
//
// unit_rows: one row after the other, `out_stride` elements apart; what a row leaves of that is zero.
// unit_columns: the same transposed, out[j * out_stride + i] = entry j of row i, with both counts
// rounded up to kPanelStep and zeros there.
template <typename Out>
using UnitRowsFunction = void (*)(const Rows&, const int64_t* order, const UnitScale* scales, int64_t first,
                                  int64_t last, Out* out, int64_t out_stride);

constexpr int64_t kPanelStep = 16;

}  // namespace tfc::cpu
