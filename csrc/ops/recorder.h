// The recorder of one probe: the tensors that the probe's ops write, and the ring of finished steps.
//
// Per step: begin_batch (labels in), the backward ops add to `sites`, end_step turns each site that
// was seen into one row of the ring. drain brings the rows to the host.
//
// There is one for the host's memory (host_recorder.cpp), and one whose state lies on a device and which
// never waits for it but to be drained (cuda/recorder.cpp).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../kernels/statistics.h"

namespace tfc::ops {

struct RecorderShape {
  int64_t num_sites;
  int64_t num_classes;  // 0: no labels
  int64_t capacity;     // steps of the ring
  int64_t window, every;
  int64_t units;  // room for that many units in the window buffer at first
  // Whether other processes record the same steps; each with rows of its own, of which all records are.
  bool shared = false;
};

// What lies in `sites` where they are in host memory.
inline StepHeader& header_of(const at::Tensor& sites) {
  return *reinterpret_cast<StepHeader*>(sites.mutable_data_ptr<double>());
}
inline BatchSums& site_of(const at::Tensor& sites, int64_t index) {
  return *reinterpret_cast<BatchSums*>(sites.mutable_data_ptr<double>() + (1 + index) * kSiteDoubles);
}

class Recorder {
 public:
  virtual ~Recorder() = default;

  // Labels [n] of the next backward, and which positions of each sample count, [n, ...], where positions are
  // rows.
  virtual void begin_batch(const std::optional<at::Tensor>& labels,
                           const std::optional<at::Tensor>& mask) = 0;
  // Whether a backward of this micro-batch has been through the site.
  virtual bool has_recorded(int64_t site) const = 0;

  // Sites 0 ... count - 1 are in use; the others are not looked at.
  virtual void use_sites(int64_t count);

  // Closes the step; true when the ring should be drained.
  virtual bool end_step(double loss) = 0;
  virtual bool end_step(const std::optional<at::Tensor>& loss) = 0;  // of one element

  // values [steps, sites in use, columns] (NaN in the row count: site not seen in that step), step numbers
  // [steps] and losses [steps]. Without `wait` a device gives what the drain before has begun to copy.
  virtual std::tuple<at::Tensor, at::Tensor, at::Tensor> drain(bool wait) = 0;
  // What was found wrong with a batch since it was asked last, if that was not thrown; known once drained.
  virtual std::optional<std::string> take_error() { return std::nullopt; }
  // Steps that later ones have overwritten before they were drained, so far.
  virtual int64_t lost() const { return 0; }

  // Forgets what the open step has gathered (a step that failed half way).
  virtual void discard_step();

  // Of a shared recorder, before end_step of a step that is recorded: `collect` in all processes, then
  // `own_sums` added up over them (the last two numbers are the caller's), then `take_sums`.
  virtual bool recording() const = 0;
  // -> number of the step, micro-batches of this process, units in use.
  struct Collected {
    int64_t step, batches, units;
  };
  Collected collect();
  at::Tensor own_sums(int64_t batches) const;  // of `batches` micro-batches, at least the own: float64 [any]
  void take_sums(const at::Tensor& total, int64_t batches, int64_t processes);
  // Makes room for the units of a site that will be recorded.
  void reserve(int64_t site, int64_t width);

  // For the recorder of evaluations: what comes next belongs to the last step that `training` has closed, no
  // unit was seen before, and there is room for as many. Waits for nothing.
  void take_step(const Recorder& training);

  // From the next step on, records each step whose number is 1 more than a multiple of `every`. A graph keeps
  // what was true when it was captured.
  void record_every(int64_t every);

  // These wait for a device.
  int64_t step() const;  // steps closed so far
  void restore(int64_t step, const at::Tensor& units, const at::Tensor& placement);
  // Per site: where its units begin (-1: nowhere) and how many they are, int64 [sites, 2].
  at::Tensor placement() const;

  // Since the end of the first step.
  struct Costs {
    // begin_batch and end_step on the host; on the CPU, where a step is recorded, also the backward kernels,
    // with ReLU's own work in them.
    double recorded_seconds, skipped_seconds;
    double plain_seconds;  // on the CPU: ReLU's own work in steps that were skipped
    double step_seconds;   // between the ends of steps
    int64_t recorded_steps, skipped_steps;
  };
  Costs costs() const { return costs_; }

  // Micro-batches since the last end of a step.
  int64_t open_batches() const { return open_batches_; }
  void count_batch() { ++open_batches_; }

 private:
  const RecorderShape shape_;

 public:
  // The same tensors for the life of the recorder, since nodes of a graph hold them from forward to
  // backward: they grow in place.
  const at::Tensor sites, units, order, class_ptr;
  const std::optional<at::Tensor> class_sums;  // of a shared one
  const at::Tensor mask;                       // [n, ...]; [0]: all positions count

 protected:
  Recorder(const RecorderShape& shape, c10::Device device);

  const RecorderShape& shape() const { return shape_; }
  int64_t every() const { return every_; }
  int64_t active() const { return active_; }  // sites in use

  // Throws unless labels are there and are whole numbers [n].
  void check_labels_given(const std::optional<at::Tensor>& labels) const;
  // Throws unless it is one of [n, ...] of n labels, if there are any.
  static void check_mask(const at::Tensor& mask, const std::optional<at::Tensor>& labels);
  static void check_loss(const at::Tensor& loss);

  // Room for that many units; those that have a place keep it.
  void grow_units(int64_t capacity);
  // All positions count again.
  void forget_mask() {
    if (mask.dim() > 1) mask.resize_({0});
  }
  // A shared recorder puts the sums of the micro-batch aside and begins a new one.
  void end_batch();
  // What is known without waiting for a device: the number of the open step, and units that have a place.
  virtual int64_t current_step() const = 0;
  virtual int64_t units_used() const = 0;
  // The open step is that one.
  virtual void goes_on_with(int64_t) {}
  // Of a shared recorder: puts what follows from the sums over all processes into `sites`.
  //   sums: [batches, kClassPlanes * classes, sites + units]; summed: [active, kSiteDoubles]
  virtual void combine(const at::Tensor& sums, const at::Tensor& summed, int64_t processes) = 0;
  // Memory that has been outgrown, which a captured graph may still write.
  virtual void retire(const at::Tensor&) {}
  // Begins with empty hands at what restore has put into `sites`; placement: int64 [sites, 2] on the host.
  virtual void restart(int64_t step, const at::Tensor& placement) = 0;

  static int64_t now();  // ns
  void count_probe_time(double nanoseconds, bool recorded) {
    (recorded ? costs_.recorded_seconds : costs_.skipped_seconds) += nanoseconds * 1e-9;
  }
  void count_plain_time(double nanoseconds) { costs_.plain_seconds += nanoseconds * 1e-9; }
  // end_step, begun at `start`, is done.
  void count_step(int64_t start, bool recorded);

 private:
  at::Tensor first_sites() const;
  // A window buffer in which no unit was ever open or shut, on the device of the recorder.
  at::Tensor new_units(int64_t capacity) const;
  // The window buffer is another one; class_sums keep their width and are emptied.
  void set_units(const at::Tensor& larger);
  at::Tensor new_class_sums(int64_t capacity) const;
  int64_t columns() const { return shape_.num_sites + units_used(); }  // of class_sums that are in use

  int64_t active_ = 0;
  int64_t every_;
  std::vector<at::Tensor> batches_;    // sums of the micro-batches of the open step, [planes, columns]
  std::vector<int64_t> wanted_width_;  // of each site, by `reserve`
  Costs costs_{};
  int64_t open_batches_ = 0;
  int64_t last_end_ = 0;  // clock at the end of the last step, ns; 0: none
};

// The recorder for a device; throws where this build has none.
std::unique_ptr<Recorder> make_recorder(const RecorderShape& shape, c10::Device device);

std::unique_ptr<Recorder> make_host_recorder(const RecorderShape& shape, c10::Device device);

// Other devices add theirs.
using MakeRecorder = std::unique_ptr<Recorder> (*)(const RecorderShape& shape, c10::Device device);
void register_recorder(c10::DeviceType type, MakeRecorder make);

}  // namespace tfc::ops
