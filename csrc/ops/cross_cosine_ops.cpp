// Cosines of the rows of one batch with those of another: of all pairs, and of row i with row i.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "../kernels/cpu/dispatch.h"
#include "../kernels/statistics.h"
#include "class_sums.h"
#include "cross_cosine.h"
#include "measure.h"

namespace tfc::ops {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

// ---- all pairs -------------------------------------------------------------------------------

// One of the two batches.
struct Side {
  at::Tensor sums;    // [classes, d] float64
  at::Tensor counts;  // [classes, 3] int64: rows that took part, zero rows, non-finite rows
  bool labelled;

  int64_t classes() const { return sums.size(0); }
  double rows(int64_t c) const { return static_cast<double>(counts.const_data_ptr<int64_t>()[3 * c]); }
  double total(int64_t kind) const {
    double sum = 0;
    for (int64_t c = 0; c < classes(); ++c) {
      sum += static_cast<double>(counts.const_data_ptr<int64_t>()[3 * c + kind]);
    }
    return sum;
  }
};

// The classes that either batch has rows of, numbered anew, so that memory depends on the rows alone.
void leave_out_empty_classes(Grouping& x, Grouping& y) {
  if (!x.labelled() || !y.labelled()) return;
  const int64_t* x_begin = x.class_ptr.const_data_ptr<int64_t>();
  const int64_t* y_begin = y.class_ptr.const_data_ptr<int64_t>();
  const int64_t x_classes = x.class_ptr.numel() - 1;
  const int64_t y_classes = y.class_ptr.numel() - 1;
  std::vector<int64_t> x_kept(1, 0), y_kept(1, 0);
  for (int64_t c = 0; c < std::max(x_classes, y_classes); ++c) {
    const int64_t x_end = x_begin[std::min(c + 1, x_classes)];
    const int64_t y_end = y_begin[std::min(c + 1, y_classes)];
    if (x_end == x_kept.back() && y_end == y_kept.back()) continue;
    x_kept.push_back(x_end);
    y_kept.push_back(y_end);
  }
  if (x_kept.size() == 1) x_kept.push_back(0), y_kept.push_back(0);  // no rows at all
  const auto as_tensor = [](const std::vector<int64_t>& values) {
    at::Tensor out = at::empty({static_cast<int64_t>(values.size())}, at::kLong);
    std::copy(values.begin(), values.end(), out.mutable_data_ptr<int64_t>());
    return out;
  };
  x.class_ptr = as_tensor(x_kept);
  y.class_ptr = as_tensor(y_kept);
}

Side sum_side(const at::Tensor& x, const Grouping& groups) {
  auto [sums, counts] = unit_row_sums(x, groups);
  return {sums, counts, groups.labelled()};
}

// -> [9] float64: cosine all, within, between; of x: rows that took part, zero rows, non-finite rows;
// of y the same.
at::Tensor cross_cosine_cpu(const at::Tensor& x, const OptionalTensor& x_order,
                            const OptionalTensor& x_class_ptr, const at::Tensor& y,
                            const OptionalTensor& y_order, const OptionalTensor& y_class_ptr) {
  check_crossed(x, y);
  Grouping x_groups = optional_grouping(x_order, x_class_ptr, x, "cross_cosine");
  Grouping y_groups = optional_grouping(y_order, y_class_ptr, y, "cross_cosine");
  leave_out_empty_classes(x_groups, y_groups);
  const Side left = sum_side(x, x_groups);
  const Side right = sum_side(y, y_groups);
  const SumProducts products =
      products_of_sums(left.sums.const_data_ptr<double>(), left.classes(),
                       right.sums.const_data_ptr<double>(), right.classes(), left.sums.size(1));
  CosineSums sums;
  sums.all = products.all;
  sums.within = products.within;
  sums.all_pairs = left.total(0) * right.total(0);
  for (int64_t c = 0; c < std::min(left.classes(), right.classes()); ++c) {
    sums.within_pairs += left.rows(c) * right.rows(c);
  }
  const CosineMeans means = cosine_means(sums, left.labelled && right.labelled);
  at::Tensor out = at::empty({9}, at::kDouble);
  double* values = out.mutable_data_ptr<double>();
  values[0] = means.all;
  values[1] = means.within;
  values[2] = means.between;
  for (int64_t kind = 0; kind < 3; ++kind) {
    values[3 + kind] = left.total(kind);
    values[6 + kind] = right.total(kind);
  }
  return out;
}

at::Tensor cross_cosine_meta(const at::Tensor& x, const OptionalTensor&, const OptionalTensor&,
                             const at::Tensor& y, const OptionalTensor&, const OptionalTensor&) {
  check_crossed(x, y);
  return at::empty({9}, x.options().dtype(at::kDouble));
}

// ---- row i with row i ------------------------------------------------------------------------

// In blocks, so that the error grows with the length of a block and the number of blocks, not of pairs.
double sum_measured(const std::vector<cpu::PairState>& states, const double* cosines) {
  constexpr size_t kBlock = 1024;
  double sum = 0;
  for (size_t begin = 0; begin < states.size(); begin += kBlock) {
    double block = 0;
    for (size_t i = begin; i < std::min(begin + kBlock, states.size()); ++i) {
      if (states[i] == cpu::PairState::kMeasured) block += cosines[i];
    }
    sum += block;
  }
  return sum;
}

// -> cosines [n] float64; [4] float64: their mean; pairs measured, pairs with a zero row, with a
// non-finite one.
std::tuple<at::Tensor, at::Tensor> paired_cosine_cpu(const at::Tensor& x, const at::Tensor& y) {
  check_paired(x, y);
  const at::Tensor left = as_rows(x);
  const at::Tensor right = as_rows(y);
  const int64_t rows = left.size(0);
  at::Tensor cosines = at::empty({rows}, at::kDouble);
  std::vector<cpu::PairState> states(static_cast<size_t>(rows));
  const cpu::RowPairs pairs{left.const_data_ptr(), right.const_data_ptr(), left.stride(0), right.stride(0),
                            left.size(1)};
  const auto kernel = cpu::kernels().pair_cosines[static_cast<int>(scalar_of(x.scalar_type()))];
  double* out = cosines.mutable_data_ptr<double>();
  at::parallel_for(0, rows, std::max<int64_t>(1, kElementsPerThread / std::max<int64_t>(1, pairs.width)),
                   [&](int64_t first, int64_t last) { kernel(pairs, first, last, out, states.data()); });

  const auto count = [&](cpu::PairState state) {
    return static_cast<double>(std::count(states.begin(), states.end(), state));
  };
  at::Tensor summary = at::empty({4}, at::kDouble);
  double* values = summary.mutable_data_ptr<double>();
  values[1] = count(cpu::PairState::kMeasured);
  values[2] = count(cpu::PairState::kZero);
  values[3] = count(cpu::PairState::kNonfinite);
  values[0] = cosine_ratio(sum_measured(states, out), values[1]);
  return {cosines, summary};
}

std::tuple<at::Tensor, at::Tensor> paired_cosine_meta(const at::Tensor& x, const at::Tensor& y) {
  check_paired(x, y);
  const auto options = x.options().dtype(at::kDouble);
  return {at::empty_symint({x.sym_size(0)}, options), at::empty({4}, options)};
}

}  // namespace

void check_crossed(const at::Tensor& x, const at::Tensor& y) {
  check_input(x, "cross_cosine");
  check_input(y, "cross_cosine");
  TORCH_CHECK_VALUE(y.device() == x.device(), "cross_cosine: y must be on the device of x, ", x.device(),
                    ", got ", y.device());
  TORCH_CHECK_VALUE(row_width(y) == row_width(x), "cross_cosine: rows of y must be as long as those of x, ",
                    row_width(x), " entries, got shapes ", x.sym_sizes(), " and ", y.sym_sizes());
}

void check_paired(const at::Tensor& x, const at::Tensor& y) {
  check_input(x, "paired_cosine");
  TORCH_CHECK_TYPE(y.scalar_type() == x.scalar_type(), "paired_cosine: y must have the dtype of x, ",
                   x.scalar_type(), ", got ", y.scalar_type());
  TORCH_CHECK_VALUE(y.device() == x.device(), "paired_cosine: y must be on the device of x, ", x.device(),
                    ", got ", y.device());
  TORCH_CHECK_VALUE(y.dim() >= 1 && y.sym_size(0) == x.sym_size(0) && row_width(y) == row_width(x),
                    "paired_cosine: y must have as many rows as x, and as long ones, got shapes ",
                    x.sym_sizes(), " and ", y.sym_sizes());
}

}  // namespace tfc::ops

TORCH_LIBRARY_FRAGMENT(tfc_fast, m) {
  m.def(
      "cross_cosine(Tensor x, Tensor? x_order, Tensor? x_class_ptr, Tensor y, Tensor? y_order, "
      "Tensor? y_class_ptr) -> Tensor");
  m.def("paired_cosine(Tensor x, Tensor y) -> (Tensor cosines, Tensor summary)");
}

TORCH_LIBRARY_IMPL(tfc_fast, CPU, m) {
  m.impl("cross_cosine", tfc::ops::cross_cosine_cpu);
  m.impl("paired_cosine", tfc::ops::paired_cosine_cpu);
}

TORCH_LIBRARY_IMPL(tfc_fast, Meta, m) {
  m.impl("cross_cosine", tfc::ops::cross_cosine_meta);
  m.impl("paired_cosine", tfc::ops::paired_cosine_meta);
}
