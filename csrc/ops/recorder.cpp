#include "recorder.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/set.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <chrono>
#include <limits>

#include "../kernels/cpu/summary.h"
#include "measure.h"

namespace tfc::ops {
namespace {

// A unit that was never open (shut) is so for every window.
constexpr int32_t kNever = std::numeric_limits<int32_t>::min();

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void reset(BatchSums& site) {
  BatchSums fresh;
  fresh.units_begin = site.units_begin;
  fresh.width = site.width;
  site = fresh;
}

}  // namespace

Recorder::Recorder(int64_t num_sites, int64_t num_classes, int64_t capacity, int64_t window, int64_t every,
                   int64_t units_capacity)
    : sites(at::zeros({1 + num_sites, kSiteDoubles}, at::kDouble)),
      units(at::full({2, std::max<int64_t>(1, units_capacity)}, kNever, at::kInt)),
      order(at::empty({num_classes > 0 ? 1 : 0}, at::kLong)),
      class_ptr(at::zeros({num_classes > 0 ? num_classes + 1 : 0}, at::kLong)),
      num_sites_(num_sites),
      num_classes_(num_classes),
      capacity_(capacity),
      every_(every) {
  TORCH_CHECK_VALUE(num_sites >= 1 && num_classes >= 0 && capacity >= 1 && window >= 1 && every >= 1,
                    "recorder: sites, capacity, window and every must be at least 1");
  ring_ = at::empty({capacity, num_sites, kColumns}, at::kDouble);
  ring_step_.resize(capacity);
  ring_loss_.resize(capacity);
  for (int64_t i = 0; i < num_sites; ++i) site(i) = BatchSums{};
  header() = {1, 1, 0, -1, static_cast<double>(window), 0};
}

StepHeader& Recorder::header() const {
  return *reinterpret_cast<StepHeader*>(sites.mutable_data_ptr<double>());
}

BatchSums& Recorder::site(int64_t index) const {
  return *reinterpret_cast<BatchSums*>(sites.mutable_data_ptr<double>() + (1 + index) * kSiteDoubles);
}

void Recorder::use_sites(int64_t count) {
  TORCH_CHECK_VALUE(count >= active_ && count <= num_sites_, "sites: wanted ", active_, " ... ", num_sites_,
                    ", got ", count);
  // Steps in the ring were recorded without the new sites.
  for (int64_t step = 0; step < used_; ++step) {
    for (int64_t i = active_; i < count; ++i) {
      ring_.mutable_data_ptr<double>()[(step * num_sites_ + i) * kColumns + kNumRows] = kNotMeasured;
    }
  }
  active_ = count;
}

void Recorder::begin_batch(const std::optional<at::Tensor>& labels) {
  const int64_t start = now();
  if (num_classes_ > 0 && header().enabled != 0) {
    TORCH_CHECK_VALUE(labels.has_value(),
                      "labels: wanted one label per row, since the probe has num_classes=", num_classes_);
    TORCH_CHECK_VALUE(labels->dim() == 1, "labels: wanted one label per row, shape [n], got shape ",
                      labels->sizes());
    TORCH_CHECK_TYPE(at::isIntegralType(labels->scalar_type(), /*includeBool=*/false),
                     "labels: wanted an integer dtype, got ", labels->scalar_type());
    // Labels as they usually come are read where they lie: between two matrix products every call into
    // torch runs with cold caches and costs microseconds.
    const bool usual = labels->scalar_type() == at::kLong && labels->is_cpu() && labels->is_contiguous();
    const at::Tensor wide = usual ? *labels : labels->detach().to(at::kCPU, at::kLong).contiguous();
    if (wide.numel() > order.numel()) order.resize_({wide.numel()});
    group_labels_into(wide, num_classes_, order, class_ptr);
    header().batch_rows = static_cast<double>(wide.numel());
  }
  header().batch += 1;
  overhead_.probe_seconds += static_cast<double>(now() - start) * 1e-9;
}

bool Recorder::has_recorded(int64_t index) const {
  return site(index).batches > 0 && site(index).last_batch == header().batch;
}

namespace {

double number(const at::Tensor& loss) {
  TORCH_CHECK_VALUE(loss.numel() == 1, "loss: wanted one number, got shape ", loss.sizes(),
                    "; give its mean");
  if (loss.is_cpu() && loss.scalar_type() == at::kFloat) return *loss.const_data_ptr<float>();
  return loss.item<double>();
}

}  // namespace

bool Recorder::end_step(const std::optional<at::Tensor>& loss) {
  return end_step(loss.has_value() ? number(*loss) : kNotMeasured);
}

bool Recorder::end_step(double loss) {
  const int64_t start = now();
  StepHeader& head = header();
  const bool record = head.enabled != 0;
  if (record) {
    TORCH_CHECK(used_ < capacity_, "the ring of ", capacity_, " steps is full: drain() was not called");
    double* row = ring_.mutable_data_ptr<double>() + used_ * num_sites_ * kColumns;
    double kernel_nanoseconds = 0;
    for (int64_t i = 0; i < active_; ++i, row += kColumns) {
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
    overhead_.probe_seconds += kernel_nanoseconds * 1e-9;
  }
  head.enabled = static_cast<int64_t>(head.step) % every_ == 0;  // step numbers start at 1
  head.step += 1;
  head.batch_rows = -1;
  const int64_t end = now();
  overhead_.probe_seconds += static_cast<double>(end - start) * 1e-9;
  if (last_end_ != 0) {
    overhead_.step_seconds += static_cast<double>(end - last_end_) * 1e-9;
    overhead_.steps += 1;
  } else {
    overhead_.probe_seconds = 0;  // the first step has no beginning to measure from
  }
  last_end_ = end;
  make_room();
  return 2 * used_ >= capacity_;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> Recorder::drain() {
  const at::Tensor values = ring_.narrow(0, 0, used_).narrow(1, 0, active_).clone();
  at::Tensor steps = at::empty({used_}, at::kLong);
  at::Tensor losses = at::empty({used_}, at::kDouble);
  std::copy_n(ring_step_.begin(), used_, steps.mutable_data_ptr<int64_t>());
  std::copy_n(ring_loss_.begin(), used_, losses.mutable_data_ptr<double>());
  used_ = 0;
  return {values, steps, losses};
}

void Recorder::discard_step() {
  for (int64_t i = 0; i < active_; ++i) reset(site(i));
  header().batch_rows = -1;
}

int64_t Recorder::step() const { return static_cast<int64_t>(header().step) - 1; }

at::Tensor Recorder::placement() const {
  at::Tensor out = at::empty({num_sites_, 2}, at::kLong);
  int64_t* row = out.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < num_sites_; ++i, row += 2) {
    row[0] = static_cast<int64_t>(site(i).units_begin);
    row[1] = static_cast<int64_t>(site(i).width);
  }
  return out;
}

void Recorder::restore(int64_t step, const at::Tensor& saved_units, const at::Tensor& saved_placement) {
  TORCH_CHECK_VALUE(step >= 0, "step: wanted 0 or more, got ", step);
  TORCH_CHECK_VALUE(
      saved_units.scalar_type() == at::kInt && saved_units.dim() == 2 && saved_units.size(0) == 2,
      "units: wanted int32 [2, capacity], got ", saved_units.scalar_type(), " ", saved_units.sizes());
  TORCH_CHECK_VALUE(saved_placement.scalar_type() == at::kLong && saved_placement.dim() == 2 &&
                        saved_placement.size(0) == num_sites_ && saved_placement.size(1) == 2,
                    "placement: wanted int64 [", num_sites_, ", 2], got ", saved_placement.scalar_type(), " ",
                    saved_placement.sizes(), "; was the state saved by a probe with the same sites?");
  const at::Tensor placed = saved_placement.contiguous();
  const int64_t* row = placed.const_data_ptr<int64_t>();
  int64_t used = 0;
  for (int64_t i = 0; i < num_sites_; ++i) {
    const int64_t begin = row[2 * i], width = row[2 * i + 1];
    TORCH_CHECK_VALUE(begin >= -1 && width >= 0 && begin + width <= saved_units.size(1), "placement: site ",
                      i, " has units ", begin, " + ", width, " of ", saved_units.size(1));
    if (begin >= 0) used = std::max(used, begin + width);
  }
  units.set_(saved_units.clone(at::MemoryFormat::Contiguous));
  for (int64_t i = 0; i < num_sites_; ++i) {
    site(i) = BatchSums{};
    site(i).units_begin = static_cast<double>(row[2 * i]);
    site(i).width = static_cast<double>(row[2 * i + 1]);
  }
  header().step = static_cast<double>(step + 1);
  header().enabled = step % every_ == 0;
  header().batch_rows = -1;
  header().units_used = static_cast<double>(used);
  used_ = 0;
}

void Recorder::make_room() {
  int64_t missing = 0;
  for (int64_t i = 0; i < active_; ++i) {
    if (site(i).units_begin < 0) missing += static_cast<int64_t>(site(i).width);
  }
  if (missing == 0) return;
  const int64_t used = static_cast<int64_t>(header().units_used);
  at::Tensor larger = at::full({2, used + 2 * missing}, kNever, at::kInt);
  larger.narrow(1, 0, used).copy_(units.narrow(1, 0, used));
  units.set_(larger);
}

}  // namespace tfc::ops
