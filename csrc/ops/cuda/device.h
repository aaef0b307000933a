// What the ops for CUDA need of the device: its guard, its stream, its properties, its errors.
//
// This is the seam to the emulation in tests/cuda_emulation. There the same ops are compiled for tensors in
// host memory and stand in the place of the CPU's, so that the tests of those run through them.
#pragma once

#ifdef TFC_CUDA_EMULATION
#include "cuda_emulation.h"
#define TFC_CUDA_KEY CPU
#else
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#define TFC_CUDA_KEY CUDA
#endif

#include <ATen/core/Tensor.h>

#include "../../kernels/cuda/plan.h"

namespace tfc::ops::on_cuda {

#ifdef TFC_CUDA_EMULATION
struct DeviceGuard {
  explicit DeviceGuard(c10::Device) {}
};
#else
using DeviceGuard = c10::cuda::CUDAGuard;
#endif

constexpr c10::DeviceType kDeviceType = c10::DeviceType::TFC_CUDA_KEY;

// Of the current device: the stream that torch runs its own kernels on.
cudaStream_t current_stream();

// The graph that the stream is being captured in; 0: none.
uint64_t current_capture(cudaStream_t stream);

// -1 where there is only one.
c10::DeviceIndex current_device_index();

// Of the current device; asked for once.
const cuda::Device& current_device();

// Throws what CUDA says, naming the kernel.
void check(cudaError_t error, const char* kernel);

}  // namespace tfc::ops::on_cuda
