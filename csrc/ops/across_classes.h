// Products m_e.w_i of centred rows (centred_rows.h) with the means of the classes that are not theirs.
#pragma once

#include "centred_rows.h"

namespace tfc::ops {

struct AcrossSquares {
  double sum = 0;    // over rows i and classes e but its own, of counts[e] (m_e.w_i)^2
  double error = 0;  // how far off rounding in float may have left it; there is no better way than double
};

// For rows that are packed for products with each other anyway. Multiplied in Real, as (m_e - centre).w_i, to
// which centre.w_i in double is added: where all rows are nearly parallel both are tiny, and m_e.w_i itself
// would drown in the rounding of its terms.
template <typename Real>
class AcrossClasses {
 public:
  static constexpr int64_t kMostRows = 64;

  explicit AcrossClasses(const Classes& classes);

  // Rows first ... last - 1, kMostRows at most, packed `stride` entries apart, with zeros beyond their
  // width. Rows up to a multiple of kPanelStep are read: those beyond `last` may hold anything finite.
  // Called inside a parallel region, by any thread; each row wants it once.
  void add(int64_t first, int64_t last, const Real* rows, int64_t stride);
  AcrossSquares total() const;

 private:
  const Classes& classes_;
  int64_t columns_, depth_, stride_;
  std::vector<Real> means_;     // [depth, stride] less the centre, side by side
  std::vector<double> of_row_;  // summed up in the end, so that the order is fixed
};

// The same, from tiles.
template <typename Real>
AcrossSquares across_classes(const UnitRows& centred, const Classes& classes);

}  // namespace tfc::ops
