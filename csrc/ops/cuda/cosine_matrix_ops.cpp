// cosine_matrix on CUDA, into new memory or the caller's, and its gradient. Nothing waits for the device.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include "../cosine_matrix.h"
#include "../measure.h"
#include "../output.h"
#include "cosine_tiles.h"
#include "library_products.h"
#include "unit_row_gradient.h"

namespace tfc::ops::on_cuda {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

constexpr const char* kOp = "cosine_matrix";

void compute(const at::Tensor& x, const OptionalTensor& y, const at::Tensor& out) {
  const ProductRows left = unit_product_rows(as_rows(x), nullptr);
  const ProductRows right = y ? unit_product_rows(as_rows(*y), nullptr) : left;
  void* to = out.mutable_data_ptr();
  const int64_t row_stride = out.stride(0);
  const int64_t column_stride = out.stride(1);
  for_each_tile(left, right, /*triangle=*/!y, [&](const cuda::CosineTile& tile) {
    check(cuda::place_cosines(tile, to, row_stride, column_stride, current_stream()), kOp);
  });
}

at::Tensor cosine_matrix_cuda(const at::Tensor& x, const OptionalTensor& y) {
  check_cosine_matrix(x, y);
  const DeviceGuard guard(x.device());
  at::Tensor out = at::empty({x.size(0), y ? y->size(0) : x.size(0)}, x.options().dtype(cosine_type(x)));
  compute(x, y, out);
  return out;
}

void cosine_matrix_out_cuda(const at::Tensor& x, const OptionalTensor& y, const at::Tensor& out) {
  check_cosine_matrix(x, y);
  check_output(kOp, out, cosine_type(x), x, y ? *y : x);
  check_memory(kOp, out, x, "x");
  if (y) check_memory(kOp, out, *y, "y");
  const DeviceGuard guard(x.device());
  compute(x, y, out);
  mark_written(out);
}

// Unit rows [n, d] of that dtype, and which rows have none.
struct Units {
  at::Tensor rows;
  at::Tensor missing;  // [n] bool
};

Units units_of(const at::Tensor& x, at::ScalarType type) {
  const at::Tensor rows = as_rows(x);
  constexpr int64_t kStep = 8;
  const int64_t pitch = std::max<int64_t>(kStep, (rows.size(1) + kStep - 1) / kStep * kStep);
  const at::Tensor units = at::empty({rows.size(0), pitch}, rows.options().dtype(type));
  const at::Tensor factors = at::empty({rows.size(0)}, rows.options().dtype(at::kDouble));
  cuda::UnitRows kernel{};
  kernel.scalar = scalar_of(rows.scalar_type());
  kernel.rows = rows.const_data_ptr();
  kernel.stride = rows.stride(0);
  kernel.n = rows.size(0);
  kernel.width = rows.size(1);
  kernel.form = type == at::kDouble ? cuda::UnitForm::kDouble : cuda::UnitForm::kFloat;
  kernel.out = units.mutable_data_ptr();
  kernel.padded_rows = rows.size(0);
  kernel.pitch = pitch;
  kernel.factors = factors.mutable_data_ptr<double>();
  check(cuda::unit_rows(kernel, current_stream()), "unit_rows");
  return {units.narrow(1, 0, rows.size(1)), factors.ne(1)};
}

// See cosine_matrix_gradient.cpp of the CPU.
at::Tensor cosine_matrix_backward_cuda(const at::Tensor& grad, const at::Tensor& x, const OptionalTensor& y) {
  check_cosine_matrix_backward(grad, x, y);
  const DeviceGuard guard(x.device());
  const LibraryProducts products;
  const Units units = units_of(y ? *y : x, grad.scalar_type());
  at::Tensor weights;
  if (y) {
    weights = grad.masked_fill(units.missing, 0);
  } else {
    weights = grad + grad.t();
    weights.fill_diagonal_(0);
    weights.masked_fill_(units.missing, 0);
  }
  return unit_row_gradient(x, at::mm(weights, units.rows).contiguous(), {});
}

}  // namespace
}  // namespace tfc::ops::on_cuda

TORCH_LIBRARY_IMPL(tfc_fast, TFC_CUDA_KEY, m) {
  m.impl("cosine_matrix", tfc::ops::on_cuda::cosine_matrix_cuda);
  m.impl("cosine_matrix_out", tfc::ops::on_cuda::cosine_matrix_out_cuda);
  m.impl("cosine_matrix_backward", tfc::ops::on_cuda::cosine_matrix_backward_cuda);
}
