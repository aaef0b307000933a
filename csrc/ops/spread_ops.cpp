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
// tiles of the n x n products, or from the d x d products C = sum_i w_i w_i^T of each class, as
// |C|^2 less its diagonal terms; whichever is less work.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "../kernels/cpu/dispatch.h"
#include "gemm.h"
#include "tiles.h"

namespace tfc::ops {
namespace {

// Number, mean and sum of squares about the mean of some values.
struct Moments {
  double count = 0;
  double mean = 0;
  double squares = 0;

  void add(const Moments& other) {
    if (other.count == 0) return;
    const double total = count + other.count;
    const double apart = other.mean - mean;
    squares += other.squares + apart * apart * (count * other.count / total);
    mean += apart * (other.count / total);
    count = total;
  }
  // A single value has no spread, whatever rounding has left of it.
  double deviation() const {
    if (count == 0) return std::numeric_limits<double>::quiet_NaN();
    return count == 1 ? 0 : std::sqrt(std::max(0.0, squares) / count);
  }
};

double sum(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

struct Classes {
  const ValidRows& valid;
  std::vector<double> means;    // [classes, width]
  std::vector<double> squares;  // [rows] |w_i|^2
  std::vector<double> scatter;  // [classes] their mean

  double rows(int64_t c) const { return static_cast<double>(valid.class_ptr[c + 1] - valid.class_ptr[c]); }
  // Distance of the mean product w_i.w_j of the pairs of class c from 0, downwards.
  double shift(int64_t c) const { return scatter[c] / (rows(c) - 1); }
};

Classes describe(const UnitRows& rows, const ValidRows& valid) {
  const int64_t width = rows.kernel.width;
  const auto scalar = static_cast<int>(rows.scalar);
  const cpu::Kernels& kernels = cpu::kernels();
  Classes classes{valid, std::vector<double>(static_cast<size_t>(valid.classes() * width)),
                  std::vector<double>(static_cast<size_t>(valid.count())),
                  std::vector<double>(static_cast<size_t>(valid.classes()))};
  // A strip of units is one task, so that every sum has a fixed order.
  constexpr int64_t kStrip = 64;
  const int64_t grain =
      std::max<int64_t>(1, kElementsPerThread / (kStrip * std::max<int64_t>(1, rows.count)));
  at::parallel_for(0, divided_up(width, kStrip), grain, [&](int64_t first_strip, int64_t last_strip) {
    const int64_t first = first_strip * kStrip;
    const int64_t last = std::min(width, last_strip * kStrip);
    const cpu::UnitRows columns = columns_of(rows, first, last);
    for (int64_t c = 0; c < valid.classes(); ++c) {
      double* mean = classes.means.data() + c * width;
      kernels.sum_unit_rows[scalar](columns, valid.class_ptr[c], valid.class_ptr[c + 1], mean + first);
      for (int64_t j = first; j < last; ++j) mean[j] /= classes.rows(c);
    }
  });
  UnitRows centred = rows;
  centred.kernel.means = classes.means.data();
  centred.kernel.means_stride = width;
  centred.kernel.label = valid.label.data();
  at::parallel_for(0, rows.count, std::max<int64_t>(1, kElementsPerThread / std::max<int64_t>(1, width)),
                   [&](int64_t first, int64_t last) {
                     kernels.unit_squares[scalar](centred.kernel, first, last,
                                                  classes.squares.data() + first);
                   });
  for (int64_t c = 0; c < valid.classes(); ++c) {
    const auto* squares = classes.squares.data();
    classes.scatter[c] =
        std::accumulate(squares + valid.class_ptr[c], squares + valid.class_ptr[c + 1], 0.0) /
        classes.rows(c);
  }
  return classes;
}

// Sums of squares over ordered pairs of rows, and how far off float32 may have left them.
struct PairSquares {
  double within = 0;   // of w_i.w_j about its mean over the class
  double between = 0;  // of w_i.w_j
  double within_error = 0;
  double between_error = 0;
};

// One entry per tile, so that they are added in a fixed order.
struct TileSums {
  std::vector<double> within, between;
  explicit TileSums(int64_t tiles)
      : within(static_cast<size_t>(tiles)), between(static_cast<size_t>(tiles)) {}
};

template <typename Real>
cpu::SumSquaresFunction<Real> sum_squares() {
  if constexpr (std::is_same_v<Real, float>) return cpu::kernels().sum_squares_float;
  if constexpr (std::is_same_v<Real, double>) return cpu::kernels().sum_squares_double;
}

template <typename Real>
PairSquares from_row_products(const UnitRows& centred, const Classes& classes) {
  const ValidRows& valid = classes.valid;
  TileSums sums(TileGrid(centred.count, centred.count, /*triangle=*/true).count());
  const auto squares = sum_squares<Real>();
  for_each_tile<Real>(centred, centred, /*triangle=*/true, [&] {
    return [&](const Tile<Real>& tile) {
      double within = 0;
      double between = 0;
      const int64_t end = tile.column + tile.columns;
      for (int64_t i = tile.row; i < tile.row + tile.rows; ++i) {
        const int64_t first = std::max(tile.column, i + 1);
        if (first >= end) break;
        const int64_t same_until = std::clamp(valid.class_end(i), first, end);
        const Real* products = tile.cosines + (i - tile.row) * tile.stride - tile.column;
        if (same_until > first) {
          within += squares(products + first, same_until - first, classes.shift(valid.label[i]));
        }
        between += squares(products + same_until, end - same_until, 0);
      }
      sums.within[tile.index] = within;
      sums.between[tile.index] = between;
    };
  });
  // Each product is off by its own rounding of the entries, some 2^-24 |w_i| |w_j|.
  const double total = sum(classes.squares);
  const double error = sizeof(Real) == sizeof(double) ? 0 : 0x1p-46 * total * total;
  return {2 * sum(sums.within), 2 * sum(sums.between), error, error};
}

// One thread's tiles of the d x d products of each class.
template <typename Real>
class ColumnProducts {
 public:
  ColumnProducts(const UnitRows& centred, const ValidRows& valid, const TileGrid& grid)
      : centred_(centred),
        valid_(valid),
        grid_(grid),
        left_(static_cast<size_t>(grid.height() * kRows)),
        right_(static_cast<size_t>(kRows * grid.width())),
        sums_(static_cast<size_t>(grid.height() * grid.width())),
        of_class_(sums_.size()),
        of_all_(sums_.size()) {}

  // Adds up |C|^2 over the classes into `within`, and that of the sum of all C into `all`.
  void operator()(int64_t index, double& within, double& all) {
    const Tile<Real> tile{grid_.place(index), nullptr, 0};
    // Off the diagonal a tile stands for its mirror image too.
    const double weight = tile.row == tile.column ? 1 : 2;
    const int64_t used = rounded_up(tile.rows, cpu::kPanelStep) * grid_.width();
    const bool one_class = valid_.classes() == 1;
    within = 0;
    std::fill(of_all_.begin(), of_all_.end(), 0.0);
    for (int64_t c = 0; c < valid_.classes(); ++c) {
      multiply(tile, valid_.class_ptr[c], valid_.class_ptr[c + 1]);
      within += weight * squares(of_class_, tile);
      if (one_class) continue;
      double* total = of_all_.data();
      const double* add = of_class_.data();
#pragma omp simd
      for (int64_t i = 0; i < used; ++i) total[i] += add[i];
    }
    all = one_class ? within : weight * squares(of_all_, tile);
  }

 private:
  static constexpr int64_t kRows = kDepth<Real>;
  static constexpr int64_t kRowsInReal = kRows * kDepthsInFloat;

  double squares(const std::vector<double>& values, const Tile<Real>& tile) const {
    double total = 0;
    for (int64_t i = 0; i < tile.rows; ++i) {
      total += cpu::kernels().sum_squares_double(values.data() + i * grid_.width(), tile.columns, 0);
    }
    return total;
  }

  void multiply(const Tile<Real>& tile, int64_t begin, int64_t end) {
    std::fill(of_class_.begin(), of_class_.end(), 0.0);
    const int64_t height = rounded_up(tile.rows, cpu::kPanelStep);
    const int64_t width = rounded_up(tile.columns, cpu::kPanelStep);
    const cpu::UnitRows left = columns_of(centred_, tile.row, tile.row + tile.rows);
    const cpu::UnitRows right = columns_of(centred_, tile.column, tile.column + tile.columns);
    for (int64_t first = begin; first < end; first += kRowsInReal) {
      const int64_t last = std::min(end, first + kRowsInReal);
      for (int64_t row = first; row < last; row += kRows) {
        const int64_t rows = std::min(kRows, last - row);
        const int64_t depth = rounded_up(rows, cpu::kPanelStep);
        pack_columns<Real>(centred_)(left, row, row + rows, left_.data(), depth);
        pack_rows<Real>(centred_)(right, row, row + rows, right_.data(), width);
        std::fill(right_.begin() + rows * width, right_.begin() + depth * width, Real{0});
        gemm(height, width, depth, left_.data(), depth, right_.data(), width, /*add=*/row != first,
             sums_.data(), grid_.width());
      }
      double* total = of_class_.data();
      const Real* add = sums_.data();
      const int64_t used = height * grid_.width();
#pragma omp simd
      for (int64_t i = 0; i < used; ++i) total[i] += static_cast<double>(add[i]);
    }
  }

  const UnitRows& centred_;
  const ValidRows& valid_;
  const TileGrid& grid_;
  std::vector<Real> left_, right_, sums_;
  std::vector<double> of_class_, of_all_;
};

template <typename Real>
PairSquares from_column_products(const UnitRows& centred, const Classes& classes) {
  const TileGrid grid(centred.kernel.width, centred.kernel.width, /*triangle=*/true);
  const int64_t tiles = grid.count();
  TileSums sums(tiles);
  at::parallel_for(0, std::max<int64_t>(2, tiles), 1, [&](int64_t first, int64_t last) {
    if (first >= tiles) return;
    ColumnProducts<Real> products(centred, classes.valid, grid);
    for (int64_t index = first; index < std::min(last, tiles); ++index) {
      products(index, sums.within[index], sums.between[index]);
    }
  });
  const double within = sum(sums.within);
  const double all = sum(sums.between);
  PairSquares squares{within, all - within, 0, 0};
  for (int64_t c = 0; c < classes.valid.classes(); ++c) {
    for (int64_t i = classes.valid.class_ptr[c]; i < classes.valid.class_ptr[c + 1]; ++i) {
      squares.within -= classes.squares[i] * classes.squares[i];
    }
    // A lone row is its class's mean: it has nothing to take away.
    if (classes.rows(c) > 1) {
      squares.within -= classes.rows(c) * classes.scatter[c] * classes.shift(c);
    }
  }
  if (sizeof(Real) == sizeof(float)) {
    squares.within_error = 1e-6 * within;
    squares.between_error = 1e-6 * all;
  }
  return squares;
}

// Sum over pairs of classes of n_e (m_e.w_i)^2, for all rows i, and the moments of the distances of
// m_c.m_e from 1, over pairs of rows.
Moments between_means(const UnitRows& centred, const Classes& classes) {
  const ValidRows& valid = classes.valid;
  const std::vector<cpu::UnitScale> as_they_are(static_cast<size_t>(valid.classes()), {1, 1});
  UnitRows means{};
  means.kernel.data = classes.means.data();
  means.kernel.stride = centred.kernel.width;
  means.kernel.width = centred.kernel.width;
  means.kernel.scales = as_they_are.data();
  means.scalar = cpu::Scalar::kFloat64;
  means.count = valid.classes();

  std::vector<double> squares(static_cast<size_t>(TileGrid(centred.count, means.count, false).count()));
  for_each_tile<double>(centred, means, /*triangle=*/false, [&] {
    return [&](const Tile<double>& tile) {
      double total = 0;
      for (int64_t i = tile.row; i < tile.row + tile.rows; ++i) {
        const double* products = tile.cosines + (i - tile.row) * tile.stride - tile.column;
        for (int64_t e = tile.column; e < tile.column + tile.columns; ++e) {
          if (e != valid.label[i]) total += classes.rows(e) * products[e] * products[e];
        }
      }
      squares[tile.index] = total;
    };
  });
  std::vector<Moments> distances(static_cast<size_t>(TileGrid(means.count, means.count, true).count()));
  for_each_tile<double>(means, means, /*triangle=*/true, [&] {
    return [&](const Tile<double>& tile) {
      Moments total;
      for (int64_t c = tile.row; c < tile.row + tile.rows; ++c) {
        const double* products = tile.cosines + (c - tile.row) * tile.stride - tile.column;
        for (int64_t e = std::max(tile.column, c + 1); e < tile.column + tile.columns; ++e) {
          total.add({classes.rows(c) * classes.rows(e), 1 - products[e], 0});
        }
      }
      distances[tile.index] = total;
    };
  });
  Moments between;
  for (const Moments& tile : distances) between.add(tile);
  between.squares += sum(squares);
  return between;
}

Moments within_means(const Classes& classes) {
  Moments within;
  for (int64_t c = 0; c < classes.valid.classes(); ++c) {
    const double rows = classes.rows(c);
    if (rows < 2) continue;
    double along = 0;  // sum of a_i^2
    for (int64_t i = classes.valid.class_ptr[c]; i < classes.valid.class_ptr[c + 1]; ++i) {
      const double a = (classes.scatter[c] - classes.squares[i]) / 2;
      along += a * a;
    }
    within.add({rows * (rows - 1) / 2, classes.scatter[c] * rows / (rows - 1), (rows + 2) * along});
  }
  return within;
}

template <typename Real>
PairSquares products_of(const UnitRows& centred, const Classes& classes) {
  const auto rows = static_cast<double>(centred.count);
  const auto width = static_cast<double>(centred.kernel.width);
  // Additions of a class's d x d products cost as much as a few dozen rows more.
  const double by_columns = (rows + 64.0 * static_cast<double>(classes.valid.classes())) * width * width;
  return rows * rows * width <= by_columns ? from_row_products<Real>(centred, classes)
                                           : from_column_products<Real>(centred, classes);
}

struct Spread {
  Moments within, between;
};

Spread spread_of(const UnitRows& rows, const ValidRows& valid) {
  const Classes classes = describe(rows, valid);
  UnitRows centred = rows;
  centred.kernel.means = classes.means.data();
  centred.kernel.means_stride = rows.kernel.width;
  centred.kernel.label = valid.label.data();
  Spread spread;
  spread.within = within_means(classes);
  if (valid.classes() > 1) spread.between = between_means(centred, classes);

  // Both count each pair once, the products twice.
  const auto too_coarse = [](const Moments& moments, double products, double error) {
    return moments.count > 1 && error > 1e-3 * (2 * moments.squares + std::max(0.0, products));
  };
  PairSquares products;
  if (rows.scalar != cpu::Scalar::kFloat64) {
    products = products_of<float>(centred, classes);
    if (too_coarse(spread.within, products.within, products.within_error) ||
        too_coarse(spread.between, products.between, products.between_error)) {
      products = products_of<double>(centred, classes);
    }
  } else {
    products = products_of<double>(centred, classes);
  }
  spread.within.squares += std::max(0.0, products.within) / 2;
  if (valid.classes() > 1) spread.between.squares += std::max(0.0, products.between) / 2;
  return spread;
}

// -> [6] float64: deviation all, within, between; valid rows, zero rows, non-finite rows.
at::Tensor cosine_spread_cpu(const at::Tensor& x, const std::optional<at::Tensor>& order,
                             const std::optional<at::Tensor>& class_ptr) {
  check_input(x, "cosine_spread");
  const Grouping groups = optional_grouping(order, class_ptr, x, "cosine_spread");
  const at::Tensor rows = as_rows(x);
  const auto scales = unit_scales(rows);
  const ValidRows valid = valid_rows(scales, groups);
  UnitRows chosen = unit_rows(rows, scales);
  chosen.kernel.order = valid.order.data();
  chosen.count = valid.count();
  const Spread spread = valid.count() > 1 ? spread_of(chosen, valid) : Spread{};
  Moments all = spread.within;
  all.add(spread.between);
  const Moments none;
  at::Tensor out = at::empty({6}, at::kDouble);
  double* values = out.mutable_data_ptr<double>();
  values[0] = all.deviation();
  values[1] = (groups.labelled() ? spread.within : none).deviation();
  values[2] = (groups.labelled() ? spread.between : none).deviation();
  values[3] = static_cast<double>(valid.count());
  values[4] = static_cast<double>(valid.zero);
  values[5] = static_cast<double>(valid.nonfinite);
  return out;
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
