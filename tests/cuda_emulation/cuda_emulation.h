// CUDA kernels as g++ compiles them: enough of the language to run a grid on the processor.
//
// Blocks run one after another, in an order drawn from a seed. The threads of a block are fibers: each
// runs until it waits for others (a barrier, a warp operation). A warp runs on until all of its threads
// wait at a barrier, then the next one, drawn from the seed. So a kernel that lacks a barrier gives
// different results for different seeds.
//
// Reported as errors, with the thread's number: an access to global memory outside of what the test has
// registered or off its alignment (all accesses go through load, store and atomics), writing what is
// registered as read only, threads that wait at different barriers or for one that has ended, a warp
// operation that some lane of its mask does not reach, a shuffle from a lane outside of the mask.
// Shared memory is filled with 0xFF (NaN) before a block, and what lies behind the dynamic part is watched.
//
// The order of memory accesses is that of one processor: races that need a weak memory model do not show.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __grid_constant__
// In a section of its own, so that the scheduler finds it; not for variables of templates.
#define __shared__ static __attribute__((section("tfc_shared")))

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) int4 {
  int32_t x, y, z, w;
};

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorLaunchFailure = 719 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int) {
  return cudaSuccess;
}

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace tfc::emulation {

// Runs the grid; an error is kept until the test asks for it, and launches after it do nothing.
cudaError_t launch(dim3 grid, dim3 block, int64_t shared_bytes, const std::function<void()>& thread);
void* dynamic_shared();

// Whether global memory must have been registered: not where torch allocates it.
void watch_memory(bool watched);
// The error that a launch has found, if any, once.
std::string take_error();
// The graph that a test says is being captured (launches run all the same); 0: none.
uint64_t graph_under_capture();
void barrier(const char* file, int line);

// Checks an access of the running thread; outside of a launch nothing is checked.
void check_access(const void* address, size_t bytes, size_t alignment, bool writes);
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Copies of the running thread that are under way.
void begin_copy(void* to, const void* from, size_t bytes);
void end_copies();

// Waits until all lanes of the mask are in the same operation; then `all[lane]` is what each brought.
const uint64_t* meet(const char* operation, unsigned mask, uint64_t mine);
int lane();

template <typename T>
uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <typename T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <typename T>
T shuffle(const char* operation, unsigned mask, T value, int source) {
  const uint64_t* all = meet(operation, mask, to_bits(value));
  if (source < 0 || source > 31) return value;  // as CUDA does: the lane's own value
  if (!(mask >> source & 1)) fail("%s reads lane %d, which is not in mask %08x", operation, source, mask);
  return from_bits<T>(all[source]);
}

}  // namespace tfc::emulation

#define __syncthreads() ::tfc::emulation::barrier(__FILE__, __LINE__)

inline void __syncwarp(unsigned mask = 0xffffffffu) { tfc::emulation::meet("__syncwarp", mask, 0); }
inline void __threadfence() {}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source) {
  return tfc::emulation::shuffle("__shfl_sync", mask, value, source & 31);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int flip) {
  return tfc::emulation::shuffle("__shfl_xor_sync", mask, value, tfc::emulation::lane() ^ flip);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta) {
  return tfc::emulation::shuffle("__shfl_down_sync", mask, value,
                                 tfc::emulation::lane() + static_cast<int>(delta));
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint64_t* all = tfc::emulation::meet("__ballot_sync", mask, predicate != 0);
  unsigned ballot = 0;
  for (int i = 0; i < 32; ++i) ballot |= (mask >> i & 1) != 0 && all[i] != 0 ? 1u << i : 0u;
  return ballot;
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value) {
  const uint64_t* all = tfc::emulation::meet("__reduce_add_sync", mask, value);
  unsigned sum = 0;
  for (int i = 0; i < 32; ++i) sum += (mask >> i & 1) != 0 ? static_cast<unsigned>(all[i]) : 0u;
  return sum;
}
// Lanes of the mask that brought the same bits.
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
  const uint64_t mine = tfc::emulation::to_bits(value);
  const uint64_t* all = tfc::emulation::meet("__match_any_sync", mask, mine);
  unsigned same = 0;
  for (int i = 0; i < 32; ++i) same |= (mask >> i & 1) != 0 && all[i] == mine ? 1u << i : 0u;
  return same;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }

// Threads are fibers of one processor thread, so a plain addition is atomic.
template <typename T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  static_assert(
      std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, unsigned long long>,
      "integers only: sums of floats must not depend on an order");
  tfc::emulation::check_access(address, sizeof(T), alignof(T), true);
  const T before = *address;
  *address = before + value;
  return before;
}
template <typename T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  tfc::emulation::check_access(address, sizeof(T), alignof(T), true);
  const T before = *address;
  *address = value;
  return before;
}

inline float __uint_as_float(unsigned bits) { return tfc::emulation::from_bits<float>(bits); }
inline unsigned __float_as_uint(float value) { return static_cast<unsigned>(tfc::emulation::to_bits(value)); }
inline long long __double_as_longlong(double value) {
  return static_cast<long long>(tfc::emulation::to_bits(value));
}
inline double __longlong_as_double(long long bits) {
  return tfc::emulation::from_bits<double>(static_cast<uint64_t>(bits));
}
inline double __hiloint2double(int high, int low) {
  return tfc::emulation::from_bits<double>(static_cast<uint64_t>(static_cast<uint32_t>(high)) << 32 |
                                           static_cast<uint32_t>(low));
}

namespace tfc::cuda {

template <typename T>
T load(const T* address) {
  emulation::check_access(address, sizeof(T), alignof(T), false);
  return *address;
}

template <typename T>
void store(T* address, std::type_identity_t<T> value) {
  emulation::check_access(address, sizeof(T), alignof(T), true);
  *address = value;
}

// What is copied arrives when the thread waits for it; until then garbage lies there.
inline void copy_async(uint4* shared, const uint4* global) {
  emulation::check_access(global, sizeof(uint4), alignof(uint4), false);
  emulation::begin_copy(shared, global, sizeof(uint4));
}
inline void forget_derived(uint4&) {}
inline void prefetch(const void* address) { emulation::check_access(address, 1, 1, false); }
inline void wait_for_copies() { emulation::end_copies(); }

// IEEE half to float, bit by bit.
inline float half_bits_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = half >> 10 & 31;
  const uint32_t mantissa = half & 1023;
  if (exponent == 0) {
    const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wide = exponent == 31 ? 0x7f800000u : (exponent + 112) << 23;
  return __uint_as_float(sign | wide | mantissa << 13);
}

// Float to IEEE half, to nearest even.
inline uint16_t float_to_half_bits(float value) {
  const auto sign = static_cast<uint16_t>(__float_as_uint(value) >> 16 & 0x8000u);
  const double magnitude = std::fabs(static_cast<double>(value));
  if (std::isnan(value)) return 0x7fff;
  if (magnitude >= 65520) return static_cast<uint16_t>(sign | 0x7c00u);
  // In units of the last place; what rounds up to the next exponent carries into it.
  int exponent = 0;
  std::frexp(magnitude, &exponent);
  exponent = magnitude == 0 || exponent < -13 ? -13 : exponent;
  const auto units = static_cast<unsigned>(std::nearbyint(std::ldexp(magnitude, 11 - exponent)));
  const unsigned bits = (static_cast<unsigned>(exponent + 13) << 10) + units;
  return static_cast<uint16_t>(sign | bits);
}

}  // namespace tfc::cuda

#define TFC_DYNAMIC_SHARED(type, name) \
  type* name = reinterpret_cast<type*>(::tfc::emulation::dynamic_shared())

#define TFC_LAUNCH(kernel, grid, block, shared, stream, ...) \
  (static_cast<void>(stream),                                \
   ::tfc::emulation::launch((grid), (block), (shared), [&] { (kernel)(__VA_ARGS__); }))
