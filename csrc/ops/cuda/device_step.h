// What the host knows of an open step of a recorder, without asking the device: which sites have been through
// a backward of this micro-batch and how wide they are; and the batches whose rows have been walked, but
// whose sums have not yet been put together, so that one launch does it for many sites.
//
// The backward ops are given the recorder's tensors only, so a recorder is found by the address of `sites`. A
// replayed graph launches kernels without the host; then nothing is noted, and nothing is lost but a warning.
#pragma once

#include <ATen/core/Tensor.h>

#include <mutex>
#include <optional>
#include <vector>

#include "measure.h"

namespace tfc::ops::on_cuda {

class DeviceStep {
 public:
  explicit DeviceStep(const at::Tensor& sites);
  ~DeviceStep();
  DeviceStep(const DeviceStep&) = delete;
  DeviceStep& operator=(const DeviceStep&) = delete;

  // From any thread: backward has its own.
  // A kernel for that site is on its way, which will place its units if it is the first and finds room.
  static void note(const at::Tensor& sites, int64_t site, int64_t width, int64_t units_capacity);
  // Of the micro-batch: whether it is recorded, and how many labels were given (-1: none).
  struct Batch {
    bool recorded = true;
    int64_t labels = -1;
  };
  // None where `sites` is not a recorder's own tensor, but what torch.compile has put in its place.
  static std::optional<Batch> batch_of(const at::Tensor& sites);
  // Walks the rows of the batch now. Its sums are put together at the next sum_up, or now if there is no
  // memory for them to wait in, or if it is not certain that the stream comes to a sum_up: inside of a graph
  // that is captured, say, without the rest of the step.
  static void measure(const at::Tensor& sites, const Request& request, const cuda::Results& results);

  // A new micro-batch; sites of steps that are not recorded are not noted.
  void begin(const Batch& batch);
  bool has(int64_t site) const;
  // Units of all sites that were ever seen; of those that have a place.
  int64_t units() const;
  int64_t units_placed() const;
  // Where the units of each site are (-1: nowhere) and how many they are: int64 [sites, 2] on the host.
  void set_places(const at::Tensor& placement);

  // What comes next is launched on the same stream, and in the same graph, if one is being captured now.
  void begin_batches();
  // Puts together the sums of all batches that wait. Throws if these were captured in a graph of which this
  // is no part; they are forgotten then.
  void sum_up();
  // Forgets the batches that wait.
  void forget();

 private:
  bool can_wait(cudaStream_t stream, int64_t bytes);
  void launch_sums(cudaStream_t stream);

  const void* key_;
  mutable std::mutex mutex_;
  Batch batch_;
  std::vector<char> seen_, placed_;
  std::vector<int64_t> widths_;
  int64_t units_placed_ = 0;

  std::vector<cuda::OpenBatch> open_;
  cudaStream_t stream_ = nullptr;     // of the batches that wait
  uint64_t capture_ = 0;              // and the graph that they are captured in; 0: none
  uint64_t expected_capture_ = 0;     // of the micro-batch
  at::Tensor memory_;                 // their workspaces, one behind another
  int64_t used_ = 0;                  // bytes of it
  std::vector<at::Tensor> outgrown_;  // which a captured graph may still write
};

}  // namespace tfc::ops::on_cuda
