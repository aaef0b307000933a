// relu_probe_backward and tap_backward on the CPU; see probe_ops.cpp for what they are.
#include <ATen/ops/empty_like.h>
#include <ATen/ops/threshold_backward.h>
#include <torch/library.h>

#include <chrono>

#include "../kernels/cpu/summary.h"
#include "batch_faults.h"
#include "measure.h"
#include "probe_ops.h"
#include "row_reduction.h"

namespace tfc::ops {
namespace {

using at::Tensor;

class Clock {
 public:
  double nanoseconds() const {
    return static_cast<double>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start_)
            .count());
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// The state of one step as the kernels see it.
struct Recording {
  StepHeader& header;
  BatchSums& site;
  UnitHistory units;
  BatchClassSums classes;
};

BatchSums& sums_of(const Site& to) {
  return *reinterpret_cast<BatchSums*>(to.sites.mutable_data_ptr<double>() + (1 + to.index) * kSiteDoubles);
}

BatchClassSums class_sums_of(const Site& to, int64_t units_begin) {
  const int64_t num_sites = to.sites.size(0) - 1;
  const int64_t pitch = to.class_sums->size(1);
  const int64_t plane = to.class_sums->size(0) / kClassPlanes * pitch;
  double* rows = to.class_sums->mutable_data_ptr<double>() + to.index;
  double* units = to.class_sums->mutable_data_ptr<double>() + num_sites + units_begin;
  return {units + kFeaturePlane * plane,
          units + kGradientPlane * plane,
          units + kOpenPlane * plane,
          rows + kFeaturePlane * plane,
          rows + kGradientPlane * plane,
          rows + kOpenPlane * plane,
          pitch};
}

// Places the site's units in the window buffer when it is seen for the first time. A site that finds
// no room is recorded without them; the recorder makes room between steps.
Recording open_recording(const Site& to, int64_t width) {
  Recording recording{
      *reinterpret_cast<StepHeader*>(to.sites.mutable_data_ptr<double>()), sums_of(to), {}, {}};
  StepHeader& header = recording.header;
  BatchSums& sums = recording.site;
  TORCH_CHECK_VALUE(
      sums.units_begin < 0 || sums.width == width,
      fault_text(BatchFault::kWidthChanged, to.index, static_cast<int64_t>(sums.width), width, 0));
  sums.width = static_cast<double>(width);
  const int64_t capacity = to.units.size(1);
  if (sums.units_begin < 0 && header.units_used + width <= capacity) {
    sums.units_begin = header.units_used;
    header.units_used += width;
  }
  const auto begin = static_cast<int64_t>(sums.units_begin);
  TORCH_CHECK_VALUE(begin < 0 || begin + width <= capacity,
                    fault_text(BatchFault::kUnitsBeyond, to.index, begin + width, capacity, 0));
  if (begin >= 0) {
    int32_t* last_open = to.units.mutable_data_ptr<int32_t>() + begin;
    recording.units = {last_open, last_open + capacity, static_cast<int32_t>(header.step)};
    if (to.class_sums.has_value()) recording.classes = class_sums_of(to, begin);
  }
  return recording;
}

bool is_enabled(const Tensor& sites) {
  return reinterpret_cast<const StepHeader*>(sites.const_data_ptr<double>())->enabled != 0;
}

void check_batch(const Recording& recording, const Grouping& groups, const Tensor& feature) {
  if (!groups.labelled()) return;
  const auto labels = static_cast<int64_t>(recording.header.batch_rows);
  TORCH_CHECK_VALUE(labels >= 0 && recording.site.last_batch != recording.header.batch,
                    fault_text(BatchFault::kLabelsMissing, 0, 0, 0, 0));
  TORCH_CHECK_VALUE(labels == feature.size(0),
                    fault_text(BatchFault::kLabelCount, 0, labels, feature.size(0), 0, feature.sizes()));
}

void record(cpu::Job job, const Tensor& grad, const Tensor& feature, const Tensor& grad_in, const Site& to,
            RowReduction reduction) {
  const Clock clock;
  const Grouping samples = grouping(to.order, to.class_ptr);
  const bool masked = is_masked(feature, reduction, to.mask);
  const Tensor kept = masked ? kept_rows(feature, *to.mask) : Tensor();
  const auto measured = [&](const Tensor& x) {
    const Tensor rows = rows_of(x, reduction);
    return masked ? rows.index_select(0, kept) : rows;
  };
  const Tensor feature_rows = measured(feature);
  Recording recording = open_recording(to, feature_rows.size(1));
  check_batch(recording, samples, feature);
  check_grouping(samples, feature, "probe");
  const Grouping all_groups = grouping_of_rows(samples, feature, reduction);
  const Grouping groups = masked ? grouping_of_kept(all_groups, *to.mask) : all_groups;
  const Tensor grad_rows = measured(grad);
  const Tensor grad_in_rows = grad_in.defined() ? rows_of(grad_in, reduction) : grad_in;
  BatchSums batch =
      measure(job, feature_rows, grad_rows, grad_in_rows, groups, recording.units, recording.classes);
  batch.last_batch = recording.header.batch;
  batch.nanoseconds = clock.nanoseconds();
  accumulate(batch, recording.site);
}

void record_tap(const Tensor& grad, const Tensor& feature, const Site& to, const char* op) {
  const RowReduction rows = checked_reduction(grad, feature, to, op);
  if (!is_enabled(to.sites) || !is_supported(feature.scalar_type())) return;
  const Tensor same = grad.scalar_type() == feature.scalar_type() ? grad : grad.to(feature.scalar_type());
  record(cpu::Job::kPair, same, feature, {}, to, rows);
}

void tap_backward_cpu(const Tensor& grad, const Tensor& feature, const Tensor& order, const Tensor& class_ptr,
                      Tensor& sites, Tensor& units, int64_t site, int64_t reduction,
                      const std::optional<Tensor>& class_sums, const std::optional<Tensor>& mask) {
  record_tap(grad, feature, {sites, units, order, class_ptr, class_sums, site, reduction, mask},
             "tap_backward");
}

Tensor relu_probe_backward_cpu(const Tensor& grad, const Tensor& result, const Tensor& order,
                               const Tensor& class_ptr, Tensor& sites, Tensor& units, int64_t site,
                               int64_t reduction, const std::optional<Tensor>& class_sums,
                               const std::optional<Tensor>& mask) {
  const Site to{sites, units, order, class_ptr, class_sums, site, reduction, mask};
  const RowReduction rows = checked_reduction(grad, result, to, "relu_probe_backward");
  BatchSums& sums = sums_of(to);
  if (!is_enabled(sites)) {
    const Clock clock;
    Tensor grad_in = at::threshold_backward(grad, result, 0);
    sums.nanoseconds += clock.nanoseconds();
    return grad_in;
  }
  if (!can_fuse(grad, result, to, rows)) {
    record_tap(grad, result, to, "relu_probe_backward");
    return at::threshold_backward(grad, result, 0);
  }
  Tensor grad_in = at::empty_like(grad, grad.options(), at::MemoryFormat::Contiguous);
  const double nonfinite_before = sums.nonfinite;
  record(cpu::Job::kReluBackward, grad, result, grad_in, to, rows);
  // In half precision ReLU's own backward rewrites the payload of a NaN; ours keeps it.
  const bool half = result.scalar_type() == at::kBFloat16 || result.scalar_type() == at::kHalf;
  if (half && sums.nonfinite != nonfinite_before) return at::threshold_backward(grad, result, 0);
  return grad_in;
}

}  // namespace

bool relu_probe_backward_in_place_cpu(const Tensor& grad, const Tensor& result, const Site& to,
                                      RowReduction reduction) {
  const bool full = result.scalar_type() == at::kFloat || result.scalar_type() == at::kDouble;
  if (!full || !is_enabled(to.sites)) return false;
  record(cpu::Job::kReluBackward, grad, result, grad, to, reduction);
  return true;
}

}  // namespace tfc::ops

TORCH_LIBRARY_IMPL(tfc_fast, CPU, m) {
  m.impl("relu_probe_backward", tfc::ops::relu_probe_backward_cpu);
  m.impl("tap_backward", tfc::ops::tap_backward_cpu);
}
