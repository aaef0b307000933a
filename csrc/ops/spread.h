// Standard deviation of cosines over pairs of rows, put together from what the kernels of a device have
// summed up; spread_ops.cpp says how.
#pragma once

#include <functional>

#include "centred_products.h"

namespace tfc::ops {

// Number, mean and sum of squares about the mean of some values.
struct Moments {
  double count = 0;
  double mean = 0;
  double squares = 0;

  void add(const Moments& other);
  // A single value has no spread, whatever rounding has left of it.
  double deviation() const;
};

// The products of the centred rows: the quickest way, in float or double; those of rows, in double. After
// the first of them the classes know the lengths of the centred rows, too.
struct ProductsOf {
  std::function<PairSquares(bool in_float)> quickest;
  std::function<PairSquares()> rows_in_double;
};

struct Spread {
  Moments within, between;  // between: nothing if there is one class; first, that of the means alone

  // All that needs the centred rows, as exactly as it takes.
  void add_products(bool in_float, const Classes& classes, const ProductsOf& products_of);
  // [6] float64 on the CPU: deviation all, within, between; valid rows, zero rows, non-finite rows.
  at::Tensor values(const ValidRows& valid, bool labelled) const;
};

}  // namespace tfc::ops
