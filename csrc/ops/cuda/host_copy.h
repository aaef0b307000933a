// A copy of device memory that the host reads later, and the moment from which it may.
//
// The copy is enqueued on the stream of the kernels and so sees what they have written before it and nothing
// after; the host only waits when it reads. In the emulation what lies in host memory before that is not the
// copy, so that reading too early shows.
#pragma once

#include <ATen/core/Tensor.h>

#include <initializer_list>
#include <vector>

#include "device.h"

namespace tfc::ops::on_cuda {

class HostCopy {
 public:
  struct Piece {
    const void* from;
    int64_t bytes;
  };

  HostCopy() = default;
  ~HostCopy();
  HostCopy(const HostCopy&) = delete;
  HostCopy& operator=(const HostCopy&) = delete;

  // The pieces, one behind another. What was copied before and not read is gone.
  void begin(std::initializer_list<Piece> pieces, cudaStream_t stream);
  bool begun() const { return begun_; }
  // Waits for the copy. Valid until the next begin.
  const char* wait();

 private:
  at::Tensor memory_;  // pinned
  bool begun_ = false;
#ifdef TFC_CUDA_EMULATION
  std::vector<char> under_way_;
#else
  cudaEvent_t done_ = nullptr;
#endif
};

}  // namespace tfc::ops::on_cuda
