// Sums of squares of the products w_i.w_j of centred rows (centred_rows.h), and with them those of
// across_classes.h. The first are from tiles of the n x n products, or from the d x d products
// C = sum_i w_i w_i^T of each class, as |C|^2 less its diagonal terms; whichever is less work. Neither
// matrix is ever held.
#pragma once

#include "centred_rows.h"

namespace tfc::ops {

// Sums of squares over ordered pairs of rows, and how far off rounding may have left them.
struct PairSquares {
  double within = 0;   // of w_i.w_j about its mean over the class
  double between = 0;  // of m_e.w_i + w_i.w_j + m_c.w_j, as the sum of the three squares
  double within_error = 0;
  double between_error = 0;
};

// Whether the d x d products of units cost less than the n x n products of rows.
bool columns_are_quicker(int64_t rows, int64_t width, int64_t classes);

// From the sums of |C|^2 over the classes and of the sum of all C, multiplied in float or double.
PairSquares less_diagonal(const Classes& classes, double within, double all, bool in_float);

// From the n x n products of rows: nothing is subtracted there, so it is right for all rows.
PairSquares row_products_in_double(const UnitRows& centred, Classes& classes);

// The quickest way, multiplied in Real. Leaves the classes described (centred_rows.h).
template <typename Real>
PairSquares products_of(const UnitRows& centred, Classes& classes);

}  // namespace tfc::ops
