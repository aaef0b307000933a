// The recorder in host memory. See recorder.h.
#include <ATen/ops/empty.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "../kernels/cpu/summary.h"
#include "measure.h"
#include "probe_ops.h"
#include "recorder.h"

namespace tfc::ops {
namespace {

void reset(BatchSums& site) {
  BatchSums fresh;
  fresh.units_begin = site.units_begin;
  fresh.width = site.width;
  site = fresh;
}

class HostRecorder final : public Recorder {
 public:
  HostRecorder(const RecorderShape& shape, c10::Device device)
      : Recorder(shape, device),
        ring_(at::empty({shape.capacity, shape.num_sites, kColumns}, sites.options())),
        ring_step_(shape.capacity),
        ring_loss_(shape.capacity) {}

  void begin_batch(const std::optional<at::Tensor>& labels,
                   const std::optional<at::Tensor>& given_mask) override;
  bool has_recorded(int64_t index) const override {
    return site(index).batches > 0 && site(index).last_batch == header().batch;
  }
  void use_sites(int64_t count) override;
  bool end_step(double loss) override;
  bool end_step(const std::optional<at::Tensor>& loss) override;
  std::tuple<at::Tensor, at::Tensor, at::Tensor> drain(bool wait) override;
  void discard_step() override;
  bool recording() const override { return header().enabled != 0; }

 private:
  int64_t current_step() const override { return static_cast<int64_t>(header().step); }
  int64_t units_used() const override { return static_cast<int64_t>(header().units_used); }
  void combine(const at::Tensor& sums, const at::Tensor& summed, int64_t processes) override;
  void restart(int64_t, const at::Tensor&) override { used_ = 0; }
  // Sites that stayed without window statistics because the buffer was full get room.
  void make_room();
  StepHeader& header() const { return header_of(sites); }
  BatchSums& site(int64_t index) const { return site_of(sites, index); }

  int64_t used_ = 0;  // steps in the ring
  at::Tensor ring_;   // [capacity, sites, columns]
  std::vector<int64_t> ring_step_;
  std::vector<double> ring_loss_;
};

void HostRecorder::use_sites(int64_t count) {
  const int64_t before = active();
  Recorder::use_sites(count);
  // Steps in the ring were recorded without the new sites.
  for (int64_t step = 0; step < used_; ++step) {
    for (int64_t i = before; i < count; ++i) {
      ring_.mutable_data_ptr<double>()[(step * shape().num_sites + i) * kColumns + kNumRows] = kNotMeasured;
    }
  }
}

void HostRecorder::begin_batch(const std::optional<at::Tensor>& labels,
                               const std::optional<at::Tensor>& given_mask) {
  const int64_t start = now();
  if (given_mask.has_value()) check_mask(*given_mask, labels);
  if (shape().num_classes > 0 && header().enabled != 0) {
    check_labels_given(labels);
    // Labels as they usually come are read where they lie: between two matrix products every call into
    // torch runs with cold caches and costs microseconds.
    const bool usual = labels->scalar_type() == at::kLong && labels->is_cpu() && labels->is_contiguous();
    const at::Tensor wide = usual ? *labels : labels->detach().to(at::kCPU, at::kLong).contiguous();
    if (wide.numel() > order.numel()) order.resize_({wide.numel()});
    group_labels_into(wide, shape().num_classes, order, class_ptr);
    header().batch_rows = static_cast<double>(wide.numel());
  }
  // From here on nothing is refused any more.
  if (class_sums) end_batch();
  forget_mask();
  if (given_mask.has_value()) mask.resize_(given_mask->sizes()).copy_(*given_mask);
  header().batch += 1;
  count_probe_time(static_cast<double>(now() - start), header().enabled != 0);
}

bool HostRecorder::end_step(const std::optional<at::Tensor>& loss) {
  if (!loss.has_value()) return end_step(kNotMeasured);
  check_loss(*loss);
  const bool usual = loss->is_cpu() && loss->scalar_type() == at::kFloat;
  return end_step(usual ? *loss->const_data_ptr<float>() : loss->item<double>());
}

bool HostRecorder::end_step(double loss) {
  const int64_t start = now();
  StepHeader& head = header();
  const bool recorded = head.enabled != 0;
  if (recorded) {
    TORCH_CHECK(used_ < shape().capacity, "the ring of ", shape().capacity,
                " steps is full: drain() was not called");
    double* row = ring_.mutable_data_ptr<double>() + used_ * shape().num_sites * kColumns;
    double kernel_nanoseconds = 0;
    for (int64_t i = 0; i < active(); ++i, row += kColumns) {
      BatchSums& sums = site(i);
      if (sums.batches == 0) {
        row[kNumRows] = kNotMeasured;
        continue;
      }
      const int32_t* last_open = nullptr;
      if (sums.units_begin >= 0) {
        last_open = units.const_data_ptr<int32_t>() + static_cast<int64_t>(sums.units_begin);
      }
      cpu::finalize(sums, head, last_open, last_open == nullptr ? nullptr : last_open + units.size(1), row);
      kernel_nanoseconds += sums.nanoseconds;
      reset(sums);
    }
    ring_step_[used_] = static_cast<int64_t>(head.step);
    ring_loss_[used_] = loss;
    ++used_;
    count_probe_time(kernel_nanoseconds, recorded);
  } else {
    for (int64_t i = 0; i < active(); ++i) count_plain_time(std::exchange(site(i).nanoseconds, 0));
  }
  head.enabled = static_cast<int64_t>(head.step) % every() == 0;  // step numbers start at 1
  head.step += 1;
  head.batch_rows = kNoLabels;
  forget_mask();
  count_step(start, recorded);
  make_room();
  return 2 * used_ >= shape().capacity;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> HostRecorder::drain(bool) {
  const at::Tensor values = ring_.narrow(0, 0, used_).narrow(1, 0, active()).clone();
  at::Tensor steps = at::empty({used_}, order.options());
  at::Tensor losses = at::empty({used_}, sites.options());
  std::copy_n(ring_step_.begin(), used_, steps.mutable_data_ptr<int64_t>());
  std::copy_n(ring_loss_.begin(), used_, losses.mutable_data_ptr<double>());
  used_ = 0;
  return {values, steps, losses};
}

void HostRecorder::combine(const at::Tensor& sums, const at::Tensor& summed, int64_t processes) {
  const auto step = static_cast<int32_t>(header().step);
  const int64_t capacity = units.size(1);
  cpu::ClassTotals totals{
      sums.const_data_ptr<double>(), sums.size(0), sums.size(1) / kClassPlanes, sums.size(2), 0, 0, 0};
  const auto* of_site = reinterpret_cast<const BatchSums*>(summed.const_data_ptr<double>());
  for (int64_t i = 0; i < active(); ++i) {
    BatchSums& local = site(i);
    BatchSums own;
    if (local.units_begin >= 0) {
      const auto begin = static_cast<int64_t>(local.units_begin);
      totals.rows_at = i;
      totals.units_at = shape().num_sites + begin;
      totals.width = static_cast<int64_t>(local.width);
      int32_t* last_open = units.mutable_data_ptr<int32_t>() + begin;
      own = cpu::sums_over_classes(totals, step, last_open, last_open + capacity);
    }
    local = over_processes(local, own, of_site[i], static_cast<double>(processes));
  }
}

void HostRecorder::discard_step() {
  Recorder::discard_step();
  for (int64_t i = 0; i < active(); ++i) reset(site(i));
  header().batch_rows = kNoLabels;
}

void HostRecorder::make_room() {
  int64_t missing = 0;
  for (int64_t i = 0; i < active(); ++i) {
    if (site(i).units_begin < 0) missing += static_cast<int64_t>(site(i).width);
  }
  if (missing > 0) grow_units(units.size(1) + 2 * missing);
}

}  // namespace

std::unique_ptr<Recorder> make_host_recorder(const RecorderShape& shape, c10::Device device) {
  return std::make_unique<HostRecorder>(shape, device);
}

}  // namespace tfc::ops
