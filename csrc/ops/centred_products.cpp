#include "centred_products.h"

#include <algorithm>
#include <numeric>

#include "../kernels/cpu/dispatch.h"
#include "gemm.h"
#include "tiles.h"

namespace tfc::ops {
namespace {

double sum(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

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
    const Tile<Real> tile = grid_.tile<Real>(index);
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

}  // namespace

template <typename Real>
PairSquares products_of(const UnitRows& centred, const Classes& classes) {
  const auto rows = static_cast<double>(centred.count);
  const auto width = static_cast<double>(centred.kernel.width);
  // Additions of a class's d x d products cost as much as a few dozen rows more.
  const double by_columns = (rows + 64.0 * static_cast<double>(classes.valid.classes())) * width * width;
  return rows * rows * width <= by_columns ? from_row_products<Real>(centred, classes)
                                           : from_column_products<Real>(centred, classes);
}

template PairSquares products_of<float>(const UnitRows& centred, const Classes& classes);
template PairSquares products_of<double>(const UnitRows& centred, const Classes& classes);

}  // namespace tfc::ops
