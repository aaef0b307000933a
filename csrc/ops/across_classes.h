// Products m_e.w_i of centred rows (centred_rows.h) with the means of the classes that are not theirs.
#pragma once

#include "centred_rows.h"
#include "tiles.h"

namespace tfc::ops {

struct AcrossSquares {
  double sum = 0;    // over rows i and classes e but its own, of counts[e] (m_e.w_i)^2
  double error = 0;  // how far off rounding in float may have left it; there is no better way than double
};

// From tiles of the products of all rows with the means. They are multiplied in Real, as (m_e - centre).w_i,
// to which centre.w_i in double is added: where all rows are nearly parallel both are tiny, and m_e.w_i
// itself would drown in the rounding of its terms.
template <typename Real>
AcrossSquares across_classes(const UnitRows& centred, const Classes& classes);

// From the d x d products C = sum_i w_i w_i^T over all rows, where they are known anyway. With m_e = centre +
// s_e the sum over all classes e, the row's own too, is
//   n sum_i (centre.w_i)^2 + sum_e counts[e] s_e^T C s_e
// since the sum of counts[e] s_e is nothing; products with the own mean follow from |u_i| = 1.
class AcrossColumns {
 public:
  explicit AcrossColumns(const Classes& classes);

  // The second sum over a tile of C, on or above the diagonal, and its mirror image.
  double of_tile(const TilePlace& tile, const double* products, int64_t stride) const;
  // From the sums over all tiles of that and of |C|^2. The rows must be described.
  AcrossSquares total(double of_tiles, double squares_of_products, bool in_float) const;

 private:
  const Classes& classes_;
  std::vector<double> apart_;       // [width, classes] sqrt(counts[e]) s_e side by side
  std::vector<double> apart_rows_;  // [classes, width] the same, one after the other
};

}  // namespace tfc::ops
