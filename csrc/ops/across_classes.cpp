#include "across_classes.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

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
  const std::vector<cpu::UnitScale> as_they_are(classes.counts.size(), {1, 1});
  const std::vector<int64_t> one_centre(classes.counts.size());
  UnitRows means = rows_of_means(classes, as_they_are);
  means.kernel.means = classes.centre.data();
  means.kernel.means_stride = means.kernel.width;
  means.kernel.label = one_centre.data();
  pack_columns<Real>(means)(means.kernel, 0, means.count, means_.data(), stride_);
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
  const Real* product = products.get();
  for (int64_t i = first; i < last; ++i, product += columns_) {
    const auto square = [&](int64_t e) {
      const double along = classes_.along[i] + static_cast<double>(product[e]);
      return classes_.counts[e] * along * along;
    };
    const int64_t own = classes_.valid.label[i];
    double sum = 0;
    for (int64_t e = 0; e < own; ++e) sum += square(e);
    for (int64_t e = own + 1; e < classes_.valid.classes(); ++e) sum += square(e);
    of_row_[i] = sum;
  }
}

template <typename Real>
AcrossSquares AcrossClasses<Real>::total() const {
  if (means_.empty()) return {};
  AcrossSquares across;
  across.sum = std::accumulate(of_row_.begin(), of_row_.end(), 0.0);
  // Each product is off by its own rounding of the entries.
  const double rounding = std::is_same_v<Real, float> ? 0x1p-46 : 0x1p-104;
  const double squares = std::accumulate(classes_.squares.begin(), classes_.squares.end(), 0.0);
  const double off = rounding * squares * squared_distances(classes_);
  across.error = 2 * std::sqrt(across.sum * off) + off;
  return across;
}

template <typename Real>
AcrossSquares across_classes(const UnitRows& centred, const Classes& classes) {
  if (classes.valid.classes() < 2) return {};
  constexpr int64_t kRows = AcrossClasses<Real>::kMostRows;
  AcrossClasses<Real> across(classes);
  const int64_t stride = rounded_up(centred.kernel.width, cpu::kPanelStep) + cpu::kPanelStep;
  const int64_t tasks = divided_up(centred.count, kRows);
  // Two tasks are run inside a parallel region even if the second is empty.
  at::parallel_for(0, std::max<int64_t>(2, tasks), 1, [&](int64_t first_task, int64_t last_task) {
    std::vector<Real> rows(static_cast<size_t>(kRows * stride));
    for (int64_t first = first_task * kRows; first < std::min(centred.count, last_task * kRows);
         first += kRows) {
      const int64_t last = std::min(centred.count, first + kRows);
      pack_rows<Real>(centred)(centred.kernel, first, last, rows.data(), stride);
      across.add(first, last, rows.data(), stride);
    }
  });
  return across.total();
}

template class AcrossClasses<float>;
template class AcrossClasses<double>;
template AcrossSquares across_classes<float>(const UnitRows& centred, const Classes& classes);
template AcrossSquares across_classes<double>(const UnitRows& centred, const Classes& classes);

}  // namespace tfc::ops
