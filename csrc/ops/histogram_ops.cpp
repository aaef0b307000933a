// Exact counts of the cosines of all pairs of rows by their size.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <mutex>

#include "../kernels/cpu/dispatch.h"
#include "histogram.h"
#include "tiles.h"

namespace tfc::ops {

void check_bins(int64_t bins) {
  // float32 cells of that many are still wider than the error of a cosine.
  constexpr int64_t kMostBins = int64_t{1} << 16;
  TORCH_CHECK_VALUE(bins >= 1 && bins <= kMostBins, "cosine_histogram: bins must be 1 ... ", kMostBins,
                    ", got ", bins);
}

namespace {

// Counts the tiles of one thread, and adds them up at the end.
template <typename Real>
class TileCounter {
 public:
  TileCounter(const ValidRows& rows, int64_t bins, int64_t* totals, std::mutex& mutex,
              cpu::CountCosinesFunction<Real> count)
      : rows_(rows), bins_(bins), totals_(totals), mutex_(mutex), count_(count) {
    for (auto& counts : counts_) counts.resize(static_cast<size_t>(cpu::kCountWays * bins));
  }

  void operator()(const Tile<Real>& tile) {
    if (pending_ + tile.rows * tile.columns > kMostPending) flush();
    pending_ += tile.rows * tile.columns;
    const int64_t end = tile.column + tile.columns;
    for (int64_t i = tile.row; i < tile.row + tile.rows; ++i) {
      const Real* cosines = tile.cosines + (i - tile.row) * tile.stride - tile.column;
      // Every pair once: later rows. Those of the same class come first among them.
      const int64_t first = std::max(tile.column, i + 1);
      if (first >= end) break;
      const int64_t same_until = std::clamp(rows_.class_end(i), first, end);
      count_(cosines + first, same_until - first, bins_, counts_[0].data());
      count_(cosines + same_until, end - same_until, bins_, counts_[1].data());
    }
  }

  void flush() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (int kind = 0; kind < 2; ++kind) {
      for (size_t cell = 0; cell < counts_[kind].size(); ++cell) {
        totals_[kind * bins_ + static_cast<int64_t>(cell) % bins_] += counts_[kind][cell];
      }
      std::fill(counts_[kind].begin(), counts_[kind].end(), 0);
    }
    pending_ = 0;
  }

 private:
  static constexpr int64_t kMostPending = int64_t{1} << 31;  // in cells of 32 bits
  const ValidRows& rows_;
  int64_t bins_;
  int64_t* totals_;
  std::mutex& mutex_;
  cpu::CountCosinesFunction<Real> count_;
  std::vector<uint32_t> counts_[2];  // same class, different classes: [kCountWays, bins]
  int64_t pending_ = 0;
};

template <typename Real>
void count_pairs(const UnitRows& rows, const ValidRows& valid, int64_t bins, int64_t* totals,
                 cpu::CountCosinesFunction<Real> count) {
  std::mutex mutex;
  for_each_tile<Real>(rows, rows, /*triangle=*/true,
                      [&] { return TileCounter<Real>(valid, bins, totals, mutex, count); });
}

// -> counts [2, bins] of pairs of rows of the same class (without labels: of all rows) and of different
// classes; rows [3]: valid, zero, non-finite.
std::tuple<at::Tensor, at::Tensor> cosine_histogram_cpu(const at::Tensor& x,
                                                        const std::optional<at::Tensor>& order,
                                                        const std::optional<at::Tensor>& class_ptr,
                                                        int64_t bins) {
  check_input(x, "cosine_histogram");
  check_bins(bins);
  const Grouping groups = optional_grouping(order, class_ptr, x, "cosine_histogram");
  const at::Tensor rows = as_rows(x);
  const auto scales = unit_scales(rows);
  const ValidRows valid = valid_rows(scales, groups);
  UnitRows chosen = unit_rows(rows, scales);
  chosen.kernel.order = valid.order.data();
  chosen.count = valid.count();
  at::Tensor counts = at::zeros({2, bins}, at::kLong);
  int64_t* totals = counts.mutable_data_ptr<int64_t>();
  const cpu::Kernels& kernels = cpu::kernels();
  if (x.scalar_type() == at::kDouble) {
    count_pairs<double>(chosen, valid, bins, totals, kernels.count_cosines_double);
  } else {
    count_pairs<float>(chosen, valid, bins, totals, kernels.count_cosines_float);
  }
  at::Tensor found = at::empty({3}, at::kLong);
  int64_t* values = found.mutable_data_ptr<int64_t>();
  values[0] = valid.count();
  values[1] = valid.zero;
  values[2] = valid.nonfinite;
  return {counts, found};
}

std::tuple<at::Tensor, at::Tensor> cosine_histogram_meta(const at::Tensor& x,
                                                         const std::optional<at::Tensor>&,
                                                         const std::optional<at::Tensor>&, int64_t bins) {
  check_input(x, "cosine_histogram");
  check_bins(bins);
  const auto options = x.options().dtype(at::kLong);
  return {at::empty({2, bins}, options), at::empty({3}, options)};
}

}  // namespace
}  // namespace tfc::ops

TORCH_LIBRARY_FRAGMENT(tfc_fast, m) {
  m.def(
      "cosine_histogram(Tensor x, Tensor? order, Tensor? class_ptr, int bins) -> (Tensor counts, Tensor "
      "rows)");
}

TORCH_LIBRARY_IMPL(tfc_fast, CPU, m) { m.impl("cosine_histogram", tfc::ops::cosine_histogram_cpu); }

TORCH_LIBRARY_IMPL(tfc_fast, Meta, m) { m.impl("cosine_histogram", tfc::ops::cosine_histogram_meta); }
