// The recorder whose state lies on the device: launches per micro-batch (labels) and per step, one copy to
// the host every capacity / 2 steps, and no wait for it but in `drain`.
//
// What is true of step, place in the ring and recording is on the device, moved on by the kernels, so a
// captured graph may be replayed. The host keeps its own count for one purpose: to know when to drain.
#include <ATen/ops/empty.h>
#include <ATen/ops/set.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "../../kernels/cuda/launchers.h"
#include "../../kernels/cuda/shared_sums.h"
#include "../batch_faults.h"
#include "../measure.h"
#include "../probe_ops.h"
#include "../recorder.h"
#include "device_step.h"
#include "host_copy.h"

namespace tfc::ops::on_cuda {
namespace {

// Where the parts of the ring lie, in units of 8 bytes.
struct RingLayout {
  int64_t capacity, sites;
  static constexpr int64_t kRecorded = 0, kBlocksEnded = 1, kSteps = 2;
  int64_t losses() const { return kSteps + capacity; }
  int64_t values() const { return losses() + capacity; }
  int64_t size() const { return values() + capacity * sites * kColumns; }
};

constexpr int64_t kFaultIndex = offsetof(StepHeader, fault) / sizeof(double);
constexpr int64_t kBatchRowsIndex = offsetof(StepHeader, batch_rows) / sizeof(double);

// Records on their way to Python.
struct Rows {
  std::vector<double> values;
  std::vector<int64_t> steps;
  std::vector<double> losses;
};

template <typename T>
at::Tensor on_host(const std::vector<T>& values, c10::IntArrayRef shape, at::ScalarType type) {
  at::Tensor out = at::empty(shape, at::TensorOptions(at::kCPU).dtype(type));
  std::copy(values.begin(), values.end(), out.mutable_data_ptr<T>());
  return out;
}

class DeviceRecorder final : public Recorder {
 public:
  DeviceRecorder(const RecorderShape& shape, c10::Device device)
      : Recorder(shape, device),
        layout_{shape.capacity, shape.num_sites},
        ring_(at::zeros({layout_.size()}, sites.options())),
        open_step_(sites) {}

  void begin_batch(const std::optional<at::Tensor>& labels,
                   const std::optional<at::Tensor>& given_mask) override;
  bool has_recorded(int64_t site) const override { return open_step_.has(site); }
  bool end_step(double loss) override;
  bool end_step(const std::optional<at::Tensor>& loss) override;
  std::tuple<at::Tensor, at::Tensor, at::Tensor> drain(bool wait) override;
  std::optional<std::string> take_error() override { return std::exchange(error_, std::nullopt); }
  int64_t lost() const override { return lost_; }
  void discard_step() override;
  bool recording() const override { return enabled_; }

 private:
  int64_t current_step() const override { return closed_ + 1; }
  int64_t units_used() const override { return open_step_.units_placed(); }
  void goes_on_with(int64_t step) override { closed_ = step - 1; }
  void combine(const at::Tensor& sums, const at::Tensor& summed, int64_t processes) override;
  void retire(const at::Tensor& outgrown) override { outgrown_.push_back(outgrown); }
  void restart(int64_t step, const at::Tensor& placement) override;
  void group(const at::Tensor& labels);
  bool close(const cuda::Loss& loss, int64_t start);
  // The sites that were seen get room for their units, by what the host knows of their widths.
  void make_room();
  void begin_copy();
  void read_copy(Rows& rows);
  cuda::Ring ring() const;

  const RingLayout layout_;
  const at::Tensor ring_;  // [layout_.size()] float64, some of it whole numbers
  DeviceStep open_step_;
  HostCopy copy_;
  bool enabled_ = true;  // what the host thinks of the step being recorded, and of how many lie in the ring:
  int64_t closed_ = 0;   // right unless graphs were replayed
  int64_t undrained_ = 0;
  int64_t drained_ = 0;  // steps of the ring that the host has read
  int64_t lost_ = 0;
  std::optional<std::string> error_;
  // Buffers that have been outgrown, which a captured graph may still write.
  std::vector<at::Tensor> outgrown_;
};

cuda::Ring DeviceRecorder::ring() const {
  double* at = ring_.mutable_data_ptr<double>();
  const auto integers = [&](int64_t offset) { return reinterpret_cast<int64_t*>(at + offset); };
  return {at + layout_.values(),
          integers(RingLayout::kSteps),
          at + layout_.losses(),
          integers(RingLayout::kRecorded),
          reinterpret_cast<unsigned*>(at + RingLayout::kBlocksEnded),
          layout_.capacity,
          layout_.sites,
          every()};
}

void DeviceRecorder::begin_batch(const std::optional<at::Tensor>& labels,
                                 const std::optional<at::Tensor>& given_mask) {
  TORCH_CHECK_VALUE(!given_mask.has_value(),
                    "mask: positions are left out on the CPU only; leave it out, and all positions of a "
                    "sample are rows");
  const int64_t start = now();
  const DeviceGuard guard(sites.device());
  open_step_.begin_batches();
  // Also in a step that is not recorded: the device decides that, and a graph may be under capture.
  const bool labelled = shape().num_classes > 0 && (labels.has_value() || enabled_);
  if (labelled) {
    check_labels_given(labels);
    group(*labels);
  }
  if (class_sums) end_batch();
  open_step_.begin({enabled_, labelled ? labels->numel() : -1});
  count_probe_time(static_cast<double>(now() - start), enabled_);
}

void DeviceRecorder::group(const at::Tensor& labels) {
  at::Tensor wide = labels.detach();
  if (wide.device() == sites.device()) {
    wide = wide.to(at::kLong).contiguous();
  } else {
    // Labels on the host can be looked at before they go, and go without a wait.
    wide = wide.to(at::kCPU, at::kLong).contiguous();
    check_label_range(wide, shape().num_classes, "labels");
    wide = wide.to(sites.device(), at::kLong, /*non_blocking=*/true);
  }
  const int64_t rows = wide.numel();
  if (rows > order.numel()) {
    retire(order.alias());
    order.set_(at::empty({std::max(rows, 2 * order.numel())}, order.options()));
  }
  check(cuda::group_labels(wide.const_data_ptr<int64_t>(), rows, shape().num_classes,
                           order.mutable_data_ptr<int64_t>(), class_ptr.mutable_data_ptr<int64_t>(),
                           /*label_at=*/nullptr, /*wrong_label=*/nullptr,
                           reinterpret_cast<StepHeader*>(sites.mutable_data_ptr<double>()), current_stream()),
        "group_labels");
}

bool DeviceRecorder::end_step(double loss) {
  const int64_t start = now();
  return close({nullptr, nullptr, loss}, start);
}

bool DeviceRecorder::end_step(const std::optional<at::Tensor>& loss) {
  const int64_t start = now();
  if (!loss.has_value()) return close({}, start);
  check_loss(*loss);
  if (loss->device() != sites.device()) return close({nullptr, nullptr, loss->item<double>()}, start);
  if (loss->scalar_type() == at::kFloat) return close({loss->const_data_ptr<float>(), nullptr, 0}, start);
  const at::Tensor wide = loss->detach().to(at::kDouble);
  return close({nullptr, wide.const_data_ptr<double>(), 0}, start);
}

bool DeviceRecorder::close(const cuda::Loss& loss, int64_t start) {
  const DeviceGuard guard(sites.device());
  open_step_.sum_up();
  check(cuda::end_step(sites.mutable_data_ptr<double>(), active(), units.const_data_ptr<int32_t>(),
                       units.size(1), loss, ring(), current_stream()),
        "end_step");
  const bool recorded = enabled_;
  undrained_ += recorded;
  ++closed_;
  enabled_ = closed_ % every() == 0;
  open_step_.begin({enabled_});
  make_room();
  count_step(start, recorded);
  return 2 * undrained_ >= shape().capacity;
}

void DeviceRecorder::combine(const at::Tensor& sums, const at::Tensor& summed, int64_t processes) {
  const DeviceGuard guard(sites.device());
  const cuda::SharedStep step{sites.mutable_data_ptr<double>(),
                              active(),
                              sums.const_data_ptr<double>(),
                              sums.size(0),
                              {nullptr, sums.size(1) / kClassPlanes, sums.size(2), shape().num_sites},
                              summed.const_data_ptr<double>(),
                              static_cast<double>(processes),
                              units.mutable_data_ptr<int32_t>(),
                              units.size(1)};
  check(cuda::combine_processes(step, current_stream()), "combine_processes");
}

void DeviceRecorder::make_room() {
  const int64_t wanted = open_step_.units();
  if (wanted > units.size(1)) grow_units(std::max(wanted, 2 * units.size(1)));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> DeviceRecorder::drain(bool wait) {
  const DeviceGuard guard(sites.device());
  Rows rows;
  if (copy_.begun()) read_copy(rows);
  begin_copy();
  if (wait) read_copy(rows);
  const auto steps = static_cast<int64_t>(rows.steps.size());
  return {on_host(rows.values, {steps, active(), int64_t{kColumns}}, at::kDouble),
          on_host(rows.steps, {steps}, at::kLong), on_host(rows.losses, {steps}, at::kDouble)};
}

// On the stream of the kernels, not on one of its own: it takes as long as a few launches, once in
// capacity / 2 steps, and no step, of a replayed graph either, can overwrite what is being copied.
void DeviceRecorder::begin_copy() {
  copy_.begin({{ring_.const_data_ptr(), ring_.numel() * static_cast<int64_t>(sizeof(double))},
               {sites.const_data_ptr(), static_cast<int64_t>(sizeof(StepHeader))}},
              current_stream());
  undrained_ = 0;
}

void DeviceRecorder::read_copy(Rows& rows) {
  const auto* numbers = reinterpret_cast<const double*>(copy_.wait());
  const auto* integers = reinterpret_cast<const int64_t*>(numbers);
  const int64_t recorded = integers[RingLayout::kRecorded];
  const int64_t first = std::max(drained_, recorded - layout_.capacity);
  lost_ += first - drained_;
  for (int64_t step = first; step < recorded; ++step) {
    const int64_t place = step % layout_.capacity;
    const double* values = numbers + layout_.values() + place * layout_.sites * kColumns;
    rows.values.insert(rows.values.end(), values, values + active() * kColumns);
    rows.steps.push_back(integers[RingLayout::kSteps + place]);
    rows.losses.push_back(numbers[layout_.losses() + place]);
  }
  drained_ = recorded;
  const auto& header = *reinterpret_cast<const StepHeader*>(numbers + layout_.size());
  if (header.fault.kind == 0) return;
  if (!error_) error_ = fault_text(header.fault, shape().num_classes);
  constexpr int64_t kFaultDoubles = sizeof(FaultRecord) / sizeof(double);
  sites.narrow(0, 0, 1).narrow(1, kFaultIndex, kFaultDoubles).zero_();
}

void DeviceRecorder::discard_step() {
  Recorder::discard_step();
  const DeviceGuard guard(sites.device());
  open_step_.forget();
  // All but the place of the units and the width.
  constexpr int64_t kWidth = offsetof(BatchSums, width) / sizeof(double);
  constexpr int64_t kBegin = offsetof(BatchSums, units_begin) / sizeof(double);
  static_assert(kWidth < kBegin);
  const at::Tensor rows = sites.narrow(0, 1, shape().num_sites);
  rows.narrow(1, 0, kWidth).zero_();
  rows.narrow(1, kWidth + 1, kBegin - kWidth - 1).zero_();
  rows.narrow(1, kBegin + 1, kSiteDoubles - kBegin - 1).zero_();
  sites.narrow(0, 0, 1).narrow(1, kBatchRowsIndex, 1).fill_(kNoLabels);
  open_step_.begin({enabled_});
}

void DeviceRecorder::restart(int64_t step, const at::Tensor& placement) {
  const DeviceGuard guard(sites.device());
  open_step_.forget();
  ring_.narrow(0, RingLayout::kRecorded, 1).zero_();
  if (copy_.begun()) copy_.wait();
  undrained_ = drained_ = 0;
  closed_ = step;
  enabled_ = step % every() == 0;
  open_step_.begin({enabled_});
  open_step_.set_places(placement);
}

std::unique_ptr<Recorder> make_device_recorder(const RecorderShape& shape, c10::Device device) {
  const DeviceGuard guard(device);
  return std::make_unique<DeviceRecorder>(shape, device);
}

[[maybe_unused]] const bool registered = (register_recorder(kDeviceType, make_device_recorder), true);

}  // namespace
}  // namespace tfc::ops::on_cuda
