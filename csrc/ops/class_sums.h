// Products of sums of unit rows over classes: sums over pairs of rows, without the pairs.
#pragma once

#include <cstdint>

namespace tfc::ops {

struct SumProducts {
  double all;     // X.Y, with X and Y the sums over all classes
  double within;  // sum over the classes that both have of X_c.Y_c
};

// x: [x_classes, width], y: [y_classes, width].
SumProducts products_of_sums(const double* x, int64_t x_classes, const double* y, int64_t y_classes,
                             int64_t width);

}  // namespace tfc::ops
