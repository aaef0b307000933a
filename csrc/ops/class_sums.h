// Products of sums of unit rows over classes: sums over pairs of rows, without the pairs.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "measure.h"

namespace tfc::ops {

// Of the rows of each class: sums of unit rows, float64 [classes, d]; rows that took part, zero rows,
// non-finite rows, int64 [classes, 3]. Without labels there is one class.
std::tuple<at::Tensor, at::Tensor> unit_row_sums(const at::Tensor& x, const Grouping& groups);

// Throws unless `t` is a contiguous tensor [classes, width] of that dtype on that device.
void check_class_state(const at::Tensor& t, at::ScalarType dtype, int64_t classes, int64_t width,
                       at::Device device, const char* name);

struct SumProducts {
  double all;     // X.Y, with X and Y the sums over all classes
  double within;  // sum over the classes that both have of X_c.Y_c
};

// x: [x_classes, width], y: [y_classes, width].
SumProducts products_of_sums(const double* x, int64_t x_classes, const double* y, int64_t y_classes,
                             int64_t width);

}  // namespace tfc::ops
