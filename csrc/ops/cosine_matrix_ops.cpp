// The matrix of cosines of two batches of rows, or of one with itself.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>

#include "../kernels/cpu/dispatch.h"
#include "cosine_matrix.h"
#include "output.h"
#include "tiles.h"

namespace tfc::ops {

namespace {
constexpr const char* kOp = "cosine_matrix";
}

at::ScalarType cosine_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

void check_cosine_matrix(const at::Tensor& x, const std::optional<at::Tensor>& y) {
  check_input(x, kOp);
  if (!y) return;
  TORCH_CHECK_VALUE(y->dim() >= 1, kOp, ": y must have at least one dimension (rows), got a scalar");
  TORCH_CHECK_TYPE(y->scalar_type() == x.scalar_type(), kOp, ": y must have the dtype of x, ",
                   x.scalar_type(), ", got ", y->scalar_type());
  TORCH_CHECK_VALUE(y->device() == x.device(), kOp, ": y must be on the device of x, ", x.device(), ", got ",
                    y->device());
  TORCH_CHECK_VALUE(row_width(*y) == row_width(x), kOp, ": rows of y must be as long as those of x, ",
                    row_width(x), " entries, got ", row_width(*y), " (shapes ", x.sym_sizes(), " and ",
                    y->sym_sizes(), ")");
}

namespace {

// Writes the tiles of one thread to where they belong.
template <typename Real>
struct TileWriter {
  const UnitRows& left;
  const UnitRows& right;
  bool symmetric;
  bool all_finite;
  Real* out;
  int64_t row_stride, column_stride;
  cpu::PlaceCosinesFunction<Real> place;

  void operator()(const Tile<Real>& tile) const {
    if (symmetric && tile.row == tile.column) finish_diagonal(tile);
    if (!all_finite) spread_nonfinite(tile);
    place(tile.cosines, tile.stride, tile.rows, tile.columns,
          out + tile.row * row_stride + tile.column * column_stride, row_stride, column_stride);
    if (symmetric && tile.row != tile.column) {
      place(tile.cosines, tile.stride, tile.rows, tile.columns,
            out + tile.column * row_stride + tile.row * column_stride, column_stride, row_stride);
    }
  }

  void finish_diagonal(const Tile<Real>& tile) const {
    for (int64_t i = 0; i < tile.rows; ++i) {
      Real* row = tile.cosines + i * tile.stride;
      for (int64_t j = 0; j < i; ++j) row[j] = tile.cosines[j * tile.stride + i];
      row[i] = left.kernel.scales[tile.row + i].scale == 0 ? Real{0} : Real{1};
    }
  }

  void spread_nonfinite(const Tile<Real>& tile) const {
    const Real nan = std::numeric_limits<Real>::quiet_NaN();
    for (int64_t i = 0; i < tile.rows; ++i) {
      Real* row = tile.cosines + i * tile.stride;
      if (std::isnan(left.kernel.scales[tile.row + i].scale)) std::fill(row, row + tile.columns, nan);
    }
    for (int64_t j = 0; j < tile.columns; ++j) {
      if (!std::isnan(right.kernel.scales[tile.column + j].scale)) continue;
      for (int64_t i = 0; i < tile.rows; ++i) tile.cosines[i * tile.stride + j] = nan;
    }
  }
};

bool finite(const std::vector<cpu::UnitScale>& scales) {
  return std::none_of(scales.begin(), scales.end(),
                      [](const cpu::UnitScale& scale) { return std::isnan(scale.scale); });
}

template <typename Real>
void fill(const UnitRows& left, const UnitRows& right, bool symmetric, bool all_finite, const at::Tensor& out,
          cpu::PlaceCosinesFunction<Real> place) {
  const TileWriter<Real> writer{
      left, right, symmetric, all_finite, out.mutable_data_ptr<Real>(), out.stride(0), out.stride(1), place};
  // Rows that are part of several tiles would be packed for each of them.
  const TileGrid grid(left.count, right.count, symmetric);
  std::optional<MadeRows<Real>> made_left, made_right;
  if (!multiplied_in_pairs(left)) {
    if (right.count > grid.width()) made_left = made_if_small<Real>(left);
    if (left.count > grid.height() && !symmetric) made_right = made_if_small<Real>(right);
  }
  const UnitRows& left_rows = made_left ? made_left->rows : left;
  const UnitRows& right_rows = symmetric ? left_rows : made_right ? made_right->rows : right;
  for_each_tile<Real>(left_rows, right_rows, symmetric, [&] { return writer; });
}

void compute(const at::Tensor& x, const std::optional<at::Tensor>& y, const at::Tensor& out) {
  const at::Tensor left = as_rows(x);
  const at::Tensor right = y ? as_rows(*y) : left;
  const auto left_scales = unit_scales(left);
  const auto right_scales = y ? unit_scales(right) : std::vector<cpu::UnitScale>();
  const UnitRows left_rows = unit_rows(left, left_scales);
  const UnitRows right_rows = y ? unit_rows(right, right_scales) : left_rows;
  const bool all_finite = finite(left_scales) && finite(right_scales);
  const cpu::Kernels& kernels = cpu::kernels();
  if (out.scalar_type() == at::kDouble) {
    fill<double>(left_rows, right_rows, !y, all_finite, out, kernels.place_cosines_double);
  } else {
    fill<float>(left_rows, right_rows, !y, all_finite, out, kernels.place_cosines_float);
  }
}

at::Tensor cosine_matrix_meta(const at::Tensor& x, const std::optional<at::Tensor>& y) {
  check_cosine_matrix(x, y);
  return at::empty_symint({x.sym_size(0), y ? y->sym_size(0) : x.sym_size(0)},
                          x.options().dtype(cosine_type(x)));
}

at::Tensor cosine_matrix_cpu(const at::Tensor& x, const std::optional<at::Tensor>& y) {
  check_cosine_matrix(x, y);
  at::Tensor out = at::empty({x.size(0), y ? y->size(0) : x.size(0)}, x.options().dtype(cosine_type(x)));
  compute(x, y, out);
  return out;
}

void cosine_matrix_out_meta(const at::Tensor& x, const std::optional<at::Tensor>& y, const at::Tensor& out) {
  check_cosine_matrix(x, y);
  check_output(kOp, out, cosine_type(x), x, y ? *y : x);
}

void cosine_matrix_out_cpu(const at::Tensor& x, const std::optional<at::Tensor>& y, const at::Tensor& out) {
  check_cosine_matrix(x, y);
  check_output(kOp, out, cosine_type(x), x, y ? *y : x);
  check_memory(kOp, out, x, "x");
  if (y) check_memory(kOp, out, *y, "y");
  compute(x, y, out);
  mark_written(out);
}

}  // namespace
}  // namespace tfc::ops

TORCH_LIBRARY_FRAGMENT(tfc_fast, m) {
  m.def("cosine_matrix(Tensor x, Tensor? y) -> Tensor");
  m.def("cosine_matrix_out(Tensor x, Tensor? y, Tensor(a!) out) -> ()");
}

TORCH_LIBRARY_IMPL(tfc_fast, CPU, m) {
  m.impl("cosine_matrix", tfc::ops::cosine_matrix_cpu);
  m.impl("cosine_matrix_out", tfc::ops::cosine_matrix_out_cpu);
}

TORCH_LIBRARY_IMPL(tfc_fast, Meta, m) {
  m.impl("cosine_matrix", tfc::ops::cosine_matrix_meta);
  m.impl("cosine_matrix_out", tfc::ops::cosine_matrix_out_meta);
}
