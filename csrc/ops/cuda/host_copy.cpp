#include "host_copy.h"

#include <ATen/ops/empty.h>

#include <cstring>

namespace tfc::ops::on_cuda {

#ifdef TFC_CUDA_EMULATION

HostCopy::~HostCopy() = default;

void HostCopy::begin(std::initializer_list<Piece> pieces, cudaStream_t) {
  under_way_.clear();
  for (const Piece& piece : pieces) {
    const char* from = static_cast<const char*>(piece.from);
    under_way_.insert(under_way_.end(), from, from + piece.bytes);
  }
  const auto bytes = static_cast<int64_t>(under_way_.size());
  memory_ = at::empty({bytes}, at::TensorOptions(at::kCPU).dtype(at::kByte));
  std::memset(memory_.mutable_data_ptr(), 0xFF, under_way_.size());
  begun_ = true;
}

const char* HostCopy::wait() {
  std::memcpy(memory_.mutable_data_ptr(), under_way_.data(), under_way_.size());
  begun_ = false;
  return static_cast<const char*>(memory_.const_data_ptr());
}

#else

// The copy may still be under way; torch gives pinned memory to others only once it is idle, but does not
// know of this copy.
HostCopy::~HostCopy() {
  if (done_ == nullptr) return;
  if (begun_) cudaEventSynchronize(done_);
  cudaEventDestroy(done_);
}

void HostCopy::begin(std::initializer_list<Piece> pieces, cudaStream_t stream) {
  int64_t bytes = 0;
  for (const Piece& piece : pieces) bytes += piece.bytes;
  if (done_ == nullptr) {
    check(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming), "cudaEventCreate");
  }
  if (begun_) wait();  // else two copies would write the same memory
  if (!memory_.defined() || memory_.numel() < bytes) {
    memory_ = at::empty({bytes}, at::TensorOptions(at::kCPU).dtype(at::kByte).pinned_memory(true));
  }
  char* to = static_cast<char*>(memory_.mutable_data_ptr());
  for (const Piece& piece : pieces) {
    check(cudaMemcpyAsync(to, piece.from, static_cast<size_t>(piece.bytes), cudaMemcpyDeviceToHost, stream),
          "cudaMemcpyAsync");
    to += piece.bytes;
  }
  check(cudaEventRecord(done_, stream), "cudaEventRecord");
  begun_ = true;
}

const char* HostCopy::wait() {
  check(cudaEventSynchronize(done_), "cudaEventSynchronize");
  begun_ = false;
  return static_cast<const char*>(memory_.const_data_ptr());
}

#endif

}  // namespace tfc::ops::on_cuda
