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
AcrossClasses<Real>::AcrossClasses(const Classes& classes)
    : classes_(classes),
      columns_(rounded_up(classes.valid.classes(), cpu::kPanelStep)),
      depth_(rounded_up(static_cast<int64_t>(classes.centre.size()), cpu::kPanelStep)),
      // Not a power of two: what is read a stride apart must not fall into one set of the cache.
      stride_(columns_ + cpu::kPanelStep) {
  if (classes.valid.classes() < 2) return;
  means_.resize(static_cast<size_t>(depth_ * stride_));
  of_row_.resize(static_cast<size_t>(classes.valid.count()));
  const CentredMeans means(classes);
  pack_columns<Real>(means.rows)(means.rows.kernel, 0, means.rows.count, means_.data(), stride_);
}

template <typename Real>
void AcrossClasses<Real>::add(int64_t first, int64_t last, const Real* rows, int64_t stride) {
  if (means_.empty()) return;
  const int64_t height = rounded_up(last - first, cpu::kPanelStep);
  const std::unique_ptr<Real[]> products(new Real[static_cast<size_t>(height * columns_)]);
  for (int64_t k = 0; k < depth_; k += kDepth<Real>) {
    gemm(height, columns_, std::min(kDepth<Real>, depth_ - k), rows + k, stride, means_.data() + k * stride_,
         stride_, /*add=*/k > 0, products.get(), columns_);
  }
  const int64_t count = classes_.valid.classes();
  for (int64_t i = first; i < last; ++i) {
    of_row_[i] = sum_of_row(classes_, i, 0, count, products.get() + (i - first) * columns_);
  }
}

template <typename Real>
AcrossSquares AcrossClasses<Real>::total() const {
  if (means_.empty()) return {};
  return with_error<Real>(std::accumulate(of_row_.begin(), of_row_.end(), 0.0), classes_);
}

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

template class AcrossClasses<float>;
template class AcrossClasses<double>;
template AcrossSquares across_classes<float>(const UnitRows& centred, const Classes& classes);
template AcrossSquares across_classes<double>(const UnitRows& centred, const Classes& classes);

}  // namespace tfc::ops
