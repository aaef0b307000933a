#include "recorder.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/set.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <limits>
#include <numeric>
#include <utility>

#include "measure.h"
#include "probe_ops.h"

namespace tfc::ops {
namespace {

// A unit that was never open (shut) is so for every window.
constexpr int32_t kNever = std::numeric_limits<int32_t>::min();

}  // namespace

// ---- what all recorders share ------------------------------------------------------------------

Recorder::Recorder(const RecorderShape& shape, c10::Device device)
    : shape_(shape),
      sites(first_sites().to(device)),
      units(at::full({2, std::max<int64_t>(1, shape.units)}, kNever,
                     at::TensorOptions(device).dtype(at::kInt))),
      order(at::zeros({shape.num_classes > 0 ? 1 : 0}, at::TensorOptions(device).dtype(at::kLong))),
      class_ptr(at::zeros({shape.num_classes > 0 ? shape.num_classes + 1 : 0},
                          at::TensorOptions(device).dtype(at::kLong))),
      class_sums(shape.shared ? std::optional(new_class_sums(units.size(1))) : std::nullopt),
      mask(at::empty({0}, at::TensorOptions(device).dtype(at::kBool))),
      every_(shape.every) {}

// On the host: the first step is recorded, no site has a place.
at::Tensor Recorder::first_sites() const {
  TORCH_CHECK_VALUE(shape_.num_sites >= 1 && shape_.num_classes >= 0 && shape_.capacity >= 1 &&
                        shape_.window >= 1 && shape_.every >= 1,
                    "recorder: sites, capacity, window and every must be at least 1");
  at::Tensor first =
      at::zeros({1 + shape_.num_sites, kSiteDoubles}, at::TensorOptions(at::kCPU).dtype(at::kDouble));
  for (int64_t i = 0; i < shape_.num_sites; ++i) site_of(first, i) = BatchSums{};
  header_of(first) = {1, 1, 0, kNoLabels, static_cast<double>(shape_.window), 0};
  return first;
}

at::Tensor Recorder::new_class_sums(int64_t capacity) const {
  const int64_t classes = std::max<int64_t>(1, shape_.num_classes);
  return at::zeros({kClassPlanes * classes, shape_.num_sites + capacity}, sites.options());
}

void Recorder::use_sites(int64_t count) {
  TORCH_CHECK_VALUE(count >= active_ && count <= shape_.num_sites, "sites: wanted ", active_, " ... ",
                    shape_.num_sites, ", got ", count);
  active_ = count;
}

void Recorder::check_labels_given(const std::optional<at::Tensor>& labels) const {
  TORCH_CHECK_VALUE(
      labels.has_value(),
      "labels: wanted one label per sample, since the probe has num_classes=", shape_.num_classes);
  check_labels(*labels, shape_.num_classes, "labels");
}

void Recorder::check_mask(const at::Tensor& mask, const std::optional<at::Tensor>& labels) {
  TORCH_CHECK_TYPE(at::isIntegralType(mask.scalar_type(), /*includeBool=*/true),
                   "mask: wanted bool, or whole numbers of which 0 leaves out, got ", mask.scalar_type());
  TORCH_CHECK_VALUE(mask.dim() >= 2, "mask: wanted [n, ...] with an entry for each position, got ",
                    mask.sizes());
  TORCH_CHECK_VALUE(!labels.has_value() || labels->numel() == mask.size(0), "mask: of ", mask.size(0),
                    " samples, but there are ", labels->numel(), " labels");
}

void Recorder::check_loss(const at::Tensor& loss) {
  TORCH_CHECK_VALUE(loss.numel() == 1, "loss: wanted one number, got shape ", loss.sizes(),
                    "; give its mean");
}

void Recorder::take_step(const Recorder& training) {
  constexpr int64_t kStepIndex = offsetof(StepHeader, step) / sizeof(double);
  const auto step_of = [](const Recorder& recorder) { return recorder.sites[0].narrow(0, kStepIndex, 1); };
  step_of(*this).copy_(step_of(training)).sub_(1);
  goes_on_with(training.current_step() - 1);
  set_units(new_units(std::max(units.size(1), training.units.size(1))));
}

void Recorder::set_units(const at::Tensor& larger) {
  units.set_(larger);
  if (class_sums) class_sums->set_(new_class_sums(larger.size(1)));
}

void Recorder::grow_units(int64_t capacity) {
  const int64_t before = units.size(1);
  const at::Tensor larger = new_units(capacity);
  larger.narrow(1, 0, before).copy_(units);
  retire(units.alias());
  const at::Tensor sums = class_sums ? class_sums->alias() : at::Tensor();
  set_units(larger);
  if (class_sums) class_sums->narrow(1, 0, sums.size(1)).copy_(sums);
}

void Recorder::reserve(int64_t site, int64_t width) {
  if (wanted_width_.empty()) wanted_width_.resize(static_cast<size_t>(shape_.num_sites));
  int64_t& wanted = wanted_width_.at(static_cast<size_t>(site));
  if (wanted == width) return;
  wanted = width;
  const int64_t all = std::reduce(wanted_width_.begin(), wanted_width_.end());
  if (all > units.size(1)) grow_units(std::max(all, 2 * units.size(1)));
}

void Recorder::end_batch() {
  bool seen = false;
  for (int64_t i = 0; i < active_ && !seen; ++i) seen = has_recorded(i);
  if (!seen || !recording()) return;
  batches_.push_back(class_sums->narrow(1, 0, columns()).clone());
  class_sums->zero_();
}

void Recorder::discard_step() {
  batches_.clear();
  forget_mask();
  if (class_sums) class_sums->zero_();
}

Recorder::Collected Recorder::collect() {
  TORCH_CHECK(class_sums.has_value(), "recorder: not shared with other processes");
  end_batch();
  return {current_step(), static_cast<int64_t>(batches_.size()), units_used()};
}

at::Tensor Recorder::own_sums(int64_t batches) const {
  const int64_t rows = class_sums->size(0), of_sites = active_ * kSiteDoubles;
  const int64_t own = static_cast<int64_t>(batches_.size());
  TORCH_CHECK_VALUE(batches >= own, "own_sums: of ", batches, " micro-batches, but there are ", own);
  at::Tensor out = at::zeros({batches * rows * columns() + of_sites + 2}, sites.options());
  const at::Tensor planes = out.narrow(0, 0, batches * rows * columns()).view({batches, rows, columns()});
  for (int64_t m = 0; m < own; ++m) {
    const at::Tensor& batch = batches_[static_cast<size_t>(m)];  // without the sites that came later
    planes[m].narrow(1, 0, batch.size(1)).copy_(batch);
  }
  out.narrow(0, planes.numel(), of_sites).view({active_, kSiteDoubles}).copy_(sites.narrow(0, 1, active_));
  return out;
}

void Recorder::take_sums(const at::Tensor& total, int64_t batches, int64_t processes) {
  const int64_t rows = class_sums->size(0), of_sites = active_ * kSiteDoubles;
  const int64_t of_planes = batches * rows * columns();
  TORCH_CHECK_VALUE(total.scalar_type() == at::kDouble && total.is_contiguous() &&
                        total.device() == sites.device() && total.numel() == of_planes + of_sites + 2,
                    "take_sums: wanted float64 [", of_planes + of_sites + 2, "] on ", sites.device(),
                    ", got ", total.scalar_type(), " ", total.sizes(), " on ", total.device());
  combine(total.narrow(0, 0, of_planes).view({batches, rows, columns()}),
          total.narrow(0, of_planes, of_sites).view({active_, kSiteDoubles}), processes);
  batches_.clear();
}

at::Tensor Recorder::new_units(int64_t capacity) const {
  return at::full({2, capacity}, kNever, units.options());
}

int64_t Recorder::now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void Recorder::record_every(int64_t every) {
  TORCH_CHECK_VALUE(every >= 1, "every: wanted at least 1, got ", every);
  every_ = every;
}

void Recorder::count_step(int64_t start, bool recorded) {
  const int64_t end = now();
  count_probe_time(static_cast<double>(end - start), recorded);
  if (last_end_ != 0) {
    costs_.step_seconds += static_cast<double>(end - last_end_) * 1e-9;
    (recorded ? costs_.recorded_steps : costs_.skipped_steps) += 1;
  } else {
    costs_ = {};  // the first step has no beginning to measure from
  }
  last_end_ = end;
  open_batches_ = 0;
}

int64_t Recorder::step() const {
  return static_cast<int64_t>(header_of(sites.narrow(0, 0, 1).cpu()).step) - 1;
}

at::Tensor Recorder::placement() const {
  const at::Tensor on_host = sites.cpu();
  at::Tensor out = at::empty({shape_.num_sites, 2}, at::TensorOptions(at::kCPU).dtype(at::kLong));
  int64_t* row = out.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < shape_.num_sites; ++i, row += 2) {
    row[0] = static_cast<int64_t>(site_of(on_host, i).units_begin);
    row[1] = static_cast<int64_t>(site_of(on_host, i).width);
  }
  return out;
}

void Recorder::restore(int64_t step, const at::Tensor& saved_units, const at::Tensor& saved_placement) {
  const int64_t num_sites = shape_.num_sites;
  TORCH_CHECK_VALUE(step >= 0, "step: wanted 0 or more, got ", step);
  TORCH_CHECK_VALUE(
      saved_units.scalar_type() == at::kInt && saved_units.dim() == 2 && saved_units.size(0) == 2,
      "units: wanted int32 [2, capacity], got ", saved_units.scalar_type(), " ", saved_units.sizes());
  TORCH_CHECK_VALUE(saved_placement.scalar_type() == at::kLong && saved_placement.dim() == 2 &&
                        saved_placement.size(0) == num_sites && saved_placement.size(1) == 2,
                    "placement: wanted int64 [", num_sites, ", 2], got ", saved_placement.scalar_type(), " ",
                    saved_placement.sizes(), "; was the state saved by a probe with the same sites?");
  const at::Tensor placed = saved_placement.cpu().contiguous();
  const int64_t* row = placed.const_data_ptr<int64_t>();
  const at::Tensor restored = first_sites();
  int64_t used = 0;
  for (int64_t i = 0; i < num_sites; ++i) {
    const int64_t begin = row[2 * i], width = row[2 * i + 1];
    TORCH_CHECK_VALUE(begin >= -1 && width >= 0 && begin + width <= saved_units.size(1), "placement: site ",
                      i, " has units ", begin, " + ", width, " of ", saved_units.size(1));
    if (begin >= 0) used = std::max(used, begin + width);
    site_of(restored, i).units_begin = static_cast<double>(begin);
    site_of(restored, i).width = static_cast<double>(width);
  }
  StepHeader& header = header_of(restored);
  header.step = static_cast<double>(step + 1);
  header.enabled = step % every_ == 0;
  header.units_used = static_cast<double>(used);
  set_units(saved_units.to(units.device(), at::kInt, /*non_blocking=*/false, /*copy=*/true).contiguous());
  batches_.clear();
  forget_mask();
  sites.copy_(restored);
  restart(step, placed);
}

// ---- one for each kind of device ---------------------------------------------------------------

namespace {

constinit std::array<MakeRecorder, c10::COMPILE_TIME_MAX_DEVICE_TYPES> makers = {make_host_recorder};
static_assert(static_cast<int>(c10::DeviceType::CPU) == 0);

}  // namespace

void register_recorder(c10::DeviceType type, MakeRecorder make) { makers[static_cast<size_t>(type)] = make; }

std::unique_ptr<Recorder> make_recorder(const RecorderShape& shape, c10::Device device) {
  const MakeRecorder make = makers[static_cast<size_t>(device.type())];
  TORCH_CHECK_VALUE(make != nullptr, "device: this build of tfc_fast has no recorder for ", device,
                    "; `tfc-fast info` says what it was built for");
  return make(shape, device);
}

}  // namespace tfc::ops
