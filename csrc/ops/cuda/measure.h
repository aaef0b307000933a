// Runs the CUDA passes over torch tensors: workspace, device, stream.
#pragma once

#include "../../kernels/cuda/launchers.h"
#include "../measure.h"
#include "device.h"

namespace tfc::ops::on_cuda {

// Throws unless order and class_ptr are on the device of `x`, of the right dtype and long enough. What they
// hold is not looked at: that would wait for the device.
Grouping optional_grouping(const std::optional<at::Tensor>& order, const std::optional<at::Tensor>& class_ptr,
                           const at::Tensor& x, const char* op);

// The rows of a batch sorted by class, as the kernels walk them.
class DeviceGroups {
 public:
  // Runs a small kernel if the rows are labelled.
  DeviceGroups(const Grouping& groups, int64_t rows);
  const cuda::Groups& groups() const { return groups_; }
  int64_t classes() const { return classes_; }

 private:
  at::Tensor order_, class_ptr_, label_at_;
  cuda::Groups groups_;
  int64_t classes_ = 0;
};

// One batch of rows [n, d] with contiguous rows, on the current device.
struct Request {
  cuda::Batch batch;
  cuda::Plan plan;
};
// `gradient` for jobs kPair and kReluBackward, `grad_in` for kReluBackward.
Request request(Job job, const at::Tensor& feature, const at::Tensor& gradient, const at::Tensor& grad_in,
                const Grouping& groups);

// In a workspace of its own. Nothing waits for the device.
void measure_now(const Request& request, const cuda::Results& results);

}  // namespace tfc::ops::on_cuda
