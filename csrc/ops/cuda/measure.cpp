#include "measure.h"

#include <ATen/ops/empty.h>

namespace tfc::ops::on_cuda {

Grouping optional_grouping(const std::optional<at::Tensor>& order, const std::optional<at::Tensor>& class_ptr,
                           const at::Tensor& x, const char* op) {
  TORCH_CHECK_VALUE(order.has_value() == class_ptr.has_value(), op,
                    ": give both order and class_ptr, or neither");
  if (!class_ptr) return {};
  for (const at::Tensor* tensor : {&*order, &*class_ptr}) {
    TORCH_CHECK_VALUE(tensor->scalar_type() == at::kLong && tensor->is_contiguous() && tensor->dim() == 1, op,
                      ": order and class_ptr must be contiguous int64 tensors of one dimension, got ",
                      tensor->scalar_type(), " ", tensor->sizes());
    TORCH_CHECK_VALUE(tensor->device() == x.device(), op,
                      ": order and class_ptr must be on the device of x, ", x.device(), ", got ",
                      tensor->device());
  }
  TORCH_CHECK_VALUE(class_ptr->numel() >= 2, op, ": class_ptr must be [num_classes + 1], got ",
                    class_ptr->sizes());
  TORCH_CHECK_VALUE(order->numel() >= x.size(0), op, ": order has ", order->numel(), " entries for ",
                    x.size(0), " rows");
  return {*order, *class_ptr};
}

DeviceGroups::DeviceGroups(const Grouping& groups, int64_t rows) {
  if (!groups.labelled()) return;
  order_ = groups.order;
  class_ptr_ = groups.class_ptr;
  classes_ = class_ptr_.numel() - 1;
  label_at_ = at::empty({rows}, order_.options().dtype(at::kInt));
  groups_ = {order_.const_data_ptr<int64_t>(), class_ptr_.const_data_ptr<int64_t>(),
             label_at_.const_data_ptr<int32_t>(), classes_};
  check(cuda::expand_classes(groups_.class_ptr, rows, classes_, label_at_.mutable_data_ptr<int32_t>(),
                             current_stream()),
        "expand_classes");
}

Request request(Job job, const at::Tensor& feature, const at::Tensor& gradient, const at::Tensor& grad_in,
                const Grouping& groups) {
  Request made{{},
               cuda::make_plan(job, scalar_of(feature.scalar_type()), feature.size(0), feature.size(1),
                               groups.labelled(), current_device())};
  cuda::Batch& batch = made.batch;
  batch.feature = feature.const_data_ptr();
  batch.feature_stride = feature.stride(0);
  if (made.plan.tensors() == 2) {
    batch.gradient = gradient.const_data_ptr();
    batch.gradient_stride = gradient.stride(0);
  }
  if (job == Job::kReluBackward) {
    batch.grad_in = grad_in.mutable_data_ptr();
    batch.grad_in_stride = grad_in.stride(0);
  }
  if (groups.labelled()) {
    batch.groups = {groups.order.const_data_ptr<int64_t>(), groups.class_ptr.const_data_ptr<int64_t>(),
                    nullptr, groups.class_ptr.numel() - 1, groups.order.numel()};
  }
  return made;
}

void measure_now(const Request& request, const cuda::Results& results) {
  const c10::Device device(kDeviceType, current_device_index());
  const at::Tensor workspace =
      at::empty({request.plan.workspace_bytes}, at::TensorOptions(at::kByte).device(device));
  const cuda::OpenBatch open{request.plan, workspace.mutable_data_ptr(), results};
  check(cuda::walk_rows(request.batch, open, current_stream()), "walk_rows");
  check(cuda::sum_up(&open, 1, current_stream()), "sum_up");
}

}  // namespace tfc::ops::on_cuda
