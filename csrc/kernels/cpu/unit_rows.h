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

// Rows order[first ... last - 1] (order null: rows as they lie) -> out, one after the other, `out_stride`
// elements apart, as float or double. Zero and non-finite rows come out as zeros. `scales` is by row.
template <typename Out>
using UnitRowsFunction = void (*)(const Rows&, const int64_t* order, const UnitScale* scales, int64_t first,
                                  int64_t last, Out* out, int64_t out_stride);

}  // namespace tfc::cpu
