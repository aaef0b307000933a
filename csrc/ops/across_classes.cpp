#include "across_classes.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <type_traits>

#include "gemm.h"
#include "tiles.h"

namespace tfc::ops {
namespace {

// Sum over the classes of rows times squared distance from the centre.
double squared_distances(const Classes& classes) {
  double sum = 0;
  const double* mean = classes.means.data();
  for (const double rows : classes.counts) {
    for (const double centre : classes.centre) {
      const double apart = *mean++ - centre;
      sum += rows * apart * apart;
    }
  }
  return sum;
}

// The means less the centre, to be packed.
struct CentredMeans {
  explicit CentredMeans(const Classes& classes)
      : one_centre(classes.counts.size()), rows(rows_of_means(classes)) {
    rows.kernel.means = classes.centre.data();
    rows.kernel.means_stride = rows.kernel.width;
    rows.kernel.label = one_centre.data();
  }
  CentredMeans(const CentredMeans&) = delete;
  CentredMeans& operator=(const CentredMeans&) = delete;

  std::vector<int64_t> one_centre;
  UnitRows rows;
};

// Row i and the classes first ... last - 1, of which products[0 ...] are the products with the row.
template <typename Real>
double sum_of_row(const Classes& classes, int64_t i, int64_t first, int64_t last, const Real* products) {
  const auto some = [&](int64_t from, int64_t until) {
    double sum = 0;
    for (int64_t e = from; e < until; ++e) {
      const double along = classes.along[i] + static_cast<double>(products[e - first]);
      sum += classes.counts[e] * along * along;
    }
    return sum;
  };
  const int64_t own = std::clamp(classes.valid.label[i], first, last);
  const int64_t other = std::clamp(classes.valid.label[i] + 1, first, last);
  return some(first, own) + some(other, last);
}

template <typename Real>
AcrossSquares with_error(double sum, const Classes& classes) {
  if constexpr (std::is_same_v<Real, double>) return {sum, 0};
  // Each product is off by the rounding of its entries, some 2^-24 of |w_i| times the distance, and of its
  // sum, which grows with the number of runs (gemm.h) when all roundings go one way; 2^-20 leaves room for
  // both up to a thousand entries.
  const double thousands = std::max(1.0, static_cast<double>(classes.centre.size()) / 1024);
  const double squares = std::accumulate(classes.squares.begin(), classes.squares.end(), 0.0);
  const double off = 0x1p-40 * thousands * thousands * squares * squared_distances(classes);
  return {sum, 2 * std::sqrt(sum * off) + off};
}

}  // namespace

template <typename Real>
AcrossSquares across_classes(const UnitRows& centred, const Classes& classes) {
  const int64_t count = classes.valid.classes();
  if (count < 2) return {};
  const CentredMeans means(classes);
  // One entry per tile, so that they are added in a fixed order.
  std::vector<double> sums(static_cast<size_t>(TileGrid(centred.count, count, /*triangle=*/false).count()));
  for_each_tile<Real>(centred, means.rows, /*triangle=*/false, [&] {
    return [&](const Tile<Real>& tile) {
      double sum = 0;
      for (int64_t i = tile.row; i < tile.row + tile.rows; ++i) {
        sum += sum_of_row(classes, i, tile.column, tile.column + tile.columns,
                          tile.cosines + (i - tile.row) * tile.stride);
      }
      sums[tile.index] = sum;
    };
  });
  return with_error<Real>(std::accumulate(sums.begin(), sums.end(), 0.0), classes);
}

template AcrossSquares across_classes<float>(const UnitRows& centred, const Classes& classes);
template AcrossSquares across_classes<double>(const UnitRows& centred, const Classes& classes);

AcrossColumns::AcrossColumns(const Classes& classes)
    : classes_(classes), apart_(classes.means.size()), apart_rows_(classes.means.size()) {
  const auto count = static_cast<int64_t>(classes.counts.size());
  const auto width = static_cast<int64_t>(classes.centre.size());
  for (int64_t e = 0; e < count; ++e) {
    for (int64_t j = 0; j < width; ++j) {
      const double apart = classes.means[e * width + j] - classes.centre[j];
      apart_[j * count + e] = apart_rows_[e * width + j] = std::sqrt(classes.counts[e]) * apart;
    }
  }
}

double AcrossColumns::of_tile(const TilePlace& tile, const double* products, int64_t stride) const {
  constexpr int64_t kMostRows = 64;
  const auto count = static_cast<int64_t>(classes_.counts.size());
  const auto width = static_cast<int64_t>(classes_.centre.size());
  const bool diagonal = tile.row == tile.column;
  const std::unique_ptr<double[]> weights(new double[static_cast<size_t>(kMostRows * tile.columns)]);
  double once = 0;
  double twice = 0;
  for (int64_t first = 0; first < tile.rows; first += kMostRows) {
    const int64_t last = std::min(tile.rows, first + kMostRows);
    gemm(last - first, tile.columns, count, apart_.data() + (tile.row + first) * count, count,
         apart_rows_.data() + tile.column, width, /*add=*/false, weights.get(), tile.columns);
    for (int64_t i = first; i < last; ++i) {
      const double* weight = weights.get() + (i - first) * tile.columns;
      const double* product = products + i * stride;
      if (diagonal) once += weight[i] * product[i];
      for (int64_t j = diagonal ? i + 1 : 0; j < tile.columns; ++j) twice += weight[j] * product[j];
    }
  }
  return once + 2 * twice;
}

AcrossSquares AcrossColumns::total(double of_tiles, double squares_of_products, bool in_float) const {
  const auto rows = static_cast<double>(classes_.along.size());
  double along = 0;
  double own = 0;
  for (int64_t c = 0; c < classes_.valid.classes(); ++c) {
    double of_class = 0;
    for (int64_t i = classes_.valid.class_ptr[c]; i < classes_.valid.class_ptr[c + 1]; ++i) {
      along += classes_.along[i] * classes_.along[i];
      of_class += classes_.own(c, i) * classes_.own(c, i);
    }
    own += classes_.counts[c] * of_class;
  }
  const double all = rows * along + of_tiles;
  // The products are off by some 2^-22 of C; lengths and products with the centre by some 2^-52 each.
  const double rounding = in_float ? 0x1p-20 : 0x1p-46;
  return {std::max(0.0, all - own), rounding * std::sqrt(squares_of_products) * squared_distances(classes_) +
                                        0x1p-50 * rows * std::sqrt(along) + 0x1p-50 * all};
}

}  // namespace tfc::ops
