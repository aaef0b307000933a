// relu_probe_backward and tap_backward on CUDA; see ../probe_ops.cpp for what they are.
//
// Nothing is read back: whether the step is recorded, where the units of a site lie and whether the labels
// are those of the rows is found by the kernels (admission.cuh), so a captured graph may be replayed. A batch
// that does not fit is left out and noted on the device; the recorder tells at the next drain. grad_in is
// right in any case.
#include <ATen/ops/empty_like.h>
#include <ATen/ops/threshold_backward.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "../../kernels/cuda/shared_sums.h"
#include "../batch_faults.h"
#include "../probe_ops.h"
#include "../row_reduction.h"
#include "class_sums.h"
#include "device_step.h"
#include "measure.h"

namespace tfc::ops::on_cuda {
namespace {

using at::Tensor;

void check_device(const Tensor& grad, const Tensor& feature, const Site& to) {
  TORCH_CHECK_VALUE(!to.mask.has_value() || to.mask->numel() == 0, "mask: not on ", to.sites.device());
  for (const Tensor* tensor : {&grad, &feature, &to.order, &to.class_ptr, &to.units}) {
    TORCH_CHECK_VALUE(tensor->device() == to.sites.device(), "a watched feature is on ", feature.device(),
                      " and its gradient on ", grad.device(), ", but the probe records on ",
                      to.sites.device(),
                      "; make the Probe when the model is where it trains, one for each device");
  }
}

// What can be told from the shapes alone; what order and class_ptr hold is looked at on the device.
void check_groups(const Grouping& groups, const Tensor& feature) {
  if (!groups.labelled()) return;
  for (const Tensor* tensor : {&groups.class_ptr, &groups.order}) {
    TORCH_CHECK_VALUE(tensor->scalar_type() == at::kLong && tensor->is_contiguous() && tensor->dim() == 1,
                      "probe: ", tensor == &groups.order ? "order" : "class_ptr",
                      " must be a contiguous int64 tensor of one dimension, got ", tensor->scalar_type(), " ",
                      tensor->sizes());
  }
  TORCH_CHECK_VALUE(groups.class_ptr.numel() >= 2, "probe: class_ptr must be [num_classes + 1], got ",
                    groups.class_ptr.sizes());
  TORCH_CHECK_VALUE(groups.order.numel() >= feature.size(0),
                    fault_text(BatchFault::kLabelsMissing, 0, 0, 0, 0), " (order has ", groups.order.numel(),
                    " entries, the feature has ", feature.size(0), " rows)");
}

// What a batch adds to the planes of a recorder that is shared with other processes.
struct SharedSums {
  at::Tensor feature, feature_counts, gradient, gradient_counts;

  SharedSums(const Tensor& feature_rows, const Tensor& grad_rows, const DeviceGroups& groups) {
    std::tie(feature, feature_counts) = class_sums(feature_rows, groups);
    std::tie(gradient, gradient_counts) = class_sums(grad_rows, groups);
  }

  void add_to(const Site& to, const Tensor& rows, const DeviceGroups& groups,
              const cuda::Results& results) const {
    Tensor planes = *to.class_sums;
    const cuda::SharedBatch batch{scalar_of(rows.scalar_type()),
                                  rows.const_data_ptr(),
                                  rows.stride(0),
                                  rows.size(0),
                                  rows.size(1),
                                  groups.groups(),
                                  feature.const_data_ptr<double>(),
                                  gradient.const_data_ptr<double>(),
                                  feature_counts.const_data_ptr<int64_t>(),
                                  gradient_counts.const_data_ptr<int64_t>(),
                                  results.header,
                                  results.site,
                                  results.site_index,
                                  results.units_capacity};
    check(cuda::add_to_planes(batch,
                              {planes.mutable_data_ptr<double>(), planes.size(0) / kClassPlanes,
                               planes.size(1), to.sites.size(0) - 1},
                              current_stream()),
          "add_to_planes");
  }
};

// Of a recorder that is shared: its sums are of the rows of each class, so here, too, rows must not be walked
// by labels that are not theirs; the host knows how many there are.
void check_shared(const DeviceStep::Batch& batch, const Grouping& samples, const Tensor& feature) {
  if (!samples.labelled()) return;
  TORCH_CHECK_VALUE(batch.labels >= 0, fault_text(BatchFault::kLabelsMissing, 0, 0, 0, 0));
  TORCH_CHECK_VALUE(batch.labels == feature.size(0), fault_text(BatchFault::kLabelCount, 0, batch.labels,
                                                                feature.size(0), 0, feature.sizes()));
}

void record(Job job, const Tensor& grad, const Tensor& feature, const Tensor& grad_in, const Site& to,
            RowReduction reduction) {
  const Grouping samples = grouping(to.order, to.class_ptr);
  check_groups(samples, feature);
  const Grouping groups = grouping_of_rows(samples, feature, reduction);
  const Tensor rows = rows_of(feature, reduction);
  const Tensor grad_rows = rows_of(grad, reduction);
  std::optional<DeviceGroups> device_groups;
  std::optional<SharedSums> shared;
  if (to.class_sums.has_value()) {
    const std::optional<DeviceStep::Batch> batch = DeviceStep::batch_of(to.sites);
    // Of a step that is not recorded, too: a graph may be replayed in one that is.
    TORCH_CHECK(current_capture(current_stream()) == 0,
                "probe: a step of several processes (process_group) cannot be captured in a graph");
    TORCH_CHECK(batch.has_value(),
                "probe: on a GPU a compiled model cannot be recorded for several processes (process_group)");
    if (batch->recorded) {
      check_shared(*batch, samples, feature);
      device_groups.emplace(groups, rows.size(0));
      shared.emplace(rows, grad_rows, *device_groups);  // before grad_in takes the place of the gradient
    }
  }
  DeviceStep::note(to.sites, to.index, rows.size(1), to.units.size(1));
  double* state = to.sites.mutable_data_ptr<double>();
  cuda::Results results;
  results.header = reinterpret_cast<StepHeader*>(state);
  results.site = reinterpret_cast<BatchSums*>(state + (1 + to.index) * kSiteDoubles);
  results.site_index = to.index;
  results.rows_per_sample = rows_per_sample(feature, reduction);
  results.units = to.units.mutable_data_ptr<int32_t>();
  results.units_capacity = to.units.size(1);
  const Request made =
      request(job, rows, grad_rows, grad_in.defined() ? rows_of(grad_in, reduction) : grad_in, groups);
  if (!shared.has_value()) return DeviceStep::measure(to.sites, made, results);
  measure_now(made, results);
  shared->add_to(to, rows, *device_groups, results);
}

// On the device of the tensors, which have been checked.
void record_pair(const Tensor& grad, const Tensor& feature, const Site& to, RowReduction reduction) {
  if (!is_supported(feature.scalar_type())) return;
  const Tensor same = grad.scalar_type() == feature.scalar_type() ? grad : grad.to(feature.scalar_type());
  record(Job::kPair, same, feature, {}, to, reduction);
}

void tap_backward_cuda(const Tensor& grad, const Tensor& feature, const Tensor& order,
                       const Tensor& class_ptr, Tensor& sites, Tensor& units, int64_t site, int64_t reduction,
                       const std::optional<Tensor>& class_sums, const std::optional<Tensor>& mask) {
  const Site to{sites, units, order, class_ptr, class_sums, site, reduction, mask};
  const RowReduction rows = checked_reduction(grad, feature, to, "tap_backward");
  check_device(grad, feature, to);
  const DeviceGuard guard(sites.device());
  record_pair(grad, feature, to, rows);
}

Tensor relu_probe_backward_cuda(const Tensor& grad, const Tensor& result, const Tensor& order,
                                const Tensor& class_ptr, Tensor& sites, Tensor& units, int64_t site,
                                int64_t reduction, const std::optional<Tensor>& class_sums,
                                const std::optional<Tensor>& mask) {
  const Site to{sites, units, order, class_ptr, class_sums, site, reduction, mask};
  const RowReduction rows = checked_reduction(grad, result, to, "relu_probe_backward");
  check_device(grad, result, to);
  const DeviceGuard guard(sites.device());
  if (!can_fuse(grad, result, to, rows)) {
    record_pair(grad, result, to, rows);
    return at::threshold_backward(grad, result, 0);
  }
  Tensor grad_in = at::empty_like(grad, grad.options(), at::MemoryFormat::Contiguous);
  record(Job::kReluBackward, grad, result, grad_in, to, rows);
  return grad_in;
}

// Saves an allocation; and what is written lies in the cache, since it has just been read.
bool relu_probe_backward_in_place_cuda(const Tensor& grad, const Tensor& result, const Site& to,
                                       RowReduction reduction) {
  check_device(grad, result, to);
  const DeviceGuard guard(to.sites.device());
  record(Job::kReluBackward, grad, result, grad, to, reduction);
  return true;
}

[[maybe_unused]] const bool registered =
    (register_backward_in_place(kDeviceType, relu_probe_backward_in_place_cuda), true);

}  // namespace
}  // namespace tfc::ops::on_cuda

TORCH_LIBRARY_IMPL(tfc_fast, TFC_CUDA_KEY, m) {
  m.impl("relu_probe_backward", tfc::ops::on_cuda::relu_probe_backward_cuda);
  m.impl("tap_backward", tfc::ops::on_cuda::tap_backward_cuda);
}
