// How alike the gates of two rows are: the matrix of all pairs, and exact counts of pairs.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <mutex>
#include <vector>

#include "../kernels/cpu/dispatch.h"
#include "gate_ops.h"
#include "gate_tiles.h"
#include "output.h"

namespace tfc::ops {
namespace {

constexpr const char* kMatrix = "agreement_matrix";
constexpr const char* kHistogram = "agreement_histogram";

// Makes fractions of the tiles of one thread, and writes them to where they belong.
struct TileWriter {
  const std::vector<int32_t>& left_open;  // both empty: Hamming, else Jaccard
  const std::vector<int32_t>& right_open;
  int32_t units;
  bool symmetric;
  float* out;
  int64_t row_stride, column_stride;

  void operator()(const GateTile& tile) const {
    const cpu::Kernels& kernels = cpu::kernels();
    for (int64_t i = 0; i < tile.rows; ++i) {
      int32_t* cells = tile.differing + i * tile.stride;
      if (left_open.empty()) {
        kernels.gates.hamming(cells, tile.columns, units);
      } else {
        kernels.gates.jaccard(cells, tile.columns, units, left_open[static_cast<size_t>(tile.row + i)],
                              right_open.data() + tile.column);
      }
    }
    const auto* agreement = reinterpret_cast<const float*>(tile.differing);
    kernels.place_cosines_float(agreement, tile.stride, tile.rows, tile.columns,
                                out + tile.row * row_stride + tile.column * column_stride, row_stride,
                                column_stride);
    if (symmetric && tile.row != tile.column) {
      kernels.place_cosines_float(agreement, tile.stride, tile.rows, tile.columns,
                                  out + tile.column * row_stride + tile.row * column_stride, column_stride,
                                  row_stride);
    }
  }
};

void check_sides(const at::Tensor& x, const std::optional<at::Tensor>& y, int64_t num_units) {
  check_packed(x, num_units, kMatrix, "x");
  if (!y) return;
  check_packed(*y, num_units, kMatrix, "y");
  TORCH_CHECK_VALUE(y->device() == x.device(), kMatrix, ": y must be on the device of x, ", x.device(),
                    ", got ", y->device());
}

void compute(const at::Tensor& x, const std::optional<at::Tensor>& y, int64_t num_units, bool jaccard,
             const at::Tensor& out) {
  const at::Tensor left_rows = as_rows(x);
  const at::Tensor right_rows = y ? as_rows(*y) : left_rows;
  const PackedGates left = packed_gates(left_rows, num_units);
  const PackedGates right = packed_gates(right_rows, num_units);
  const auto left_open = jaccard ? open_units(left) : std::vector<int32_t>();
  const auto right_open = jaccard && y ? open_units(right) : left_open;
  const TileWriter writer{
      left_open,     right_open,   static_cast<int32_t>(num_units), !y, out.mutable_data_ptr<float>(),
      out.stride(0), out.stride(1)};
  for_each_gate_tile(left, right, /*triangle=*/!y, [&] { return writer; });
}

}  // namespace

at::Tensor empty_agreement(const at::Tensor& x, const std::optional<at::Tensor>& y, int64_t num_units) {
  check_sides(x, y, num_units);
  return at::empty_symint({x.sym_size(0), y ? y->sym_size(0) : x.sym_size(0)}, x.options().dtype(at::kFloat));
}

void check_agreement_output(const at::Tensor& x, const std::optional<at::Tensor>& y, int64_t num_units,
                            const at::Tensor& out) {
  check_sides(x, y, num_units);
  check_output(kMatrix, out, at::kFloat, x, y ? *y : x);
}

void check_agreement_memory(const at::Tensor& x, const std::optional<at::Tensor>& y, const at::Tensor& out) {
  check_memory(kMatrix, out, x, "x");
  if (y) check_memory(kMatrix, out, *y, "y");
}

namespace {

at::Tensor agreement_matrix_meta(const at::Tensor& x, const std::optional<at::Tensor>& y, int64_t num_units,
                                 bool) {
  return empty_agreement(x, y, num_units);
}

at::Tensor agreement_matrix_cpu(const at::Tensor& x, const std::optional<at::Tensor>& y, int64_t num_units,
                                bool jaccard) {
  at::Tensor out = empty_agreement(x, y, num_units);
  compute(x, y, num_units, jaccard, out);
  return out;
}

void agreement_matrix_out_meta(const at::Tensor& x, const std::optional<at::Tensor>& y, int64_t num_units,
                               bool, const at::Tensor& out) {
  check_agreement_output(x, y, num_units, out);
}

void agreement_matrix_out_cpu(const at::Tensor& x, const std::optional<at::Tensor>& y, int64_t num_units,
                              bool jaccard, const at::Tensor& out) {
  check_agreement_output(x, y, num_units, out);
  check_agreement_memory(x, y, out);
  compute(x, y, num_units, jaccard, out);
  mark_written(out);
}

// Counts the tiles of one thread, and adds them up at the end.
class TileCounter {
 public:
  TileCounter(const Grouping& groups, int64_t units, int64_t* totals, std::mutex& mutex)
      : groups_(groups), cells_(units + 1), totals_(totals), mutex_(mutex) {
    for (auto& counts : counts_) counts.resize(static_cast<size_t>(cpu::kCountWays * cells_));
  }

  void operator()(const GateTile& tile) {
    if (pending_ + tile.rows * tile.columns > kMostPending) flush();
    pending_ += tile.rows * tile.columns;
    const int64_t end = tile.column + tile.columns;
    for (int64_t i = tile.row; i < tile.row + tile.rows; ++i) {
      const int32_t* differing = tile.differing + (i - tile.row) * tile.stride - tile.column;
      // Every pair once: later rows. Those of the same class come first among them.
      const int64_t first = std::max(tile.column, i + 1);
      if (first >= end) break;
      const int64_t same_until = std::clamp(class_end(i, end), first, end);
      count(differing + first, same_until - first, counts_[0].data());
      count(differing + same_until, end - same_until, counts_[1].data());
    }
  }

  void flush() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (int kind = 0; kind < 2; ++kind) {
      for (int64_t way = 0; way < cpu::kCountWays; ++way) {
        uint32_t* counts = counts_[kind].data() + way * cells_;
        // Rows that differ in k units agree in all others.
        int64_t* total = totals_ + kind * cells_ + cells_ - 1;
        for (int64_t cell = 0; cell < cells_; ++cell) total[-cell] += counts[cell];
        std::fill(counts, counts + cells_, 0);
      }
    }
    pending_ = 0;
  }

 private:
  // First position after the class of `position`.
  int64_t class_end(int64_t position, int64_t otherwise) const {
    if (!groups_.labelled()) return otherwise;
    const int64_t* begin = groups_.class_ptr.const_data_ptr<int64_t>();
    return *std::upper_bound(begin, begin + groups_.class_ptr.numel(), position);
  }

  void count(const int32_t* differing, int64_t pairs, uint32_t* counts) const {
    for (int64_t j = 0; j < pairs; ++j) ++counts[j % cpu::kCountWays * cells_ + differing[j]];
  }

  static constexpr int64_t kMostPending = int64_t{1} << 31;  // in cells of 32 bits
  const Grouping& groups_;
  int64_t cells_;
  int64_t* totals_;
  std::mutex& mutex_;
  std::vector<uint32_t> counts_[2];  // same class, different classes: [kCountWays, cells]
  int64_t pending_ = 0;
};

// -> counts [2, num_units + 1] of pairs of rows of the same class (without labels: of all rows) and of
// different classes that agree in so many units.
at::Tensor agreement_histogram_cpu(const at::Tensor& x, const std::optional<at::Tensor>& order,
                                   const std::optional<at::Tensor>& class_ptr, int64_t num_units) {
  check_packed(x, num_units, kHistogram, "x");
  const Grouping groups = optional_grouping(order, class_ptr, x, kHistogram);
  const at::Tensor rows = as_rows(x);
  PackedGates gates = packed_gates(rows, num_units);
  if (groups.labelled()) gates.order = groups.order.const_data_ptr<int64_t>();
  at::Tensor counts = at::zeros({2, num_units + 1}, at::kLong);
  int64_t* totals = counts.mutable_data_ptr<int64_t>();
  std::mutex mutex;
  for_each_gate_tile(gates, gates, /*triangle=*/true,
                     [&] { return TileCounter(groups, num_units, totals, mutex); });
  return counts;
}

at::Tensor agreement_histogram_meta(const at::Tensor& x, const std::optional<at::Tensor>&,
                                    const std::optional<at::Tensor>&, int64_t num_units) {
  check_packed(x, num_units, kHistogram, "x");
  return at::empty({2, num_units + 1}, x.options());
}

}  // namespace
}  // namespace tfc::ops

TORCH_LIBRARY_FRAGMENT(tfc_fast, m) {
  m.def("agreement_matrix(Tensor x, Tensor? y, int num_units, bool jaccard) -> Tensor");
  m.def("agreement_matrix_out(Tensor x, Tensor? y, int num_units, bool jaccard, Tensor(a!) out) -> ()");
  m.def("agreement_histogram(Tensor x, Tensor? order, Tensor? class_ptr, int num_units) -> Tensor");
}

TORCH_LIBRARY_IMPL(tfc_fast, CPU, m) {
  m.impl("agreement_matrix", tfc::ops::agreement_matrix_cpu);
  m.impl("agreement_matrix_out", tfc::ops::agreement_matrix_out_cpu);
  m.impl("agreement_histogram", tfc::ops::agreement_histogram_cpu);
}

TORCH_LIBRARY_IMPL(tfc_fast, Meta, m) {
  m.impl("agreement_matrix", tfc::ops::agreement_matrix_meta);
  m.impl("agreement_matrix_out", tfc::ops::agreement_matrix_out_meta);
  m.impl("agreement_histogram", tfc::ops::agreement_histogram_meta);
}
