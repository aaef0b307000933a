#include "device_step.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <numeric>
#include <unordered_map>

namespace tfc::ops::on_cuda {
namespace {

// What may wait, of one recorder: about what four layers of 4096 units leave of 4096 rows.
constexpr int64_t kMostBytes = int64_t{64} << 20;
constexpr int64_t kLeastBytes = int64_t{1} << 20;
constexpr int64_t kMuch = kMostBytes / 16;  // of one batch: others will be as large

// Never destroyed: graphs may outlive everything else.
struct Recorders {
  std::mutex mutex;
  std::unordered_map<const void*, DeviceStep*> by_sites;
};
Recorders& recorders() {
  static auto* all = new Recorders;
  return *all;
}

}  // namespace

DeviceStep::DeviceStep(const at::Tensor& sites)
    : key_(sites.const_data_ptr()),
      seen_(sites.size(0) - 1),
      placed_(sites.size(0) - 1),
      widths_(sites.size(0) - 1),
      memory_(at::empty({0}, sites.options().dtype(at::kByte))) {
  const std::lock_guard lock(recorders().mutex);
  recorders().by_sites[key_] = this;
}

DeviceStep::~DeviceStep() {
  const std::lock_guard lock(recorders().mutex);
  recorders().by_sites.erase(key_);
}

void DeviceStep::note(const at::Tensor& sites, int64_t site, int64_t width, int64_t units_capacity) {
  const std::lock_guard lock(recorders().mutex);
  const auto found = recorders().by_sites.find(sites.const_data_ptr());
  if (found == recorders().by_sites.end()) return;
  DeviceStep& step = *found->second;
  const std::lock_guard lock_of_one(step.mutex_);
  if (!step.batch_.recorded) return;
  step.seen_[site] = 1;
  step.widths_[site] = std::max(step.widths_[site], width);
  if (step.placed_[site] == 0 && step.units_placed_ + width <= units_capacity) {
    step.placed_[site] = 1;
    step.units_placed_ += width;
  }
}

std::optional<DeviceStep::Batch> DeviceStep::batch_of(const at::Tensor& sites) {
  const std::lock_guard lock(recorders().mutex);
  const auto found = recorders().by_sites.find(sites.const_data_ptr());
  if (found == recorders().by_sites.end()) return std::nullopt;
  const std::lock_guard lock_of_one(found->second->mutex_);
  return found->second->batch_;
}

void DeviceStep::measure(const at::Tensor& sites, const Request& request, const cuda::Results& results) {
  const std::lock_guard lock(recorders().mutex);
  const auto found = recorders().by_sites.find(sites.const_data_ptr());
  if (found == recorders().by_sites.end()) return measure_now(request, results);
  DeviceStep& step = *found->second;
  const std::lock_guard lock_of_one(step.mutex_);
  const cudaStream_t stream = current_stream();
  // In the order of its backwards, and as long as the labels are those of the batch.
  const auto same_site = [&](const cuda::OpenBatch& open) { return open.results.site == results.site; };
  const bool is_open = std::any_of(step.open_.begin(), step.open_.end(), same_site);
  if (is_open && step.stream_ == stream && step.capture_ == current_capture(stream)) step.launch_sums(stream);
  if (!step.can_wait(stream, request.plan.workspace_bytes)) return measure_now(request, results);
  char* memory = static_cast<char*>(step.memory_.mutable_data_ptr()) + step.used_;
  const cuda::OpenBatch open{request.plan, memory, results};
  check(cuda::walk_rows(request.batch, open, stream), "walk_rows");
  step.open_.push_back(open);
  step.used_ += request.plan.workspace_bytes;
}

// Whether so many bytes can wait; makes room for them.
bool DeviceStep::can_wait(cudaStream_t stream, int64_t bytes) {
  const uint64_t capture = current_capture(stream);
  if (bytes > kMostBytes || capture != expected_capture_) return false;
  if (open_.empty()) {
    stream_ = stream;
    capture_ = capture;
  }
  if (stream != stream_ || capture != capture_) return false;
  if (used_ + bytes <= memory_.numel()) return true;
  const int64_t wanted = bytes > kMuch ? kMostBytes : std::max(used_ + bytes, 2 * memory_.numel());
  launch_sums(stream);
  const int64_t room = std::clamp(wanted, kLeastBytes, kMostBytes);
  if (memory_.numel() < room) {
    if (memory_.numel() > 0) outgrown_.push_back(memory_);
    memory_ = at::empty({room}, memory_.options());
  }
  return true;
}

void DeviceStep::launch_sums(cudaStream_t stream) {
  check(cuda::sum_up(open_.data(), static_cast<int64_t>(open_.size()), stream), "sum_up");
  open_.clear();
  used_ = 0;
}

void DeviceStep::begin_batches() {
  const std::lock_guard lock(mutex_);
  const cudaStream_t stream = current_stream();
  expected_capture_ = current_capture(stream);
  if (!open_.empty() && capture_ == expected_capture_) launch_sums(stream);
  open_.clear();  // of a graph whose capture has ended, or failed
  used_ = 0;
}

void DeviceStep::sum_up() {
  const std::lock_guard lock(mutex_);
  const cudaStream_t stream = current_stream();
  const bool elsewhere = !open_.empty() && capture_ != current_capture(stream);
  if (!elsewhere) launch_sums(stream);
  open_.clear();
  used_ = 0;
  expected_capture_ = 0;
  TORCH_CHECK(
      !elsewhere,
      "probe: batch() and backward() were captured in a graph that step() is not part of, so that "
      "nothing of it would be recorded; capture step() as well, or call batch() outside of the graph");
}

void DeviceStep::forget() {
  const std::lock_guard lock(mutex_);
  open_.clear();
  used_ = 0;
}

void DeviceStep::begin(const Batch& batch) {
  const std::lock_guard lock(mutex_);
  batch_ = batch;
  std::fill(seen_.begin(), seen_.end(), 0);
}

bool DeviceStep::has(int64_t site) const {
  const std::lock_guard lock(mutex_);
  return seen_[site] != 0;
}

int64_t DeviceStep::units() const {
  const std::lock_guard lock(mutex_);
  return std::accumulate(widths_.begin(), widths_.end(), int64_t{0});
}

int64_t DeviceStep::units_placed() const {
  const std::lock_guard lock(mutex_);
  return units_placed_;
}

void DeviceStep::set_places(const at::Tensor& placement) {
  const std::lock_guard lock(mutex_);
  const int64_t* row = placement.const_data_ptr<int64_t>();
  units_placed_ = 0;
  for (size_t site = 0; site < widths_.size(); ++site, row += 2) {
    widths_[site] = row[1];
    placed_[site] = row[0] >= 0;
    if (row[0] >= 0) units_placed_ = std::max(units_placed_, row[0] + row[1]);
  }
}

}  // namespace tfc::ops::on_cuda
