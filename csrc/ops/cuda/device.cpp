#include "device.h"

#include <c10/util/Exception.h>

#ifndef TFC_CUDA_EMULATION
#include <array>
#include <mutex>
#endif

namespace tfc::ops::on_cuda {

#ifdef TFC_CUDA_EMULATION

cudaStream_t current_stream() { return nullptr; }

uint64_t current_capture(cudaStream_t) { return emulation::graph_under_capture(); }

c10::DeviceIndex current_device_index() { return -1; }

// Few multiprocessors, so that small batches are cut into several chunks, too.
const cuda::Device& current_device() {
  static const cuda::Device device{2, 227 * 1024};
  return device;
}

void check(cudaError_t error, const char* kernel) {
  const std::string found = emulation::take_error();
  TORCH_CHECK(error == cudaSuccess && found.empty(), kernel, ": error ", static_cast<int>(error), " ", found);
}

#else

cudaStream_t current_stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

uint64_t current_capture(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  unsigned long long graph = 0;
  check(cudaStreamGetCaptureInfo(stream, &status, &graph), "cudaStreamGetCaptureInfo");
  return status == cudaStreamCaptureStatusActive ? graph : 0;
}

c10::DeviceIndex current_device_index() { return c10::cuda::current_device(); }

const cuda::Device& current_device() {
  constexpr int kMost = 128;
  static std::array<cuda::Device, kMost> devices;
  static std::array<std::once_flag, kMost> asked;
  const c10::DeviceIndex index = c10::cuda::current_device();
  TORCH_CHECK(index < kMost, "device ", index, ": at most ", kMost, " devices are supported");
  std::call_once(asked[index], [index] {
    int multiprocessors = 0;
    int shared_bytes = 0;
    check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, index), "device");
    check(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, index), "device");
    devices[index] = {multiprocessors, shared_bytes};
  });
  return devices[index];
}

void check(cudaError_t error, const char* kernel) {
  TORCH_CHECK(error == cudaSuccess, kernel, ": ", cudaGetErrorString(error));
}

#endif

}  // namespace tfc::ops::on_cuda
