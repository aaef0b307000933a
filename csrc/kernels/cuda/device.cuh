// The seam between the kernels and what runs them: nvcc, or the emulation in tests/cuda_emulation.
//
// Kernels reach global memory through load, store and atomics only, take dynamic shared memory through
// TFC_DYNAMIC_SHARED, and are launched by TFC_LAUNCH, so that the emulation can look at each of these.
#pragma once

#ifdef TFC_CUDA_EMULATION
#include "cuda_emulation.h"
#else
#include <cuda_runtime.h>

#include <cstdint>

namespace tfc::cuda {

template <typename T>
__device__ __forceinline__ T load(const T* address) {
  return *address;
}

template <typename T>
struct Same {
  using Type = T;
};
template <typename T>
__device__ __forceinline__ void store(T* address, typename Same<T>::Type value) {
  *address = value;
}

// cuda_fp16.h would do, but brings in two hundred kilobytes of headers.
__device__ __forceinline__ float half_bits_to_float(uint16_t half) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
}
__device__ __forceinline__ uint16_t float_to_half_bits(float value) {
  uint16_t half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
  return half;
}

// 16 bytes from global to shared memory, under way until wait_for_copies; no register holds them meanwhile.
// Devices before sm_80 do it at once.
__device__ __forceinline__ void copy_async(uint4* shared, const uint4* global) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
               :
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(shared))), "l"(global)
               : "memory");
#else
  asm volatile(
      "{\n\t.reg .b32 x, y, z, w;\n\t"
      "ld.global.v4.b32 {x, y, z, w}, [%1];\n\t"
      "st.shared.v4.b32 [%0], {x, y, z, w};\n\t}"
      :
      : "r"(static_cast<unsigned>(__cvta_generic_to_shared(shared))), "l"(global)
      : "memory");
#endif
}
// What has been computed of the four words is computed again where it is used next, instead of being kept in
// registers till then.
__device__ __forceinline__ void forget_derived(uint4& words) {
  asm volatile("" : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w));
}

// Brings the line of an address that exists to the cache of the multiprocessor.
__device__ __forceinline__ void prefetch(const void* address) {
  asm volatile("prefetch.global.L1 [%0];" : : "l"(address));
}

// All that this thread has begun to copy is there, for this thread.
__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" : : : "memory");
#endif
}

}  // namespace tfc::cuda

#define TFC_DYNAMIC_SHARED(type, name)                \
  extern __shared__ __align__(16) char tfc_dynamic[]; \
  type* name = reinterpret_cast<type*>(tfc_dynamic)

// clang-format off
#define TFC_LAUNCH(kernel, grid, block, shared, stream, ...) \
  ((kernel)<<<(grid), (block), (shared), (stream)>>>(__VA_ARGS__), cudaGetLastError())
// clang-format on
#endif

namespace tfc::cuda {

constexpr unsigned kFullWarp = 0xffffffffu;

}  // namespace tfc::cuda
