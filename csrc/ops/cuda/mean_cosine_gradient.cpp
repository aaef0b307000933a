// mean_cosine_backward on CUDA, of which nothing waits for the device. Its derivatives are torch's own
// operations (../mean_cosine_gradient.cpp).
#include "../mean_cosine_gradient.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "class_sums.h"
#include "unit_row_gradient.h"

namespace tfc::ops::on_cuda {
namespace {

constexpr const char* kOp = "mean_cosine_backward";

at::Tensor mean_cosine_backward_cuda(const at::Tensor& grad, const at::Tensor& x,
                                     const std::optional<at::Tensor>& order,
                                     const std::optional<at::Tensor>& class_ptr) {
  check_input(x, kOp);
  check_mean_cosine_grad(grad);
  TORCH_CHECK_VALUE(grad.device() == x.device(), kOp, ": grad must be on the device of x, ", x.device(),
                    ", got ", grad.device());
  const DeviceGuard guard(x.device());
  const int64_t n = x.size(0);
  const Grouping groups = limit_classes(optional_grouping(order, class_ptr, x, kOp), n);
  const DeviceGroups on_device(groups, n);
  const at::Tensor rows = as_rows(x);
  auto [weights, counts] = class_sums(rows, on_device);
  const at::Tensor means = grad.contiguous();
  at::Tensor factors = at::empty({2}, means.options());
  check(cuda::sums_to_weights(weights.mutable_data_ptr<double>(), counts.const_data_ptr<int64_t>(),
                              weights.size(0), weights.size(1), groups.labelled(),
                              means.const_data_ptr<double>(), factors.mutable_data_ptr<double>(),
                              current_stream()),
        kOp);
  if (!groups.labelled()) return unit_row_gradient(x, weights, {nullptr, nullptr, true});
  return unit_row_gradient(x, weights, {on_device.groups().order, on_device.groups().label_at, false});
}

}  // namespace
}  // namespace tfc::ops::on_cuda

TORCH_LIBRARY_IMPL(tfc_fast, TFC_CUDA_KEY, m) {
  m.impl("mean_cosine_backward", tfc::ops::on_cuda::mean_cosine_backward_cuda);
}
