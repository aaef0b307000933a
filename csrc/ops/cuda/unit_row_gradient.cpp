#include "unit_row_gradient.h"

#include <ATen/ops/empty_like.h>

#include "../../kernels/cuda/unit_row_gradient.h"
#include "../measure.h"

namespace tfc::ops::on_cuda {

at::Tensor unit_row_gradient(const at::Tensor& x, const at::Tensor& weights, const WeightOf& weight_of) {
  TORCH_INTERNAL_ASSERT(weights.is_contiguous() &&
                        (weights.scalar_type() == at::kDouble || weights.scalar_type() == at::kFloat));
  const at::Tensor rows = as_rows(x);
  at::Tensor out = at::empty_like(x, x.options(), at::MemoryFormat::Contiguous);
  cuda::UnitRowGradient gradient{};
  gradient.scalar = scalar_of(x.scalar_type());
  gradient.rows = rows.const_data_ptr();
  gradient.stride = rows.stride(0);
  gradient.n = rows.size(0);
  gradient.width = rows.size(1);
  gradient.order = weight_of.order;
  gradient.weights = weights.const_data_ptr();
  gradient.weights_stride = weight_of.same_for_all ? 0 : gradient.width;
  gradient.weights_are_double = weights.scalar_type() == at::kDouble;
  gradient.label = weight_of.label;
  gradient.out = out.mutable_data_ptr();
  check(cuda::unit_row_gradient(gradient, current_stream()), "unit_row_gradient");
  return out;
}

}  // namespace tfc::ops::on_cuda
