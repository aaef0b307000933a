// Standard deviation of the cosines over pairs of rows.
//
// Raw moments would lose everything when rows are nearly parallel: their cosines differ by less than
// their squares can hold. So each unit row u_i of class c is taken as m_c + w_i, with m_c the mean of its
// class, in double. Sums of w over a class vanish, and with them nearly all terms of the squares:
//
//   classes c != e    cosines are m_c.m_e on average; about that, summed over all pairs,
//                     n_e sum_i (m_e.w_i)^2 + n_c sum_j (m_c.w_j)^2 + sum_ij (w_i.w_j)^2
//   pairs within c    with s = mean of |w_i|^2 and a_i = m_c.w_i = (s - |w_i|^2) / 2, which follows from
//                     |u_i| = 1: on average 1 - s n / (n - 1); about that, over ordered pairs i != j,
//                     2 (n + 2) sum_i a_i^2 + sum_ij (w_i.w_j + s / (n - 1))^2
//
// Nothing cancels there, and averages are kept as distances from 1. The sums of (w_i.w_j)^2 come from
// centred_products.h, those of (m_e.w_i)^2 from across_classes.h, about the mean of all rows: the quickest
// way first, then better ones while what is left is so small that the rounding of that way may show.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "spread.h"
#include "tiles.h"

namespace tfc::ops {
namespace {

// Of the distances of m_c.m_e from 1, over pairs of rows.
Moments between_means(const Classes& classes) {
  const int64_t count = classes.valid.classes();
  const UnitRows means = rows_of_means(classes);
  std::vector<Moments> distances(static_cast<size_t>(TileGrid(count, count, true).count()));
  for_each_tile<double>(means, means, /*triangle=*/true, [&] {
    return [&](const Tile<double>& tile) {
      Moments total;
      for (int64_t c = tile.row; c < tile.row + tile.rows; ++c) {
        const double* products = tile.cosines + (c - tile.row) * tile.stride - tile.column;
        for (int64_t e = std::max(tile.column, c + 1); e < tile.column + tile.columns; ++e) {
          total.add({classes.counts[c] * classes.counts[e], 1 - products[e], 0});
        }
      }
      distances[tile.index] = total;
    };
  });
  Moments between;
  for (const Moments& tile : distances) between.add(tile);
  return between;
}

// Of the cosines within classes, but for the products w_i.w_j.
Moments within_means(const Classes& classes) {
  Moments within;
  for (int64_t c = 0; c < classes.valid.classes(); ++c) {
    const double rows = classes.counts[c];
    if (rows < 2) continue;
    double along = 0;  // sum of a_i^2
    for (int64_t i = classes.valid.class_ptr[c]; i < classes.valid.class_ptr[c + 1]; ++i) {
      along += classes.own(c, i) * classes.own(c, i);
    }
    within.add({rows * (rows - 1) / 2, classes.scatter[c] * rows / (rows - 1), (rows + 2) * along});
  }
  return within;
}

}  // namespace

void Moments::add(const Moments& other) {
  if (other.count == 0) return;
  const double total = count + other.count;
  const double apart = other.mean - mean;
  squares += other.squares + apart * apart * (count * other.count / total);
  mean += apart * (other.count / total);
  count = total;
}

double Moments::deviation() const {
  if (count == 0) return std::numeric_limits<double>::quiet_NaN();
  return count == 1 ? 0 : std::sqrt(std::max(0.0, squares) / count);
}

void Spread::add_products(bool in_float, const Classes& classes, const ProductsOf& products_of) {
  // Both count each pair once, the products twice.
  const auto off = [](const Moments& moments, double products, double error) {
    return moments.count > 1 && error > 1e-3 * (2 * moments.squares + std::max(0.0, products));
  };
  const auto too_coarse = [&](const PairSquares& products) {
    return off(within, products.within, products.within_error) ||
           off(between, products.between, products.between_error);
  };
  PairSquares products = products_of.quickest(in_float);
  within = within_means(classes);
  if (in_float && too_coarse(products)) products = products_of.quickest(false);
  if (too_coarse(products)) products = products_of.rows_in_double();
  within.squares += std::max(0.0, products.within) / 2;
  if (between.count > 0) between.squares += std::max(0.0, products.between) / 2;
}

at::Tensor Spread::values(const ValidRows& valid, bool labelled) const {
  Moments all = within;
  all.add(between);
  const Moments none;
  at::Tensor out = at::empty({6}, at::kDouble);
  double* values = out.mutable_data_ptr<double>();
  values[0] = all.deviation();
  values[1] = (labelled ? within : none).deviation();
  values[2] = (labelled ? between : none).deviation();
  values[3] = static_cast<double>(valid.count());
  values[4] = static_cast<double>(valid.zero);
  values[5] = static_cast<double>(valid.nonfinite);
  return out;
}

namespace {

Spread spread_of(const UnitRows& rows, Classes& classes) {
  const UnitRows centred = centred_rows(rows, classes);
  Spread spread;
  if (classes.valid.classes() > 1) spread.between = between_means(classes);
  ProductsOf products;
  products.quickest = [&](bool in_float) {
    return in_float ? products_of<float>(centred, classes) : products_of<double>(centred, classes);
  };
  products.rows_in_double = [&] { return row_products_in_double(centred, classes); };
  spread.add_products(rows.scalar != cpu::Scalar::kFloat64, classes, products);
  return spread;
}

// -> [6] float64: deviation all, within, between; valid rows, zero rows, non-finite rows.
at::Tensor cosine_spread_cpu(const at::Tensor& x, const std::optional<at::Tensor>& order,
                             const std::optional<at::Tensor>& class_ptr) {
  check_input(x, "cosine_spread");
  const Grouping groups = optional_grouping(order, class_ptr, x, "cosine_spread");
  const at::Tensor rows = as_rows(x);
  ScaledRows scaled = scaled_rows(rows, groups);
  const ValidRows valid = valid_rows(scaled.scales, groups);
  if (valid.count() < 2) return Spread{}.values(valid, groups.labelled());
  UnitRows chosen = unit_rows(rows, scaled.scales);
  chosen.kernel.order = valid.order.data();
  chosen.count = valid.count();
  Classes classes = classes_of(scaled, valid);
  scaled.sums = {};
  return spread_of(chosen, classes).values(valid, groups.labelled());
}

at::Tensor cosine_spread_meta(const at::Tensor& x, const std::optional<at::Tensor>&,
                              const std::optional<at::Tensor>&) {
  check_input(x, "cosine_spread");
  return at::empty({6}, x.options().dtype(at::kDouble));
}

}  // namespace
}  // namespace tfc::ops

TORCH_LIBRARY_FRAGMENT(tfc_fast, m) {
  m.def("cosine_spread(Tensor x, Tensor? order, Tensor? class_ptr) -> Tensor");
}

TORCH_LIBRARY_IMPL(tfc_fast, CPU, m) { m.impl("cosine_spread", tfc::ops::cosine_spread_cpu); }

TORCH_LIBRARY_IMPL(tfc_fast, Meta, m) { m.impl("cosine_spread", tfc::ops::cosine_spread_meta); }
