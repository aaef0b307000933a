// The recorder of one probe: the tensors that the probe's ops write, and the ring of finished steps.
//
// Per step: begin_batch (labels in), the backward ops add to `sites`, end_step turns each site that
// was seen into one row of the ring. drain copies the rows out and empties the ring.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "../kernels/statistics.h"

namespace tfc::ops {

class Recorder {
 public:
  // num_classes 0: no labels. `units`: room for that many units in the window buffer at first.
  Recorder(int64_t num_sites, int64_t num_classes, int64_t capacity, int64_t window, int64_t every,
           int64_t units);

  // Labels [n] of the next backward.
  void begin_batch(const std::optional<at::Tensor>& labels);
  // Whether a backward of this micro-batch has been through the site.
  bool has_recorded(int64_t site) const;

  // Sites 0 ... count - 1 are in use; the others are not looked at.
  void use_sites(int64_t count);

  // Closes the step; true when the ring should be drained.
  bool end_step(double loss);
  bool end_step(const std::optional<at::Tensor>& loss);  // of one element

  // values [steps, sites in use, columns] (NaN in the row count: site not seen in that step), step numbers
  // [steps] and losses [steps].
  std::tuple<at::Tensor, at::Tensor, at::Tensor> drain();

  // Forgets what the open step has gathered (a step that failed half way).
  void discard_step();

  int64_t step() const;  // steps closed so far
  void restore(int64_t step, const at::Tensor& units, const at::Tensor& placement);
  // Per site: where its units begin (-1: nowhere) and how many they are, int64 [sites, 2].
  at::Tensor placement() const;

  struct Overhead {
    double probe_seconds;  // begin_batch, end_step and the backward kernels with ReLU's own work in them
    double step_seconds;   // between the ends of steps
    int64_t steps;
  };
  Overhead overhead() const { return overhead_; }

  // The same tensors for the life of the recorder, since nodes of a graph hold them from forward to
  // backward: they grow in place.
  const at::Tensor sites, units, order, class_ptr;

 private:
  // Sites that stayed without window statistics because the buffer was full get room.
  void make_room();
  StepHeader& header() const;
  BatchSums& site(int64_t index) const;

  int64_t num_sites_, num_classes_, capacity_, every_;
  int64_t active_ = 0;  // sites in use
  int64_t used_ = 0;    // steps in the ring
  at::Tensor ring_;     // [capacity, sites, columns]
  std::vector<int64_t> ring_step_;
  std::vector<double> ring_loss_;
  Overhead overhead_{0, 0, 0};
  int64_t last_end_ = 0;  // clock at the end of the last step, ns; 0: none
};

}  // namespace tfc::ops
