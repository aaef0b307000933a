// group_labels, mean_cosine and gate_stats on CUDA. Only group_labels waits for the device, to find wrong
// labels.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "measure.h"

namespace tfc::ops::on_cuda {
namespace {

std::tuple<at::Tensor, at::Tensor> group_labels_cuda(const at::Tensor& labels, int64_t num_classes,
                                                     std::string_view name) {
  check_labels(labels, num_classes, name);
  const DeviceGuard guard(labels.device());
  const at::Tensor wide = labels.to(at::kLong).contiguous();
  const int64_t rows = wide.numel();
  at::Tensor order = at::empty({rows}, wide.options());
  at::Tensor class_ptr = at::empty({num_classes + 1}, wide.options());
  const at::Tensor label_at = at::empty({rows}, wide.options().dtype(at::kInt));
  const at::Tensor wrong = at::zeros({1}, wide.options().dtype(at::kInt));
  check(
      cuda::group_labels(wide.const_data_ptr<int64_t>(), rows, num_classes, order.mutable_data_ptr<int64_t>(),
                         class_ptr.mutable_data_ptr<int64_t>(), label_at.mutable_data_ptr<int32_t>(),
                         wrong.mutable_data_ptr<int32_t>(), nullptr, current_stream()),
      "group_labels");
  if (wrong.item<int32_t>() != 0) check_label_range(wide.cpu(), num_classes, name);
  return {order, class_ptr};
}

// One batch, with nothing to add it to.
class Measured {
 public:
  Measured(Job job, const at::Tensor& x, const Grouping& groups)
      : site_(at::zeros({kSiteDoubles}, x.options().dtype(at::kDouble))),
        unit_counts_(at::empty({2}, x.options().dtype(at::kLong))) {
    cuda::Results results;
    results.site = reinterpret_cast<BatchSums*>(site_.mutable_data_ptr<double>());
    results.unit_counts = job == Job::kGates ? unit_counts_.mutable_data_ptr<int64_t>() : nullptr;
    measure_now(request(job, as_rows(x), {}, {}, groups), results);
  }
  const BatchSums* site() const { return reinterpret_cast<const BatchSums*>(site_.const_data_ptr<double>()); }
  const int64_t* unit_counts() const { return unit_counts_.const_data_ptr<int64_t>(); }

 private:
  at::Tensor site_, unit_counts_;
};

at::Tensor mean_cosine_cuda(const at::Tensor& x, const std::optional<at::Tensor>& order,
                            const std::optional<at::Tensor>& class_ptr) {
  check_input(x, "mean_cosine");
  const DeviceGuard guard(x.device());
  const Grouping groups = optional_grouping(order, class_ptr, x, "mean_cosine");
  const Measured measured(Job::kCosine, x, groups);
  at::Tensor out = at::empty({6}, x.options().dtype(at::kDouble));
  check(cuda::write_mean_cosine(measured.site(), groups.labelled(), out.mutable_data_ptr<double>(),
                                current_stream()),
        "mean_cosine");
  return out;
}

at::Tensor gate_stats_cuda(const at::Tensor& features, const std::optional<at::Tensor>& order,
                           const std::optional<at::Tensor>& class_ptr) {
  check_input(features, "gate_stats");
  const DeviceGuard guard(features.device());
  const Grouping groups = optional_grouping(order, class_ptr, features, "gate_stats");
  const Measured measured(Job::kGates, features, groups);
  at::Tensor out = at::empty({7}, features.options().dtype(at::kDouble));
  check(cuda::write_gate_stats(measured.site(), measured.unit_counts(), groups.labelled(),
                               out.mutable_data_ptr<double>(), current_stream()),
        "gate_stats");
  return out;
}

}  // namespace
}  // namespace tfc::ops::on_cuda

TORCH_LIBRARY_IMPL(tfc_fast, TFC_CUDA_KEY, m) {
  m.impl("group_labels", tfc::ops::on_cuda::group_labels_cuda);
  m.impl("mean_cosine", tfc::ops::on_cuda::mean_cosine_cuda);
  m.impl("gate_stats", tfc::ops::on_cuda::gate_stats_cuda);
}
