#include "unit_row_gradient.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "../kernels/cpu/dispatch.h"

namespace tfc::ops {

at::Tensor unit_row_gradient(const at::Tensor& x, const at::Tensor& weights, const WeightOf& weight_of) {
  TORCH_INTERNAL_ASSERT(weights.is_contiguous() &&
                        (weights.scalar_type() == at::kDouble || weights.scalar_type() == at::kFloat));
  const at::Tensor rows = as_rows(x);
  const bool is_double = x.scalar_type() == at::kDouble;
  at::Tensor out = at::empty(rows.sizes(), is_double ? at::kDouble : at::kFloat);
  cpu::UnitRowGradient gradient{};
  gradient.data = rows.const_data_ptr();
  gradient.stride = rows.stride(0);
  gradient.width = rows.size(1);
  gradient.order = weight_of.order;
  gradient.weights = weights.const_data_ptr();
  gradient.weights_stride = weight_of.same_for_all ? 0 : gradient.width;
  gradient.label = weight_of.label;
  gradient.out = out.mutable_data_ptr();
  const cpu::Kernels& kernels = cpu::kernels();
  const auto scalar = static_cast<int>(scalar_of(x.scalar_type()));
  const auto kernel = weights.scalar_type() == at::kDouble ? kernels.unit_row_gradient_double[scalar]
                                                           : kernels.unit_row_gradient_float[scalar];
  at::parallel_for(0, rows.size(0),
                   std::max<int64_t>(1, kElementsPerThread / std::max<int64_t>(1, gradient.width)),
                   [&](int64_t first, int64_t last) { kernel(gradient, first, last); });
  return out.to(x.scalar_type()).view(x.sizes());
}

void check_no_tangent(const at::Tensor& x, const char* op) {
  TORCH_CHECK_NOT_IMPLEMENTED(!x._fw_grad(/*level=*/0).defined(), op,
                              ": forward-mode differentiation is not supported; use reverse mode "
                              "(torch.autograd.grad, backward)");
}

DifferentiableUnitRows differentiable_unit_rows(const at::Tensor& x) {
  const at::Tensor rows = x.reshape({x.size(0), row_width(x).expect_int()}).to(at::kDouble);
  if (rows.numel() == 0) {
    const at::Tensor none = at::zeros({x.size(0), 1}, rows.options());
    return {rows, none, none.to(at::kBool)};
  }
  const at::Tensor largest = rows.detach().abs().amax(1, /*keepdim=*/true);
  const at::Tensor valid = largest.isfinite().logical_and(largest > 0);
  // Squares neither under- nor overflow in rows whose largest entry is 1.
  const at::Tensor one = at::scalar_tensor(1.0, rows.options());
  const at::Tensor zero = at::scalar_tensor(0.0, rows.options());
  const at::Tensor scale = at::where(valid, largest, one);
  const at::Tensor scaled = at::where(valid, rows, zero) / scale;
  const at::Tensor lengths = at::where(valid, scaled.square().sum(1, /*keepdim=*/true), one).sqrt();
  return {scaled / lengths, lengths * scale, valid};
}

at::Tensor differentiable_gradient(const DifferentiableUnitRows& rows, const at::Tensor& weights,
                                   const at::Tensor& x) {
  const at::Tensor along = (rows.units * weights).sum(1, /*keepdim=*/true);
  const at::Tensor gradient = (weights - rows.units * along) / rows.lengths;
  const at::Tensor zero = at::scalar_tensor(0.0, gradient.options());
  return at::where(rows.valid, gradient, zero).to(x.scalar_type()).reshape(x.sizes());
}

}  // namespace tfc::ops
